package noise

import (
	"bytes"
	"testing"
)

// FuzzReadMessage passes arbitrary bytes to every reading method. Each must accept
// only the authentic message, before and after.
func FuzzReadMessage(f *testing.F) {
	xi, xr := xkPair()
	m1, err := xi.WriteMessage1([]byte("payload"))
	if err != nil {
		f.Fatal(err)
	}
	if _, err := xr.ReadMessage1(m1); err != nil {
		f.Fatal(err)
	}
	m2, err := xr.WriteMessage2(pair(4), nil)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := xi.ReadMessage2(m2); err != nil {
		f.Fatal(err)
	}
	m3, _, err := xi.WriteMessage3(&testPSK)
	if err != nil {
		f.Fatal(err)
	}
	ki, kr := kkPair()
	k1, err := ki.WriteMessage1([]byte("payload"))
	if err != nil {
		f.Fatal(err)
	}
	if _, err := kr.ReadMessage1(k1); err != nil {
		f.Fatal(err)
	}
	k2, _, err := kr.WriteMessage2(pair(4), nil)
	if err != nil {
		f.Fatal(err)
	}
	for _, m := range [][]byte{m1, m2, m3, k1, k2, nil, m1[:47], append(bytes.Clone(m3), 0), make([]byte, 64)} {
		f.Add(m)
	}

	f.Fuzz(func(t *testing.T, msg []byte) {
		xi, xr := xkPair()
		ki, kr := kkPair()
		get(t)(xi.WriteMessage1([]byte("payload")))
		get(t)(ki.WriteMessage1([]byte("payload")))

		check := func(name string, good []byte, read func([]byte) ([]byte, error)) {
			t.Helper()
			p, err := read(msg)
			if (err == nil) != bytes.Equal(msg, good) {
				t.Fatalf("%s: %x gave %x, %v", name, msg, p, err)
			}
			if err == nil {
				return
			}
			if p != nil {
				t.Fatalf("%s: %x gave an error and %x", name, msg, p)
			}
			get(t)(read(good))
		}
		check("message 1 of XK", m1, xr.ReadMessage1)
		get(t)(xr.WriteMessage2(pair(4), nil))
		check("message 2 of XK", m2, xi.ReadMessage2)
		check("message 3 of XK", m3, func(b []byte) ([]byte, error) {
			_, _, err := xr.ReadMessage3(&testPSK, b)
			return nil, err
		})
		check("message 1 of KK", k1, kr.ReadMessage1)
		check("message 2 of KK", k2, func(b []byte) ([]byte, error) {
			p, _, err := ki.ReadMessage2(b)
			return p, err
		})
	})
}

// FuzzDH compares X25519 with the standard library.
func FuzzDH(f *testing.F) {
	private := pair(1).Private
	for _, p := range lowOrder() {
		f.Add(private[:], p[:])
	}
	f.Fuzz(func(t *testing.T, private, public []byte) {
		if len(private) != KeySize || len(public) != KeySize {
			return
		}
		got, err := DH((*[KeySize]byte)(private), (*[KeySize]byte)(public))
		want := standardDH(t, [KeySize]byte(private), [KeySize]byte(public))
		if (err != nil) != (want == nil) || want != nil && !bytes.Equal(got[:], want) {
			t.Fatalf("got %x, %v; the standard library %x", got, err, want)
		}
	})
}
