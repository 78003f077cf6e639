package wire

import (
	"bytes"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestControlRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := [PingDataSize]byte(rapid.SliceOfN(rapid.Byte(), PingDataSize, PingDataSize).Draw(t, "data"))
		ping := Ping{data}
		size := rapid.IntRange(0, MaxUDPPacket).Draw(t, "size")
		p := Finish(Pad(ping.Append(Begin(nil, 1, LevelTransport, 0, TypePing)), 0, size))
		if len(p) != max(size, MinPingPacket) {
			t.Fatalf("a Ping padded to %d has %d bytes", size, len(p))
		}
		if got, err := ParsePing(Body(p)[PrefixSize:]); err != nil || got != ping {
			t.Fatalf("%+v, %v; want %+v", got, err, ping)
		}
		pong := Pong{data}
		content := pong.Append(nil)
		if got, err := ParsePong(content); err != nil || got != pong {
			t.Fatalf("%+v, %v; want %+v", got, err, pong)
		}
		if len(content)+Overhead >= MinPingPacket {
			t.Fatal("the answer is as long as the question")
		}
		closing := Close{CloseReason(rapid.Uint8().Draw(t, "reason")), drawDetail(t)}
		if got, err := ParseClose(closing.Append(nil)); err != nil || got.Reason != closing.Reason || !bytes.Equal(got.Detail, closing.Detail) {
			t.Fatalf("%+v, %v; want %+v", got, err, closing)
		}
		poll := Poll{rapid.Uint16().Draw(t, "wait")}
		if got, err := ParsePoll(poll.Append(nil)); err != nil || got != poll {
			t.Fatalf("%+v, %v; want %+v", got, err, poll)
		}
	})
}

func TestCloseReasonString(t *testing.T) {
	checkWords(t, 0, 3, "reason ", func(i uint8) string { return CloseReason(i).String() })
}

func FuzzPing(f *testing.F)  { fuzz(f, "Ping") }
func FuzzPong(f *testing.F)  { fuzz(f, "Pong") }
func FuzzClose(f *testing.F) { fuzz(f, "Close") }
func FuzzPoll(f *testing.F)  { fuzz(f, "Poll") }

func TestFinalAckRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := FinalAck{
			rapid.Uint32().Draw(t, "ttl"), rapid.Uint32().Draw(t, "rekey"),
			rapid.Uint16().Draw(t, "datagram"), AckFlags(rapid.Uint16().Draw(t, "flags")),
		}
		content := m.Append(nil)
		if got, err := ParseFinalAck(content); err != nil || got != m {
			t.Fatalf("%+v, %v; want %+v", got, err, m)
		}
		// The two layouts of Ack have different sizes.
		if _, err := ParseAck(content); err == nil {
			t.Fatal("taken as a hello's Ack")
		}
	})
}

func FuzzFinalAck(f *testing.F) { fuzz(f, "FinalAck") }

func drawDetail(t *rapid.T) Detail {
	s := rapid.String().Draw(t, "detail")
	for len(s) > MaxDetail {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return Detail(strings.ToValidUTF8(s, ""))
}

// The receiver accepts every text that Append encodes.
//
// Shows R2.3.
func TestEveryDetailIsAccepted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := Detail(rapid.SliceOfN(rapid.Byte(), 0, 400).Draw(t, "bytes"))
		sent := d.append(nil)
		got, err := parseDetail(sent, 0)
		if err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("%q is sent as %q: %v", []byte(d), sent, err)
		}
		if utf8.Valid(d) && len(d) <= MaxDetail && !bytes.Equal(sent, d) {
			t.Fatalf("%q is sent as %q", []byte(d), sent)
		}
	})
}

// Shows R2.3.
func TestDetailIsTruncatedAtCharacter(t *testing.T) {
	for text, want := range map[string]int{
		strings.Repeat("a", 121):      120,
		strings.Repeat("é", 61):       120,
		strings.Repeat("名", 41):       120,
		"a" + strings.Repeat("名", 41): 118,
		strings.Repeat("🌍", 31):       120,
		"":                            0,
	} {
		sent := Detail(text).append(nil)
		if len(sent) != want || !strings.HasPrefix(text, string(sent)) {
			t.Errorf("%q: %d bytes sent, want %d", text, len(sent), want)
		}
	}
}

func TestDetailStringHasNoControlCharacters(t *testing.T) {
	for in, want := range map[string]string{
		"plain text, 41 s": "plain text, 41 s",
		"größer 名":         "größer 名",
		"\x1b[2J\n":        "\uFFFD[2J\uFFFD",
		"a\u202Eb\u200B":   "a\uFFFDb\uFFFD",
		"\xff":             "\uFFFD",
	} {
		if got := Detail(in).String(); got != want {
			t.Errorf("%q prints as %q, want %q", in, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		for _, r := range Detail(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")).String() {
			if !unicode.IsPrint(r) && r != utf8.RuneError {
				t.Fatalf("%U is printed", r)
			}
		}
	})
}

func TestSubsessionRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		generation := rapid.Uint32().Draw(t, "generation")
		idx := rapid.Uint32Min(1).Draw(t, "idx")
		noise := rapid.SliceOfN(rapid.Byte(), 1232, 1232).Draw(t, "noise")

		kk1 := SubsessionKK1{generation, noise}
		if got, err := ParseSubsessionKK1(kk1.Append(nil)); err != nil || got.Generation != generation || !bytes.Equal(got.Noise, noise) {
			t.Fatalf("%+v, %v; want %+v", got, err, kk1)
		}
		noise = noise[:1136]
		kk2 := SubsessionKK2{generation, idx, noise}
		if got, err := ParseSubsessionKK2(kk2.Append(nil)); err != nil || got.Generation != generation || got.NewReceiverIdx != idx || !bytes.Equal(got.Noise, noise) {
			t.Fatalf("%+v, %v; want %+v", got, err, kk2)
		}
		ready := SubsessionReady{generation}
		if got, err := ParseSubsessionReady(ready.Append(nil)); err != nil || got != ready {
			t.Fatalf("%+v, %v; want %+v", got, err, ready)
		}
		abort := SubsessionAbort{generation, AbortReason(rapid.Uint8().Draw(t, "reason")), idx}
		if got, err := ParseSubsessionAbort(abort.Append(nil)); err != nil || got != abort {
			t.Fatalf("%+v, %v; want %+v", got, err, abort)
		}
	})
}

func TestSubsessionSizes(t *testing.T) {
	for n := range MaxHandshakeMessage {
		message := bytes.Repeat([]byte{1}, n)
		if _, err := ParseSubsessionKK1(message); (err == nil) != (n == 1236) {
			t.Errorf("KK1 of %d bytes: %v", n, err)
		}
		if _, err := ParseSubsessionKK2(message); (err == nil) != (n == 1144) {
			t.Errorf("KK2 of %d bytes: %v", n, err)
		}
	}
}

func TestAbortReasonString(t *testing.T) {
	checkWords(t, 1, 2, "reason ", func(i uint8) string { return AbortReason(i).String() })
}

func FuzzSubsessionRequest(f *testing.F) { fuzz(f, "SubsessionRequest") }
func FuzzSubsessionKK1(f *testing.F)     { fuzz(f, "SubsessionKK1") }
func FuzzSubsessionKK2(f *testing.F)     { fuzz(f, "SubsessionKK2") }
func FuzzSubsessionReady(f *testing.F)   { fuzz(f, "SubsessionReady") }
func FuzzSubsessionAbort(f *testing.F)   { fuzz(f, "SubsessionAbort") }
