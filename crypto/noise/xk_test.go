package noise

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

var (
	testPrologue = []byte("lewes/2 and a transcript of 32 bytes")
	testPSK      = [32]byte{1, 2, 3, 4}
)

// pair returns test key pair number n.
func pair(n byte) KeyPair { return KeyPairFrom([32]byte{n, 0xa5, 31: n}) }

func xkPair() (*XKInitiator, *XKResponder) {
	static := pair(3)
	return NewXKInitiator(testPrologue, pair(1), pair(2), static.Public), NewXKResponder(testPrologue, static)
}

// fataler is implemented by testing.TB and rapid.T.
type fataler interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

// get returns a method's bytes and fails the test on an error.
func get(t fataler) func([]byte, error) []byte {
	t.Helper()
	return func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

// finishXK exchanges messages 2 and 3 and compares the results of both sides.
func finishXK(t testing.TB, i *XKInitiator, r *XKResponder) {
	t.Helper()
	m2 := get(t)(r.WriteMessage2(pair(4), []byte("answer")))
	if p := get(t)(i.ReadMessage2(m2)); string(p) != "answer" {
		t.Fatalf("payload of message 2 is %q", p)
	}
	m3, mine, err := i.WriteMessage3(&testPSK)
	if err != nil {
		t.Fatal(err)
	}
	client, theirs, err := r.ReadMessage3(&testPSK, m3)
	if err != nil {
		t.Fatal(err)
	}
	if client != pair(1).Public {
		t.Errorf("client's key is %x", client)
	}
	if *mine != *theirs {
		t.Error("the two sides ended with different keys")
	}
	if mine.InitiatorToResponder == mine.ResponderToInitiator || mine.Hash == [32]byte{} {
		t.Error("keys are equal or the hash is empty")
	}
}

// damaged returns copies of msg with each byte changed, truncated to each length,
// extended, and replaced.
func damaged(msg []byte) [][]byte {
	var out [][]byte
	for n := range msg {
		c := bytes.Clone(msg)
		c[n] ^= 1 << (n % 8)
		out = append(out, c, bytes.Clone(msg[:n]))
	}
	random := make([]byte, len(msg))
	rnd := rand.NewChaCha8([32]byte{9})
	_, _ = rnd.Read(random)
	return append(out, append(bytes.Clone(msg), 0), random, make([]byte, len(msg)), make([]byte, 70000), nil)
}

// Shows R5.19, R5.27.
func TestXKSurvivesDamagedMessages(t *testing.T) {
	i, r := xkPair()
	m1 := get(t)(i.WriteMessage1([]byte("hello")))
	for _, bad := range damaged(m1) {
		if p, err := r.ReadMessage1(bad); err == nil || p != nil {
			t.Fatalf("message 1 %x: read %x, %v", bad, p, err)
		}
	}
	if p := get(t)(r.ReadMessage1(m1)); string(p) != "hello" {
		t.Fatalf("payload of message 1 is %q", p)
	}

	m2 := get(t)(r.WriteMessage2(pair(4), []byte("answer")))
	for _, bad := range damaged(m2) {
		if p, err := i.ReadMessage2(bad); err == nil || p != nil {
			t.Fatalf("message 2 %x: read %x, %v", bad, p, err)
		}
	}
	get(t)(i.ReadMessage2(m2))

	m3, mine, err := i.WriteMessage3(&testPSK)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range damaged(m3) {
		if _, s, err := r.ReadMessage3(&testPSK, bad); err == nil || s != nil {
			t.Fatalf("message 3 %x was read", bad)
		}
	}
	otherPSK := [32]byte{9}
	if _, _, err := r.ReadMessage3(&otherPSK, m3); !errors.Is(err, ErrOpen) {
		t.Fatalf("another preshared key: got %v", err)
	}
	_, theirs, err := r.ReadMessage3(&testPSK, m3)
	if err != nil {
		t.Fatal(err)
	}
	if *mine != *theirs {
		t.Error("the two sides ended with different keys")
	}
}

func TestXKErrors(t *testing.T) {
	short := make([]byte, 31)
	unsealed := make([]byte, 48)
	unsealed[0] = 9
	long := make([]byte, 65536)
	for _, c := range []struct {
		name string
		msg  []byte
		want error
	}{
		{"shorter than a key", short, ErrSize},
		{"longer than Noise allows", long, ErrSize},
		{"a key of low order", make([]byte, 48), ErrLowOrder},
		{"a key and no tag", unsealed[:40], ErrOpen},
		{"a key and a wrong tag", unsealed, ErrOpen},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, r := xkPair()
			if _, err := r.ReadMessage1(c.msg); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	t.Run("payload too long", func(t *testing.T) {
		for _, n := range []int{65535 - 47, 65535, 65536} {
			i, r := xkPair()
			if _, err := i.WriteMessage1(make([]byte, n)); !errors.Is(err, ErrSize) {
				t.Errorf("%d bytes: got %v, want ErrSize", n, err)
			}
			m1 := get(t)(i.WriteMessage1(make([]byte, 65535-48)))
			get(t)(r.ReadMessage1(m1))
		}
	})
	t.Run("gateway's key of low order", func(t *testing.T) {
		i := NewXKInitiator(nil, pair(1), pair(2), [32]byte{1})
		if _, err := i.WriteMessage1(nil); !errors.Is(err, ErrLowOrder) {
			t.Errorf("got %v, want ErrLowOrder", err)
		}
	})
	t.Run("another prologue", func(t *testing.T) {
		i, _ := xkPair()
		m1 := get(t)(i.WriteMessage1(nil))
		if _, err := NewXKResponder([]byte("lewes/1"), pair(3)).ReadMessage1(m1); !errors.Is(err, ErrOpen) {
			t.Errorf("got %v, want ErrOpen", err)
		}
	})
	t.Run("another gateway", func(t *testing.T) {
		i, _ := xkPair()
		m1 := get(t)(i.WriteMessage1(nil))
		if _, err := NewXKResponder(testPrologue, pair(8)).ReadMessage1(m1); !errors.Is(err, ErrOpen) {
			t.Errorf("got %v, want ErrOpen", err)
		}
	})
}

func TestXKStepOrder(t *testing.T) {
	refused := func(t *testing.T, what string, err error) {
		t.Helper()
		if !errors.Is(err, ErrOrder) {
			t.Errorf("%s: got %v, want ErrOrder", what, err)
		}
	}
	allInitiator := func(t *testing.T, i *XKInitiator, except int) {
		t.Helper()
		if except != 1 {
			_, err := i.WriteMessage1(nil)
			refused(t, "WriteMessage1", err)
		}
		if except != 2 {
			_, err := i.ReadMessage2(make([]byte, 48))
			refused(t, "ReadMessage2", err)
		}
		if except != 3 {
			_, _, err := i.WriteMessage3(&testPSK)
			refused(t, "WriteMessage3", err)
		}
	}
	allResponder := func(t *testing.T, r *XKResponder, except ...int) {
		t.Helper()
		is := [4]bool{}
		for _, n := range except {
			is[n] = true
		}
		if !is[1] {
			_, err := r.ReadMessage1(make([]byte, 48))
			refused(t, "ReadMessage1", err)
		}
		if !is[2] {
			_, err := r.WriteMessage2(pair(4), nil)
			refused(t, "WriteMessage2", err)
		}
		if !is[3] {
			_, _, err := r.ReadMessage3(&testPSK, make([]byte, 64))
			refused(t, "ReadMessage3", err)
		}
	}

	i, r := xkPair()
	allInitiator(t, i, 1)
	allResponder(t, r, 1)
	m1 := get(t)(i.WriteMessage1(nil))
	get(t)(r.ReadMessage1(m1))
	allInitiator(t, i, 2)
	allResponder(t, r, 1, 2)
	m2 := get(t)(r.WriteMessage2(pair(4), nil))
	get(t)(i.ReadMessage2(m2))
	allInitiator(t, i, 3)
	allResponder(t, r, 3)
	m3, _, err := i.WriteMessage3(&testPSK)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.ReadMessage3(&testPSK, m3); err != nil {
		t.Fatal(err)
	}
	allInitiator(t, i, 0)
	allResponder(t, r)

	i, r = xkPair()
	i.Wipe()
	r.Wipe()
	allInitiator(t, i, 0)
	allResponder(t, r)
}

// Shows R5.19.
func TestXKReadsMessage1Again(t *testing.T) {
	i, r := xkPair()
	m1 := get(t)(i.WriteMessage1([]byte("no good")))
	i2, _ := xkPair()
	better := get(t)(i2.WriteMessage1([]byte("better")))

	get(t)(r.ReadMessage1(m1))
	if p := get(t)(r.ReadMessage1(better)); string(p) != "better" {
		t.Fatalf("payload is %q", p)
	}
	for _, bad := range damaged(m1) {
		if _, err := r.ReadMessage1(bad); err == nil {
			t.Fatalf("message 1 %x was read", bad)
		}
	}
	finishXK(t, i2, r)
}

// Shows R5.17, R5.27.
func TestXKSameEphemeralCostsOneDH(t *testing.T) {
	i, r := xkPair()
	m1 := get(t)(i.WriteMessage1(nil))
	bad := bytes.Clone(m1)
	bad[40] ^= 1
	for range 5 {
		if _, err := r.ReadMessage1(bad); !errors.Is(err, ErrOpen) {
			t.Fatalf("got %v, want ErrOpen", err)
		}
	}
	get(t)(r.ReadMessage1(m1))
	if n := r.suite.memo.misses; n != 1 {
		t.Errorf("message 1 took %d X25519 operations, want 1", n)
	}

	m2 := get(t)(r.WriteMessage2(pair(4), nil))
	if n := r.suite.memo.misses; n != 2 {
		t.Errorf("messages 1 and 2 took %d X25519 operations, want 2", n)
	}

	// Each forged message 2 has a key of its own and costs one operation. What
	// went before it is never computed again.
	before := i.suite.memo.misses
	const forged = 20
	for n := range byte(forged) {
		bad := bytes.Clone(m2)
		bad[0] ^= n + 1
		if _, err := i.ReadMessage2(bad); !errors.Is(err, ErrOpen) {
			t.Fatalf("got %v, want ErrOpen", err)
		}
	}
	if n := i.suite.memo.misses - before; n != forged {
		t.Errorf("%d forged messages took %d X25519 operations", forged, n)
	}
	get(t)(i.ReadMessage2(m2))
	m3, _, err := i.WriteMessage3(&testPSK)
	if err != nil {
		t.Fatal(err)
	}
	wrong := [32]byte{}
	for range 3 {
		if _, _, err := r.ReadMessage3(&wrong, m3); !errors.Is(err, ErrOpen) {
			t.Fatalf("got %v, want ErrOpen", err)
		}
	}
	if n := r.suite.memo.misses; n != 3 {
		t.Errorf("the handshake took the responder %d X25519 operations, want 3", n)
	}
}

func TestXKCopiesArguments(t *testing.T) {
	prologue := bytes.Clone(testPrologue)
	i := NewXKInitiator(prologue, pair(1), pair(2), pair(3).Public)
	r := NewXKResponder(prologue, pair(3))
	clear(prologue)
	payload := []byte("hello")
	m1 := get(t)(i.WriteMessage1(payload))
	got := get(t)(r.ReadMessage1(m1))
	clear(payload)
	clear(m1)
	clear(got)
	// Force both to rebuild their states.
	i.drop()
	r.drop()
	finishXK(t, i, r)
}

// A handshake that receives damaged and stale messages in any order still succeeds
// once it receives the authentic ones.
//
// Shows R5.27.
func TestXKAnyMessageOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		i, r := xkPair()
		payload := rapid.SliceOfN(rapid.Byte(), 0, 1300).Draw(rt, "payload")
		m1 := get(rt)(i.WriteMessage1(payload))
		noise := func(read func([]byte) error, good []byte) {
			for range rapid.IntRange(0, 4).Draw(rt, "faults") {
				bad := bytes.Clone(good)
				n := rapid.IntRange(0, len(bad)-1).Draw(rt, "at")
				bad[n] ^= rapid.ByteRange(1, 255).Draw(rt, "by")
				if read(bad) == nil {
					rt.Fatalf("damaged message was read")
				}
			}
		}
		noise(func(b []byte) error { _, err := r.ReadMessage1(b); return err }, m1)
		if got := get(rt)(r.ReadMessage1(m1)); !bytes.Equal(got, payload) {
			rt.Fatalf("payload %x, want %x", got, payload)
		}
		noise(func(b []byte) error { _, err := r.ReadMessage1(b); return err }, m1)
		m2 := get(rt)(r.WriteMessage2(pair(4), nil))
		noise(func(b []byte) error { _, err := i.ReadMessage2(b); return err }, m2)
		get(rt)(i.ReadMessage2(m2))
		m3, mine, err := i.WriteMessage3(&testPSK)
		if err != nil {
			rt.Fatal(err)
		}
		noise(func(b []byte) error { _, _, err := r.ReadMessage3(&testPSK, b); return err }, m3)
		_, theirs, err := r.ReadMessage3(&testPSK, m3)
		if err != nil || *mine != *theirs {
			rt.Fatalf("no agreement: %v", err)
		}
	})
}

func TestEphemeralInMessage1(t *testing.T) {
	i, _ := xkPair()
	m1 := get(t)(i.WriteMessage1(nil))
	if e, ok := EphemeralInMessage1(m1); !ok || e != pair(2).Public {
		t.Errorf("got %x, %v", e, ok)
	}
	for n := range len(m1) {
		if e, ok := EphemeralInMessage1(m1[:n]); ok || e != [32]byte{} {
			t.Errorf("%d bytes: got %x, %v", n, e, ok)
		}
	}
}
