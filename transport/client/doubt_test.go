package client_test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lewes/state/wire"
	"lewes/transport/client"
)

// tap observes the ClientHellos to gateway 1 over UDP.
type tap struct {
	began time.Time

	mu     sync.Mutex
	hellos []tapped // the first of each attempt
	count  int      // of all hellos
	last   time.Duration
	gap    time.Duration // the longest between two
	loss   loss
}

// loss is what a tap does to packets.
type loss struct {
	packets func(from, to netip.AddrPort, p []byte) bool // drops those that are no hellos; nil: none
	hellos  bool                                         // drops these
	forge   bool                                         // answers them by a forged Held, sooner than the gateway
}

type tapped struct {
	at      time.Duration
	doubted uint32
	attempt uint32
}

// tap starts a tap.
func (w *world) tap(l loss) *tap {
	p := &tap{began: time.Now(), loss: l}
	mac := macOf(w.g)
	w.net.losing(func(from, to netip.AddrPort, packet []byte) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		hello, ok := clientHello(packet)
		switch {
		case !w.udp(from, to) || !ok:
			return p.loss.packets != nil && p.loss.packets(from, to, packet)
		}
		at := time.Since(p.began)
		if p.count > 0 {
			p.gap = max(p.gap, at-p.last)
		}
		p.last = at
		if p.count++; !slices.ContainsFunc(p.hellos, func(t tapped) bool { return t.attempt == hello.Attempt }) {
			p.hellos = append(p.hellos, tapped{at, hello.Doubted, hello.Attempt})
		}
		if p.loss.forge {
			time.AfterFunc(time.Millisecond, func() {
				w.net.carry(&memConn{net: w.net, local: w.g.at}, from, forge(mac, hello.Attempt, wire.TypeHeld, &wire.Empty{}))
			})
		}
		return p.loss.hellos
	})
	return p
}

// set changes the loss.
func (p *tap) set(l loss) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loss = l
}

// seen returns the hellos until now.
func (p *tap) seen() []tapped {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.hellos)
}

func clientHello(p []byte) (wire.ClientHello, bool) {
	h, err := wire.ParseHeader(p)
	if err != nil || h.Level != wire.LevelClear {
		return wire.ClientHello{}, false
	}
	kind, content, err := wire.ParseBody(wire.Body(p))
	if err != nil || kind != wire.TypeClientHello {
		return wire.ClientHello{}, false
	}
	hello, err := wire.ParseClientHello(content)
	return hello, err == nil
}

// ofSession reports whether a packet is sealed under an index.
func ofSession(index uint32, p []byte) bool {
	got, ok := wire.ReceiverIdx(p)
	return isSealed(p) && ok && got == index
}

// index returns the index of the gateway's only session.
func (w *world) index() (index uint32) {
	w.g.with(func() { index = w.g.only().Current().Index() })
	return index
}

// flowing writes every 20 ms until an echo arrives, and returns how long that took.
func (w *world) flowing(c net.Conn) time.Duration {
	w.Helper()
	return w.until("echoes", time.Minute, func() bool {
		write(w, c, "flowing?")
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		_, err := c.Read(make([]byte, 100))
		return err == nil
	})
}

// A gateway that has lost the session while no packet passed has another one in less than a second after
// its start, and the flow opens on it.
//
// Shows R11.1, R11.4.
func TestDatagramsFlowSoonAfterRestart(t *testing.T) {
	send := func(w *world, c net.Conn) { write(w, c, "lost") }
	receive := func(w *world, _ net.Conn) {
		w.g.with(func() {
			for key := range w.g.flows {
				_ = key.session.Send(wire.TypeEncryptedData, &wire.EncryptedData{FlowID: key.id, Payload: []byte("news")}, &w.g.out)
			}
		})
	}
	for name, kind := range map[string]struct {
		interval time.Duration
		datagram func(*world, net.Conn)
	}{
		"sends 50 a second":    {20 * time.Millisecond, send},
		"sends one a second":   {time.Second, send},
		"receives 50 a second": {20 * time.Millisecond, receive},
	} {
		for _, away := range []time.Duration{0, 3 * time.Second, 8 * time.Second, 47 * time.Second, 4 * time.Minute} {
			t.Run(fmt.Sprintf("%s, after %s", name, away), func(t *testing.T) {
				connected(t, func(t *testing.T, w *world, s *client.Session, c net.Conn) {
					exchange(t, c, "before")
					run := func(d time.Duration) {
						for until := time.Now().Add(d); time.Now().Before(until); time.Sleep(kind.interval) {
							kind.datagram(w, c)
						}
					}
					run(5 * time.Second)
					w.tap(loss{packets: w.udpPacket, hellos: true})
					run(away)
					w.g.restart()
					w.net.losing(nil)
					ready := time.Now()
					run(2 * time.Second)
					if took := s.Info().Handshake.Established.Sub(ready); took <= 0 || took >= time.Second {
						t.Errorf("another session after %s", took)
					}
					drain(c)
					exchange(t, c, "after")
					if got := w.happened(); got != "connected reconnecting reconnected" {
						t.Errorf("events: %s", got)
					}
				})
			})
		}
	}
}

// A client of a gateway that was away for so long that it tried TCP beside UDP returns over UDP.
func TestRestartReturnsOverUDP(t *testing.T) {
	for away := 3 * time.Second; away < 16*time.Second; away += 430 * time.Millisecond {
		t.Run(away.String(), func(t *testing.T) {
			inWorldOfTwo(t, func(t *testing.T, w *world) {
				s := w.dial(w.configOfTwo())
				defer w.closes(s)
				c := flowTo(t, s, "203.0.113.7:53")
				exchange(t, c, "before")
				w.g.stop()
				write(t, c, "lost")
				time.Sleep(away)
				w.g = w.gateway(1)
				w.g.listens(w.net.listenTCP(w.g.at))
				w.flowing(c)
				if e := w.lastEvent(client.Reconnected); e.To != client.UDP {
					t.Errorf("over %s: %s", e.To, e.Reason)
				}
			})
		})
	}
}

func (w *world) udpPacket(from, to netip.AddrPort, _ []byte) bool { return w.udp(from, to) }

// A gateway that holds the session answers Held: the session goes on.
//
// Shows R11.1, R11.3, R11.4.
func TestHeldKeepsSession(t *testing.T) {
	connected(t, func(t *testing.T, w *world, s *client.Session, c net.Conn) {
		exchange(t, c, "before")
		handle, index := s.Info().Handle, w.index()
		time.Sleep(2 * time.Second)
		p := w.tap(loss{packets: func(_, _ netip.AddrPort, packet []byte) bool { return isSealed(packet) }})
		write(t, c, "lost")
		time.Sleep(2 * time.Second) // less than 3 s of doubt
		if hellos := p.seen(); len(hellos) != 1 || hellos[0].doubted != index {
			t.Errorf("hellos: %+v, of index %#x", hellos, index)
		}
		p.set(loss{})
		w.flowing(c)
		time.Sleep(time.Minute)
		if s.Info().Handle != handle || len(p.seen()) != 1 || strings.Contains(w.happened(), "reconnect") {
			t.Errorf("another session, or hellos %+v, or events %s", p.seen(), w.happened())
		}
		w.index() // there is one session
	})
}

// A session that stays silent for 3 s is replaced, whatever Held claims: by the gateway that still holds
// it, or by a forger after a restart.
//
// Shows R11.3, R11.4.
func TestHeldIsBelievedForThreeSeconds(t *testing.T) {
	for _, forged := range []bool{false, true} {
		t.Run(fmt.Sprintf("forged %t", forged), func(t *testing.T) {
			connected(t, func(t *testing.T, w *world, s *client.Session, c net.Conn) {
				exchange(t, c, "before")
				index := w.index()
				time.Sleep(2 * time.Second)
				l := loss{forge: forged}
				if forged {
					w.g.restart()
				} else {
					l.packets = func(_, _ netip.AddrPort, packet []byte) bool { return ofSession(index, packet) }
				}
				p := w.tap(l)
				w.flowing(c)
				hellos := p.seen()
				if len(hellos) < 2 || hellos[0].doubted != index {
					t.Fatalf("hellos: %+v", hellos)
				}
				doubt := hellos[0].at
				for _, h := range hellos[1:] { // more than one: the KEM key is another
					if h.doubted != 0 || h.at < doubt+3*time.Second || h.at > doubt+3050*time.Millisecond {
						t.Errorf("hello %+v, the first one %s before", h, h.at-doubt)
					}
				}
				if took := time.Since(p.began); took > doubt+3200*time.Millisecond {
					t.Errorf("flows after %s, the doubt began after %s", took, doubt)
				}
				if got := w.happened(); got != "connected reconnecting reconnected" {
					t.Errorf("events: %s", got)
				}
			})
		})
	}
}

// The end of the doubt ends the attempt.
//
// Shows R11.4.
func TestAnswerEndsAttempt(t *testing.T) {
	connected(t, func(t *testing.T, w *world, s *client.Session, c net.Conn) {
		exchange(t, c, "before")
		handle := s.Info().Handle
		p := w.tap(loss{packets: w.udpPacket, hellos: true})
		write(t, c, "lost")
		time.Sleep(2 * time.Second)
		p.set(loss{hellos: true})
		time.Sleep(time.Second)
		count := func() int {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.count
		}
		before := count()
		for range 20 {
			time.Sleep(time.Second)
			exchange(t, c, "after")
		}
		if after := count(); before < 2 || after != before || s.Info().Handle != handle {
			t.Errorf("%d hellos, then %d, or another session", before, after)
		}
	})
}

// A forged Held has no effect on a session that is not in doubt.
//
// Shows R11.3.
func TestForgedHeldIsIgnored(t *testing.T) {
	connected(t, func(t *testing.T, w *world, s *client.Session, c net.Conn) {
		exchange(t, c, "before")
		p := w.tap(loss{})
		local, index := s.Info().Local.(*net.UDPAddr).AddrPort(), w.index()
		for range 20 {
			w.net.carry(&memConn{net: w.net, local: w.g.at}, local, forge(macOf(w.g), index, wire.TypeHeld, &wire.Empty{}))
			time.Sleep(time.Second)
		}
		exchange(t, c, "after")
		if len(p.seen()) != 0 || w.happened() != "connected" {
			t.Errorf("hellos %+v, events %s", p.seen(), w.happened())
		}
	})
}

// While the gateway is away, one attempt starts in 10 s; each names the session and retransmits often.
//
// Shows R10.1, R11.1.
func TestOneAttemptInTenSeconds(t *testing.T) {
	connected(t, func(t *testing.T, w *world, s *client.Session, c net.Conn) {
		exchange(t, c, "before")
		index := w.index()
		time.Sleep(2 * time.Second)
		p := w.tap(loss{packets: w.udpPacket, hellos: true})
		for range 55 {
			write(t, c, "lost")
			time.Sleep(time.Second)
		}
		hellos := p.seen()
		if n := len(hellos); n < 5 || n > 7 {
			t.Errorf("%d attempts in 55 seconds", n)
		}
		for i, h := range hellos {
			if h.doubted != index || i > 0 && h.at-hellos[i-1].at < 10*time.Second {
				t.Errorf("attempt %d: %+v", i, h)
			}
		}
		p.mu.Lock()
		if p.gap > 750*time.Millisecond {
			t.Errorf("%s between two hellos", p.gap)
		}
		p.mu.Unlock()
		// The session outlives the outage.
		handle := s.Info().Handle
		p.set(loss{})
		w.flowing(c)
		if s.Info().Handle != handle {
			t.Error("another session")
		}
		// A doubt that begins soon after waits.
		time.Sleep(time.Second)
		before := p.seen()
		last := before[len(before)-1].at
		w.g.restart()
		w.flowing(c)
		if next := p.seen()[len(before)].at; next-last < 10*time.Second || next-last > 12*time.Second {
			t.Errorf("the next attempt %s after the last", next-last)
		}
	})
}

// Packets are lost in one direction: the session moves to TCP and is not replaced. Downwards the hello
// arrives and Held does not.
//
// Shows R11.4.
func TestOneWayLoss(t *testing.T) {
	for _, up := range []bool{true, false} {
		t.Run(fmt.Sprintf("up %t", up), func(t *testing.T) {
			inWorldOfTwo(t, func(t *testing.T, w *world) {
				s := w.dial(w.configOfTwo())
				defer w.closes(s)
				c := flowTo(t, s, "203.0.113.7:53")
				exchange(t, c, "before")
				handle := s.Info().Handle
				time.Sleep(2 * time.Second)
				p := w.tap(loss{
					packets: func(from, to netip.AddrPort, _ []byte) bool { return up && to == w.g.at || !up && from == w.g.at },
					hellos:  up,
				})
				w.until("TCP", 4*time.Second, func() bool {
					write(t, c, "lost, maybe")
					time.Sleep(50 * time.Millisecond)
					return s.Info().Transport == client.TCP
				})
				time.Sleep(20 * time.Second)
				drain(c)
				exchange(t, c, "over TCP")
				if s.Info().Handle != handle || w.happened() != "connected path changed" || len(p.seen()) != 1 {
					t.Errorf("another session, events %s, or hellos %+v", w.happened(), p.seen())
				}
				w.index() // there is one session
			})
		})
	}
}

// Through an entry, the attempt takes the session's flow. Where the entry has its index in use, another
// attempt takes another flow.
//
// Shows R11.1.
func TestAttemptTakesFlowOfSession(t *testing.T) {
	for _, taken := range []bool{false, true} {
		t.Run(fmt.Sprintf("taken %t", taken), func(t *testing.T) {
			through(t, 1, func(t *testing.T, w *world, entries []*gateway, s *client.Session) {
				entry := entries[0]
				c := flowTo(t, s, "203.0.113.7:53")
				exchange(t, c, "before")
				flows := func() (ids []uint16) {
					entry.with(func() {
						for key := range entry.flows {
							ids = append(ids, key.id)
						}
					})
					return ids
				}
				before := flows()
				refused := uint32(0)
				entry.with(func() {
					entry.taken = func(index uint32) bool {
						if _, known := entry.claims[index]; taken && !known && refused == 0 {
							refused = index
						}
						return index == refused
					}
				})
				time.Sleep(2 * time.Second)
				w.g.restart()
				if took := w.flowing(c); took > 2*time.Second {
					t.Errorf("echoes after %s", took)
				}
				if got := w.happened(); got != "connected connected reconnecting reconnected" {
					t.Errorf("events: %s", got)
				}
				time.Sleep(5 * time.Second)
				drain(c)
				exchange(t, c, "after")
				after := flows()
				entry.with(func() {
					closed := len(entry.told)
					if same := slices.Equal(before, after); len(after) != 1 || same == taken || taken != (closed == 1) {
						t.Errorf("flows %v, before %v; the client closed %d", after, before, closed)
					}
				})
				// The flow that both have used serves the new session, with new keys too, and another attempt.
				if err := s.Rekey(t.Context()); err != nil {
					t.Error(err)
				}
				time.Sleep(10 * time.Second)
				w.g.restart()
				w.flowing(c)
				if got := w.happened(); !strings.HasSuffix(got, "reconnected reconnecting reconnected") {
					t.Errorf("events: %s", got)
				}
			})
		})
	}
}
