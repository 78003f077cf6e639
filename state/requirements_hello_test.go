package state

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"lewes/crypto/kem"
	"lewes/crypto/seal"
	"lewes/state/path"
	"lewes/state/wire"
)

// What a client sends first and a gateway under load or shutting down says to it
// (section 4).

// Shows R4.4, R4.5.
func TestHelloAndKKTRequestGoTogether(t *testing.T) {
	for _, id := range []kem.ID{kem.MLKEM768, kem.XWing} {
		config := clientConfig(2)
		config.KEM = id
		c := newClientEnd(t, epoch, config)
		g := newGatewayEnd(t, gatewayConfig(t, 1))
		now := epoch
		for n := range 6 {
			flight := c.take()
			if len(flight) != 2 || kindOf(flight[0].Data) != "ClientHello" || kindOf(flight[1].Data) != "KKTRequest" {
				t.Fatalf("%v: flight %d has %d packets", id, n, len(flight))
			}
			for _, p := range flight {
				if len(p.Data) < 1000 || len(p.Data) > 1080 {
					t.Errorf("%v: flight %d has a datagram of %d bytes", id, n, len(p.Data))
				}
				g.handle(now, p.Data, clientAt)
			}
			answer := g.take()
			if len(answer) != 3 {
				t.Fatalf("%v: %d answers", id, len(answer))
			}
			switch n { // what comes back is not the whole of the KKT response
			case 1:
				c.handle(now, answer[0].Data, gatewayAt) // the Ack
			case 2, 3:
				c.handle(now, answer[1].Data, gatewayAt) // one part, and again
			case 5: // and now it is
				c.handle(now, answer[2].Data, gatewayAt)
				continue
			}
			now = c.next()
			c.tick(now)
		}
		flight := c.take()
		for _, p := range flight {
			if kindOf(p.Data) != "Handshake" {
				t.Errorf("%v: a %s after the KKT response", id, kindOf(p.Data))
			}
		}
		if len(flight) != 2 {
			t.Errorf("%v: %d packets after the KKT response", id, len(flight))
		}
	}
}

// TestEverythingSentIsLaidOut looks at every packet of sessions through a network
// that loses and reorders, so that everything is repeated.
//
// Shows R1.1, R1.9.
func TestEverythingSentIsLaidOut(t *testing.T) {
	var levels [3]int
	for seed := range uint64(runs(20, 5)) {
		w := newWorld(t, seed+1, lossy(0.2), lossy(0.2), variety(seed+1))
		w.onlooker = func(s sighting) {
			h, err := wire.ParseHeader(s.packet)
			if err != nil {
				t.Fatalf("a packet of %d bytes: %v", len(s.packet), err)
			}
			levels[h.Level]++
			if h.Level != wire.LevelTransport && h.Sequence != 0 {
				t.Errorf("a packet of level %v has sequence %d", h.Level, h.Sequence)
			}
			body := wire.Body(s.packet)
			if h.Level != wire.LevelClear {
				receiver := w.client.session
				if !s.toClient {
					receiver = w.session()
				}
				if h.Level == wire.LevelHandshake || receiver == nil {
					return // nobody has the keys any more, or yet
				}
				for _, g := range generationsOf(receiver) {
					if g.index == h.ReceiverIdx {
						if body, err = g.receive.Open(append([]byte(nil), s.packet...)); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			direction := wire.ToGateway
			if s.toClient {
				direction = wire.ToClient
			}
			kind, _, err := wire.ParseBody(body)
			if err != nil || !h.Allows(kind, direction) {
				t.Errorf("a packet of level %v bears %v: %v", h.Level, kind, err)
			}
		}
		w.established()
		stop := w.traffic(20 * time.Millisecond)
		w.client.session.Rekey(w.now, &w.client.out)
		w.run(3*time.Second, nil)
		stop()
	}
	if levels[0] < 100 || levels[1] < 10 || levels[2] < 10 {
		t.Errorf("%v packets of each level", levels)
	}
}

// Shows R3.9.
func TestEveryHelloOffersChaCha20Poly1305(t *testing.T) {
	for _, suites := range []seal.Suite{0, seal.ChaCha20Poly1305, seal.AES256GCM, seal.ChaCha20Poly1305 | seal.AES256GCM} {
		config := clientConfig(2)
		config.Suites = suites
		c := newClientEnd(t, epoch, config)
		g := newGatewayEnd(t, gatewayConfig(t, 1))
		for _, m := range hellos(t, c.out.Packets) {
			if m.AEADOffer != uint8(suites|seal.ChaCha20Poly1305) {
				t.Errorf("told to offer %v, a client offers %d", suites, m.AEADOffer)
			}
		}
		converse(epoch, c, g)
		if c.session == nil {
			t.Errorf("told to offer %v, a client gets no session: %v", suites, g.drops)
		}
	}
}

// TestShutdownInItsPlace combines the end of a gateway with the other things that
// may be said to a hello: what is cheaper to see goes before it, what is dearer
// does not.
//
// Shows R4.12, R4.13, R4.15.
func TestShutdownInItsPlace(t *testing.T) {
	g := newGatewayEnd(t, gatewayConfig(t, 1))
	held := goodHello(epoch, 8)
	g.askOne(epoch, g.helloPacket(held), stranger)
	g.responders.config.Full = func() bool { return true }
	good := g.helloPacket(goodHello(epoch, 7))
	const version, content = wire.HeaderSize, wire.HeaderSize + wire.PrefixSize
	changed := func(change func(m *wire.ClientHello)) []byte {
		m := goodHello(epoch, 7)
		change(&m)
		return g.helloPacket(m)
	}
	unmarked := append([]byte(nil), good...)
	unmarked[len(unmarked)-1] ^= 1
	unversioned := append([]byte(nil), unmarked...)
	unversioned[version] = 3
	for name, c := range map[string]struct {
		packet []byte
		want   wire.RejectCode // 0: no answer
	}{
		"nothing else":             {good, wire.RejectShuttingDown},
		"999 bytes":                {g.changed(good[:999], func([]byte) {}), 0},
		"MAC1":                     {unmarked, 0},
		"MAC1 and version":         {unversioned, 0},
		"version":                  {g.changed(good, func(p []byte) { p[version] = 3 }), wire.RejectVersion},
		"version and size":         {g.changed(good[:999], func(p []byte) { p[version] = 3 }), 0},
		"padding":                  {g.changed(good, func(p []byte) { p[900] = 1 }), 0},
		"reserved":                 {g.changed(good, func(p []byte) { p[version+1] = 1 }), 0},
		"index 0":                  {g.changed(good, func(p []byte) { clear(p[content : content+4]) }), 0},
		"a receiver_idx":           {g.changed(good, func(p []byte) { p[0] = 7 }), 0},
		"another type":             {g.changed(good, func(p []byte) { p[version+4] = byte(wire.TypeKKTRequest) }), 0},
		"a KKT request":            {g.kktPacket(held), 0},
		"clock":                    {changed(func(m *wire.ClientHello) { m.Salt[0] ^= 0xFF }), wire.RejectShuttingDown},
		"another's index":          {changed(func(m *wire.ClientHello) { m.ReceiverIdx = 8 }), wire.RejectShuttingDown},
		"KEM":                      {changed(func(m *wire.ClientHello) { m.KEM = 2 }), wire.RejectShuttingDown},
		"AEAD":                     {changed(func(m *wire.ClientHello) { m.AEADOffer = 0 }), wire.RejectShuttingDown},
		"key id":                   {changed(func(m *wire.ClientHello) { m.KEMKeyID = 99 }), wire.RejectShuttingDown},
		"all that a hello may say": {changed(func(m *wire.ClientHello) { m.Salt[0], m.KEM, m.AEADOffer = 0xFF, 2, 0 }), wire.RejectShuttingDown},
	} {
		_ = g.responders.RejectShutdown(epoch, headerOf(c.packet), c.packet, clientAt, &g.out)
		got := wire.RejectCode(0)
		for _, p := range g.take() {
			_, body, err := wire.ParseBody(wire.Body(p.Data))
			if err != nil {
				t.Fatal(err)
			}
			r, err := wire.ParseReject(body)
			if err != nil || got != 0 || p.Path != clientAt {
				t.Fatalf("%s: a second answer, or none that can be read: %v", name, err)
			}
			got = r.Code
		}
		if got != c.want {
			t.Errorf("%s: answered by %d, want %d", name, got, c.want)
		}
	}
	if g.responders.Len() != 1 || g.responders.responders[8].salt != held.Salt {
		t.Errorf("%d records", g.responders.Len())
	}
}

// TestDirectoryUnderLoad has a gateway that is asking for cookies: a source that
// says it is a gateway of the directory has to show it as any other, and has its
// own budget then, which those who forge its address do not use up.
//
// Shows R4.17, R4.21, R8.24.
func TestDirectoryUnderLoad(t *testing.T) {
	config := gatewayConfig(t, 1)
	config.MaxHandshakes, config.Burst, config.TrustedRate = 10, 2, 6
	config.Trusted = func(a netip.Addr) bool { return a == stranger.Peer.Addr() }
	g := newGatewayEnd(t, config)
	for n := range uint32(6) {
		g.askOne(epoch, g.helloPacket(goodHello(epoch, 1000+n)), addr(fmt.Sprintf("203.0.113.%d:1", n)))
	}
	if b := g.askOne(epoch, g.helloPacket(goodHello(epoch, 10)), stranger).busy(t); !b.HasCookie {
		t.Error("the first hello from the directory got no cookie")
	}
	for n := range uint32(50) { // forged
		g.askOne(epoch, g.helloPacket(goodHello(epoch, 100+n)), stranger)
	}
	taken := 0
	for n := range uint32(9) {
		m := goodHello(epoch, 20+n)
		busy := g.askOne(epoch, g.helloPacket(m), stranger).busy(t)
		if !busy.HasCookie {
			t.Fatalf("hello %d from the directory got no cookie", n)
		}
		m.HasCookie, m.Cookie = true, busy.Cookie
		a := g.askOne(epoch, g.helloPacket(m), stranger)
		if a.kind == wire.TypeAck {
			taken++
		} else if a.busy(t).HasCookie {
			t.Error("a hello with a valid cookie got another")
		}
	}
	if taken != 6 {
		t.Errorf("%d of 9 hellos with a cookie were taken, want the 6 of the directory's budget", taken)
	}
	// What comes over TCP has shown its address.
	tcp := path.NewTCP(stranger.Peer, netip.Addr{}, 1)
	if a := g.askOne(epoch.Add(time.Second), g.helloPacket(goodHello(epoch, 40)), tcp); a.kind != wire.TypeAck {
		t.Errorf("over TCP: %v", a.kind)
	}
}
