package psq

import (
	"testing"

	"lewes/crypto/kem"
)

func benchEachKEM(b *testing.B, bench func(*testing.B, kem.ID)) {
	for _, id := range supported {
		b.Run(id.String(), func(b *testing.B) {
			b.ReportAllocs()
			bench(b, id)
		})
	}
}

// BenchmarkInitiate is an encapsulation, a signature and some hashing.
func BenchmarkInitiate(b *testing.B) {
	benchEachKEM(b, func(b *testing.B, id kem.ID) {
		pk := newExchange(b, id).kp.Public()
		randomness := random(3)
		for b.Loop() {
			if _, _, err := Initiate(id, pk, testSCtx, testClient, testNow, randomness); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkRespond is a decapsulation, a verification and some hashing.
func BenchmarkRespond(b *testing.B) {
	benchEachKEM(b, func(b *testing.B, id kem.ID) {
		x := newExchange(b, id)
		for b.Loop() {
			if _, err := Respond(x.kp, testSCtx, x.msg); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkRespondForged is the cost of a message with a wrong mac.
func BenchmarkRespondForged(b *testing.B) {
	benchEachKEM(b, func(b *testing.B, id kem.ID) {
		x := newExchange(b, id)
		x.msg[InitiatorMsgSize(id)-sealedSize(credentialSize)-1] ^= 1
		for b.Loop() {
			if _, err := Respond(x.kp, testSCtx, x.msg); err == nil {
				b.Fatal("a forged message was opened")
			}
		}
	})
}

func BenchmarkResponderMsg(b *testing.B) {
	s := newExchange(b, kem.X25519).secrets
	b.Run("append", func(b *testing.B) {
		buf := make([]byte, 0, ResponderMsgSize)
		b.ReportAllocs()
		for b.Loop() {
			s.AppendResponderMsg(buf)
		}
	})
	b.Run("open", func(b *testing.B) {
		msg := s.AppendResponderMsg(nil)
		b.ReportAllocs()
		for b.Loop() {
			if err := s.OpenResponderMsg(msg); err != nil {
				b.Fatal(err)
			}
		}
	})
}
