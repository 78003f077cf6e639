package kkt

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"lewes/crypto/identity"
	"lewes/crypto/kdf"
	"lewes/crypto/kem"
)

var (
	testGateway = identity.FromSeed(&[32]byte{1})
	testSession = SessionID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	supported   = []kem.ID{kem.MLKEM768, kem.XWing, kem.X25519}
)

// testKey has the length of a key; KKT does not check its contents.
func testKey(id kem.ID) []byte { return bytes.Repeat([]byte{0x5a}, id.PublicKeySize()) }

// Shows R4.23.
func TestRequestLayout(t *testing.T) {
	got := AppendRequest([]byte("before"), kem.MLKEM768, testSession)
	want := append([]byte("before\x10\x02\x01\x00\x00\x00\x00"), testSession[:]...)
	if !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
	if len(got) != len("before")+requestSize {
		t.Errorf("%d bytes", len(got))
	}
}

func TestRequestRoundTrip(t *testing.T) {
	for _, id := range supported {
		gotID, session, err := ParseRequest(AppendRequest(nil, id, testSession))
		if err != nil || gotID != id || session != testSession {
			t.Errorf("%v: got %v, %x, %v", id, gotID, session, err)
		}
	}
	_, _, err := ParseRequest(AppendRequest(nil, kem.McEliece, testSession))
	wantError(t, "Classic McEliece", err, kem.ErrUnsupported)
}

// Shows R4.23.
func TestParseRequestRejectsOtherContexts(t *testing.T) {
	for name, c := range map[string]struct {
		at   int
		to   byte
		want error
	}{
		"version 0":       {0, 0x00, ErrVersion},
		"version 2":       {0, 0x20, ErrVersion},
		"sequence 1":      {0, 0x11, ErrContext},
		"status 1":        {1, 0x22, ErrStatus},
		"status 7":        {1, 0xe2, ErrStatus},
		"signed":          {1, 0x00, ErrContext},
		"responder":       {1, 0x01, ErrContext},
		"mutual":          {1, 0x06, ErrContext},
		"no KEM":          {2, 3, ErrSuite},
		"SHAKE256":        {3, 1, ErrSuite},
		"hash length 16":  {4, 16, ErrSuite},
		"hash length 32":  {4, 32, ErrSuite},
		"a second scheme": {5, 1, ErrSuite},
		"reserved byte":   {6, 1, ErrContext},
	} {
		t.Run(name, func(t *testing.T) {
			frame := AppendRequest(nil, kem.MLKEM768, testSession)
			frame[c.at] = c.to
			_, _, err := ParseRequest(frame)
			wantError(t, name, err, c.want)
		})
	}
	frame := AppendRequest(nil, kem.MLKEM768, testSession)
	for n := range frame {
		_, _, err := ParseRequest(frame[:n])
		wantError(t, "cut short", err, ErrSize)
	}
	_, _, err := ParseRequest(append(frame, 0))
	wantError(t, "with padding", err, ErrSize)
}

func TestResponseRoundTrip(t *testing.T) {
	for _, id := range supported {
		t.Run(id.String(), func(t *testing.T) {
			pk := testKey(id)
			frame := AppendResponse([]byte("before"), id, pk, testSession, testGateway)[len("before"):]
			if len(frame) != responseSize(id) {
				t.Errorf("%d bytes, the size is %d", len(frame), responseSize(id))
			}
			got, err := VerifyResponse(frame, id, testSession, testGateway.Public())
			if err != nil || !bytes.Equal(got, pk) {
				t.Fatalf("got %x, %v", got, err)
			}
			if &got[0] != &frame[contextSize] || cap(got) != len(got) {
				t.Error("the key does not alias the frame, or reaches beyond itself")
			}
			for _, other := range supported {
				if other != id {
					_, err := VerifyResponse(frame, other, testSession, testGateway.Public())
					wantError(t, "asked for "+other.String(), err, ErrSuite)
				}
			}
			_, err = VerifyResponse(frame, id, SessionID{}, testGateway.Public())
			wantError(t, "another hello", err, ErrSession)
			_, err = VerifyResponse(frame, id, testSession, identity.FromSeed(&[32]byte{2}).Public())
			wantError(t, "another gateway", err, ErrSignature)
			_, err = VerifyResponse(frame, id, testSession, identity.PublicKey{})
			wantError(t, "no gateway", err, ErrSignature)
		})
	}
	_, err := VerifyResponse(nil, kem.McEliece, testSession, testGateway.Public())
	wantError(t, "nothing", err, ErrSize)
	if n := responseSize(kem.McEliece); n != 0 {
		t.Errorf("the size for Classic McEliece is %d", n)
	}
}

// Shows R4.27.
func TestVerifyResponseRejectsAnyChange(t *testing.T) {
	frame := AppendResponse(nil, kem.X25519, testKey(kem.X25519), testSession, testGateway)
	for n := range frame {
		for bit := range 8 {
			bad := bytes.Clone(frame)
			bad[n] ^= 1 << bit
			if pk, err := VerifyResponse(bad, kem.X25519, testSession, testGateway.Public()); err == nil || pk != nil {
				t.Fatalf("bit %d of byte %d changed: got %x, %v", bit, n, pk, err)
			}
		}
		_, err := VerifyResponse(frame[:n], kem.X25519, testSession, testGateway.Public())
		wantError(t, "cut short", err, ErrSize)
	}
	_, err := VerifyResponse(append(frame, 0), kem.X25519, testSession, testGateway.Public())
	wantError(t, "with padding", err, ErrSize)
}

// Shows R4.27.
func TestStatusNeedsSignature(t *testing.T) {
	c := requestContext(kem.MLKEM768).answer()
	for s := StatusBadRequest; s <= StatusTimeout; s++ {
		c.status = s
		frame := appendFrame(nil, c, nil, testSession, testGateway)
		_, err := VerifyResponse(frame, kem.MLKEM768, testSession, testGateway.Public())
		var status *StatusError
		if !errors.Is(err, ErrStatus) || !errors.As(err, &status) || status.Status != s {
			t.Errorf("status %d: got %v", s, err)
		}
		if err != nil && !strings.Contains(err.Error(), s.String()) {
			t.Errorf("the error lacks the status: %v", err)
		}
		frame[len(frame)-1] ^= 1
		_, err = VerifyResponse(frame, kem.MLKEM768, testSession, testGateway.Public())
		wantError(t, "badly signed", err, ErrSignature)
		if errors.Is(err, ErrStatus) {
			t.Errorf("status %d: accepted without a signature", s)
		}
	}
}

func TestAppendResponsePanicsOnWrongKeyLength(t *testing.T) {
	for name, f := range map[string]func(){
		"too short":        func() { AppendResponse(nil, kem.MLKEM768, make([]byte, 1183), testSession, testGateway) },
		"Classic McEliece": func() { AppendResponse(nil, kem.McEliece, nil, testSession, testGateway) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}

func TestContextHasOneEncoding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.OneOf(
			rapid.SliceOfN(rapid.Byte(), 0, 9),
			rapid.Custom(func(t *rapid.T) []byte { // close to a valid context
				return []byte{
					rapid.SampledFrom([]byte{0x10, 0x11, 0x1f, 0x00}).Draw(t, "version and sequence"),
					rapid.Byte().Draw(t, "status, mode and role"),
					rapid.SampledFrom([]byte{0, 1, 2, 3, 255}).Draw(t, "KEM"),
					rapid.ByteRange(0, 4).Draw(t, "hash"),
					rapid.SampledFrom([]byte{0, 15, 16, 32, 33, 255}).Draw(t, "hash length"),
					rapid.SampledFrom([]byte{0, 0, 0, 1}).Draw(t, "signature scheme"),
					rapid.SampledFrom([]byte{0, 0, 0, 1}).Draw(t, "reserved"),
				}
			}),
		).Draw(t, "context")
		c, err := parseContext(b)
		if err != nil {
			return
		}
		if got := c.append(nil); !bytes.Equal(got, b[:contextSize]) {
			t.Fatalf("%x became %+v and then %x", b, c, got)
		}
	})
}

// Shows R4.28.
func TestVerifyPin(t *testing.T) {
	pk := testKey(kem.MLKEM768)
	pin := keyHash(hashBLAKE3, 32, pk)
	if err := VerifyPin(pk, pin); err != nil {
		t.Error(err)
	}
	for name, bad := range map[string][]byte{
		"none": nil, "a prefix": pin[:16], "longer": append(bytes.Clone(pin), 0), "another": make([]byte, 32),
	} {
		wantError(t, name, VerifyPin(pk, bad), ErrPin)
	}
	wantError(t, "another key", VerifyPin(pk[1:], pin), ErrPin)
}

func TestStatusNames(t *testing.T) {
	for got, want := range map[string]string{
		StatusOK.String(): "ok", StatusTimeout.String(): "timeout", Status(9).String(): "status 9",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestAppendixA compares the frames with appendix A of PROTOCOL.md.
//
// Shows R4.25.
func TestAppendixA(t *testing.T) {
	gateway := identity.FromSeed((*[32]byte)(bytes.Repeat([]byte{0x11}, 32)))
	kp, err := kem.FromSeed(kem.MLKEM768, bytes.Repeat([]byte{0x33}, 64))
	if err != nil {
		t.Fatal(err)
	}
	same := func(what string, got []byte, want string) {
		t.Helper()
		if hex.EncodeToString(got) != want {
			t.Errorf("%s is %x, want %s", what, got, want)
		}
	}
	hello, err := hex.DecodeString("0403020100d2496b00000000ae7c35e07437e42466e5130c83f09586ed71c310e7c7f54603010000000000000000")
	if err != nil {
		t.Fatal(err)
	}
	hash := kdf.Hash(hello)
	session := SessionID(hash[:])
	same("request", AppendRequest(nil, kem.MLKEM768, session), "10020100000000e3c604d777de06c4ea9c58c25fc80121")
	response := AppendResponse(nil, kem.MLKEM768, kp.Public(), session, gateway)
	hash = kdf.Hash(response)
	same("HASH(KKT response)", hash[:], "269be9a329f37a7d0e1e276ede2cea8731ed76b29aa2797d01e833b158da9499")
	pin, err := hex.DecodeString("16712d2ae6adae8bd4644498b287e0fa7322a75e810ea87b9e9e8d3c0ea7a6cd")
	if err != nil {
		t.Fatal(err)
	}
	if err := VerifyPin(kp.Public(), pin); err != nil {
		t.Error(err)
	}
}

const requestSize = contextSize + sessionSize

// responseSize returns the length of a response, 0 if the KEM is unsupported.
func responseSize(id kem.ID) int {
	if !id.Supported() {
		return 0
	}
	return contextSize + id.PublicKeySize() + sessionSize + signatureSize
}
