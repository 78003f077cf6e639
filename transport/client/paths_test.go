package client_test

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lewes/crypto/identity"
	"lewes/state/wire"
	"lewes/transport"
	"lewes/transport/client"
)

// inWorldOfTwo is inWorld with a gateway that serves TCP too.
func inWorldOfTwo(t *testing.T, f func(t *testing.T, w *world)) {
	inWorld(t, func(t *testing.T, w *world) {
		w.g.listens(w.net.listenTCP(w.g.at))
		f(t, w)
	})
}

func (w *world) configOfTwo() client.Config {
	c := w.config()
	c.UnderlayTCP = w.net.dialTCP
	return c
}

// udpTo reports whether a packet goes to or from the gateway's UDP port.
func (w *world) udp(from, to netip.AddrPort) bool { return from == w.g.at || to == w.g.at }

// block drops all UDP packets.
func (w *world) block() {
	w.net.losing(func(from, to netip.AddrPort, _ []byte) bool { return w.udp(from, to) })
}

// until waits for a condition, at most limit in virtual time, and returns how long it took.
func (w *world) until(what string, limit time.Duration, done func() bool) time.Duration {
	w.Helper()
	began := time.Now()
	for !done() {
		if time.Since(began) > limit {
			w.Fatalf("not within %s: %s", limit, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(began)
}

func over(s *client.Session, t client.Transport) func() bool {
	return func() bool { return s.Info().Transport == t }
}

// A gateway that answers over UDP without a session is tried over TCP too, within the
// timeout of one handshake.
func TestUnlistedClientTriesBothTransports(t *testing.T) {
	inWorldOfTwo(t, func(t *testing.T, w *world) {
		w.g.with(func() { w.g.config.Admit = func(identity.PublicKey) bool { return false } })
		began := time.Now()
		_, err := client.Dial(t.Context(), w.configOfTwo())
		var dial *client.DialError
		if !errors.As(err, &dial) || dial.TCP == nil || !strings.Contains(dial.TCP.Error(), "does not list this client's identity") {
			t.Fatalf("error: %v", err)
		}
		if took := time.Since(began); took != client.DefaultTimeout {
			t.Errorf("gave up after %s", took)
		}
	})
}

// If UDP is dropped silently, a handshake over TCP succeeds and the first datagram passes in
// less than four seconds of virtual time.
//
// Shows R10.9.
func TestFallbackToTCP(t *testing.T) {
	inWorldOfTwo(t, func(t *testing.T, w *world) {
		hellos := map[client.Transport][]wire.ClientHello{}
		w.net.losing(func(from, to netip.AddrPort, p []byte) bool {
			over := client.TCP
			if w.udp(from, to) {
				over = client.UDP
			}
			if kind, content, err := wire.ParseBody(wire.Body(p)); err == nil && kind == wire.TypeClientHello {
				if h, err := wire.ParseClientHello(content); err == nil {
					hellos[over] = append(hellos[over], h)
				}
			}
			return over == client.UDP
		})
		began := time.Now()
		s := w.dial(w.configOfTwo())
		defer w.closes(s)
		exchange(t, flowTo(t, s, "203.0.113.7:53"), "hello")
		if took := time.Since(began); took < 2500*time.Millisecond || took >= 4*time.Second {
			t.Errorf("the first datagram was through after %s", took)
		}
		info := s.Info()
		if info.Transport != client.TCP || info.TransportReason != "UDP did not answer in time" {
			t.Errorf("over %s because %q", info.Transport, info.TransportReason)
		}
		if a, ok := info.Local.(*net.TCPAddr); !ok || a.IP.String() != clientAddr.String() {
			t.Errorf("local address %v", info.Local)
		}
		if e := w.lastEvent(client.Connected); e.To != client.TCP || e.Reason != info.TransportReason {
			t.Errorf("event: %+v", e)
		}
		udp, tcp := hellos[client.UDP], hellos[client.TCP]
		if len(udp) < 3 || len(tcp) == 0 {
			t.Fatalf("%d hellos over UDP, %d over TCP", len(udp), len(tcp))
		}
		for _, h := range udp {
			if h.Attempt == tcp[0].Attempt || h.Salt == tcp[0].Salt {
				t.Error("attempt or salt of the hello over UDP came again over TCP")
			}
		}
	})
}

// If the network refuses UDP, TCP starts at once.
func TestFallbackAtOnceWhenRefused(t *testing.T) {
	inWorldOfTwo(t, func(t *testing.T, w *world) {
		config := w.configOfTwo()
		config.Gateway.Port = 9 // nothing listens there
		began := time.Now()
		s := w.dial(config)
		defer w.closes(s)
		exchange(t, flowTo(t, s, "203.0.113.7:53"), "hello")
		if took := time.Since(began); took > 200*time.Millisecond || s.Info().Transport != client.TCP {
			t.Errorf("over %s after %s", s.Info().Transport, took)
		}
	})
}

// When UDP fails, recovers and fails again, the session, its keys and its flows survive.
//
// Shows R10.10.
func TestSessionAcrossTransports(t *testing.T) {
	inWorldOfTwo(t, func(t *testing.T, w *world) {
		s := w.dial(w.configOfTwo())
		defer w.closes(s)
		c := flowTo(t, s, "203.0.113.7:53")
		exchange(t, c, "before")
		first := s.Info()
		if first.Transport != client.UDP || first.TransportReason != "" {
			t.Fatalf("info: %+v", first)
		}
		w.g.arrivals()
		same := func(when string) {
			t.Helper()
			exchange(t, c, when)
			info := s.Info()
			if info.Handle != first.Handle || info.Generation != first.Generation || s.Stats().Reconnects != 0 {
				t.Errorf("%s: another session or other keys: %+v", when, info)
			}
			for _, a := range w.g.arrivals() {
				if a.named {
					t.Errorf("%s: the flow was opened again", when)
				}
			}
		}
		for round := range 2 {
			time.Sleep(time.Minute + time.Duration(round)*time.Second)
			w.block()
			began := time.Now()
			took := w.until("fallback to TCP", 10*time.Second, func() bool {
				write(t, c, "lost, maybe")
				time.Sleep(90 * time.Millisecond)
				return s.Info().Transport == client.TCP
			})
			if took >= 4*time.Second {
				t.Errorf("fell back after %s", took)
			}
			time.Sleep(time.Second)
			drain(c)
			same("over TCP")
			if e := w.lastEvent(client.PathChanged); e.From != client.UDP || e.To != client.TCP || !strings.Contains(e.Reason, "UDP") || e.Reason != s.Info().TransportReason {
				t.Errorf("event: %+v", e)
			}
			time.Sleep(3*time.Minute - time.Since(began))
			if got := s.Info().Transport; got != client.TCP {
				t.Fatalf("over %s while UDP is blocked", got)
			}
			same("over TCP for minutes")
			w.net.losing(nil)
			if took := w.until("return to UDP", time.Minute, over(s, client.UDP)); took >= 30*time.Second {
				t.Errorf("returned after %s", took)
			}
			same("over UDP again")
			if e := w.lastEvent(client.PathChanged); e.From != client.TCP || e.To != client.UDP || e.Reason != "UDP works again" || s.Info().TransportReason != "" {
				t.Errorf("event: %+v", e)
			}
		}
		// Back on UDP nothing goes over TCP any more.
		time.Sleep(10 * time.Second)
		streamed := w.net.streamed.Load()
		same("still over UDP")
		time.Sleep(time.Minute)
		if n := w.net.streamed.Load(); n != streamed {
			t.Errorf("%d packets over TCP since", n-streamed)
		}
		if got := w.happened(); got != "connected path changed path changed path changed path changed" {
			t.Errorf("events: %s", got)
		}
	})
}

// drain reads the queued datagrams.
func drain(c net.Conn) {
	for {
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := c.Read(make([]byte, 2000)); err != nil {
			_ = c.SetReadDeadline(time.Time{})
			return
		}
	}
}

// An idle session detects the failure by its keepalive.
func TestIdleSessionFallsBackToTCP(t *testing.T) {
	inWorldOfTwo(t, func(t *testing.T, w *world) {
		s := w.dial(w.configOfTwo())
		defer w.closes(s)
		time.Sleep(time.Second)
		w.block()
		if took := w.until("fallback to TCP", time.Minute, over(s, client.TCP)); took > client.DefaultKeepalive+4*time.Second {
			t.Errorf("after %s", took)
		}
		// What the gateway sends unasked arrives, by the Poll that waits there.
		c := flowTo(t, s, "203.0.113.7:53")
		exchange(t, c, "hello")
		for range 20 {
			time.Sleep(1700 * time.Millisecond)
			began := time.Now()
			w.g.with(func() {
				s := w.g.only()
				for key := range w.g.flows {
					_ = s.Send(wire.TypeEncryptedData, &wire.EncryptedData{FlowID: key.id, Payload: []byte("news")}, &w.g.out)
				}
			})
			expect(t, c, "news")
			if took := time.Since(began); took > 50*time.Millisecond {
				t.Errorf("news after %s", took)
			}
		}
		// And where there is none, Polls are the only packets but for what looks after UDP
		// and the session.
		before := w.net.streamed.Load()
		time.Sleep(5 * time.Minute)
		if n := w.net.streamed.Load() - before; n < 25 || n > 70 {
			t.Errorf("%d packets over TCP in five idle minutes", n)
		}
	})
}

// When one local port stops responding, the session migrates to another, and not to TCP.
func TestMigrationToNewLocalPort(t *testing.T) {
	inWorldOfTwo(t, func(t *testing.T, w *world) {
		s := w.dial(w.configOfTwo())
		defer w.closes(s)
		c := flowTo(t, s, "203.0.113.7:53")
		exchange(t, c, "before")
		first := s.Info()
		throttled := first.Local.(*net.UDPAddr).AddrPort()
		w.net.losing(func(from, to netip.AddrPort, _ []byte) bool { return from == throttled || to == throttled })
		took := w.until("a new port", 10*time.Second, func() bool {
			write(t, c, "lost, maybe")
			time.Sleep(90 * time.Millisecond)
			return s.Info().Local.String() != first.Local.String()
		})
		if took > 3*time.Second {
			t.Errorf("after %s", took)
		}
		time.Sleep(time.Second)
		drain(c)
		exchange(t, c, "after")
		if info := s.Info(); info.Transport != client.UDP || info.Handle != first.Handle || info.TransportReason == "" {
			t.Errorf("info: %+v", info)
		}
		if e := w.lastEvent(client.PathChanged); e.From != client.UDP || e.To != client.UDP || !strings.Contains(e.Reason, "local port") {
			t.Errorf("event: %+v", e)
		}
		if n := w.net.streamed.Load(); n != 0 {
			t.Errorf("%d packets over TCP", n)
		}
	})
}

// With TCP alone, no packet takes UDP, and large datagrams pass.
func TestOverTCPAlone(t *testing.T) {
	inWorldOfTwo(t, func(t *testing.T, w *world) {
		w.net.losing(func(from, to netip.AddrPort, _ []byte) bool {
			if w.udp(from, to) {
				t.Error("a packet over UDP")
			}
			return false
		})
		config := w.configOfTwo()
		config.Transport = client.TCP
		began := time.Now()
		s := w.dial(config)
		defer w.closes(s)
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("stood after %s", took)
		}
		c := flowTo(t, s, "203.0.113.7:53")
		exchange(t, c, "hello")
		exchange(t, c, strings.Repeat("x", c.(interface{ MaxPayload() int }).MaxPayload()))
		if err := s.Rekey(t.Context()); err != nil {
			t.Fatal(err)
		}
		exchange(t, c, "new keys")
		if info := s.Info(); info.Transport != client.TCP || info.TransportReason != "" || info.Generation != 1 {
			t.Errorf("info: %+v", info)
		}
		time.Sleep(2 * time.Minute)
		exchange(t, c, "later")
		if got := w.happened(); got != "connected" {
			t.Errorf("events: %s", got)
		}
	})
}

// With UDP alone, no packet takes TCP.
func TestOverUDPAlone(t *testing.T) {
	inWorldOfTwo(t, func(t *testing.T, w *world) {
		config := w.configOfTwo()
		config.Transport = client.UDP
		s := w.dial(config)
		c := flowTo(t, s, "203.0.113.7:53")
		exchange(t, c, "hello")
		w.block()
		for range 100 {
			write(t, c, "hello")
			time.Sleep(200 * time.Millisecond)
		}
		w.closes(s)
		if _, err := client.Dial(t.Context(), config); err == nil || strings.Contains(err.Error(), "TCP") {
			t.Error(err)
		}
		if n := w.net.streamed.Load(); n != 0 {
			t.Errorf("%d packets over TCP", n)
		}
	})
}

// If both transports fail, the error describes both.
func TestNeitherTransport(t *testing.T) {
	inWorldOfTwo(t, func(t *testing.T, w *world) {
		config := w.configOfTwo()
		config.Gateway.TCPPort = 443 // nothing listens there
		w.block()
		_, err := client.Dial(t.Context(), config)
		var dial *client.DialError
		if !errors.As(err, &dial) || dial.Transport != client.UDP || dial.TCP == nil || !errors.Is(dial.TCP.Underlay, transport.ErrRefused) {
			t.Fatalf("error: %v", err)
		}
		for _, words := range []string{"\nover UDP: ", "\nover TCP, port 443: ", "nothing listens on port 443"} {
			if !strings.Contains(err.Error(), words) {
				t.Errorf("%q is not in the error: %v", words, err)
			}
		}
		config.Transport = client.TCP
		_, err = client.Dial(t.Context(), config)
		if !errors.As(err, &dial) || dial.Transport != client.TCP || dial.TCP != nil || !strings.Contains(err.Error(), "port 443") {
			t.Errorf("error: %v", err)
		}
	})
}

// When TCP fails, the session migrates to UDP if that works.
func TestTCPFailureMovesToUDP(t *testing.T) {
	inWorldOfTwo(t, func(t *testing.T, w *world) {
		w.block()
		s := w.dial(w.configOfTwo())
		defer w.closes(s)
		handle := s.Info().Handle
		c := flowTo(t, s, "203.0.113.7:53")
		exchange(t, c, "before")
		w.net.losing(func(from, to netip.AddrPort, _ []byte) bool { return from.Port() == tcpPort || to.Port() == tcpPort })
		took := w.until("UDP", 20*time.Second, func() bool {
			write(t, c, "lost, maybe")
			time.Sleep(90 * time.Millisecond)
			return s.Info().Transport == client.UDP
		})
		if took > 3*time.Second {
			t.Errorf("after %s", took)
		}
		time.Sleep(time.Second)
		drain(c)
		exchange(t, c, "after")
		if s.Info().Handle != handle {
			t.Error("another session")
		}
	})
}

// After a gateway's restart, the session reconnects in less than a second over either
// transport, however long the outage, and in little more over TCP if UDP is blocked.
func TestRestartReconnectsOverEitherTransport(t *testing.T) {
	for _, over := range []client.Transport{client.UDP, client.TCP, client.Auto} {
		for _, away := range []time.Duration{0, 3 * time.Second, 20 * time.Second, 4 * time.Minute} {
			t.Run(over.String()+" "+away.String(), func(t *testing.T) {
				inWorldOfTwo(t, func(t *testing.T, w *world) {
					config := w.configOfTwo()
					config.Transport = over
					if over == client.Auto {
						w.block()
					}
					s := w.dial(config)
					defer w.closes(s)
					c := flowTo(t, s, "203.0.113.7:53")
					exchange(t, c, "before")
					time.Sleep(20 * time.Second)
					w.g.stop()
					write(t, c, "hello")
					time.Sleep(away)
					w.g = w.gateway(1)
					w.g.listens(w.net.listenTCP(w.g.at))
					back := time.Now()
					w.until("echoes", time.Minute, func() bool {
						write(t, c, "hello")
						_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
						_, err := c.Read(make([]byte, 100))
						return err == nil
					})
					bound := time.Second
					if over == client.Auto {
						bound += bound / 2 // some of the tries go over UDP, in vain
					}
					if took := time.Since(back); took >= bound {
						t.Errorf("echoes after %s", took)
					}
					if got := w.happened(); got != "connected reconnecting reconnected" {
						t.Errorf("events: %s", got)
					}
				})
			})
		}
	}
}

// The entry's session changes transports; the inner session is not affected.
func TestEntryOverTCP(t *testing.T) {
	inWorldOfTwo(t, func(t *testing.T, w *world) {
		exit := w.gateway(2)
		defer exit.stop()
		w.g.forwardsTo(exit)
		config := w.configOfTwo()
		config.Via = append(config.Via, w.g.uri())
		config.Gateway = exit.uri()
		s := w.dial(config)
		defer w.closes(s)
		c := flowTo(t, s, "203.0.113.7:53")
		exchange(t, c, "hello")
		limit := c.(interface{ MaxPayload() int }).MaxPayload()
		exchange(t, c, strings.Repeat("x", limit))
		time.Sleep(10 * time.Second)
		handle := s.Info().Handle
		w.block()
		w.until("fallback", 20*time.Second, func() bool {
			write(t, c, "lost, maybe")
			time.Sleep(90 * time.Millisecond)
			return s.Info().Transport == client.TCP
		})
		time.Sleep(2 * time.Second)
		drain(c)
		if got := c.(interface{ MaxPayload() int }).MaxPayload(); got != limit {
			t.Errorf("limit %d over TCP, %d over UDP", got, limit)
		}
		exchange(t, c, strings.Repeat("y", limit))
		if s.Info().Handle != handle {
			t.Error("another session inside")
		}
		synctest.Wait()
	})
}

// Behind a NAT with a shorter timeout than the keepalive, the session lowers its interval;
// from then on unsolicited packets arrive.
func TestKeepaliveAdaptsToNAT(t *testing.T) {
	inWorldOfTwo(t, func(t *testing.T, w *world) {
		w.net.nat = newNAT(15 * time.Second)
		s := w.dial(w.configOfTwo())
		defer w.closes(s)
		c := flowTo(t, s, "203.0.113.7:53")
		exchange(t, c, "hello")
		time.Sleep(5 * time.Minute)
		w.net.mu.Lock()
		before := w.net.nat.moves
		w.net.mu.Unlock()
		if before == 0 || before > 5 {
			t.Errorf("the NAT forgot %d times in the first five minutes", before)
		}
		for range 10 {
			time.Sleep(13 * time.Second)
			w.g.with(func() {
				s := w.g.only()
				for key := range w.g.flows {
					_ = s.Send(wire.TypeEncryptedData, &wire.EncryptedData{FlowID: key.id, Payload: []byte("news")}, &w.g.out)
				}
			})
			expect(t, c, "news")
		}
		w.net.mu.Lock()
		defer w.net.mu.Unlock()
		if n := w.net.nat.moves - before; n != 0 {
			t.Errorf("the NAT forgot %d times since", n)
		}
		if got := s.Info().Transport; got != client.UDP {
			t.Errorf("over %s", got)
		}
	})
}

// A NAT that rebinds every ten seconds costs only the packets in flight.
func TestRebindingNAT(t *testing.T) {
	inWorldOfTwo(t, func(t *testing.T, w *world) {
		w.net.nat = newNAT(time.Hour)
		s := w.dial(w.configOfTwo())
		defer w.closes(s)
		c := flowTo(t, s, "203.0.113.7:53")
		for range 12 {
			for range 10 {
				write(t, c, "hello")
				time.Sleep(time.Second)
				drain(c)
			}
			exchange(t, c, "the last of ten seconds")
			w.net.mu.Lock()
			w.net.nat = newNAT(time.Hour)
			w.net.nat.next = w.net.port + uint16(time.Now().Unix()%1000)
			w.net.mu.Unlock()
		}
		if s.Stats().Reconnects != 0 || s.Info().Transport != client.UDP || w.happened() != "connected" {
			t.Errorf("events: %s", w.happened())
		}
	})
}

// With 30 % loss each way and 200 ms of round trip, the session stays on UDP and doesn't
// reconnect.
func TestLossyPath(t *testing.T) {
	inWorldOfTwo(t, func(t *testing.T, w *world) {
		w.net.delay = 100 * time.Millisecond
		r := rand.New(rand.NewPCG(1, 2))
		w.net.losing(func(from, to netip.AddrPort, _ []byte) bool { return w.udp(from, to) && r.IntN(10) < 3 })
		s := w.dial(w.configOfTwo())
		defer w.closes(s)
		c := flowTo(t, s, "203.0.113.7:53")
		over := map[client.Transport]int{}
		came := 0
		const sent = 6000
		for range sent {
			write(t, c, "hello")
			over[s.Info().Transport]++
			_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			if _, err := c.Read(make([]byte, 100)); err == nil {
				came++
			}
		}
		t.Logf("%d of %d echoes, over %v; %s", came, sent, over, w.happened())
		if s.Stats().Reconnects != 0 || over[client.UDP] < sent*9/10 || came < sent*4/10 {
			t.Errorf("%d of %d echoes, over %v; %s", came, sent, over, w.happened())
		}
	})
}

// The session survives an outage of a minute.
func TestOutageOfAMinute(t *testing.T) {
	inWorldOfTwo(t, func(t *testing.T, w *world) {
		s := w.dial(w.configOfTwo())
		defer w.closes(s)
		c := flowTo(t, s, "203.0.113.7:53")
		exchange(t, c, "before")
		handle := s.Info().Handle
		w.net.losing(func(netip.AddrPort, netip.AddrPort, []byte) bool { return true })
		for range 600 {
			write(t, c, "hello")
			time.Sleep(100 * time.Millisecond)
		}
		w.net.losing(nil)
		back := time.Now()
		w.until("echoes", time.Minute, func() bool {
			write(t, c, "hello")
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			_, err := c.Read(make([]byte, 100))
			return err == nil
		})
		if took := time.Since(back); took > time.Second {
			t.Errorf("echoes after %s", took)
		}
		w.until("reconnected", time.Second, func() bool { // on the old port or on a new one
			return strings.Replace(w.happened(), " path changed", "", 1) == "connected reconnecting reconnected"
		})
		if s.Info().Handle != handle {
			t.Error("another session")
		}
	})
}

// Probes go to all addresses of the gateway: those of the other family, and those that its
// name resolves to now.
func TestProbesAllAddresses(t *testing.T) {
	for name, row := range map[string]struct{ first, later []netip.Addr }{
		"of the other family": {[]netip.Addr{gatewayAddr(1).Addr(), netip.MustParseAddr("2001:db8::1")}, nil},
		"of the name now":     {[]netip.Addr{gatewayAddr(1).Addr()}, []netip.Addr{gatewayAddr(9).Addr()}},
	} {
		t.Run(name, func(t *testing.T) {
			inWorldOfTwo(t, func(t *testing.T, w *world) {
				w.net.also = map[netip.Addr]netip.Addr{
					netip.MustParseAddr("2001:db8::1"): w.g.at.Addr(),
					gatewayAddr(9).Addr():              w.g.at.Addr(),
				}
				dns := names("gw.example.com", row.first...)
				config := w.configOfTwo()
				config.Gateway.Host, config.Resolver = "gw.example.com", dns
				s := w.dial(config)
				defer w.closes(s)
				handle := s.Info().Handle
				c := flowTo(t, s, "203.0.113.7:53")
				exchange(t, c, "before")
				at := w.g.at.Addr()
				first := s.Info().Local.(*net.UDPAddr).AddrPort()
				w.net.losing(func(from, to netip.AddrPort, _ []byte) bool {
					return to.Addr() == at || from == w.g.at && to == first
				})
				if row.later != nil {
					dns.set("gw.example.com", row.later...)
				}
				took := w.until("another address", 10*time.Second, func() bool {
					write(t, c, "lost, maybe")
					time.Sleep(90 * time.Millisecond)
					return s.Info().Local.String() != first.String()
				})
				time.Sleep(time.Second)
				drain(c)
				exchange(t, c, "after")
				if info := s.Info(); took > 4*time.Second || info.Handle != handle || info.Transport != client.UDP || s.Stats().Reconnects != 0 {
					t.Errorf("after %s: %+v", took, info)
				}
			})
		})
	}
}
