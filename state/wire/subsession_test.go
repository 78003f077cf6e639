package wire

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

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

// The sizes that section 7 says, and no others.
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
