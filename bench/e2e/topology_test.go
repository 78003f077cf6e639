package e2e

import (
	"context"
	"crypto/rand"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lewes/bench/e2e/link"
	"lewes/bench/e2e/netns"
	"lewes/bench/e2e/network"
	"lewes/bench/measure"
	"lewes/bench/worker"
	"lewes/crypto/identity"
	"lewes/router/access"
	"lewes/transport/uri"
)

var (
	otherAddr = netip.MustParsePrefix("192.0.2.9/24") // the client may move to
	target    = netip.AddrPortFrom(network.ExitToTarget[1].Addr(), 7)
)

// topology is a client, a gateway or an entry and an exit, and a target:
//
//	client ~~ link ~~ gateway -- target        client ~~ link ~~ entry -- exit -- target
type topology struct {
	t       *testing.T
	network *network.Network
	machine map[string]*netns.Machine // of network
	link    *link.Link                // of network
	gateway *server                   // the client's first hop
	exit    *server                   // nil: no second hop
	client  *worker.Process
	target  *worker.Process
	key     string // file with the client's identity
	clients string // file that lists it

	keepalive time.Duration // of the next client; 0: the default
}

// newTopology makes the machines and starts the gateway and the target.
func newTopology(t *testing.T) *topology {
	t.Helper()
	s := emptyTopology(t, "client", "gateway", "target")
	s.wire("gateway", "target", network.ExitToTarget)
	s.gateway = newServer(t, s.machine["gateway"], "", s.clients)
	s.gateway.start()
	s.setUp()
	return s
}

// newChain is newTopology with an entry and an exit.
func newChain(t *testing.T) *topology {
	t.Helper()
	s := emptyTopology(t, "client", "gateway", "exit", "target")
	s.wire("gateway", "exit", network.EntryToExit)
	s.wire("exit", "target", network.ExitToTarget)
	s.exit = newServer(t, s.machine["exit"], "", s.clients)
	s.exit.start()
	s.exit.URI.Host = network.EntryToExit[1].Addr().String()
	s.gateway = newServer(t, s.machine["gateway"], "[[gateway]]\nuri = \""+s.exit.URI.String()+"\"\n", s.clients)
	s.gateway.start()
	s.setUp()
	return s
}

func emptyTopology(t *testing.T, machines ...string) *topology {
	t.Helper()
	if testing.Short() {
		t.Skip("end-to-end tests take a minute")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("no TUN devices:", err)
	}
	n, err := network.New(t.Context(), launcher(), machines[0], machines[1], machines[2:]...)
	if network.Unavailable(err) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	s := &topology{t: t, network: n, machine: n.Machine, link: n.Link}
	s.addKey()
	return s
}

// addKey makes the client's identity and the list of clients.
func (s *topology) addKey() {
	s.t.Helper()
	dir := s.t.TempDir()
	s.key, s.clients = filepath.Join(dir, "client-identity"), filepath.Join(dir, "clients")
	key, err := identity.Generate(rand.Reader)
	s.must(err)
	defer key.Wipe()
	s.must(key.Save(s.key))
	s.must(access.Add(s.clients, access.Entry{Identity: key.Public()}))
}

func (s *topology) wire(a, b string, addrs [2]netip.Prefix) {
	s.t.Helper()
	s.must(s.network.Wire(s.t.Context(), a, b, addrs))
}

// natted puts a NAT between the client and the gateway.
func (s *topology) natted() {
	s.t.Helper()
	s.must(s.network.NAT(s.t.Context()))
}

// setUp starts the target and the client, which does not dial yet.
func (s *topology) setUp() {
	s.t.Helper()
	s.target = s.start(targetRole, targetParams{At: target}, "target")
	s.client = s.newClient()
}

// newClient starts a client.
func (s *topology) newClient() *worker.Process {
	s.t.Helper()
	p := clientParams{Gateway: s.gateway.URI, Identity: s.key, Target: target, Keepalive: s.keepalive, Hosts: map[string][]netip.Addr{
		s.gateway.URI.Host: {network.GatewayAddrs[0].Addr(), network.GatewayAddrs[1].Addr()},
	}}
	if s.exit != nil {
		p.Gateway, p.Via = s.exit.URI, []uri.Gateway{s.gateway.URI}
	}
	return s.start(clientRole, p, "client")
}

func (s *topology) start(role string, params any, machine string) *worker.Process {
	s.t.Helper()
	p, err := launcher().Start(s.t.Context(), role, params, nil, s.machine[machine].Where())
	s.must(err)
	s.t.Cleanup(p.Stop)
	return p
}

func (s *topology) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// ask asks a worker.
func (s *topology) ask(p *worker.Process, call string, params, result any) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	s.must(p.Call(ctx, call, params, result))
}

// dial makes the client's session.
func (s *topology) dial() (d dialled) {
	s.t.Helper()
	s.ask(s.client, "dial", worker.None{}, &d)
	return d
}

// send makes the client send, and waits for the first echo.
func (s *topology) send(what sending) {
	s.t.Helper()
	s.ask(s.client, "send", what, nil)
}

// condition asks the client how it is.
func (s *topology) condition() (c condition) {
	s.t.Helper()
	s.ask(s.client, "condition", worker.None{}, &c)
	return c
}

// noticed returns the client's events since a moment.
func (s *topology) noticed(since int64) (all []noticed) {
	s.t.Helper()
	var list []noticed
	s.ask(s.client, "noticed", worker.None{}, &list)
	for _, n := range list {
		if n.At >= since {
			all = append(all, n)
		}
	}
	return all
}

// saw fails the test unless the client reported events of these kinds in this order since a
// moment. Others may come between them: a busy machine delays packets.
func (s *topology) saw(since int64, kinds ...string) {
	s.t.Helper()
	var all []string
	for _, n := range s.noticed(since) {
		all = append(all, n.Kind)
	}
	rest := kinds
	for _, kind := range all {
		if len(rest) > 0 && kind == rest[0] {
			rest = rest[1:]
		}
	}
	if len(rest) > 0 {
		s.t.Errorf("the client reported %q, want %q", all, kinds)
	}
}

// awaitTransport waits until the client uses a transport, and returns when it switched.
func (s *topology) awaitTransport(since int64, transport string) int64 {
	s.t.Helper()
	for end := time.Now().Add(2 * patience); ; time.Sleep(20 * time.Millisecond) {
		if all := s.noticed(since); len(all) > 0 && all[len(all)-1].To == transport {
			return all[len(all)-1].At
		}
		if time.Now().After(end) {
			s.t.Fatalf("the client does not switch to %s: %+v; events: %v", transport, s.condition(), s.noticed(since))
		}
	}
}

// awaitEvents waits for n events of a kind since a moment.
func (s *topology) awaitEvents(since int64, kind string, n int) {
	s.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		seen := 0
		for _, e := range s.noticed(since) {
			if e.Kind == kind {
				seen++
			}
		}
		if seen >= n {
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("%d events %q within %v, want %d: %v", seen, kind, patience, n, s.noticed(since))
		}
	}
}

// awaitReceived waits until the client has received more further datagrams.
func (s *topology) awaitReceived(more uint64) {
	s.t.Helper()
	want := s.condition().Stats.Received + more
	for end := time.Now().Add(patience); s.condition().Stats.Received < want; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("the client received too few datagrams within %v: %+v; events: %v", patience, s.condition(), s.noticed(0))
		}
	}
}

// linger is how long the client waits for late echoes.
const linger = 500 * time.Millisecond

// sameSession fails the test if the client made a new session.
func (s *topology) sameSession() {
	s.t.Helper()
	if n := s.condition().Stats.Reconnects; n != 0 {
		s.t.Errorf("the client made %d new sessions", n)
	}
}

// stop ends the sending and returns the outcome.
func (s *topology) stop() *account {
	s.t.Helper()
	return s.stopAfter(linger)
}

// stopAfter is stop with another bound on the wait for late echoes.
func (s *topology) stopAfter(linger time.Duration) *account {
	s.t.Helper()
	var a account
	s.ask(s.client, "stop", linger, &a.traffic)
	s.ask(s.target, "heard", worker.None{}, &a.heard)
	a.heard.At = grown(a.heard.At, len(a.Sent))
	if a.traffic.Changed+a.heard.Changed > 0 {
		s.t.Errorf("datagrams were modified: %d on the way out, %d on the way back", a.heard.Changed, a.traffic.Changed)
	}
	if a.traffic.Again+a.heard.Again > 0 {
		s.t.Errorf("datagrams were delivered more than once: %d at the target, %d at the client", a.heard.Again, a.traffic.Again)
	}
	return &a
}

// log logs the client's events and losses since a moment.
func (s *topology) log(a *account, since int64) {
	s.t.Helper()
	var events []string
	for _, n := range s.noticed(since) {
		text := time.Duration(n.At-since).Round(time.Millisecond).String() + " " + n.Kind + ", " + n.To
		if n.Why != "" {
			text += " (" + n.Why + ")"
		}
		events = append(events, text)
	}
	if len(events) == 0 {
		events = []string{"none"}
	}
	sent, there, back := a.count(since, measure.Now())
	s.t.Logf("of %d datagrams %d were lost on the way out, %d on the way back; events: %s", sent, sent-there, there-back, strings.Join(events, "; "))
}

// account is the fate of all datagrams sent.
type account struct {
	traffic
	heard heard
}

// count returns how many datagrams of a time were sent, reached the target, and came back.
func (a *account) count(from, to int64) (sent, there, back int) {
	for i, at := range a.Sent {
		if at < from || at >= to {
			continue
		}
		sent++
		if a.heard.At[i] != 0 {
			there++
		}
		if a.Back[i] != 0 {
			back++
		}
	}
	return sent, there, back
}

// last returns the latest send time whose echo can be expected.
func (a *account) last() int64 { return a.Sent[len(a.Sent)-1] - int64(linger) }

// through returns the time from a moment until the first echo of a datagram sent after it, or
// until now if none arrived.
func (a *account) through(after int64) time.Duration {
	first := measure.Now()
	for i, at := range a.Sent {
		if at >= after && a.Back[i] != 0 {
			first = min(first, a.Back[i])
		}
	}
	return time.Duration(first - after)
}

// gap returns the longest time without an echo in [from, to).
func (a *account) gap(from, to int64) (longest time.Duration) {
	came := []int64{from, to}
	for _, at := range a.Back {
		if at >= from && at < to {
			came = append(came, at)
		}
	}
	slices.Sort(came)
	for i := range came[1:] {
		longest = max(longest, time.Duration(came[i+1]-came[i]))
	}
	return longest
}
