package wire

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

func array16(t *rapid.T, label string) [16]byte {
	return [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, label))
}

func array32(t *rapid.T, label string) [32]byte {
	return [32]byte(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, label))
}

func drawHello(t *rapid.T) ClientHello {
	m := ClientHello{
		Attempt:   rapid.Uint32Min(1).Draw(t, "idx"),
		Salt:      array32(t, "salt"),
		AEADOffer: rapid.Uint8().Draw(t, "aead"),
		KEM:       rapid.Uint8().Draw(t, "kem"),
		KEMKeyID:  rapid.Uint32().Draw(t, "key id"),
		HasCookie: rapid.Bool().Draw(t, "has cookie"),
	}
	if m.HasCookie {
		m.Cookie = array16(t, "cookie")
	}
	return m
}

func TestClientHelloRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawHello(t)
		content := m.Append(nil)
		padding := rapid.IntRange(0, 1000).Draw(t, "padding")
		got, err := ParseClientHello(append(content, make([]byte, padding)...))
		if err != nil || got != m {
			t.Fatalf("%+v, %v; want %+v", got, err, m)
		}
		if hello := m.Hello(); !bytes.Equal(hello[:], content[:HelloSize]) {
			t.Fatalf("Hello is not the first %d bytes", HelloSize)
		}
	})
}

// Padded hellos with and without cookie have the minimum size.
func TestClientHelloPadded(t *testing.T) {
	for _, m := range []ClientHello{{Attempt: 1}, {Attempt: 1, HasCookie: true}} {
		p := Finish(Pad(m.Append(Begin(nil, 0, LevelClear, 0, TypeClientHello)), 0, MinHelloDatagram))
		if len(p) != MinHelloDatagram {
			t.Errorf("%d bytes", len(p))
		}
		_, content, err := ParseBody(Body(p))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseClientHello(content); err != nil || got != m {
			t.Errorf("%+v, %v", got, err)
		}
		for i := len(m.Append(nil)); i < len(content); i++ {
			content[i] = 1
			if _, err := ParseClientHello(content); err != ErrPadding {
				t.Fatalf("byte %d of %d set: %v", i, len(content), err)
			}
			content[i] = 0
		}
	}
}

func TestSalt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seconds, hash := rapid.Uint64().Draw(t, "seconds"), array32(t, "hash")
		m := ClientHello{Salt: NewSalt(seconds, &hash)}
		if m.Seconds() != seconds || !bytes.Equal(m.Salt[8:], hash[:24]) {
			t.Fatalf("%d, %x", m.Seconds(), m.Salt[8:])
		}
	})
}

func TestHelloAnswersRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ack := Ack{rapid.Uint8().Draw(t, "aead"), rapid.Uint8().Draw(t, "kem"), array16(t, "nonce"), rapid.Uint32Min(1).Draw(t, "index")}
		if got, err := ParseAck(ack.Append(nil)); err != nil || got != ack {
			t.Fatalf("%+v, %v; want %+v", got, err, ack)
		}
		busy := Busy{RetryAfterMillis: rapid.Uint32().Draw(t, "retry"), HasCookie: rapid.Bool().Draw(t, "has cookie")}
		if busy.HasCookie {
			busy.Cookie = array16(t, "cookie")
		}
		if got, err := ParseBusy(busy.Append(nil)); err != nil || got != busy {
			t.Fatalf("%+v, %v; want %+v", got, err, busy)
		}
		reject := Reject{RejectCode(rapid.Uint8().Draw(t, "code")), rapid.Uint64().Draw(t, "seconds"), drawDetail(t)}
		got, err := ParseReject(reject.Append(nil))
		if err != nil || got.Code != reject.Code || got.GatewaySeconds != reject.GatewaySeconds || !bytes.Equal(got.Detail, reject.Detail) {
			t.Fatalf("%+v, %v; want %+v", got, err, reject)
		}
	})
}

func TestKKTFramePadding(t *testing.T) {
	content := make([]byte, MinHelloDatagram-Overhead)
	for i := range KKTRequestSize {
		content[i] = 0xAA
	}
	frame, err := KKTFrame(content)
	if err != nil || !bytes.Equal(frame, content[:KKTRequestSize]) {
		t.Fatalf("%x, %v", frame, err)
	}
	for i := KKTRequestSize; i < len(content); i++ {
		content[i] = 0x80
		if _, err := KKTFrame(content); err != ErrPadding {
			t.Fatalf("byte %d set: %v", i, err)
		}
		content[i] = 0
	}
}

func TestRejectCodeString(t *testing.T) {
	checkWords(t, 1, 6, "code ", func(i uint8) string { return RejectCode(i).String() })
}

// checkWords checks that the codes from first to last have distinct texts, and
// other codes their number.
func checkWords(t *testing.T, first, last uint8, prefix string, word func(uint8) string) {
	t.Helper()
	seen := make(map[string]bool)
	for i := range uint8(255) {
		w := word(i)
		known := first <= i && i <= last
		if known == (len(w) > len(prefix) && w[:len(prefix)] == prefix) {
			t.Errorf("%d is %q", i, w)
		}
		if seen[w] {
			t.Errorf("two codes are %q", w)
		}
		seen[w] = true
	}
}

func BenchmarkParseClientHello(b *testing.B) {
	content := make([]byte, MinHelloDatagram-Overhead)
	(&ClientHello{Attempt: 1, HasCookie: true}).Append(content[:0])
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseClientHello(content); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzClientHello(f *testing.F) { fuzz(f, "ClientHello") }
func FuzzKKTRequest(f *testing.F)  { fuzz(f, "KKTRequest") }
func FuzzAck(f *testing.F)         { fuzz(f, "Ack") }
func FuzzBusy(f *testing.F)        { fuzz(f, "Busy") }
func FuzzHeld(f *testing.F)        { fuzz(f, "Held") }
func FuzzReject(f *testing.F)      { fuzz(f, "Reject") }
