package gatewayd

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"lewes/cmd/lewes/internal/config"
)

// names resolves names.
type names map[string][]netip.Addr

func (n names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if addrs := n[host]; addrs != nil {
		return addrs, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// Shows R8.12, R8.32.
func TestPublicNamesAreOwnAddresses(t *testing.T) {
	first, second := netip.MustParseAddrPort("198.51.100.7:53"), netip.MustParseAddrPort("198.51.100.8:53")
	hosts := names{}
	c := config.Default()
	c.Public = []config.Host{{Name: "gw.example"}, {Name: "203.0.113.9"}}
	e, err := newEgress(c, hosts)
	if err != nil {
		t.Fatal(err)
	}
	denied := func(want ...bool) {
		t.Helper()
		for i, target := range []netip.AddrPort{first, second, netip.MustParseAddrPort("203.0.113.9:53")} {
			if got := !e.policy.Allowed(target); got != want[i] {
				t.Errorf("%v denied: %v, want %v", target, got, want[i])
			}
		}
	}
	step := func(wantChanged, wantErr bool) {
		t.Helper()
		changed, err := e.resolve(t.Context())
		if changed != wantChanged || (err != nil) != wantErr {
			t.Errorf("changed %v, %v, want %v, an error %v", changed, err, wantChanged, wantErr)
		}
		if _, err := e.policy.Refresh(); err != nil {
			t.Fatal(err)
		}
	}
	step(false, true)
	denied(false, false, true)
	hosts["gw.example"] = []netip.Addr{first.Addr()}
	step(true, false)
	denied(true, false, true)
	step(false, false)
	hosts["gw.example"] = []netip.Addr{second.Addr()}
	step(true, false)
	denied(false, true, true)
	delete(hosts, "gw.example")
	step(false, true)
	denied(false, true, true)

	// Another configuration keeps the addresses of a name that stays.
	if err := e.replace(c); err != nil {
		t.Fatal(err)
	}
	denied(false, true, true)
	c.Public = nil
	if err := e.replace(c); err != nil {
		t.Fatal(err)
	}
	denied(false, false, false)
}

func TestPublicNamesAreWatched(t *testing.T) {
	hosts := names{"other.example": {netip.MustParseAddr("198.51.100.7")}}
	c := config.Default()
	c.Public = []config.Host{{Name: "gw.example"}}
	e, err := newEgress(c, hosts)
	if err != nil {
		t.Fatal(err)
	}
	core, logged := observer.New(zap.WarnLevel)
	applied := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { e.watch(ctx, zap.New(core), func() { applied <- struct{}{} }) })
	next := config.Default()
	next.Public = []config.Host{{Name: "other.example"}}
	if err := e.replace(next); err != nil {
		t.Fatal(err)
	}
	<-applied
	if e.policy.Allowed(netip.MustParseAddrPort("198.51.100.7:53")) {
		t.Error("the new name's address is allowed")
	}
	cancel()
	running.Wait()
	if n := logged.Len(); n > 1 {
		t.Errorf("%d warnings, want at most one", n)
	}
}
