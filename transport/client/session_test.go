package client_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"lewes/crypto/identity"
	"lewes/crypto/kdf"
	"lewes/crypto/kem"
	"lewes/state"
	"lewes/transport"
	"lewes/transport/client"
	"lewes/transport/uri"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var clientKey = identity.FromSeed(&[32]byte{200})

// world is a network with a gateway, and a client's configuration for it.
type world struct {
	*testing.T
	net *network
	g   *gateway

	mu     sync.Mutex
	events []client.Event
}

func gatewayAddr(n int) netip.AddrPort {
	return netip.MustParseAddrPort(fmt.Sprintf("198.51.100.%d:51264", n))
}

// gateway starts gateway n.
func (w *world) gateway(n int) *gateway {
	return newGateway(w, byte(n), w.net.listen(gatewayAddr(n)), func(to netip.AddrPort) transport.Conn {
		c, err := w.net.dial(context.Background(), to)
		if err != nil {
			w.Error(err)
		}
		return c
	})
}

// inWorld runs f in a synctest bubble with a network and gateway 1.
func inWorld(t *testing.T, f func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, net: newNetwork()}
		w.g = w.gateway(1)
		defer func() { w.g.stop() }()
		f(t, w)
	})
}

func (w *world) config() client.Config {
	return client.Config{
		Gateway:  w.g.uri(),
		Identity: clientKey,
		Keys:     new(client.KeyCache),
		Underlay: w.net.dial,
		OnEvent: func(e client.Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, e)
		},
	}
}

// happened returns the kinds of all events but Rekeyed.
func (w *world) happened() string {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	var kinds []string
	for _, e := range w.events {
		if e.Kind != client.Rekeyed {
			kinds = append(kinds, e.Kind.String())
		}
	}
	return strings.Join(kinds, " ")
}

// lastEvent returns the last event of a kind.
func (w *world) lastEvent(k client.EventKind) client.Event {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(w.events) - 1; i >= 0; i-- {
		if w.events[i].Kind == k {
			return w.events[i]
		}
	}
	w.Fatalf("no event %s among %v", k, w.events)
	return client.Event{}
}

func (w *world) dial(config client.Config) *client.Session {
	w.Helper()
	s, err := client.Dial(w.Context(), config)
	if err != nil {
		w.Fatal(err)
	}
	return s
}

// closes closes a session at the end of the test.
func (w *world) closes(s *client.Session) {
	if err := s.Close(); err != nil {
		w.Error(err)
	}
}

func flowTo(t testing.TB, s *client.Session, target string) net.Conn {
	t.Helper()
	c, err := s.DialContext(t.Context(), "udp", target)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func write(t testing.TB, c net.Conn, text string) {
	t.Helper()
	if n, err := c.Write([]byte(text)); err != nil || n != len(text) {
		t.Fatalf("writing %q: %d, %v", text, n, err)
	}
}

func expect(t testing.TB, c net.Conn, text string) {
	t.Helper()
	b := make([]byte, 2000)
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, err := c.Read(b)
	if err != nil || string(b[:n]) != text {
		t.Fatalf("read %q, %v; want %q", b[:n], err, text)
	}
	_ = c.SetReadDeadline(time.Time{})
}

// exchange sends a datagram and expects its echo.
func exchange(t testing.TB, c net.Conn, text string) {
	t.Helper()
	write(t, c, text)
	expect(t, c, text)
}

// The defaults: ML-KEM-768 and the gateway's terms.
//
// Shows R3.7.
func TestDial(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.dial(w.config())
		c := flowTo(t, s, "203.0.113.7:53")
		exchange(t, c, "first")
		exchange(t, c, "")
		exchange(t, c, "third")

		info := s.Info()
		if info.Gateway != w.g.identity.Public() || info.KEM != client.MLKEM768 || info.AEAD == "" || info.Generation != 0 || info.Down != nil {
			t.Errorf("info: %+v", info)
		}
		if info.RTT < 2*w.net.delay || info.RTT > 3*w.net.delay {
			t.Errorf("round trip %s, want %s", info.RTT, 2*w.net.delay)
		}
		if info.Terms.RekeyAfter != terms.RekeyAfter || info.Terms.IdleTTL != terms.IdleTTL || info.Terms.MaxDatagram != int(terms.MaxDatagram) || info.MaxPacket != client.DefaultMaxPacket {
			t.Errorf("terms %+v, packets of %d", info.Terms, info.MaxPacket)
		}
		if p := info.Handshake; p.Answered.Before(p.Started) || p.Key.Before(p.Answered) || !p.Established.After(p.Key) {
			t.Errorf("progress: %+v", p)
		}
		w.g.with(func() {
			if g := w.g.only(); info.Handle != g.Handle() || g.Peer() != clientKey.Public() {
				t.Error("the ends disagree on handle or identity")
			}
		})
		stats := s.Stats()
		if stats.Sent != 3 || stats.Received != 3 || stats.SentBytes != 10 || stats.ReceivedBytes != 10 || stats.Flows != 1 || stats.Unsent+stats.Overflowed+stats.Discarded+stats.Faults != 0 {
			t.Errorf("stats: %+v", stats)
		}

		if err := s.Close(); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		time.Sleep(time.Second)
		w.g.with(func() {
			if w.g.sessions.Len() != 0 {
				t.Error("the gateway was not told of the end")
			}
		})
		if err := s.Err(); err != client.ErrClosed {
			t.Errorf("error %v after Close", err)
		}
		if got := w.happened(); got != "connected closed" {
			t.Errorf("events: %s", got)
		}
		if err := s.Close(); err != nil {
			t.Errorf("closing again: %v", err)
		}
	})
}

// Shows R4.31.
func TestCachedKEMKeySavesRoundTrip(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		config := w.config()
		w.closes(w.dial(config))
		s := w.dial(config)
		if p := s.Info().Handshake; p.Established.Sub(p.Started) != 2*w.net.delay {
			t.Errorf("the second handshake took %s, want one round trip", p.Established.Sub(p.Started))
		}
		w.closes(s)
		w.g.with(func() {
			if w.g.oneFlight != 1 {
				t.Errorf("%d of %d hellos named a KEM key, want the second", w.g.oneFlight, w.g.hellos)
			}
		})

		// A gateway with other keys rejects the key id, and gets a KKT.
		w.g.restart()
		w.closes(w.dial(config))

		// An hour before the key is 24 h old it is used, then no more.
		for _, age := range []time.Duration{23 * time.Hour, time.Hour} {
			var before int
			w.g.with(func() { before = w.g.oneFlight })
			time.Sleep(age)
			w.closes(w.dial(config))
			w.g.with(func() {
				if used := w.g.oneFlight > before; used != (age == 23*time.Hour) {
					t.Errorf("key used: %v after %s more", used, age)
				}
			})
		}
	})
}

func TestPinnedKEM(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		config := w.config()
		var pin [32]byte
		w.g.with(func() { pin = kdf.Hash(w.g.config.KEMs.Find(kem.MLKEM768, 0).Public()) })
		config.PinnedKEM = &pin
		w.closes(w.dial(config))
		w.closes(w.dial(config))

		// A key that is signed, and even kept, but another than the pinned one.
		other := pin
		other[0]++
		config.PinnedKEM = &other
		config.Timeout = 2 * time.Second
		if s, err := client.Dial(t.Context(), config); err == nil {
			w.closes(s)
			t.Fatal("a session with another KEM key than the pinned one")
		}
	})
}

func TestKEMs(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		config := w.config()
		config.KEM = client.XWing
		s := w.dial(config)
		defer w.closes(s)
		exchange(t, flowTo(t, s, "203.0.113.7:53"), "over X-Wing")
		if got := s.Info().KEM; got != client.XWing {
			t.Errorf("KEM %s", got)
		}
	})
}

func TestConfigErrors(t *testing.T) {
	g := uri.Gateway{Identity: clientKey.Public(), Host: "192.0.2.1", Port: 1}
	for name, row := range map[string]struct {
		config client.Config
		words  string
	}{
		"no identity":       {client.Config{Gateway: g}, "no Identity"},
		"no gateway":        {client.Config{Identity: clientKey}, "gateway 1 of 1"},
		"bad entry":         {client.Config{Gateway: g, Via: []uri.Gateway{g, {}}, Identity: clientKey}, "gateway 2 of 3"},
		"McEliece":          {client.Config{Gateway: g, Identity: clientKey, KEM: 9}, "use ML-KEM-768"},
		"small packets":     {client.Config{Gateway: g, Identity: clientKey, MaxPacket: 1079}, "needs 1080 to 1500"},
		"no room for entry": {client.Config{Gateway: g, Via: []uri.Gateway{g}, Identity: clientKey, MaxPacket: 1148}, "needs 1149 to 1500"},
		"large packets":     {client.Config{Gateway: g, Identity: clientKey, MaxPacket: 1501}, "1501"},
	} {
		s, err := client.Dial(t.Context(), row.config)
		if err == nil {
			_ = s.Close()
		}
		if !errors.Is(err, client.ErrConfig) || !strings.Contains(err.Error(), row.words) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// resolver resolves names from a map.
type resolver struct {
	mu    sync.Mutex
	names map[string][]netip.Addr
}

func names(name string, addrs ...netip.Addr) *resolver {
	return &resolver{names: map[string][]netip.Addr{name: addrs}}
}

func (r *resolver) set(name string, addrs ...netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.names[name] = addrs
}

func (r *resolver) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if network != "ip" {
		return nil, fmt.Errorf("asked for %s", network)
	}
	if a, ok := r.names[host]; ok {
		return a, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// Each error names the fault and its values.
func TestDialErrors(t *testing.T) {
	for name, row := range map[string]struct {
		prepare func(w *world, c *client.Config)
		words   []string
		is      error
	}{
		"name": {
			func(_ *world, c *client.Config) {
				c.Gateway.Host, c.Resolver = "gw.example.com", names("other.example.com")
			},
			[]string{"no session with gateway gw.example.com:51264", "no address for gw.example.com", "check the URI"}, nil,
		},
		"nobody there": {
			func(w *world, c *client.Config) { c.Gateway.Port = 9 },
			[]string{"198.51.100.1:9", "within 10s", "nothing listens on port 9"}, transport.ErrRefused,
		},
		"dropped on the way": {
			func(w *world, _ *client.Config) {
				w.net.losing(func(_, to netip.AddrPort, _ []byte) bool { return to == w.g.at })
			},
			[]string{"within 10s", "UDP is blocked"}, nil,
		},
		"answers dropped": {
			func(w *world, _ *client.Config) {
				w.net.losing(func(from, _ netip.AddrPort, _ []byte) bool { return from == w.g.at })
			},
			[]string{"within 10s", "UDP is blocked"}, nil,
		},
		"wrong identity": {
			func(_ *world, c *client.Config) { c.Gateway.Identity = clientKey.Public() },
			[]string{"another identity than the one in the URI"}, nil,
		},
		"not listed": {
			func(w *world, _ *client.Config) {
				w.g.with(func() { w.g.config.Admit = func(identity.PublicKey) bool { return false } })
			},
			[]string{"does not list this client's identity"}, nil,
		},
		"KEM": {
			func(w *world, c *client.Config) {
				c.KEM = client.XWing
				w.g.with(func() {
					kems, err := state.NewKEMKeys(time.Now(), []kem.ID{kem.MLKEM768}, rand.Reader)
					if err != nil {
						w.Fatal(err)
					}
					w.g.config.KEMs = kems
				})
			},
			[]string{"KEM not offered"}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				config := w.config()
				row.prepare(w, &config)
				began := time.Now()
				s, err := client.Dial(w.Context(), config)
				if err == nil {
					w.closes(s)
					t.Fatal("connected")
				}
				var dial *client.DialError
				if !errors.As(err, &dial) || row.is != nil && !errors.Is(err, row.is) {
					t.Fatalf("error %T: %v", err, err)
				}
				for _, words := range row.words {
					if !strings.Contains(err.Error(), words) {
						t.Errorf("%q is not in the error: %v", words, err)
					}
				}
				var h *state.HandshakeError
				if errors.As(err, &h) && (time.Since(began) != 10*time.Second || !dial.Timeout()) {
					t.Errorf("gave up after %s; timeout %v", time.Since(began), dial.Timeout())
				}
			})
		})
	}
}

// The client adopts the gateway's clock only once, so a second Reject, which wrongClock
// forges, fails the handshake.
func TestClockError(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		config := w.config()
		config.Underlay = func(ctx context.Context, to netip.AddrPort) (transport.Conn, error) {
			c, err := w.net.dial(ctx, to)
			return &wrongClock{Conn: c, mac: macOf(w.g)}, err
		}
		_, err := client.Dial(t.Context(), config)
		if err == nil || !strings.Contains(err.Error(), "2000-01-01T00:00") || !strings.Contains(err.Error(), "2001-01-01T00:00:00Z at the gateway") || !strings.Contains(err.Error(), "NTP") {
			t.Errorf("error: %v", err)
		}
	})
}

func TestDialContext(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.net.losing(func(_, to netip.AddrPort, _ []byte) bool { return to == w.g.at })
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		_, err := client.Dial(ctx, w.config())
		if took := time.Since(began); err == nil || took != 3*time.Second || !strings.Contains(err.Error(), "within 3s") {
			t.Errorf("after %s: %v", took, err)
		}

		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		began = time.Now()
		_, err = client.Dial(ctx, w.config())
		if took := time.Since(began); !errors.Is(err, context.Canceled) || took > time.Second+300*time.Millisecond {
			t.Errorf("after %s: %v", took, err)
		}
	})
}

// An address that does not answer is raced by the next one.
func TestAddressesRace(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		config := w.config()
		config.Gateway.Host = "gw.example.com"
		config.Resolver = names("gw.example.com", netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"), w.g.at.Addr())
		w.net.losing(func(_, to netip.AddrPort, _ []byte) bool { return to.Addr().Is6() })
		began := time.Now()
		s := w.dial(config)
		if took := time.Since(began); took > time.Second {
			t.Errorf("connected after %s", took)
		}
		exchange(t, flowTo(t, s, "203.0.113.7:53"), "hello")
		w.closes(s)
	})
}

// If several addresses answer, one session remains.
func TestAddressRaceClosesLoser(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.net.delay = 290 * time.Millisecond
		config := w.config()
		config.Gateway.Host = "gw.example.com"
		config.Resolver = names("gw.example.com", w.g.at.Addr(), w.g.at.Addr())
		s := w.dial(config)
		defer w.closes(s)
		time.Sleep(time.Minute)
		exchange(t, flowTo(t, s, "203.0.113.7:53"), "hello")
		w.g.with(func() { w.g.only() })
	})
}

func TestPingAndRekey(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.dial(w.config())
		defer w.closes(s)
		if rtt, err := s.Ping(t.Context()); err != nil || rtt != 2*w.net.delay {
			t.Errorf("ping: %s, %v", rtt, err)
		}
		for want := uint32(1); want <= 3; want++ {
			if err := s.Rekey(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := s.Info().Generation; got != want {
				t.Fatalf("generation %d, want %d", got, want)
			}
			if got := w.lastEvent(client.Rekeyed).Generation; got != want {
				t.Fatalf("event for generation %d, want %d", got, want)
			}
			exchange(t, flowTo(t, s, "203.0.113.7:53"), "new keys")
		}
		if got := s.Stats().Rekeys; got != 3 {
			t.Errorf("%d rekeys counted", got)
		}

		// A lost Ping goes again; a gateway that is gone ends the wait.
		lost := 0
		w.net.losing(func(_, to netip.AddrPort, _ []byte) bool { lost++; return to == w.g.at && lost == 1 })
		if rtt, err := s.Ping(t.Context()); err != nil || rtt != 2*w.net.delay {
			t.Errorf("ping with loss: %s, %v", rtt, err)
		}
		w.net.losing(func(_, to netip.AddrPort, _ []byte) bool { return to == w.g.at })
		for name, f := range map[string]func(context.Context) error{
			"Ping":  func(ctx context.Context) error { _, err := s.Ping(ctx); return err },
			"Rekey": s.Rekey,
		} {
			began := time.Now()
			if err := f(t.Context()); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != client.DefaultTimeout {
				t.Errorf("%s without a gateway: %v after %s", name, err, time.Since(began))
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := f(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// Shows R7.10, R7.22.
func TestRekeyUnderTraffic(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.dial(w.config())
		defer w.closes(s)
		c := flowTo(t, s, "203.0.113.7:53")
		const n = 2000
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := range n {
				write(t, c, fmt.Sprint(i))
				time.Sleep(time.Millisecond)
			}
		})
		wg.Go(func() {
			for range 5 {
				time.Sleep(300 * time.Millisecond)
				if err := s.Rekey(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
		for i := range n {
			expect(t, c, fmt.Sprint(i))
		}
		wg.Wait()
		if got := s.Info().Generation; got != 5 {
			t.Errorf("generation %d", got)
		}
	})
}

func TestCloseEndsEverything(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.dial(w.config())
		c := flowTo(t, s, "203.0.113.7:53")
		p, err := s.ListenPacket()
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for name, f := range map[string]func() error{
			"Read":     func() error { _, err := c.Read(make([]byte, 9)); return err },
			"ReadFrom": func() error { _, _, err := p.ReadFrom(make([]byte, 9)); return err },
			"Ping": func() error {
				w.net.losing(func(_, to netip.AddrPort, _ []byte) bool { return to == w.g.at })
				_, err := s.Ping(t.Context())
				return err
			},
		} {
			wg.Go(func() {
				if err := f(); !errors.Is(err, net.ErrClosed) {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
		time.Sleep(time.Second)
		w.closes(s)
		wg.Wait()
		for name, f := range map[string]func() error{
			"Write":        func() error { _, err := c.Write(nil); return err },
			"WriteTo":      func() error { _, err := p.WriteTo(nil, c.RemoteAddr()); return err },
			"DialContext":  func() error { _, err := s.DialContext(t.Context(), "udp", "203.0.113.7:53"); return err },
			"ListenPacket": func() error { _, err := s.ListenPacket(); return err },
			"Ping":         func() error { _, err := s.Ping(t.Context()); return err },
			"Rekey":        func() error { return s.Rekey(t.Context()) },
		} {
			if err := f(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s after Close: %v", name, err)
			}
		}
		if err := c.Close(); err != nil {
			t.Errorf("closing a flow of a closed session: %v", err)
		}
	})
}

func TestCloseFromEvent(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		config := w.config()
		sessions := make(chan *client.Session, 1)
		config.OnEvent = func(e client.Event) {
			if e.Kind == client.Connected {
				w.closes(<-sessions)
			}
		}
		s := w.dial(config)
		sessions <- s
		<-s.Done()
	})
}
