package router

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lewes/state/wire"
	"lewes/transport"
	"lewes/transport/uri"
)

var (
	firstAddr  = netip.MustParseAddr("198.51.100.71")
	secondAddr = netip.MustParseAddr("198.51.100.72")
)

func datagramsTo(r *rig, addr netip.Addr, port uint16) int {
	at := netip.AddrPortFrom(addr, port)
	conn := r.egress.at(at)
	if conn == nil {
		return 0
	}
	return len(conn.take())
}

// The first address of a name that leaves datagrams unanswered for a second gives way to the next, and
// is not the first again for minutes.
//
// Shows R8.35.
func TestSilentAddressGivesWay(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.Resolver.(memResolver)["two.example"] = []netip.Addr{firstAddr, secondAddr}
	})
	p := r.connect(2, clientAt)
	ask := func(id uint16) (first, second int) {
		t.Helper()
		p.named(id, "two.example", 7, "x")
		r.settleFlows(t, p, id)
		r.advance(time.Millisecond)
		return datagramsTo(r, firstAddr, 7), datagramsTo(r, secondAddr, 7)
	}
	if first, second := ask(1); first != 1 || second != 0 {
		t.Fatalf("%d and %d datagrams at first", first, second)
	}
	r.advance(900 * time.Millisecond)
	if first, second := ask(1); first != 1 || second != 0 {
		t.Errorf("%d and %d datagrams after 0.9 s", first, second)
	}
	r.advance(200 * time.Millisecond)
	if first, second := ask(1); first != 0 || second != 1 {
		t.Errorf("%d and %d datagrams after a second", first, second)
	}
	r.advance(10 * time.Second)
	if first, second := ask(1); first != 0 || second != 1 {
		t.Errorf("%d and %d datagrams, though no address is left to try", first, second)
	}
	// Another flow begins with the second one, and stays there when it answers.
	if first, second := ask(2); first != 0 || second != 1 {
		t.Errorf("another flow: %d and %d datagrams", first, second)
	}
	r.advance(6 * time.Minute)
	if first, second := ask(3); first != 1 || second != 0 {
		t.Errorf("six minutes later: %d and %d datagrams", first, second)
	}
	r.egress.at(netip.AddrPortFrom(firstAddr, 7)).fed <- []transport.Packet{{Data: []byte("answer")}}
	for p.got = nil; len(p.got) == 0 || p.got[len(p.got)-1].t != wire.TypeEncryptedData; {
		p.receive(1) // the idle flows ended too
	}
	r.advance(2 * time.Second)
	if first, second := ask(3); first != 1 || second != 0 {
		t.Errorf("the address answered: %d and %d datagrams", first, second)
	}
}

// An address without a way to it gives way at once.
func TestUnreachableAddressGivesWay(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.Resolver.(memResolver)["two.example"] = []netip.Addr{firstAddr, secondAddr}
	})
	r.egress.failAt = firstAddr
	p := r.connect(2, clientAt)
	p.named(1, "two.example", 7, "x")
	r.settleFlows(t, p, 1)
	if n := datagramsTo(r, secondAddr, 7); n != 1 {
		t.Errorf("%d datagrams to the second address", n)
	}
}

// settleFlows waits until a name is looked up and its flow open.
func (r *rig) settleFlows(t *testing.T, p *peer, id uint16) {
	t.Helper()
	for range 1000 {
		open := false
		r.shard.Do(func(_ time.Time, st *shardState) {
			f := st.sessions.Find(p.session.Current().Index()).Session().User.(*client).flows[id]
			open = f != nil && f.step == flowOpen
		})
		if open {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("the flow does not open")
}

// The first address of a gateway of the directory that does not answer gives way to the next.
//
// Shows R8.35.
func TestSilentGatewayAddressGivesWay(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.Directory = NewDirectory([]uri.Gateway{{Identity: exitID, Host: "exit.example", Port: 51264}}, memResolver{"exit.example": {firstAddr, secondAddr}})
		if err := c.Directory.Refresh(context.Background()); err != nil {
			t.Fatal(err)
		}
	})
	p := r.connect(2, clientAt)
	p.forward(5, &exitID, inner(100, true))
	for range 9 {
		r.advance(100 * time.Millisecond)
		p.forward(5, &exitID, inner(100, false))
	}
	if first, second := datagramsTo(r, firstAddr, 51264), datagramsTo(r, secondAddr, 51264); first != 10 || second != 0 {
		t.Errorf("%d and %d packets in the first second", first, second)
	}
	r.advance(200 * time.Millisecond)
	p.forward(5, &exitID, inner(100, false))
	if first, second := datagramsTo(r, firstAddr, 51264), datagramsTo(r, secondAddr, 51264); first != 0 || second != 1 {
		t.Errorf("%d and %d packets then", first, second)
	}
	// The second one answers, and stays in use whatever passes.
	for range 30 {
		r.egress.at(netip.AddrPortFrom(secondAddr, 51264)).fed <- []transport.Packet{{Data: inner(100, false)}}
		p.receive(1)
		r.advance(500 * time.Millisecond)
		p.forward(5, &exitID, inner(100, false))
	}
	r.advance(time.Hour) // a pause is no silence
	p.forward(5, &exitID, inner(100, true))
	if first := datagramsTo(r, firstAddr, 51264); first != 0 {
		t.Errorf("%d packets to the silent address", first)
	}
}

// failingResolver fails until it works.
type failingResolver struct {
	mu    sync.Mutex
	works bool
	asked []time.Time
}

func (l *failingResolver) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = append(l.asked, time.Now())
	if !l.works {
		return nil, errors.New("no network yet")
	}
	return []netip.Addr{firstAddr}, nil
}

// A name of the directory that cannot be resolved at start is tried again after 1, 2, 4 … s, and when
// a client wants it; until then clients learn that reason.
//
// Shows R8.36.
func TestDirectoryRetriesNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := &failingResolver{}
		d := NewDirectory([]uri.Gateway{{Identity: exitID, Host: "exit.example", Port: 51264}}, names)
		ctx, cancel := context.WithCancel(t.Context())
		refresh := func() { _ = d.Refresh(ctx) }
		refresh()
		began := time.Now()
		done := make(chan struct{})
		go func() { defer close(done); d.Watch(ctx, refresh) }()
		time.Sleep(16 * time.Second)
		var at []time.Duration
		names.mu.Lock()
		for _, a := range names.asked {
			at = append(at, a.Sub(began))
		}
		names.asked, names.works = nil, true
		names.mu.Unlock()
		if !slices.Equal(at, []time.Duration{0, time.Second, 3 * time.Second, 7 * time.Second, 15 * time.Second}) {
			t.Errorf("asked at %v", at)
		}
		if _, ok := d.Find(exitID); ok || !d.unresolved(exitID) || d.unresolved(testIdentity(77).Public()) {
			t.Error("the gateway is not listed as unresolved, or is one that is not listed")
		}
		time.Sleep(minResolvePause)
		synctest.Wait()
		if _, ok := d.Find(exitID); !ok {
			t.Error("not resolved when a client wanted it")
		}
		time.Sleep(time.Hour)
		cancel()
		<-done
		if n := len(names.asked); n != 1 {
			t.Errorf("asked %d times, though the name is known", n)
		}
	})
}

// A client that wants a gateway whose name is not resolved yet learns so.
//
// Shows R8.36.
func TestUnresolvedGateway(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.Directory = NewDirectory([]uri.Gateway{{Identity: exitID, Host: "exit.example", Port: 51264}}, &failingResolver{})
		_ = c.Directory.Refresh(context.Background())
	})
	p := r.connect(2, clientAt)
	p.forward(5, &exitID, inner(100, true))
	if got := p.closedWith(); got != "5:10 " {
		t.Errorf("closed with %q", got)
	}
	other := testIdentity(77).Public()
	p.forward(6, &other, inner(101, true))
	if got := p.closedWith(); got != "6:1 " {
		t.Errorf("closed with %q", got)
	}
}
