package parts

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"lewes/state/wire"
)

// pattern is a message of n bytes in which every part looks different.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>8)*31 + byte(i)
	}
	return b
}

// Shows R1.12, R1.13.
func TestSplitSizes(t *testing.T) {
	for _, c := range []struct {
		message, most int
		want          []int
	}{
		{1, MaxData, []int{1}},
		{MaxData, MaxData, []int{MaxData}},
		{MaxData + 1, MaxData, []int{521, 521}},
		{1271, MaxData, []int{636, 635}}, // KKTResponse, ML-KEM-768
		{1303, MaxData, []int{652, 651}}, // KKTResponse, X-Wing
		{1313, MaxData, []int{657, 656}}, // Handshake 1, ML-KEM-768
		{1236, MaxData, []int{618, 618}}, // KK1
		{1144, MaxData, []int{572, 572}}, // KK2
		{4 * MaxData, MaxData, []int{MaxData, MaxData, MaxData, MaxData}},
		{10, 3, []int{3, 3, 3, 1}},
		{9, 4, []int{3, 3, 3}},
		{1313, wire.MaxTCPPacket, []int{1313}},
	} {
		message := pattern(c.message)
		got := Split(message, c.most)
		if len(got) != len(c.want) {
			t.Errorf("%d bytes by %d: %d parts, want %d", c.message, c.most, len(got), len(c.want))
			continue
		}
		for i, p := range got {
			if len(p.Data) != c.want[i] || int(p.Index) != i || int(p.Count) != len(c.want) || p.MessageID != ID(message) {
				t.Errorf("%d bytes by %d: part %d is %d of %d with %d bytes, want %d bytes", c.message, c.most, i, p.Index, p.Count, len(p.Data), c.want[i])
			}
		}
		if &got[0].Data[0] != &message[0] {
			t.Errorf("%d bytes by %d: the parts do not alias the message", c.message, c.most)
		}
	}
}

// Shows R1.22.
func TestPartFillsADatagram(t *testing.T) {
	p := Split(pattern(MaxData), MaxData)
	packet := wire.Finish(p[0].Append(wire.Begin(nil, 1, wire.LevelClear, 0, wire.TypeHandshake)))
	if len(packet) != wire.MaxHandshakeDatagram {
		t.Errorf("the fullest part makes a packet of %d bytes, want %d", len(packet), wire.MaxHandshakeDatagram)
	}
}

func TestSplitRefusesFiveParts(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a message of five parts was split")
		}
	}()
	Split(pattern(4*MaxData+1), MaxData)
}

// Shows R1.13.
func TestSplitProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.IntRange(1, 1200).Draw(t, "most")
		message := pattern(rapid.IntRange(1, wire.MaxParts*most).Draw(t, "size"))
		var joined []byte
		got := Split(message, most)
		for i, p := range got {
			joined = append(joined, p.Data...)
			if last := i == len(got)-1; len(p.Data) > most || len(p.Data) == 0 || !last && len(p.Data) != len(got[0].Data) || len(p.Data) > len(got[0].Data) {
				t.Fatalf("%d bytes by %d: part %d of %d has %d bytes", len(message), most, i, len(got), len(p.Data))
			}
		}
		if !bytes.Equal(joined, message) {
			t.Fatal("the parts are not the message")
		}
		if want := (len(message) + most - 1) / most; len(got) != want {
			t.Fatalf("%d bytes by %d: %d parts, %d are enough", len(message), most, len(got), want)
		}
	})
}

// FuzzSplit divides a message and puts it together again from the last part to
// the first.
func FuzzSplit(f *testing.F) {
	f.Add([]byte("x"), uint16(1))
	f.Add(pattern(1313), uint16(MaxData))
	f.Add(pattern(4*MaxData), uint16(MaxData))
	f.Fuzz(func(t *testing.T, message []byte, most uint16) {
		if len(message) == 0 || len(message) > MaxHandshake || most == 0 || len(message) > wire.MaxParts*int(most) {
			return
		}
		a := Assembler{Limit: MaxHandshake}
		got := Split(message, int(most))
		for i := len(got) - 1; i >= 0; i-- {
			whole, err := a.Add(got[i])
			if err != nil {
				t.Fatalf("part %d of %d: %v", i, len(got), err)
			}
			if (whole != nil) != (i == 0) {
				t.Fatalf("part %d of %d: complete: %v", i, len(got), whole != nil)
			}
			if i == 0 && !bytes.Equal(whole, message) {
				t.Fatal("another message came together")
			}
		}
	})
}
