package state

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"testing"
	"time"

	"lewes/state/path"
	"lewes/state/wire"
)

// More tools of an observer: the answers to copies of the client's packets, handshakes of its own under
// the client's attempt index, and crowds of hellos (sections 4 and 5).

var (
	relayAt = addr("203.0.113.66:6666")
	rivalAt = addr("203.0.113.67:7777")

	// relays sends the client's packets from the observer's address, and the gateway's answers to that
	// address to the client in the gateway's name, both first.
	relays = tool{"relayed answers", func(o *observer, s sighting, _ uint32) {
		switch {
		case !s.toClient:
			s.from = relayAt
			o.relay(s)
		case s.to == relayAt:
			s.to = o.w.at
			o.relay(s)
		}
	}}
	// admittedRival is a client that the gateway admits, too. It runs a handshake of its own under each
	// attempt index that it sees, with a kept KEM key.
	admittedRival                 = tool{"an admitted rival", func(o *observer, s sighting, _ uint32) { o.compete(s, rivalAt) }}
	admittedRivalInTheClientsName = tool{"an admitted rival in the client's name", func(o *observer, s sighting, _ uint32) { o.compete(s, o.w.at) }}
	// crowdElsewhere sends hellos with the client's attempt index from other addresses.
	crowdElsewhere = tool{"a crowd elsewhere", func(o *observer, s sighting, _ uint32) {
		for n, hello := range o.crowd.hellos(s, 48, 1) {
			o.sendHello(hello, addr(fmt.Sprintf("198.51.%d.7:4000", n)))
		}
	}}
	// crowdInTheClientsName sends such hellos from the client's address, and again with each cookie that
	// it sees.
	crowdInTheClientsName = tool{"a crowd in the client's name", func(o *observer, s sighting, _ uint32) {
		for _, hello := range o.crowd.hellos(s, 2*maxSalts, 100) {
			o.crowd.mine = append(o.crowd.mine, hello)
			o.sendHello(hello, o.w.at)
		}
		if cookie, ok := cookieIn(s); ok && o.crowd.cookies < 16 {
			o.crowd.cookies++ // it fits one of them, or the client's own
			for _, hello := range o.crowd.mine {
				hello.HasCookie, hello.Cookie = true, cookie
				o.sendHello(hello, o.w.at)
			}
		}
	}}
)

// relay passes on a packet, which arrives a quarter of the network's delay before the original, or at once.
func (o *observer) relay(s sighting) {
	o.sent++
	if o.w.seed%2 == 0 {
		o.w.inject(s)
		return
	}
	o.w.after(o.w.up.delay*3/4, func() { o.w.arrive(s) })
}

// rivals are an observer's own handshakes, by the address that they use.
type rivals map[path.Path]*clientEnd

// compete begins a handshake under the index of a client's first hello, and takes what the gateway
// sends to its address.
func (o *observer) compete(s sighting, at path.Path) {
	hello, ok := helloIn(s)
	if ok && o.rival[at] == nil {
		config := clientConfig(o.w.seed + 500)
		config.KEM = o.w.config.KEM
		config.Identity = testIdentity(66)
		config.KnownKEM = sharedKEMs().Find(config.KEM, 0).Public()
		index := binary.LittleEndian.AppendUint32(nil, hello.Attempt) // drawn behind the ephemeral key
		config.Rand = io.MultiReader(io.LimitReader(seeded(o.w.seed+501), 32), bytes.NewReader(index), seeded(o.w.seed+502))
		if o.rival == nil {
			o.rival = rivals{}
		}
		o.rival[at] = newClientEnd(o.w.t, o.w.now, config)
		if got := o.rival[at].client.attempts[0].index; got != hello.Attempt {
			o.w.t.Fatalf("the rival's attempt index is %#x, not %#x", got, hello.Attempt)
		}
	}
	rival := o.rival[at]
	if rival == nil {
		return
	}
	if s.toClient && s.to == at {
		rival.handle(o.w.now, bytes.Clone(s.packet), s.from)
	}
	for _, p := range rival.take() {
		o.inject(sighting{packet: p.Data, from: at, to: gatewayAt})
	}
}

// crowd are hellos under attempt indexes that an observer has seen.
type crowd struct {
	seen    map[[2]uint32]bool
	mine    []wire.ClientHello // in the client's name
	cookies int
}

// hellos returns n hellos like a client's first one, but with salts of their own.
func (c *crowd) hellos(s sighting, n int, kind uint32) (out []wire.ClientHello) {
	hello, ok := helloIn(s)
	if !ok || c.seen[[2]uint32{hello.Attempt, kind}] {
		return nil
	}
	if c.seen == nil {
		c.seen = map[[2]uint32]bool{}
	}
	c.seen[[2]uint32{hello.Attempt, kind}] = true
	for i := range n {
		other := hello
		other.HasCookie = false
		other.Salt[20] ^= byte(i + 1)
		other.Salt[21] ^= byte(kind)
		out = append(out, other)
	}
	return out
}

func (o *observer) sendHello(hello wire.ClientHello, from path.Path) {
	p := clearPacket(o.mac, 0, wire.TypeClientHello, padded{&hello, wire.MinHelloDatagram})
	o.inject(sighting{packet: p, from: from, to: gatewayAt})
}

// helloIn returns the ClientHello that a client's packet is.
func helloIn(s sighting) (wire.ClientHello, bool) {
	if s.toClient || !isHello(s) {
		return wire.ClientHello{}, false
	}
	_, content, err := wire.ParseBody(wire.Body(s.packet))
	if err != nil {
		return wire.ClientHello{}, false
	}
	hello, err := wire.ParseClientHello(content)
	return hello, err == nil
}

// cookieIn returns the cookie in a Busy.
func cookieIn(s sighting) (cookie [wire.CookieSize]byte, ok bool) {
	if !s.toClient || headerOf(s.packet).Level != wire.LevelClear {
		return cookie, false
	}
	kind, content, err := wire.ParseBody(wire.Body(s.packet))
	if err != nil || kind != wire.TypeBusy {
		return cookie, false
	}
	busy, err := wire.ParseBusy(content)
	return busy.Cookie, err == nil && busy.HasCookie
}

// onlooker relays until it has sent a number of packets.
type onlooker struct {
	*observer
	most    int       // packets until it stops; negative: it never does
	stopped time.Time // zero: not yet
	pinged  bool      // it has relayed a packet under the session's keys
	spoke   time.Time // the client's first packet of its session after that
}

func newOnlooker(w *world, most int) *onlooker {
	l := &onlooker{observer: newObserver(w), most: most}
	l.tools = []tool{{"relay", func(o *observer, s sighting, index uint32) {
		if l.stopped.IsZero() && o.sent == l.most {
			l.stopped = w.now
		}
		if l.stopped.IsZero() {
			l.pinged = l.pinged || !s.toClient && headerOf(s.packet).Level == wire.LevelTransport
			relays.use(o, s, index)
			return
		}
		own := w.client.session != nil && index == w.client.session.Current().Index()
		if own && !s.toClient && l.spoke.IsZero() && headerOf(s.packet).Level == wire.LevelTransport {
			l.spoke = w.now
		}
	}}}
	return l
}

// chat sends a datagram up and one down every gap, as soon as the session stands and has an index at
// the gateway, until stop is called.
func (w *world) chat(gap time.Duration, up, down bool) (stop func()) {
	stopped := false
	var tick func()
	tick = func() {
		if stopped {
			return
		}
		if w.joined() && !w.client.session.closed {
			w.numbered++
			if up {
				w.sendData(false, fmt.Sprint("up ", w.numbered))
			}
			if down {
				w.sendData(true, fmt.Sprint("down ", w.numbered))
			}
		}
		w.after(gap, tick)
	}
	tick()
	return func() { stopped = true }
}

// checkWhenUnresponsive makes the client ask again when a Ping was not answered, as its user does.
func (w *world) checkWhenUnresponsive() {
	handled := 0
	w.watch = func() {
		for ; handled < len(w.client.events); handled++ {
			if w.client.events[handled].Kind == PeerUnresponsive {
				w.client.session.CheckLiveness(w.now, &w.client.out)
			}
		}
	}
}

// TestRelayedHandshake has an observer relay both ways, faster than the network, from the first packet
// until it has sent a number of packets, whichever. The handshake takes no longer than one
// retransmission more than undisturbed. Once the observer stops, the session is at the client's address
// within three seconds: of the stop, when it has not relayed the Ping behind Handshake 3 or when the
// client has data; else of the next packet that the client sends. One session is left at both ends.
//
// Shows R5.15, R5.32, R5.35, R5.36, R6.7.
func TestRelayedHandshake(t *testing.T) {
	const oneRetransmission = firstRetry + firstRetry/10
	const keepalive = 20 * time.Second
	worst, healed, carried := time.Duration(0), time.Duration(0), 0
	for _, c := range []struct {
		name     string
		up, down bool
	}{{"a quiet client", false, false}, {"data up", true, false}, {"data down", false, true}, {"data both ways", true, true}} {
		for seed := range uint64(runs(4, 2)) {
			seed++
			network := faults{delay: time.Duration(1+seed*17%90) * time.Millisecond}
			for most := range 45 {
				name := fmt.Sprintf("%s, seed %d, %d packets relayed", c.name, seed, most)
				begin := func() *world {
					return newWorld(t, seed, network, network, variety(seed), func(_ *GatewayConfig, c *ClientConfig) { c.Session.Keepalive = keepalive })
				}
				alone := begin()
				alone.established()
				w := begin()
				l := newOnlooker(w, most)
				w.dial()
				w.checkWhenUnresponsive()
				stop := w.chat(50*time.Millisecond, c.up, c.down)
				done := func() bool { return w.joined() && w.client.session.Confirmed() }
				if !w.run(handshakeDeadline, done) {
					t.Fatalf("%s: no session (%v); drops: client %v, gateway %v", name, w.client.client.Err(), w.client.drops, w.gateway.drops)
				}
				if late := w.now.Sub(alone.now); late > oneRetransmission {
					t.Errorf("%s: the handshake took %v longer", name, late)
				} else {
					worst = max(worst, late)
				}
				if w.session().Path() == relayAt {
					carried++
				}
				if !w.run(time.Minute, func() bool { return !l.stopped.IsZero() }) {
					l.stopped = w.now // there was nothing more to relay
					l.most = l.sent
				}
				home := func() bool {
					s := w.gatewaySession()
					return s != nil && s.Path() == w.at && s.migration.active.state.Load().validated
				}
				from := l.stopped
				if !home() && l.pinged && !c.up {
					if !w.run(2*keepalive, func() bool { return !l.spoke.IsZero() || home() }) {
						t.Errorf("%s: the client sends nothing", name)
					}
					from = l.spoke
				}
				if !w.run(from.Add(3*time.Second).Sub(w.now), home) {
					t.Errorf("%s: the session is at %v three seconds later", name, w.session().Path())
				} else {
					healed = max(healed, w.now.Sub(from))
				}
				stop()
				w.run(3*time.Second, nil)
				if !home() || w.gateway.sessions.Len() != 1 || len(w.client.byIndex) != 1 || w.client.confirms == 0 {
					t.Errorf("%s: %d sessions, %d indexes of the client, at %v; drops: client %v, gateway %v",
						name, w.gateway.sessions.Len(), len(w.client.byIndex), w.session().Path(), w.client.drops, w.gateway.drops)
				}
				w.checkSameKeys()
				w.client.data, w.gateway.data = nil, nil
				w.sendData(false, "at last up")
				w.sendData(true, "at last down")
				w.run(time.Second, nil)
				if len(w.gateway.data) != 1 || len(w.client.data) != 1 {
					t.Errorf("%s: no data in the end", name)
				}
			}
		}
	}
	if carried == 0 {
		t.Error("no relayed candidate became the session: the observer was too slow")
	}
	t.Logf("at most %v later, home after at most %v; %d sessions began at the observer's address", worst, healed, carried)
}

// TestEndlessRelay has an observer relay everything, faster than the network, without end: it carries
// the packets, and no datagram is lost. The client has one session and the gateway closes the others.
// New keys are taken through the observer, too.
//
// Shows R5.35, R5.36.
func TestEndlessRelay(t *testing.T) {
	for seed := range uint64(runs(8, 2)) {
		seed++
		network := faults{delay: time.Duration(1+seed*17%90) * time.Millisecond}
		w := newWorld(t, seed, network, network, variety(seed), func(g *GatewayConfig, _ *ClientConfig) { g.Session.Terms.RekeyAfter = 2 * time.Second })
		newOnlooker(w, -1)
		w.dial()
		if !w.run(handshakeDeadline, w.confirmed) {
			t.Fatalf("seed %d: no session (%v); drops: client %v, gateway %v", seed, w.client.client.Err(), w.client.drops, w.gateway.drops)
		}
		stop := w.chat(20*time.Millisecond, true, true)
		w.run(10*time.Second, nil)
		stop()
		w.run(time.Second, nil)
		w.checkTraffic()
		w.checkSameKeys()
		if n := w.gateway.sessions.Len(); n != 1 || seed%2 == 1 && len(w.gateway.closed) != 1 {
			t.Errorf("seed %d: the gateway has %d sessions, closed %v", seed, n, w.gateway.closed)
		}
		if at := w.session().Path(); at != relayAt {
			t.Errorf("seed %d: the session is at %v: the observer was too slow", seed, at)
		}
		if n := w.session().keys.current.number; n < 3 {
			t.Errorf("seed %d: %d subsessions", seed, n)
		}
	}
}
