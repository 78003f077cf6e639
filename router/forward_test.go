package router

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/kem"
	"lewes/crypto/seal"
	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
	"lewes/transport/udp"
	"lewes/transport/uri"
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

// inner returns an inner packet with an index: sealed garbage, or a hello.
func inner(index uint32, hello bool) []byte {
	if hello {
		p := wire.Begin(nil, 0, wire.LevelClear, 0, wire.TypeClientHello)
		m := wire.ClientHello{Attempt: index}
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

// Shows R8.19.
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
	if s := r.shard.Stats(); s.Bindings != 2 || s.UnboundIndex != 1 || s.Returned != 2 {
		t.Errorf("stats %+v", s)
	}
}

// Shows R8.18.
func TestForwardRequiresDirectoryEntry(t *testing.T) {
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

// Shows R8.22.
func TestIndexBoundToAnotherSession(t *testing.T) {
	r := newRig(t, withDirectory(t))
	p, q := r.connect(2, clientAt), r.connect(3, secondAt)
	p.forward(1, &exitID, inner(100, true))
	q.forward(1, &exitID, inner(100, false))
	if got := q.closedWith(); got != fmt.Sprintf("1:%d ", wire.FlowIndexCollision) {
		t.Errorf("another client's index: %q", got)
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

// Shows R8.20, R8.21.
func TestBindingsAreBoundedAndExpire(t *testing.T) {
	r := newRig(t, withDirectory(t))
	p := r.connect(2, clientAt)
	for i := range uint32(65) {
		p.forward(1, &exitID, inner(100+i, false))
	}
	if got := p.closedWith(); got != "1:4 " || r.shard.Stats().Bindings != 64 {
		t.Errorf("closed with %q, %d bindings", got, r.shard.Stats().Bindings)
	}
	r.advance(301 * time.Second)
	if n := r.shard.Stats().Bindings; n != 0 {
		t.Errorf("%d bindings after 301 s", n)
	}
}

// Shows R8.23.
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

func TestSessionCloseReleasesBindings(t *testing.T) {
	r := newRig(t, withDirectory(t))
	p, q := r.connect(2, clientAt), r.connect(3, secondAt)
	p.forward(1, &exitID, inner(100, true))
	p.send(wire.TypeClose, &wire.Close{})
	q.forward(1, &exitID, inner(100, true))
	if got := q.closedWith(); got != "" || r.shard.Stats().Bindings != 1 {
		t.Errorf("closed with %q, %d bindings", got, r.shard.Stats().Bindings)
	}
}

// Shows R8.17.
func TestMalformedInnerPacketIsDropped(t *testing.T) {
	r := newRig(t, withDirectory(t))
	p := r.connect(2, clientAt)
	p.forward(1, &exitID, inner(100, false))
	exit := r.egress.at(exitAddr)
	exit.take()
	reserved := inner(100, false)
	reserved[11] |= 0xC0
	noHello := inner(0, false)
	for name, bad := range map[string][]byte{"reserved level": reserved, "index 0 and no hello": noHello} {
		p.forward(1, nil, bad)
		if got := len(exit.take()); got != 0 {
			t.Errorf("%s: passed on", name)
		}
	}
	p.send(wire.TypeForwardPacket, rawContent(append([]byte{1, 0, 0}, inner(100, false)[:33]...)))
	if got := len(exit.take()); got != 0 {
		t.Error("33 bytes: passed on")
	}
}

// hellos sends n different hellos from one source, and returns the number answered by an Ack.
func (r *rig) hellos(n int, from path.Path) (acks int) {
	for i := range n {
		var out state.Output
		_, err := state.NewClient(r.now(), state.ClientConfig{
			Gateway: gatewayID.Public(), Identity: testIdentity(2), KEM: kem.MLKEM768,
			Suites: seal.Offer(), Rand: seeded(uint64(from.Peer.Port())<<16 + uint64(i)), Path: clientAt,
		}, &out)
		if err != nil {
			r.t.Fatal(err)
		}
		r.shard.Receive(r.now(), []transport.Packet{{Data: out.Packets[0].Data, Path: from}}, nil)
		for _, p := range r.socket.take() {
			if t, _, err := wire.ParseBody(wire.Body(p.Data)); err == nil && t == wire.TypeAck {
				acks++
			}
		}
	}
	return acks
}

// Shows R8.24.
func TestDirectoryGatewaysHaveSeparateRateLimit(t *testing.T) {
	r := newRig(t, withDirectory(t))
	if got := r.hellos(300, path.Path{Peer: netip.MustParseAddrPort("203.0.113.5:1")}); got != 40 {
		t.Errorf("%d of 300 hellos of a stranger were taken at once, want 40", got)
	}
	if got := r.hellos(300, path.Path{Peer: exitAddr}); got != 300 {
		t.Errorf("%d of 300 hellos of a gateway were taken, want all", got)
	}
}

// Shows R12.3.
func TestHelloToFullGatewayIsBusy(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxSessions = 2 })
	p, _ := r.connect(2, clientAt), r.connect(3, secondAt)
	if got := r.hellos(5, path.Path{Peer: netip.MustParseAddrPort("203.0.113.5:1")}); got != 0 {
		t.Errorf("%d hellos taken", got)
	}
	if s := r.shard.Stats(); s.Handshakes.Busy != 5 || s.Handshakes.Cookies != 0 || s.Sessions != 2 {
		t.Errorf("busy %d, cookies %d, sessions %d", s.Handshakes.Busy, s.Handshakes.Cookies, s.Sessions)
	}
	p.data(1, target, "x")
	if got := sentTo(r.egress.at(target)); len(got) != 1 {
		t.Error("an established session is disturbed")
	}
}

// Shows R4.12.
func TestHelloDuringShutdown(t *testing.T) {
	r := newRig(t, nil)
	r.whole.closeSessions(t.Context())
	var out state.Output
	if _, err := state.NewClient(epoch, state.ClientConfig{
		Gateway: gatewayID.Public(), Identity: testIdentity(2), KEM: kem.MLKEM768,
		Suites: seal.Offer(), Rand: seeded(4), Path: clientAt,
	}, &out); err != nil {
		t.Fatal(err)
	}
	r.shard.Receive(epoch, []transport.Packet{{Data: out.Packets[0].Data, Path: clientAt}}, nil)
	sent := r.socket.take()
	if len(sent) != 1 {
		t.Fatalf("%d answers", len(sent))
	}
	kind, content, err := wire.ParseBody(wire.Body(sent[0].Data))
	if err != nil || kind != wire.TypeReject {
		t.Fatalf("answered by %v, %v", kind, err)
	}
	if reject, err := wire.ParseReject(content); err != nil || reject.Code != wire.RejectShuttingDown {
		t.Errorf("%+v, %v", reject, err)
	}
}

// Shows R7.11.
func TestNewIndexSteersToItsShard(t *testing.T) {
	r := newRig(t, nil)
	p := r.connect(2, clientAt)
	r.shard.steer, r.shard.id = udp.Steer{Secret: 12345, Shards: 7}, 3
	for range 1000 {
		index := r.shard.st.newIndex()
		if index == 0 || r.shard.steer.Shard(index) != 3 || index == p.session.Current().Index() {
			t.Fatalf("index %#x", index)
		}
	}
}

func TestForwardFlowCloseReleasesBindings(t *testing.T) {
	r := newRig(t, withDirectory(t))
	p, q := r.connect(2, clientAt), r.connect(3, secondAt)
	p.forward(1, &exitID, inner(100, true))
	p.forward(2, &exitID, inner(200, true))
	p.send(wire.TypeFlowClosed, &wire.FlowClosed{FlowID: 1, Reason: wire.FlowIdle})
	q.forward(1, &exitID, inner(100, true))
	if got := q.closedWith(); got != "" {
		t.Errorf("the index of a closed flow: %q", got)
	}
	q.forward(1, nil, inner(200, false))
	if got := q.closedWith(); got != "1:6 " || r.shard.Stats().Bindings != 2 {
		t.Errorf("the index of a flow that is open: %q, %d bindings", got, r.shard.Stats().Bindings)
	}
	p.send(wire.TypeClose, &wire.Close{})
	if n := r.shard.Stats().Bindings; n != 1 {
		t.Errorf("%d bindings after the session's end, want the other session's", n)
	}
}

// A thief of replaced keys can use what is open for a while, but opens and ends nothing.
//
// Shows R7.24.
func TestDemotedKeysOpenAndEndNothing(t *testing.T) {
	r := newRig(t, withDirectory(t))
	p := r.connect(2, clientAt)
	p.data(1, target, "before")
	p.forward(5, &exitID, inner(100, true))
	parent := p.session.Current()
	sealed := map[string][]byte{}
	add := func(what string, kind wire.Type, m interface{ Append([]byte) []byte }) {
		packet := wire.Finish(m.Append(wire.Begin(nil, parent.Index(), wire.LevelTransport, 0, kind)))
		if err := p.session.Sender().Seal(packet); err != nil {
			t.Fatal(err)
		}
		sealed[what] = packet
	}
	add("a flow", wire.TypeEncryptedData, &wire.EncryptedData{FlowID: 2, Flags: wire.FlagTarget, Target: wire.AddrTarget(target)})
	add("a forward flow", wire.TypeForwardPacket, &wire.ForwardPacket{FlowID: 6, Flags: wire.FlagIdentity, Identity: exitID, Inner: inner(101, true)})
	add("a claim", wire.TypeForwardPacket, &wire.ForwardPacket{FlowID: 5, Inner: inner(102, false)})
	add("Close", wire.TypeClose, &wire.Close{})
	add("an open flow", wire.TypeEncryptedData, &wire.EncryptedData{FlowID: 1, Payload: []byte("late")})
	add("a forwarded packet", wire.TypeForwardPacket, &wire.ForwardPacket{FlowID: 5, Inner: inner(100, false)})
	p.session.Rekey(r.now(), &p.out)
	p.run()
	if p.session.Current() == parent || r.shard.Stats().Sessions != 1 {
		t.Fatal("no subsession")
	}
	before := r.shard.Stats()
	for _, what := range []string{"a flow", "a forward flow", "a claim", "Close"} {
		r.shard.Receive(r.now(), []transport.Packet{{Data: sealed[what], Path: clientAt}}, nil)
		after := r.shard.Stats()
		if after.Sessions != 1 || after.Flows != before.Flows || after.Forwarded != before.Forwarded {
			t.Errorf("%s on demoted keys: %+v", what, after)
		}
	}
	for _, what := range []string{"an open flow", "a forwarded packet"} {
		r.shard.Receive(r.now(), []transport.Packet{{Data: sealed[what], Path: clientAt}}, nil)
	}
	if after := r.shard.Stats(); after.Up.Packets != before.Up.Packets+1 || after.Forwarded != before.Forwarded+1 {
		t.Errorf("packets of what was open: %+v", after)
	}
}

// directoryOf returns gateways at addresses of their own.
func directoryOf(ids ...identity.PublicKey) (gateways []uri.Gateway) {
	for i, id := range ids {
		gateways = append(gateways, uri.Gateway{Identity: id, Host: fmt.Sprintf("198.51.100.%d", 9+i), Port: exitAddr.Port()})
	}
	return gateways
}

// TestFlowsToRemovedGatewayEnd removes one of two gateways from the directory: its flows end, with
// their claims and its socket, and those to the other one go on.
//
// Shows R8.18.
func TestFlowsToRemovedGatewayEnd(t *testing.T) {
	other := testIdentity(8).Public()
	r := newRig(t, func(c *Config) { c.Directory = NewDirectory(directoryOf(exitID, other), nil) })
	apply := func(gateways ...uri.Gateway) int {
		d := r.whole.config.Directory
		d.Replace(gateways)
		if err := d.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		return r.whole.ReapplyDirectory()
	}
	all := directoryOf(exitID, other)
	apply(all...)
	p, q := r.connect(2, clientAt), r.connect(3, secondAt)
	p.forward(1, &exitID, inner(100, true))
	p.forward(1, nil, inner(101, true))
	p.forward(2, &exitID, inner(102, true))
	p.forward(3, &other, inner(100, true))
	q.forward(1, &exitID, inner(200, true))
	q.send(wire.TypeFlowClosed, &wire.FlowClosed{FlowID: 1, Reason: wire.FlowIdle}) // is not closed again
	q.forward(2, &exitID, inner(201, true))
	removed, kept := r.egress.at(exitAddr), r.egress.at(netip.AddrPortFrom(netip.MustParseAddr("198.51.100.10"), exitAddr.Port()))
	if n := apply(all...); n != 0 {
		t.Errorf("%d flows ended without a change", n)
	}
	p.got, q.got = nil, nil
	if n := apply(all[1]); n != 3 {
		t.Errorf("%d flows ended, want 3", n)
	}
	for _, x := range r.socket.take() {
		if x.Path == p.at {
			p.handle(x.Data)
		} else {
			q.handle(x.Data)
		}
	}
	if got := p.closedWith(); got != "1:1 2:1 " && got != "2:1 1:1 " {
		t.Errorf("the first client: %q", got)
	}
	if got := q.closedWith(); got != "2:1 " {
		t.Errorf("the second client: %q", got)
	}
	select {
	case <-removed.closed:
	default:
		t.Error("the socket towards the removed gateway is open")
	}
	if s := r.shard.Stats(); s.Bindings != 1 {
		t.Errorf("%d claims left, want 1", s.Bindings)
	}
	r.advance(time.Second) // FlowClosed is limited
	p.forward(1, nil, inner(100, false))
	if got := p.closedWith(); got != "1:3 " {
		t.Errorf("on the ended flow: %q", got)
	}
	r.advance(time.Second)
	p.forward(1, &exitID, inner(100, false))
	if got := p.closedWith(); got != "1:1 " {
		t.Errorf("to the removed gateway: %q", got)
	}
	kept.take()
	p.forward(3, nil, inner(100, false))
	if n := len(kept.take()); n != 1 {
		t.Errorf("%d packets to the other gateway, want 1", n)
	}
	apply(all...)
	p.forward(1, &exitID, inner(100, true))
	if n := len(r.egress.at(exitAddr).take()); n != 1 {
		t.Errorf("%d packets to the gateway that is back, want 1", n)
	}
}

// TestFlowsFollowMovedGateway gives a gateway another address: its flows go there.
//
// Shows R8.18.
func TestFlowsFollowMovedGateway(t *testing.T) {
	r := newRig(t, withDirectory(t))
	p := r.connect(2, clientAt)
	p.forward(1, &exitID, inner(100, true))
	moved := netip.MustParseAddrPort("198.51.100.77:5")
	d := r.whole.config.Directory
	d.Replace([]uri.Gateway{{Identity: exitID, Host: moved.Addr().String(), Port: moved.Port()}})
	if err := d.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := r.whole.ReapplyDirectory(); n != 0 {
		t.Errorf("%d flows ended", n)
	}
	p.forward(1, nil, inner(100, false))
	if c := r.egress.at(moved); c == nil || len(c.take()) != 1 {
		t.Error("the packet did not go to the new address")
	}
}
