package state

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"lewes/state/path"
	"lewes/state/wire"
)

// meddler stands between two ends. Before it lets a packet through it does
// something of its own with it, and sees that nothing came of that.
type meddler struct {
	t       *testing.T
	rng     *rand.Rand
	client  *clientEnd
	gateway *gatewayEnd
	now     time.Time
	meddle  func(s sighting)
	packets int // let through
}

// to gives a packet to the end that it is for.
func (m *meddler) to(s sighting) {
	if s.toClient {
		m.client.handle(m.now, s.packet, s.from)
	} else {
		m.gateway.handle(m.now, s.packet, s.from)
	}
}

// deliver carries packets both ways until there are none.
func (m *meddler) deliver() {
	for {
		var way []sighting
		for _, p := range m.client.take() {
			way = append(way, sighting{packet: p.Data, from: clientAt, to: gatewayAt})
		}
		for _, p := range m.gateway.take() {
			way = append(way, sighting{packet: p.Data, toClient: true, from: gatewayAt, to: p.Path})
		}
		if len(way) == 0 {
			return
		}
		for _, s := range way {
			m.packets++
			m.meddle(s)
			m.to(s)
		}
	}
}

// harmless gives a packet to an end and shows that it changed nothing there and
// was not answered.
func (m *meddler) harmless(what string, s sighting) {
	m.t.Helper()
	waiting := len(m.client.out.Packets) + len(m.gateway.out.Packets)
	s.packet = append([]byte(nil), s.packet...)
	var changed string
	if s.toClient {
		before := shootClient(m.client)
		m.to(s)
		if after := shootClient(m.client); after != before {
			changed = difference(before, after)
		}
	} else {
		before := shootGateway(m.gateway)
		m.to(s)
		if after := shootGateway(m.gateway); after != before {
			changed = difference(before, after)
		}
	}
	if changed != "" {
		m.t.Fatalf("packet %d, %s: it changed %s", m.packets, what, changed)
	}
	if now := len(m.client.out.Packets) + len(m.gateway.out.Packets); now != waiting {
		m.t.Fatalf("packet %d, %s: it was answered", m.packets, what)
	}
}

// converseMeddled takes two ends through a whole session: handshake, data, Pings,
// a subsession at the client's wish and one at the gateway's, data, the end.
func converseMeddled(t *testing.T, seed uint64, meddle func(m *meddler, s sighting)) *meddler {
	g := newGatewayEnd(t, gatewayConfig(t, seed))
	m := &meddler{t: t, rng: rand.New(rand.NewPCG(seed, 5)), gateway: g, now: epoch}
	m.client = newClientEnd(t, epoch, clientConfig(seed+1))
	m.meddle = func(s sighting) { meddle(m, s) }
	m.deliver()
	if m.client.session == nil || g.sessions.Len() != 1 {
		t.Fatalf("no session: client %v, gateway %v", m.client.drops, g.drops)
	}
	talk := func() {
		t.Helper()
		m.client.data, g.data = nil, nil
		sendData(t, m.client.session, &m.client.out, "up")
		sendData(t, g.only(), &g.out, "down")
		m.client.session.Ping(m.now, wire.MinPingPacket, &m.client.out)
		m.deliver()
		if fmt.Sprint(payloads(g.data), payloads(m.client.data)) != "[up] [down]" {
			t.Fatalf("gateway got %q, client got %q", g.data, m.client.data)
		}
	}
	talk()
	m.now = m.now.Add(time.Second)
	m.client.session.Rekey(m.now, &m.client.out)
	m.deliver()
	talk()
	m.now = m.now.Add(time.Second)
	g.only().RequestRekey(m.now, &g.out)
	m.deliver()
	talk()
	if c, s := m.client.session.keys.current.number, g.only().keys.current.number; c != 2 || s != 2 {
		t.Fatalf("generations %d and %d after two subsessions", c, s)
	}
	m.client.session.Close(wire.CloseDone, "bye", &m.client.out)
	m.deliver()
	if g.sessions.Len() != 0 {
		t.Fatal("the session is not closed")
	}
	return m
}

// TestDamageChangesNothing flips bits of every byte, and cuts and lengthens,
// every packet of a whole session before the packet itself arrives. The end that
// gets the damaged one is the same after it as before, and the session goes on.
//
// Shows R1.8, R1.11, R4.15, R5.27, R5.33, R6.5.
func TestDamageChangesNothing(t *testing.T) {
	flips := 4
	if testing.Short() {
		flips = 1
	}
	damaged := 0
	m := converseMeddled(t, 1, func(m *meddler, s sighting) {
		p := s.packet
		try := func(what string, q []byte) {
			damaged++
			d := s
			d.packet = q
			m.harmless(what, d)
		}
		for i := range p {
			for n := range flips {
				mask := byte(1) << ((i + n*3 + m.packets) % 8)
				if n == 3 {
					mask = byte(1 + m.rng.IntN(255))
				}
				q := append([]byte(nil), p...)
				q[i] ^= mask
				try(fmt.Sprintf("byte %d of %d with %#02x flipped", i, len(p), mask), q)
			}
			if i%flips == 0 || i < wire.MinPacket {
				try(fmt.Sprintf("cut to %d of %d bytes", i, len(p)), p[:i])
			}
		}
		try("lengthened", append(append([]byte(nil), p...), 0))
		try("lengthened", append(append([]byte(nil), p...), p...))
	})
	t.Logf("%d damaged packets beside %d good ones", damaged, m.packets)
	if m.packets < 30 || damaged < 5000*flips {
		t.Errorf("only %d damaged packets beside %d good ones", damaged, m.packets)
	}
}

// TestForgeryChangesNothing makes packets of its own for the indexes that it
// sees, of every level and type, in clear ones with the right MAC1, and sends
// them before each packet of a whole session, from the right addresses and from
// others. Packets that cannot be verified yet wait in bounded buffers; nothing else changes.
//
// Shows R2.1, R4.23, R4.27, R5.33, R6.5.
func TestForgeryChangesNothing(t *testing.T) {
	mac := newGatewayEnd(t, gatewayConfig(t, 1)).responders.MAC1()
	rounds := 12
	if testing.Short() {
		rounds = 2
	}
	elsewhere := addr("203.0.113.66:6666")
	converseMeddled(t, 1, func(m *meddler, s sighting) {
		index, _ := wire.ReceiverIdx(s.packet)
		for range rounds {
			for _, level := range []wire.Level{wire.LevelTransport, wire.LevelHandshake, wire.LevelClear} {
				for _, toClient := range []bool{false, true} {
					f := sighting{toClient: toClient, from: clientAt, to: gatewayAt}
					if toClient {
						f.from, f.to = gatewayAt, clientAt
					}
					if m.rng.IntN(3) == 0 {
						f.from = elsewhere
					}
					f.packet, _ = m.forge(index, level, s.packet)
					if level == wire.LevelClear {
						mac.Sum(f.packet)
					}
					m.harmless(fmt.Sprintf("forged %v packet, to the client: %v", level, toClient), f)
				}
			}
		}
	})
}

// forge makes a packet of random type and content: what it saw, with some bytes
// changed, or none of it. It leaves out the types whose content needs no proof to
// be acted on: a hello makes a responder, and Busy and Reject advise a
// client to make another attempt.
func (m *meddler) forge(index uint32, level wire.Level, seen []byte) ([]byte, wire.Type) {
	types := []wire.Type{
		wire.TypeHandshake, wire.TypeEncryptedData, wire.TypeKKTRequest, wire.TypeKKTResponse, wire.TypeAck,
		wire.TypeSubsessionKK1, wire.TypeSubsessionReady, wire.TypeClose, wire.TypePing, wire.TypeHeld, 0x00EE,
	}
	kind := types[m.rng.IntN(len(types))]
	var seq uint64
	if level == wire.LevelTransport {
		seq = uint64(m.rng.IntN(40)) // around those that are in use
		if m.rng.IntN(8) == 0 {
			seq = m.rng.Uint64() & wire.MaxSequence
		}
	}
	p := wire.Begin(nil, index, level, seq, kind)
	switch body := wire.Body(seen); {
	case m.rng.IntN(2) == 0 && len(body) > 20:
		content := append([]byte(nil), body[wire.PrefixSize:]...)
		for range 1 + m.rng.IntN(4) {
			content[m.rng.IntN(len(content))] ^= byte(1 + m.rng.IntN(255))
		}
		p = append(p, content...)
	default:
		for range m.rng.IntN(200) {
			p = append(p, byte(m.rng.Uint32()))
		}
	}
	p = wire.Finish(p)
	if level != wire.LevelClear {
		for i := len(p) - wire.TrailerSize; i < len(p); i++ {
			p[i] = byte(m.rng.Uint32())
		}
	}
	return p, kind
}

// TestRejectedPlaces shows that an end does not take a good packet for another
// index, level or direction, nor from a source that its responder does not name.
//
// Shows R2.1, R4.24, R5.33.
func TestRejectedPlaces(t *testing.T) {
	converseMeddled(t, 9, func(m *meddler, s sighting) {
		back := s
		back.toClient, back.from, back.to = !s.toClient, s.to, s.from
		m.harmless("sent back to its sender", back)
		h, _ := wire.ParseHeader(s.packet)
		if h.Level == wire.LevelClear && h.ReceiverIdx != 0 && !s.toClient {
			s.from = path.Path{Peer: addr("192.0.2.1:1112").Peer}
			m.harmless("from another port", s)
		}
	})
}
