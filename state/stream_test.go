package state

import (
	"bytes"
	"testing"
	"time"

	"lewes/crypto/seal"
	"lewes/state/parts"
	"lewes/state/path"
	"lewes/state/wire"
)

// Handshakes and subsessions over a transport that carries packets of any size in
// order, each on a connection of its own (sections 1, 4 and 10).

// overTCP is two ends and the connections between them.
type overTCP struct {
	c           *clientEnd
	g           *gatewayEnd
	connections uint64
}

// newOverTCP returns two ends whose client has its first flight to send.
func newOverTCP(t *testing.T) *overTCP {
	t.Helper()
	config := clientConfig(2)
	config.Path = path.NewTCP(gatewayAt.Peer, clientAt.Peer.Addr(), 0)
	config.Session.Stream = true
	return &overTCP{c: newClientEnd(t, epoch, config), g: newGatewayEnd(t, gatewayConfig(t, 1))}
}

// exchange delivers the client's packets to the gateway, each over a
// connection of its own, and the answers to the client. It returns what went.
func (o *overTCP) exchange(now time.Time) (up, down []string) {
	for _, p := range o.c.take() {
		o.connections++
		up = append(up, kindOf(p.Data))
		o.g.handle(now, p.Data, path.NewTCP(clientAt.Peer, gatewayAt.Peer.Addr(), o.connections))
	}
	for _, p := range o.g.take() {
		down = append(down, kindOf(p.Data))
		o.c.handle(now, p.Data, o.c.client.config.Path)
	}
	return up, down
}

// kindOf names the type of a clear packet, and the level of another.
func kindOf(p []byte) string {
	h, _ := wire.ParseHeader(p)
	if h.Level != wire.LevelClear {
		return h.Level.String()
	}
	kind, _, _ := wire.ParseBody(wire.Body(p))
	return kind.String()
}

func sameStrings(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %v, want %v", what, got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("%s: %v, want %v", what, got, want)
		}
	}
}

// TestHandshakeOverTCP goes through a handshake and a subsession step by step:
// nothing goes before the answer to what went before, also when it is repeated,
// and every message is one packet.
//
// Shows R1.21, R4.5.
func TestHandshakeOverTCP(t *testing.T) {
	o := newOverTCP(t)
	c, g := o.c, o.g
	lost := func(want ...string) {
		t.Helper()
		var kinds []string
		for _, p := range c.take() {
			kinds = append(kinds, kindOf(p.Data))
		}
		sameStrings(t, "a flight that is lost", kinds, want...)
		c.tick(c.next())
	}
	step := func(what string, up, down []string) {
		t.Helper()
		gotUp, gotDown := o.exchange(epoch)
		sameStrings(t, what+", to the gateway", gotUp, up...)
		sameStrings(t, what+", to the client", gotDown, down...)
	}
	lost("ClientHello")
	step("hello", []string{"ClientHello"}, []string{"Ack"})
	lost("KKTRequest")
	step("KKT", []string{"KKTRequest"}, []string{"KKTResponse"})
	step("Handshake 1", []string{"Handshake"}, []string{"handshake"})
	step("Handshake 3 and Ping", []string{"handshake", "transport"}, []string{"transport", "transport"})
	if c.session == nil || g.sessions.Len() != 1 || c.confirms != 1 {
		t.Fatalf("no session: %v, %v", c.drops, g.drops)
	}
	c.session.Rekey(epoch, &c.out)
	step("KK1 and KK2", []string{"transport"}, []string{"transport"})
	step("Ready", []string{"transport"}, []string{"transport"})
	if n := g.only().keys.current.number; n != 1 || c.session.keys.current.number != 1 {
		t.Errorf("generation %d after a subsession", n)
	}
	if n := len(c.drops) + len(g.drops); n != 0 {
		t.Errorf("dropped: %v, %v", c.drops, g.drops)
	}
}

// TestPartsOverTCP sends good messages in two parts where one is the rule. They
// are dropped, and the whole message, coming later, is taken.
//
// Shows R1.21.
func TestPartsOverTCP(t *testing.T) {
	tcp := path.NewTCP(clientAt.Peer, gatewayAt.Peer.Addr(), 7)
	o := newOverTCP(t)
	c, g := o.c, o.g
	mac := g.responders.MAC1()
	o.exchange(epoch) // hello and Ack

	// KKTResponse, to the client.
	for _, p := range c.take() {
		g.handle(epoch, p.Data, tcp)
	}
	answer := g.take()
	i := c.client.attempts[0]
	responder := g.responders.attempts[keyOf(i.index, tcp)]
	for _, p := range parts.Split(responder.response(), parts.MaxData) {
		c.handle(epoch, clearPacket(mac, i.index, wire.TypeKKTResponse, &p), tcp)
	}
	if i.handshake1 != nil || i.assembler.Kept() != 0 {
		t.Error("a KKTResponse in two parts was taken")
	}
	for _, p := range answer {
		c.handle(epoch, p.Data, tcp)
	}
	if i.handshake1 == nil {
		t.Fatal("a KKTResponse in one part was not taken")
	}

	// Handshake 1, to the gateway.
	for _, p := range parts.Split(i.handshake1, parts.MaxData) {
		g.handle(epoch, clearPacket(mac, i.index, wire.TypeHandshake, &p), tcp)
	}
	if responder.handshake1 != nil || responder.inbox.Kept() != 0 || len(g.take()) != 0 {
		t.Error("a Handshake 1 in two parts was taken")
	}
	o.exchange(epoch)
	o.exchange(epoch)
	if c.session == nil || g.sessions.Len() != 1 {
		t.Fatalf("no session: %v, %v", c.drops, g.drops)
	}

	// KK1 and KK2.
	s := g.only()
	give := func(from *Session, kind wire.Type, message []byte, to func(now time.Time, packet []byte, at path.Path), at path.Path) {
		var out Output
		for _, p := range parts.Split(message, parts.MaxData) {
			from.send(kind, &p, &out)
		}
		if len(out.Packets) != 2 {
			t.Fatalf("%d parts", len(out.Packets))
		}
		for _, p := range out.Packets {
			to(epoch, p.Data, at)
		}
	}
	c.session.Rekey(epoch, &c.out)
	whole := c.take()
	give(c.session, wire.TypeSubsessionKK1, c.session.rekey.initiator.message, g.handle, tcp)
	if s.rekey.responder != nil {
		t.Error("a KK1 in two parts was taken")
	}
	for _, p := range whole {
		g.handle(epoch, p.Data, tcp)
	}
	whole = g.take()
	kk2 := (&wire.SubsessionKK2{Generation: 1, NewReceiverIdx: s.rekey.responder.child.index, Noise: s.rekey.responder.kk2Noise}).Append(nil)
	give(s, wire.TypeSubsessionKK2, kk2, c.handle, c.client.config.Path)
	if c.session.rekey.initiator.secrets != nil || c.session.rekey.initiator.kk2Parts.Kept() != 0 {
		t.Error("a KK2 in two parts was taken")
	}
	for _, p := range whole {
		c.handle(epoch, p.Data, c.client.config.Path)
	}
	o.exchange(epoch)
	if s.keys.current.number != 1 || c.session.keys.current.number != 1 {
		t.Errorf("generations %d and %d", c.session.keys.current.number, s.keys.current.number)
	}
}

// TestPartsAtLevel1 seals Handshake 2 and 3 as the first of two parts, under the
// right keys. They are dropped; the same messages in one part complete the
// handshake.
//
// Shows R1.21.
func TestPartsAtLevel1(t *testing.T) {
	c, g, i := atFirst(t, gatewayConfig(t, 1))
	second := g.sendFirst(epoch, i.index, i.handshake1, clientAt)[0].Data
	responder := g.responders.attempts[keyOf(i.index, clientAt)]
	c2g, g2c := handshakeKeys(&responder.psk)
	inTwo := func(key *[32]byte, packet []byte) []byte {
		p := bytes.Clone(packet)
		k := seal.NewKey(responder.suite, key)
		if _, err := k.Open(p); err != nil {
			t.Fatal(err)
		}
		p[wire.HeaderSize+wire.PrefixSize] = 0x02 // the first of two
		k.Seal(p)
		return p
	}
	c.take()
	c.handle(epoch, inTwo(&g2c, second), gatewayAt)
	if c.session != nil || c.client.Err() != nil || len(c.take()) != 0 {
		t.Fatalf("Handshake 2 as a part: session %v, %v", c.session != nil, c.client.Err())
	}
	c.handle(epoch, second, gatewayAt)
	third := c.take()
	if c.session == nil || len(third) != 2 {
		t.Fatalf("Handshake 2 in one part: %v", c.drops)
	}
	g.handle(epoch, inTwo(&c2g, third[0].Data), clientAt)
	if g.sessions.Len() != 0 || g.responders.Len() != 1 || len(g.take()) != 0 {
		t.Fatalf("Handshake 3 as a part: %d sessions, %d responders", g.sessions.Len(), g.responders.Len())
	}
	g.handle(epoch, third[0].Data, clientAt)
	if g.sessions.Len() != 1 {
		t.Fatalf("Handshake 3 in one part: %v", g.drops)
	}
	converse(epoch, c, g)
	checkExchange(t, epoch, c, g)
}

// TestNoAmplificationLimitOverTCP has short packets over TCP answered by longer ones.
//
// Shows R4.16.
func TestNoAmplificationLimitOverTCP(t *testing.T) {
	g := newGatewayEnd(t, gatewayConfig(t, 1))
	tcp := path.NewTCP(clientAt.Peer, gatewayAt.Peer.Addr(), 1)
	m := goodHello(epoch, 7)
	hello := clearPacket(g.responders.MAC1(), 0, wire.TypeClientHello, &m)
	request := g.kktPacket(m)
	request = g.changed(request[:wire.Overhead+wire.KKTRequestSize], func([]byte) {})
	for n := range 3 {
		if a := g.askOne(epoch, hello, tcp); a.kind != wire.TypeAck {
			t.Fatalf("hello %d got %v", n, a.kind)
		}
		if a := g.askOne(epoch, request, tcp); a.kind != wire.TypeKKTResponse || a.size <= len(hello)+len(request) {
			t.Fatalf("KKT request %d got %v of %d bytes", n, a.kind, a.size)
		}
	}
}
