package wire

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

func TestEncryptedDataRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := EncryptedData{
			FlowID: rapid.Uint16().Draw(t, "flow"),
			Flags: rapid.SampledFrom([]FlowFlags{0, FlagTarget, FlagTarget | FlagEndpointIndependent,
				FlagTarget | FlagReverse}).Draw(t, "flags"),
			Payload: rapid.SliceOfN(rapid.Byte(), 0, 1400).Draw(t, "payload"),
		}
		if m.Flags != 0 {
			m.Target = drawTarget(t)
		}
		content := m.Append(nil)
		got, err := ParseEncryptedData(content)
		if err != nil || got.FlowID != m.FlowID || got.Flags != m.Flags || !got.Target.Equal(&m.Target) || !bytes.Equal(got.Payload, m.Payload) {
			t.Fatalf("%+v, %v; want %+v", got, err, m)
		}
		if len(m.Payload) > 0 && &got.Payload[0] != &content[len(content)-len(m.Payload)] {
			t.Fatal("the payload was copied")
		}
	})
}

// Of the 256 values of flags, four are valid.
func TestFlowFlags(t *testing.T) {
	target := mustTarget("192.0.2.1:53")
	taken := 0
	for flags := range 256 {
		content := target.Append([]byte{1, 0, byte(flags)})
		switch _, err := ParseEncryptedData(content); err {
		case nil:
			taken++
		case ErrFlags:
		default:
			t.Errorf("flags %#x: %v", flags, err)
		}
		inner := Finish(Begin([]byte{1, 0, byte(flags)}, 1, LevelClear, 0, TypeHeld))
		if _, err := ParseForwardPacket(append(inner, make([]byte, 32)...)); (flags < 2) != (err == nil) || flags >= 2 && err != ErrFlags {
			t.Errorf("ForwardPacket with flags %#x: %v", flags, err)
		}
	}
	if taken != 4 {
		t.Errorf("%d values of flags are valid", taken)
	}
}

func TestForwardPacketRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := ForwardPacket{
			FlowID: rapid.Uint16().Draw(t, "flow"),
			Inner:  rapid.SliceOfN(rapid.Byte(), MinPacket, 1400).Draw(t, "inner"),
		}
		if rapid.Bool().Draw(t, "identity?") {
			m.Flags, m.Identity = FlagIdentity, array32(t, "identity")
		}
		content := m.Append(nil)
		got, err := ParseForwardPacket(content)
		if err != nil || got.FlowID != m.FlowID || got.Flags != m.Flags || got.Identity != m.Identity || !bytes.Equal(got.Inner, m.Inner) {
			t.Fatalf("%+v, %v; want %+v", got, err, m)
		}
		if &got.Inner[0] != &content[len(content)-len(m.Inner)] {
			t.Fatal("the inner packet was copied")
		}
	})
}

func TestFlowClosedRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := FlowClosed{rapid.Uint16().Draw(t, "flow"), FlowReason(rapid.Uint8().Draw(t, "reason")), drawDetail(t)}
		got, err := ParseFlowClosed(m.Append(nil))
		if err != nil || got.FlowID != m.FlowID || got.Reason != m.Reason || !bytes.Equal(got.Detail, m.Detail) {
			t.Fatalf("%+v, %v; want %+v", got, err, m)
		}
	})
}

func TestFlowReasonString(t *testing.T) {
	checkWords(t, 1, 10, "reason ", func(i uint8) string { return FlowReason(i).String() })
}

func FuzzEncryptedData(f *testing.F) { fuzz(f, "EncryptedData") }
func FuzzForwardPacket(f *testing.F) { fuzz(f, "ForwardPacket") }
func FuzzFlowClosed(f *testing.F)    { fuzz(f, "FlowClosed") }
