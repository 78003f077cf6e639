package noise

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"

	flynn "github.com/flynn/noise"
)

// secretsOf returns the secrets in a library state by field name.
func secretsOf(t *testing.T, s *flynn.HandshakeState) map[string][]byte {
	t.Helper()
	found := map[string][]byte{}
	for _, path := range []string{
		"ss.CipherState.k", "ss.ck", "ss.prevCK", "s.Private", "e.Private", "psk", "ss.CipherState.c.AEAD.key",
	} {
		v := reflect.ValueOf(s).Elem()
		for name := range strings.SplitSeq(path, ".") {
			for v.Kind() == reflect.Interface || v.Kind() == reflect.Pointer {
				v = v.Elem()
			}
			if v = v.FieldByName(name); !v.IsValid() {
				t.Fatalf("the library no longer has %s", path)
			}
		}
		found[path] = v.Bytes()
	}
	return found
}

func zero(b []byte) bool { return bytes.Equal(b, make([]byte, len(b))) }

func TestWipeErasesLibraryState(t *testing.T) {
	i, r := xkPair()
	m1 := get(t)(i.WriteMessage1(nil))
	get(t)(r.ReadMessage1(m1))
	m2 := get(t)(r.WriteMessage2(pair(4), nil))
	get(t)(i.ReadMessage2(m2))
	i.setPSK(&testPSK)

	held := secretsOf(t, i.state)
	for n, c := range i.suite.ciphers {
		held[fmt.Sprintf("cipher %d", n)] = reflect.ValueOf(c).FieldByName("AEAD").Elem().Elem().FieldByName("key").Bytes()
	}
	for n, e := range i.suite.memo.entries {
		if e != nil {
			held[fmt.Sprintf("secret %d", n)] = e.secret[:]
			held[fmt.Sprintf("private key %d", n)] = e.private[:]
		}
	}
	held["preshared key"] = i.psk[:]
	held["static key"] = i.suite.static.Private[:]
	held["ephemeral key"] = i.suite.ephemeral.Private[:]
	if len(held) < 10 {
		t.Fatalf("only %d secrets found", len(held))
	}
	for name, b := range held {
		if len(b) != 32 || zero(b) {
			t.Fatalf("%s is %x before Wipe: the test reads the wrong field", name, b)
		}
	}
	i.Wipe()
	for name, b := range held {
		if !zero(b) {
			t.Errorf("%s is left after the wipe", name)
		}
	}
}

// Shows R5.13.
func TestFinishedHandshakeIsErased(t *testing.T) {
	i, r := xkPair()
	m1 := get(t)(i.WriteMessage1(nil))
	get(t)(r.ReadMessage1(m1))
	state := r.state
	held := secretsOf(t, state)
	finishXK(t, i, r)
	for name, b := range held {
		if !zero(b) {
			t.Errorf("%s is left after the handshake", name)
		}
	}
	for name, b := range secretsOf(t, state) {
		if !zero(b) {
			t.Errorf("%s is left in the state after the handshake", name)
		}
	}
	if r.suite.static != (KeyPair{}) || i.suite.static != (KeyPair{}) || r.psk != [32]byte{} {
		t.Error("keys are left after the handshake")
	}
}

func TestFailureErasesState(t *testing.T) {
	i, r := xkPair()
	m1 := get(t)(i.WriteMessage1(nil))
	get(t)(r.ReadMessage1(m1))
	get(t)(r.WriteMessage2(pair(4), nil))
	held := secretsOf(t, i.state)
	if _, err := i.ReadMessage2(make([]byte, 10)); err == nil {
		t.Fatal("ten bytes were read")
	}
	for name, b := range held {
		if !zero(b) {
			t.Errorf("%s is left after a failure", name)
		}
	}
}
