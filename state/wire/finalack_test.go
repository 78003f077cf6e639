package wire

import (
	"testing"

	"pgregory.net/rapid"
)

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
		// The two layouts of Ack cannot be taken for each other.
		if _, err := ParseAck(content); err == nil {
			t.Fatal("taken as a hello's Ack")
		}
	})
}

func FuzzFinalAck(f *testing.F) { fuzz(f, "FinalAck") }
