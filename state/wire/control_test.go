package wire

import (
	"bytes"
	"testing"

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
