package noise

import (
	"bytes"
	"errors"
	"testing"
)

func kkPair() (*KKInitiator, *KKResponder) {
	return NewKKInitiator(testPrologue, pair(1), pair(2), pair(3).Public, &testPSK),
		NewKKResponder(testPrologue, pair(3), pair(1).Public, &testPSK)
}

// Shows R5.27.
func TestKKSurvivesDamagedMessages(t *testing.T) {
	i, r := kkPair()
	m1 := get(t)(i.WriteMessage1([]byte("kem key")))
	for _, bad := range damaged(m1) {
		if p, err := r.ReadMessage1(bad); err == nil || p != nil {
			t.Fatalf("message 1 %x: read %x, %v", bad, p, err)
		}
	}
	if p := get(t)(r.ReadMessage1(m1)); string(p) != "kem key" {
		t.Fatalf("payload of message 1 is %q", p)
	}
	for _, bad := range damaged(m1) {
		if _, err := r.ReadMessage1(bad); err == nil {
			t.Fatalf("message 1 %x was read after the good one", bad)
		}
	}
	m2, theirs, err := r.WriteMessage2(pair(4), []byte("ciphertext"))
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range damaged(m2) {
		if p, s, err := i.ReadMessage2(bad); err == nil || p != nil || s != nil {
			t.Fatalf("message 2 %x was read", bad)
		}
	}
	p, mine, err := i.ReadMessage2(m2)
	if err != nil || string(p) != "ciphertext" {
		t.Fatalf("payload of message 2 is %q, %v", p, err)
	}
	if *mine != *theirs || mine.InitiatorToResponder == mine.ResponderToInitiator {
		t.Error("the two sides ended with different keys, or one key for both ways")
	}
}

func TestKKRejectsOtherKeys(t *testing.T) {
	otherPSK := [32]byte{9}
	i, _ := kkPair()
	m1 := get(t)(i.WriteMessage1(nil))
	for name, r := range map[string]*KKResponder{
		"another preshared key": NewKKResponder(testPrologue, pair(3), pair(1).Public, &otherPSK),
		"another client":        NewKKResponder(testPrologue, pair(3), pair(9).Public, &testPSK),
		"another gateway":       NewKKResponder(testPrologue, pair(9), pair(1).Public, &testPSK),
		"another prologue":      NewKKResponder(nil, pair(3), pair(1).Public, &testPSK),
	} {
		if _, err := r.ReadMessage1(m1); !errors.Is(err, ErrOpen) {
			t.Errorf("%s: got %v, want ErrOpen", name, err)
		}
	}
	weak := NewKKResponder(testPrologue, pair(3), [32]byte{1}, &testPSK)
	if _, err := weak.ReadMessage1(m1); !errors.Is(err, ErrLowOrder) {
		t.Errorf("a peer's key of low order: got %v, want ErrLowOrder", err)
	}
}

func TestKKStepOrder(t *testing.T) {
	i, r := kkPair()
	if _, _, err := i.ReadMessage2(make([]byte, 48)); !errors.Is(err, ErrOrder) {
		t.Errorf("message 2 before message 1: got %v", err)
	}
	if _, _, err := r.WriteMessage2(pair(4), nil); !errors.Is(err, ErrOrder) {
		t.Errorf("message 2 before message 1: got %v", err)
	}
	m1 := get(t)(i.WriteMessage1(nil))
	if _, err := i.WriteMessage1(nil); !errors.Is(err, ErrOrder) {
		t.Errorf("message 1 twice: got %v", err)
	}
	get(t)(r.ReadMessage1(m1))
	m2, _, err := r.WriteMessage2(pair(4), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadMessage1(m1); !errors.Is(err, ErrOrder) {
		t.Errorf("message 1 after the end: got %v", err)
	}
	if _, _, err := r.WriteMessage2(pair(4), nil); !errors.Is(err, ErrOrder) {
		t.Errorf("message 2 twice: got %v", err)
	}
	if _, _, err := i.ReadMessage2(m2); err != nil {
		t.Fatal(err)
	}
	if _, _, err := i.ReadMessage2(m2); !errors.Is(err, ErrOrder) {
		t.Errorf("message 2 after the end: got %v", err)
	}
	i, r = kkPair()
	i.Wipe()
	r.Wipe()
	if _, err := i.WriteMessage1(nil); !errors.Is(err, ErrOrder) {
		t.Errorf("wiped: got %v", err)
	}
	if _, err := r.ReadMessage1(m1); !errors.Is(err, ErrOrder) {
		t.Errorf("wiped: got %v", err)
	}
}

// The protocol retransmits messages unchanged, so the same keys must give the same
// message.
func TestKKIsDeterministic(t *testing.T) {
	i, r := kkPair()
	j, s := kkPair()
	m1 := get(t)(i.WriteMessage1([]byte("a")))
	if again := get(t)(j.WriteMessage1([]byte("a"))); !bytes.Equal(m1, again) {
		t.Error("message 1 differs")
	}
	get(t)(r.ReadMessage1(m1))
	get(t)(s.ReadMessage1(m1))
	m2, split, err := r.WriteMessage2(pair(4), []byte("b"))
	if err != nil {
		t.Fatal(err)
	}
	again, other, err := s.WriteMessage2(pair(4), []byte("b"))
	if err != nil || !bytes.Equal(m2, again) || *split != *other {
		t.Errorf("message 2 or its keys differ: %v", err)
	}
}
