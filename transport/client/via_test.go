package client_test

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/state/wire"
	"lewes/transport/client"
	"lewes/transport/uri"
)

// through runs f with a session to gateway 1 through n entries, the nearest first.
func through(t *testing.T, n int, f func(t *testing.T, w *world, entries []*gateway, s *client.Session)) {
	inWorld(t, func(t *testing.T, w *world) {
		config, entries := w.via(n)
		s := w.dial(config)
		defer w.closes(s)
		f(t, w, entries, s)
		for _, e := range entries {
			defer e.stop()
		}
	})
}

// via starts a chain of n entries before gateway 1.
func (w *world) via(n int) (client.Config, []*gateway) {
	config := w.config()
	next := w.g
	entries := make([]*gateway, n)
	config.Via = make([]uri.Gateway, n)
	for i := n - 1; i >= 0; i-- {
		entries[i] = w.gateway(i + 2)
		entries[i].forwardsTo(next)
		next = entries[i]
		config.Via[i] = next.uri()
	}
	return config, entries
}

// Shows R8.25, R8.26.
func TestVia(t *testing.T) {
	for n := 1; n <= 3; n++ {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			through(t, n, func(t *testing.T, w *world, entries []*gateway, s *client.Session) {
				c := flowTo(t, s, "203.0.113.7:53")
				exchange(t, c, "hello")
				info := s.Info()
				if info.Gateway != w.g.identity.Public() || len(info.Via) != n || info.Via[0] != entries[0].identity.Public() {
					t.Errorf("info: %+v", info)
				}
				if want := time.Duration(2*(n+1)) * w.net.delay; info.RTT < want || info.RTT > want+w.net.delay {
					t.Errorf("round trip %s, want %s", info.RTT, want)
				}
				if info.MaxPacket != client.DefaultMaxPacket-n*69 {
					t.Errorf("packets of %d", info.MaxPacket)
				}
				// The largest datagram fits the underlay, by the byte.
				limit := client.DefaultMaxPacket - n*69 - 34 - 3 - 7
				largest := 0
				w.net.losing(func(_, to netip.AddrPort, p []byte) bool {
					if to == entries[0].at {
						largest = max(largest, len(p))
					}
					return false
				})
				var size *client.SizeError
				if _, err := c.Write(make([]byte, limit+1)); !errors.As(err, &size) || size.Limit != limit {
					t.Errorf("write: %v", err)
				}
				exchange(t, c, strings.Repeat("x", limit))
				w.net.losing(nil)
				if largest > client.DefaultMaxPacket || largest < client.DefaultMaxPacket-60 {
					t.Errorf("the largest packet to the entry had %d bytes", largest)
				}
				// Keys are renewed: the entry learns the new index.
				for range 3 {
					if err := s.Rekey(t.Context()); err != nil {
						t.Fatal(err)
					}
					exchange(t, c, "new keys")
				}
				if rtt, err := s.Ping(t.Context()); err != nil || rtt < info.RTT/2 {
					t.Errorf("ping: %s, %v", rtt, err)
				}
				// Closing it closes those that it runs over.
				w.closes(s)
				time.Sleep(time.Second)
				for i, g := range append(entries, w.g) {
					g.with(func() {
						if g.sessions.Len() != 0 {
							t.Errorf("gateway %d still has a session", i)
						}
					})
				}
				want := strings.Repeat("connected ", n+1) + strings.Repeat("closed ", n+1)
				if got := w.happened(); got != strings.TrimSpace(want) {
					t.Errorf("events: %s", got)
				}
			})
		})
	}
}

// Entries and exit see different identities, and the same ones in the next session.
//
// Shows R3.12.
func TestViaIdentity(t *testing.T) {
	one := identity.FromSeed(&[32]byte{201})
	for name, set := range map[string]func(*client.Config){
		"derived":   func(*client.Config) {},
		"one":       func(c *client.Config) { c.ViaIdentity = one },
		"same":      func(c *client.Config) { c.ViaIdentity = c.Identity },
		"ephemeral": func(c *client.Config) { c.Identity, c.Ephemeral = nil, true },
		"open": func(c *client.Config) {
			c.Gateway.Open, c.Via[0].Open, c.Via[1].Open, c.Identity = true, true, true, nil
		},
		"open exit": func(c *client.Config) { c.Gateway.Open, c.Ephemeral = true, true },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				config, entries := w.via(2)
				set(&config)
				want, err := config.Identities()
				if err != nil {
					t.Fatal(err)
				}
				for range 2 {
					s := w.dial(config)
					exchange(t, flowTo(t, s, "203.0.113.7:53"), "hello")
					for i, g := range append(slices.Clip(entries), w.g) {
						g.with(func() {
							if got := g.only().Peer(); got != want[i] {
								t.Errorf("gateway %d of 3 sees %s, want %s", i+1, got, want[i])
							}
						})
					}
					w.closes(s)
					time.Sleep(time.Second)
				}
				for _, e := range entries {
					e.stop()
				}
				key := clientKey.Public()
				switch own := []bool{want[0] == key, want[1] == key, want[2] == key}; name {
				case "same":
					if !slices.Equal(own, []bool{true, true, true}) {
						t.Errorf("the key's own: %v", own)
					}
				case "one":
					if want[0] != one.Public() || want[1] != one.Public() || !own[2] {
						t.Errorf("%v", want)
					}
				case "derived":
					if want[0] != clientKey.ForEntry(entries[0].identity.Public()).Public() || want[0] == want[1] || !slices.Equal(own, []bool{false, false, true}) {
						t.Errorf("%v", want)
					}
				case "open exit":
					if want[0] != clientKey.ForEntry(entries[0].identity.Public()).Public() || own[2] {
						t.Errorf("%v", want)
					}
				default:
					if want[0] == want[1] || want[1] == want[2] || slices.Contains(own, true) {
						t.Errorf("%v", want)
					}
				}
			})
		})
	}
}

func TestViaErrors(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		config, entries := w.via(1)
		entry := entries[0]
		defer entry.stop()
		fails := func(words ...string) {
			t.Helper()
			s, err := client.Dial(t.Context(), config)
			if err == nil {
				w.closes(s)
				t.Fatal("connected")
			}
			for _, word := range words {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%q is not in the error: %v", word, err)
				}
			}
			time.Sleep(time.Second)
			entry.with(func() {
				if entry.sessions.Len() != 0 {
					t.Error("the session with the entry was left behind")
				}
			})
		}
		// An entry that does not know the exit refuses at once.
		entry.with(func() { entry.directory = map[identity.PublicKey]netip.AddrPort{} })
		began := time.Now()
		fails("through "+entry.identity.Public().String(), "does not forward", w.g.identity.Public().String(), "directory")
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("known after %s", took)
		}
		// An exit that is down.
		entry.forwardsTo(w.g)
		w.net.losing(func(_, to netip.AddrPort, _ []byte) bool { return to == w.g.at })
		fails("through "+entry.identity.Public().String(), "within 10s")
		// An entry that is down.
		w.net.losing(func(_, to netip.AddrPort, _ []byte) bool { return to == entry.at })
		fails("no session with gateway "+entry.at.String(), "within 10s")
		w.net.losing(nil)
	})
}

// After an entry's restart its session reconnects, and the inner session continues.
func TestEntryRestart(t *testing.T) {
	for n := 1; n <= 2; n++ {
		through(t, n, func(t *testing.T, w *world, entries []*gateway, s *client.Session) {
			c := flowTo(t, s, "203.0.113.7:53")
			exchange(t, c, "before")
			handle := s.Info().Handle
			for _, e := range entries {
				e.restart()
			}
			write(t, c, "lost")
			time.Sleep(30 * time.Second)
			exchange(t, c, "after")
			if s.Info().Handle != handle {
				t.Error("the session inside is another")
			}
			// What the exit sends by itself comes, too: the entry knows the index.
			for _, e := range entries {
				e.restart()
			}
			write(t, c, "lost")
			time.Sleep(30 * time.Second)
			w.g.with(func() {
				peer := w.g.only()
				for key := range w.g.flows {
					_ = peer.Send(wire.TypeEncryptedData, &wire.EncryptedData{FlowID: key.id, Payload: []byte("unasked")}, &w.g.out)
				}
			})
			expect(t, c, "unasked")
		})
	}
}

// After the exit's restart the inner session reconnects through the same entry.
func TestExitRestart(t *testing.T) {
	through(t, 1, func(t *testing.T, w *world, entries []*gateway, s *client.Session) {
		c := flowTo(t, s, "203.0.113.7:53")
		exchange(t, c, "before")
		time.Sleep(2 * time.Second)
		w.g.restart()
		write(t, c, "lost")
		time.Sleep(5 * time.Second)
		exchange(t, c, "after")
		if got := w.happened(); got != "connected connected reconnecting reconnected" {
			t.Errorf("events: %s", got)
		}
		entries[0].with(func() { entries[0].only() })
		entries[0].with(func() {
			if n := len(entries[0].flows); n != 1 {
				t.Errorf("the entry has %d flows", n)
			}
		})
	})
}

// After the exit's restart all sessions through one entry return within 15 s, though they share the
// entry's budget of hellos at the exit: 200 with 20 a second, which stand for 10,000 with 1,000.
//
// Shows R8.24, R8.26, R11.1.
func TestCrowdReturnsAfterExitRestart(t *testing.T) {
	const sessions, perSecond = 200, 20
	inWorld(t, func(t *testing.T, w *world) {
		config, entries := w.via(1)
		defer entries[0].stop()
		w.g.with(func() {
			w.g.config.Trusted, w.g.config.TrustedRate = func(netip.Addr) bool { return true }, perSecond
		})
		w.g.restart()
		var flows []net.Conn
		for range sessions {
			s := w.dial(config)
			defer w.closes(s)
			c := flowTo(t, s, "203.0.113.7:53")
			exchange(t, c, "before")
			flows = append(flows, c)
		}
		time.Sleep(10 * time.Second)
		w.g.restart()
		began := time.Now()
		took := make([]time.Duration, len(flows))
		var all sync.WaitGroup
		for n, c := range flows {
			all.Go(func() {
				for took[n] == 0 && time.Since(began) < time.Minute {
					write(t, c, "again")
					_ = c.SetReadDeadline(time.Now().Add(time.Second))
					if _, err := c.Read(make([]byte, 100)); err == nil {
						took[n] = max(1, time.Since(began))
					}
				}
			})
		}
		all.Wait()
		slices.Sort(took)
		t.Logf("%d sessions; the first returned after %v, the median after %v, the last after %v", sessions, took[0], took[len(took)/2], took[len(took)-1])
		if took[0] == 0 || took[len(took)-1] > 15*time.Second {
			t.Errorf("the last of %d sessions returned after %v (0s: never)", sessions, cmp.Or(took[0], took[len(took)-1]))
		}
	})
}

// The inner session's indexes may collide at the entry in the handshake, in a rekey, and at
// any other time.
//
// Shows R7.12.
func TestIndexCollisionAtEntry(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		config, entries := w.via(1)
		entry := entries[0]
		defer entry.stop()
		refused := make(map[uint32]bool)
		refuseNext := 2
		entry.taken = func(index uint32) bool {
			if _, known := entry.claims[index]; !known && !refused[index] && refuseNext > 0 {
				refuseNext--
				refused[index] = true
			}
			return refused[index]
		}
		began := time.Now()
		s := w.dial(config)
		defer w.closes(s)
		if len(refused) != 2 || time.Since(began) > 500*time.Millisecond {
			t.Errorf("%d indexes refused, connected after %s", len(refused), time.Since(began))
		}
		c := flowTo(t, s, "203.0.113.7:53")
		exchange(t, c, "hello")

		entry.with(func() { refuseNext = 2 })
		if err := s.Rekey(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(refused) != 4 || s.Info().Generation != 1 {
			t.Errorf("%d indexes refused, generation %d", len(refused), s.Info().Generation)
		}
		exchange(t, c, "new keys")

		// Somebody else has the index of the session: there is nothing to refuse.
		time.Sleep(time.Minute)
		w.g.with(func() { refused[w.g.only().Current().Index()] = true })
		write(t, c, "lost")
		time.Sleep(5 * time.Second)
		exchange(t, c, "another session")
		if got := w.happened(); got != "connected connected reconnecting reconnected" {
			t.Errorf("events: %s", got)
		}
	})
}

// The entry has the index in use that the gateway drew: another attempt has another one.
func TestReceiverIndexCollisionAtEntry(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		config, entries := w.via(1)
		entry := entries[0]
		defer entry.stop()
		var indexes []uint32
		entry.taken = func(index uint32) bool {
			if !slices.Contains(indexes, index) {
				indexes = append(indexes, index)
			}
			return slices.Index(indexes, index) == 1
		}
		s := w.dial(config)
		defer w.closes(s)
		c := flowTo(t, s, "203.0.113.7:53")
		if took := w.flowing(c); took > 500*time.Millisecond {
			t.Errorf("echoes after %s", took)
		}
		if got := w.happened(); got != "connected connected reconnecting reconnected" {
			t.Errorf("events: %s", got)
		}
	})
}

// A handshake gives up after indexTries collisions.
func TestIndexCollisionsExhaustTries(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		config, entries := w.via(1)
		defer entries[0].stop()
		var hellos atomic.Int32
		entries[0].taken = func(uint32) bool { hellos.Add(1); return true }
		if s, err := client.Dial(t.Context(), config); err == nil {
			w.closes(s)
			t.Error("connected")
		} else if !strings.Contains(err.Error(), "index") {
			t.Error(err)
		}
		if n := hellos.Load(); n > 8 {
			t.Errorf("%d packets passed", n)
		}
	})
}

// With NoReconnect, the end of an entry's session ends the inner session.
func TestEntryEndEndsInnerSession(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		config, entries := w.via(2)
		for _, e := range entries {
			defer e.stop()
		}
		config.NoReconnect = true
		s := w.dial(config)
		c := flowTo(t, s, "203.0.113.7:53")
		exchange(t, c, "before")
		entries[0].with(func() { entries[0].only().Close(wire.CloseShuttingDown, "maintenance", &entries[0].out) })
		_, err := c.Read(nil)
		<-s.Done()
		for _, err := range []error{err, s.Err()} {
			if !errors.Is(err, net.ErrClosed) || !strings.Contains(err.Error(), entries[0].identity.Public().String()) || !strings.Contains(err.Error(), "maintenance") {
				t.Errorf("error: %v", err)
			}
		}
		w.closes(s)
	})
}
