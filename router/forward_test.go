package router

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/transport"
	"lewes/transport/path"
	"lewes/transport/uri"
	"lewes/transport/wire"
)

var (
	exitID   = testIdentity(9).Public()
	exitAddr = netip.MustParseAddrPort("198.51.100.9:51264")
	secondAt = path.Path{Peer: netip.MustParseAddrPort("192.0.2.2:2222")}
)

func withDirectory(t testing.TB) func(*Config) {
	return func(c *Config) {
		c.Directory = NewDirectory([]uri.Gateway{{Identity: exitID, Host: exitAddr.Addr().String(), Port: exitAddr.Port()}}, nil)
		if err := c.Directory.Refresh(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
}

// inner builds an inner packet of an index: sealed garbage, or a hello.
func inner(index uint32, hello bool) []byte {
	if hello {
		p := wire.Begin(nil, 0, wire.LevelClear, 0, wire.TypeClientHello)
		m := wire.ClientHello{ReceiverIdx: index}
		return wire.Finish(wire.Pad(m.Append(p), 0, wire.MinHelloDatagram))
	}
	return wire.Finish(append(wire.Begin(nil, index, wire.LevelTransport, 1, wire.TypePing), make([]byte, 30)...))
}

func (p *peer) forward(flow uint16, to *identity.PublicKey, packet []byte) {
	p.r.t.Helper()
	m := &wire.ForwardPacket{FlowID: flow, Inner: packet}
	if to != nil {
		m.Flags, m.Identity = wire.FlagIdentity, *to
	}
	p.send(wire.TypeForwardPacket, m)
}

// Shows R8.1.
func TestForwardThereAndBack(t *testing.T) {
	r := newRig(t, withDirectory(t))
	p, q := r.connect(2, clientAt), r.connect(3, secondAt)
	p.forward(5, &exitID, inner(100, true))
	q.forward(6, &exitID, inner(200, true))
	p.forward(5, nil, inner(100, false))
	if len(r.egress.conns) != 1 {
		t.Fatalf("%d sockets, want one for all sessions", len(r.egress.conns))
	}
	exit := r.egress.at(exitAddr)
	if got := len(exit.take()); got != 3 {
		t.Fatalf("the exit got %d packets, want 3", got)
	}
	p.got, q.got = nil, nil
	exit.fed <- []transport.Packet{{Data: inner(200, false)}, {Data: inner(100, false)}, {Data: inner(300, false)}}
	for _, x := range r.socket.waitFor(t, 2) {
		if x.Path == clientAt {
			p.handle(x.Data)
		} else {
			q.handle(x.Data)
		}
	}
	for i, c := range []*peer{p, q} {
		if len(c.got) != 1 {
			t.Fatalf("session %d got %d packets", i, len(c.got))
		}
		m, err := wire.ParseForwardPacket(c.got[0].content)
		want := []uint32{100, 200}[i]
		if h, _ := wire.ParseHeader(m.Inner); err != nil || m.Flags != 0 || h.ReceiverIdx != want {
			t.Errorf("session %d got index %d, %v", i, h.ReceiverIdx, err)
		}
	}
	if s := r.shard.Stats(); s.Claims != 2 || s.Unclaimed != 1 || s.Returned != 2 {
		t.Errorf("stats %+v", s)
	}
}

func TestForwardOnlyToTheDirectory(t *testing.T) {
	r := newRig(t, withDirectory(t))
	p := r.connect(2, clientAt)
	stranger := testIdentity(8).Public()
	p.forward(1, &stranger, inner(100, true))
	if got := p.closedWith(); got != "1:1 " {
		t.Errorf("a gateway not in the directory: %q", got)
	}
	p.forward(2, nil, inner(100, true))
	if got := p.closedWith(); got != "2:3 " {
		t.Errorf("no identity: %q", got)
	}
	if len(r.egress.conns) != 0 {
		t.Error("a socket was opened")
	}
}

func TestClaimOfAnothersIndex(t *testing.T) {
	r := newRig(t, withDirectory(t))
	p, q := r.connect(2, clientAt), r.connect(3, secondAt)
	p.forward(1, &exitID, inner(100, true))
	q.forward(1, &exitID, inner(100, false))
	if got := q.closedWith(); got != fmt.Sprintf("1:%d ", wire.FlowIndexCollision) {
		t.Errorf("another client's claim: %q", got)
	}
	// The same identity in a newer session takes it over.
	r.advance(time.Second)
	again := r.connect(2, path.Path{Peer: netip.MustParseAddrPort("192.0.2.3:3333")})
	again.forward(1, &exitID, inner(100, false))
	if got := again.closedWith(); got != "" {
		t.Errorf("the newer session of the same client: %q", got)
	}
	p.forward(1, nil, inner(100, false))
	if got := p.closedWith(); got != "1:6 " {
		t.Errorf("the older session, afterwards: %q", got)
	}
}

func TestClaimsAreBoundedAndExpire(t *testing.T) {
	r := newRig(t, withDirectory(t))
	p := r.connect(2, clientAt)
	for i := range uint32(17) {
		p.forward(1, &exitID, inner(100+i, false))
	}
	if got := p.closedWith(); got != "1:4 " || r.shard.Stats().Claims != 16 {
		t.Errorf("closed with %q, %d claims", got, r.shard.Stats().Claims)
	}
	r.advance(301 * time.Second)
	if n := r.shard.Stats().Claims; n != 0 {
		t.Errorf("%d claims after 301 s", n)
	}
}

func TestInnerHellosAreLimited(t *testing.T) {
	r := newRig(t, withDirectory(t))
	p := r.connect(2, clientAt)
	for range 30 {
		p.forward(1, &exitID, inner(100, true))
	}
	if got := len(r.egress.at(exitAddr).take()); got != 10 {
		t.Errorf("%d hellos passed at once, want 10", got)
	}
	r.advance(time.Second)
	for range 30 {
		p.forward(1, nil, inner(100, true))
	}
	if got := len(r.egress.at(exitAddr).take()); got != 2 {
		t.Errorf("%d hellos passed a second later, want 2", got)
	}
}

func TestEndOfASessionGivesItsClaimsUp(t *testing.T) {
	r := newRig(t, withDirectory(t))
	p, q := r.connect(2, clientAt), r.connect(3, secondAt)
	p.forward(1, &exitID, inner(100, true))
	p.send(wire.TypeClose, &wire.Close{})
	q.forward(1, &exitID, inner(100, true))
	if got := q.closedWith(); got != "" || r.shard.Stats().Claims != 1 {
		t.Errorf("closed with %q, %d claims", got, r.shard.Stats().Claims)
	}
}
