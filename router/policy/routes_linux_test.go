package policy_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lewes/router/policy"
)

// namespace is a network namespace with a loopback device and a device "wire" with addresses in
// 198.51.100.0/24 and 2001:db8::/64, on which packets disappear.
type namespace struct {
	t     *testing.T
	calls chan func()
}

// newNamespace skips the test where the system does not permit it.
func newNamespace(t *testing.T) *namespace {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("the program ip (of iproute2) is not installed")
	}
	n := &namespace{t: t, calls: make(chan func())}
	entered := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		entered <- err
		for f := range n.calls {
			f()
		}
	}()
	t.Cleanup(func() { close(n.calls) })
	if err := <-entered; errors.Is(err, unix.EPERM) {
		t.Skip("making a network namespace needs root")
	} else if err != nil {
		t.Fatal(err)
	}
	n.ip("link set lo up")
	n.ip("link add wire type veth peer name far")
	n.ip("addr add 198.51.100.1/24 brd + dev wire")
	n.ip("addr add 2001:db8::1/64 dev wire nodad")
	n.ip("link set wire up")
	n.ip("link set far up")
	return n
}

// do calls f on a thread in the namespace.
func (n *namespace) do(f func() error) {
	n.t.Helper()
	done := make(chan error)
	n.calls <- func() { done <- f() }
	if err := <-done; err != nil {
		n.t.Fatal(err)
	}
}

func (n *namespace) ip(args string) {
	n.t.Helper()
	n.do(func() error {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", args, err, out)
		}
		return nil
	})
}

func (n *namespace) routes() *policy.Routes {
	n.t.Helper()
	var routes *policy.Routes
	n.do(func() (err error) {
		routes, err = policy.OpenRoutes()
		return err
	})
	n.t.Cleanup(routes.Close)
	return routes
}

// Shows R8.12.
func TestKernelRoutes(t *testing.T) {
	n := newNamespace(t)
	n.ip("route add local 203.0.113.0/25 dev lo")
	n.ip("route add local 2001:db8:1::/64 dev lo")
	n.ip("route add broadcast 203.0.113.200 dev wire")
	n.ip("route add multicast 203.0.113.201 dev wire")
	n.ip("route add unreachable 203.0.113.202")
	n.ip("route add prohibit 203.0.113.203")
	n.ip("route add blackhole 203.0.113.204")
	n.ip("route add throw 203.0.113.205")
	n.ip("route add 192.0.2.0/24 via 198.51.100.2")
	routes := n.routes()
	for s, want := range map[string]policy.Route{
		"127.0.0.1":      policy.RouteLocal,
		"::1":            policy.RouteLocal,
		"198.51.100.1":   policy.RouteLocal,
		"198.51.100.2":   policy.RouteRemote,
		"198.51.100.255": policy.RouteBroadcast,
		"203.0.113.77":   policy.RouteLocal,
		"203.0.113.177":  policy.RouteRemote, // no route
		"203.0.113.200":  policy.RouteBroadcast,
		"203.0.113.201":  policy.RouteMulticast,
		"203.0.113.202":  policy.RouteRemote,
		"203.0.113.203":  policy.RouteRemote,
		"203.0.113.204":  policy.RouteRemote,
		"203.0.113.205":  policy.RouteRemote,
		"192.0.2.9":      policy.RouteRemote,
		"2001:db8::1":    policy.RouteLocal,
		"2001:db8::2":    policy.RouteRemote,
		"2001:db8:1::77": policy.RouteLocal,
		"2001:db8:2::1":  policy.RouteRemote, // no route
		"fe80::1":        policy.RouteRemote,
	} {
		if got, err := routes.Route(netip.MustParseAddr(s)); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", s, got, err, want)
		}
	}
	routes.Close()
	if _, err := routes.Route(netip.MustParseAddr("192.0.2.9")); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if err := routes.Wait(t.Context()); err == nil {
		t.Error("Wait after Close returns no error")
	}
}

// Every change of the network ends Wait and forgets earlier answers.
//
// Shows R8.12, R8.32.
func TestPolicyFollowsKernelRoutes(t *testing.T) {
	n := newNamespace(t)
	p := policy.New(policy.Config{Routes: n.routes(), Allow: mustRules("10.0.0.0/8")})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	target := func(s string) netip.AddrPort { return port53(netip.MustParseAddr(s)) }
	for _, step := range []struct {
		change, target string
		allowed        bool
	}{
		{"addr add 10.0.0.5/24 brd + dev wire", "10.0.0.5", false},
		{"link set wire up", "10.0.0.255", false},
		{"addr add 2001:db8::5/64 dev wire nodad", "2001:db8::5", false},
		{"route add local 203.0.113.0/24 dev lo", "203.0.113.9", false},
		{"route add local 2001:db8:1::/64 dev lo", "2001:db8:1::9", false},
		{"route del local 203.0.113.0/24 dev lo", "203.0.113.9", true},
		{"addr del 10.0.0.5/24 dev wire", "10.0.0.5", true},
		{"-6 rule add to 2001:db8:2::/64 lookup local", "2001:db8::5", false},
		{"link del wire", "10.0.0.255", true},
	} {
		p.Allowed(target(step.target)) // and cached
		n.ip(step.change)
		for p.Allowed(target(step.target)) != step.allowed {
			if err := p.Wait(ctx); err != nil {
				t.Fatalf("after ip %s: %v, want allowed %v: %v", step.change, p.Explain(target(step.target)), step.allowed, err)
			}
		}
	}

	ended, end := context.WithCancel(t.Context())
	end()
	for {
		if err := p.Wait(ended); errors.Is(err, context.Canceled) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	n.ip("route add local 203.0.113.0/24 dev lo")
	if err := p.Wait(ctx); err != nil {
		t.Errorf("Wait after another one that was cancelled: %v", err)
	}
}

func BenchmarkKernelRoute(b *testing.B) {
	routes, err := policy.OpenRoutes()
	if err != nil {
		b.Skip(err)
	}
	defer routes.Close()
	addr := netip.MustParseAddr("8.8.8.8")
	for b.Loop() {
		if _, err := routes.Route(addr); err != nil {
			b.Fatal(err)
		}
	}
}
