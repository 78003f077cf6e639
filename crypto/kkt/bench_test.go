package kkt

import (
	"testing"

	"lewes/crypto/kem"
)

func BenchmarkAppendResponse(b *testing.B) {
	for _, id := range supported {
		b.Run(id.String(), func(b *testing.B) {
			pk := testKey(id)
			buf := make([]byte, 0, ResponseSize(id))
			b.ReportAllocs()
			for b.Loop() {
				AppendResponse(buf, id, pk, testSession, testGateway)
			}
		})
	}
}

func BenchmarkVerifyResponse(b *testing.B) {
	for _, id := range supported {
		b.Run(id.String(), func(b *testing.B) {
			frame := AppendResponse(nil, id, testKey(id), testSession, testGateway)
			gateway := testGateway.Public()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := VerifyResponse(frame, id, testSession, gateway); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkParseRequest(b *testing.B) {
	frame := AppendRequest(nil, kem.MLKEM768, testSession)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := ParseRequest(frame); err != nil {
			b.Fatal(err)
		}
	}
}
