package noise

import (
	"crypto/ecdh"
	"testing"
)

func BenchmarkDH(b *testing.B) {
	private, public := pair(1).Private, pair(2).Public
	b.Run("circl", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := DH(&private, &public); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("std", func(b *testing.B) {
		priv, err := ecdh.X25519().NewPrivateKey(private[:])
		if err != nil {
			b.Fatal(err)
		}
		pub, err := ecdh.X25519().NewPublicKey(public[:])
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if _, err := priv.ECDH(pub); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkKeyPairFrom(b *testing.B) {
	private := pair(1).Private
	b.ReportAllocs()
	for b.Loop() {
		private = KeyPairFrom(private).Public
	}
}

// BenchmarkXK is a whole handshake with given key pairs: three X25519 operations
// per side.
func BenchmarkXK(b *testing.B) {
	client, ephemeral, gateway, answer := pair(1), pair(2), pair(3), pair(4)
	payload := make([]byte, 1265)
	b.ReportAllocs()
	for b.Loop() {
		i := NewXKInitiator(testPrologue, client, ephemeral, gateway.Public)
		r := NewXKResponder(testPrologue, gateway)
		m1 := get(b)(i.WriteMessage1(payload))
		get(b)(r.ReadMessage1(m1))
		m2 := get(b)(r.WriteMessage2(answer, payload[:33]))
		get(b)(i.ReadMessage2(m2))
		m3, _, err := i.WriteMessage3(&testPSK)
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := r.ReadMessage3(&testPSK, m3); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkXKResponder is the gateway's side alone.
func BenchmarkXKResponder(b *testing.B) {
	gateway, answer := pair(3), pair(4)
	payload := make([]byte, 1265)
	i, r := xkPair()
	m1 := get(b)(i.WriteMessage1(payload))
	get(b)(r.ReadMessage1(m1))
	get(b)(i.ReadMessage2(get(b)(r.WriteMessage2(answer, payload[:33]))))
	m3, _, err := i.WriteMessage3(&testPSK)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		r := NewXKResponder(testPrologue, gateway)
		get(b)(r.ReadMessage1(m1))
		get(b)(r.WriteMessage2(answer, payload[:33]))
		if _, _, err := r.ReadMessage3(&testPSK, m3); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkXKForgedMessage2 is the cost of a message that does not open: a rebuilt
// state and one X25519 operation.
func BenchmarkXKForgedMessage2(b *testing.B) {
	i, r := xkPair()
	get(b)(r.ReadMessage1(get(b)(i.WriteMessage1(make([]byte, 1265)))))
	m2 := get(b)(r.WriteMessage2(pair(4), make([]byte, 33)))
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		m2[8], m2[9], m2[10] = byte(n), byte(n>>8), byte(n>>16)
		m2[40] ^= 1
		if _, err := i.ReadMessage2(m2); err == nil {
			b.Fatal("a forged message was read")
		}
	}
}

// BenchmarkKK is a whole subsession handshake: four X25519 operations per side.
func BenchmarkKK(b *testing.B) {
	client, ephemeral, gateway, answer := pair(1), pair(2), pair(3), pair(4)
	kemKey, ciphertext := make([]byte, 1184), make([]byte, 1088)
	b.ReportAllocs()
	for b.Loop() {
		i := NewKKInitiator(testPrologue, client, ephemeral, gateway.Public, &testPSK)
		r := NewKKResponder(testPrologue, gateway, client.Public, &testPSK)
		get(b)(r.ReadMessage1(get(b)(i.WriteMessage1(kemKey))))
		m2, _, err := r.WriteMessage2(answer, ciphertext)
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := i.ReadMessage2(m2); err != nil {
			b.Fatal(err)
		}
	}
}
