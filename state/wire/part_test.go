package wire

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

func TestPartRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		count := rapid.Uint8Range(1, MaxParts).Draw(t, "count")
		m := Part{
			Index:     rapid.Uint8Range(0, count-1).Draw(t, "index"),
			Count:     count,
			MessageID: [4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "id")),
			Data:      rapid.SliceOfN(rapid.Byte(), 1, 1200).Draw(t, "data"),
		}
		content := m.Append(nil)
		if len(content) != PartHeaderSize+len(m.Data) {
			t.Fatalf("%d bytes for %d of data", len(content), len(m.Data))
		}
		got, err := ParsePart(content)
		if err != nil || got.Index != m.Index || got.Count != m.Count || got.MessageID != m.MessageID || !bytes.Equal(got.Data, m.Data) {
			t.Fatalf("%+v, %v; want %+v", got, err, m)
		}
	})
}

// Shows R1.14.
func TestPartByte(t *testing.T) {
	for b := range 256 {
		index, count := b>>4, b&15
		_, err := ParsePart([]byte{byte(b), 1, 2, 3, 4, 5})
		if ok := count >= 1 && count <= 4 && index < count; ok != (err == nil) || !ok && err != ErrPart {
			t.Errorf("index %d of %d: %v", index, count, err)
		}
	}
}

func TestPartBounds(t *testing.T) {
	largest := Part{0, 1, [4]byte{}, make([]byte, MaxRegisterMessage)}
	if _, err := ParsePart(largest.Append(nil)); err != nil {
		t.Errorf("a whole message over TCP: %v", err)
	}
}

func FuzzPart(f *testing.F) { fuzz(f, "Part") }
