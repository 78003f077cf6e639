package state

import (
	"testing"
	"time"

	"lewes/crypto/kem"
	"lewes/state/wire"
)

// Hints that come one after the other (section 2).

// TestWrongClockAndStaleKey has a client with both, and an index that is taken
// besides: the answer to the attempt by the gateway's clock leads to the next, by
// the same clock. Nothing else goes by it.
//
// Shows R2.9, R2.11, R2.12.
func TestWrongClockAndStaleKey(t *testing.T) {
	stale, err := kem.Generate(kem.MLKEM768, seeded(5))
	if err != nil {
		t.Fatal(err)
	}
	for name, taken := range map[string]bool{"stale key": false, "index taken": true} {
		g := newGatewayEnd(t, gatewayConfig(t, 1))
		config := clientConfig(2)
		if !taken {
			config.KnownKEM = stale.Public()
		}
		here := epoch.Add(time.Hour)
		c := newClientEnd(t, here, config)
		refused := map[uint32]bool{}
		g.responders.config.IndexInUse = func(index uint32) bool {
			if n := len(c.client.attempts); taken && n == 2 && index == c.client.attempts[1].index {
				refused[index] = true
			}
			return refused[index]
		}
		converseWith(here, epoch, c, g)
		if c.session == nil || len(c.client.attempts) != 3 {
			t.Fatalf("%s: session %v, %d attempts; drops %v, %v", name, c.session != nil, len(c.client.attempts), c.drops, g.drops)
		}
		for n, want := range []time.Time{here, epoch, epoch} {
			i := c.client.attempts[n]
			if got := i.hello.Seconds(); got != uint64(want.Unix()) {
				t.Errorf("%s: attempt %d goes by %d, want %d", name, n, got, want.Unix())
			}
			if kkt := i.request != nil; kkt != (taken || n == 2) {
				t.Errorf("%s: attempt %d runs KKT: %v", name, n, kkt)
			}
		}
		if s := c.session; !s.Started().Equal(here) || !s.lastOpened.Equal(here) {
			t.Errorf("%s: the session goes by the gateway's clock", name)
		}
	}
}

// TestCookiesAtOnceAndLater gives a client cookies without end: the first two are
// followed at once, and each repetition bears the last two.
//
// Shows R2.10.
func TestCookiesAtOnceAndLater(t *testing.T) {
	c := newClientEnd(t, epoch, clientConfig(2))
	first := hellos(t, c.take())[0]
	cookie := func(n int) [wire.CookieSize]byte { return [wire.CookieSize]byte{byte(n), 9} }
	same := func(what string, m wire.ClientHello, n int) {
		t.Helper()
		if !m.HasCookie || m.Cookie != cookie(n) || m.Hello() != first.Hello() {
			t.Errorf("%s: hello %+v, want the first with cookie %d", what, m, n)
		}
	}
	for n := range 6 {
		c.say(epoch, first.ReceiverIdx, wire.TypeBusy, &wire.Busy{HasCookie: true, Cookie: cookie(n)})
		c.say(epoch, first.ReceiverIdx, wire.TypeBusy, &wire.Busy{HasCookie: true, Cookie: cookie(n)}) // again
		sent := hellos(t, c.take())
		if n >= 2 {
			if len(sent) != 0 {
				t.Errorf("cookie %d is followed at once", n)
			}
			continue
		}
		if len(sent) == 0 {
			t.Fatalf("cookie %d is not followed at once", n)
		}
		same("at once", sent[len(sent)-1], n)
	}
	for range 3 {
		c.tick(c.next())
		sent := hellos(t, c.take())
		if len(sent) != 2 {
			t.Fatalf("a repetition has %d hellos", len(sent))
		}
		same("repeated", sent[0], 4)
		same("repeated", sent[1], 5)
	}
	if n := len(c.client.attempts); n != 1 {
		t.Errorf("%d attempts", n)
	}
}
