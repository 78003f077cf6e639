package kkt

import (
	"bytes"
	"testing"

	"lewes/crypto/identity"
	"lewes/crypto/kem"
)

// FuzzParseRequest checks that every accepted request equals the output of
// AppendRequest.
func FuzzParseRequest(f *testing.F) {
	for _, id := range append([]kem.ID{kem.McEliece, 3}, supported...) {
		f.Add(AppendRequest(nil, id, testSession))
	}
	f.Add(appendFrame(nil, context{kem: kem.X25519, hashLength: 32}, nil, testSession, testGateway))
	f.Add(AppendResponse(nil, kem.X25519, testKey(kem.X25519), testSession, testGateway))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		id, session, err := ParseRequest(b)
		if err != nil {
			if id != 0 || session != (SessionID{}) {
				t.Fatalf("%x: an error, and %v, %x", b, id, session)
			}
			return
		}
		if !id.Supported() {
			t.Fatalf("%x: a request for %v", b, id)
		}
		if again := AppendRequest(nil, id, session); !bytes.Equal(again, b) {
			t.Fatalf("%x was read as a request, which is %x", b, again)
		}
	})
}

// FuzzVerifyResponse checks the input as it is, and followed by the gateway's
// signature over it, which reaches the checks behind the signature.
func FuzzVerifyResponse(f *testing.F) {
	good := AppendResponse(nil, kem.X25519, testKey(kem.X25519), testSession, testGateway)
	f.Add(good[:len(good)-signatureSize])
	f.Add(good)
	c := requestContext(kem.X25519).answer()
	c.status = StatusInvalidKey
	f.Add(appendFrame(nil, c, nil, testSession, nil))
	f.Add(AppendRequest(nil, kem.X25519, testSession))
	f.Add(AppendResponse(nil, kem.MLKEM768, testKey(kem.MLKEM768), testSession, testGateway))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, id := range []kem.ID{kem.X25519, kem.MLKEM768, kem.McEliece} {
			if pk, err := VerifyResponse(b, id, testSession, identity.PublicKey{}); err == nil {
				t.Fatalf("%x: verified under no key, gave %x", b, pk)
			}
			signed := append(bytes.Clone(b), testGateway.Sign(b)...)
			pk, err := VerifyResponse(signed, id, testSession, testGateway.Public())
			if err != nil {
				if pk != nil {
					t.Fatalf("%x: an error, and %x", signed, pk)
				}
				continue
			}
			if again := AppendResponse(nil, id, pk, testSession, testGateway); !bytes.Equal(again, signed) {
				t.Fatalf("%x was read as a response, which is %x", signed, again)
			}
		}
	})
}

// FuzzParseFrame checks that appendFrame restores every parsed frame.
func FuzzParseFrame(f *testing.F) {
	f.Add(AppendRequest(nil, kem.X25519, testSession))
	f.Add(AppendResponse(nil, kem.X25519, testKey(kem.X25519), testSession, testGateway))
	f.Add(appendFrame(nil, context{mode: mutual, kem: kem.X25519, hash: hashSHAKE128, hashLength: 17}, testKey(kem.X25519), testSession, testGateway))
	f.Add([]byte{0x10, 0x02, 2, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, err := parseFrame(b)
		if err != nil {
			return
		}
		again := append(appendFrame(nil, fr.context, fr.body, fr.session, nil), fr.signature...)
		if !bytes.Equal(again, b) {
			t.Fatalf("%x was read as a frame, which is %x", b, again)
		}
	})
}

func BenchmarkAppendResponse(b *testing.B) {
	for _, id := range supported {
		b.Run(id.String(), func(b *testing.B) {
			pk := testKey(id)
			buf := make([]byte, 0, responseSize(id))
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
