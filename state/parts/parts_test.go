package parts

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lewes/state/wire"
)

var start = time.Unix(1_800_000_000, 0)

// pattern returns a message of n bytes with distinct parts.
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
func TestPartFillsDatagram(t *testing.T) {
	p := Split(pattern(MaxData), MaxData)
	packet := wire.Finish(p[0].Append(wire.Begin(nil, 1, wire.LevelClear, 0, wire.TypeHandshake)))
	if len(packet) != wire.MaxHandshakeDatagram {
		t.Errorf("the fullest part makes a packet of %d bytes, want %d", len(packet), wire.MaxHandshakeDatagram)
	}
}

func TestSplitPanicsOnFiveParts(t *testing.T) {
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

// FuzzSplit splits a message and reassembles it from the last part to the first.
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
			whole, err := a.Add(start, got[i])
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

// feed adds parts in order, one a second, and returns the completed messages.
func feed(t testing.TB, a *Assembler, in ...wire.Part) (out [][]byte) {
	t.Helper()
	for i, p := range in {
		m, err := a.Add(start.Add(time.Duration(i)*time.Second), p)
		if err != nil {
			t.Fatalf("part %d: %v", i, err)
		}
		if m != nil {
			out = append(out, m)
		}
	}
	return out
}

// forged returns a part with the right header and other data.
func forged(p wire.Part, n byte) wire.Part {
	p.Data = bytes.Clone(p.Data)
	p.Data[0] ^= 1 + n
	return p
}

// Messages of one to four parts are reassembled from every order of their parts.
//
// Shows R1.12.
func TestPartsInAnyOrder(t *testing.T) {
	for count := 1; count <= wire.MaxParts; count++ {
		message := pattern(count*100 - 1)
		split := Split(message, 100)
		order := make([]int, count)
		for i := range order {
			order[i] = i
		}
		permute(order, func() {
			a := Assembler{Limit: MaxHandshake}
			for i, n := range order {
				m, err := a.Add(start, split[n])
				if err != nil || (m != nil) != (i == count-1) || m != nil && !bytes.Equal(m, message) {
					t.Errorf("order %v: after part %d: %d bytes, %v", order, n, len(m), err)
				}
			}
			if a.Kept() != 0 {
				t.Errorf("order %v: %d parts are left", order, a.Kept())
			}
		})
	}
}

// permute calls f with every order of x.
func permute(x []int, f func()) {
	var rec func(k int)
	rec = func(k int) {
		if k == len(x) {
			f()
			return
		}
		for i := k; i < len(x); i++ {
			x[k], x[i] = x[i], x[k]
			rec(k + 1)
			x[k], x[i] = x[i], x[k]
		}
	}
	rec(0)
}

// TestJoinsAreBounded floods an Assembler with forged parts in one second. Each is joined with the
// oldest part that fits, and once the budgets are used up with no other.
//
// Shows R1.18.
func TestJoinsAreBounded(t *testing.T) {
	split := Split(pattern(2000), MaxData)
	for _, c := range []struct {
		shared *Joins
		most   uint64 // failed joins of 100 parts
	}{
		{&Joins{PerSecond: 1 << 30}, 100 + MaxJoins},
		{&Joins{PerSecond: 5}, 100 + 5},
		{&Joins{}, 100},
	} {
		a := Assembler{Limit: MaxHandshake, Most: 4, Joins: c.shared}
		for n := range byte(100) {
			if m, err := a.Add(start, forged(split[n%2], n)); m != nil || err != nil {
				t.Fatalf("part %d: %d bytes, %v", n, len(m), err)
			}
		}
		// The first part has no partner yet, and the parts beyond four are gone.
		if got := c.shared.Failed; got != c.most-1 {
			t.Errorf("a budget of %d a second: %d joins failed, want %d", c.shared.PerSecond, got, c.most-1)
		}
		// The honest parts arrive with no budget left and find forged partners. They are repeated,
		// and find each other.
		for n, p := range []wire.Part{split[0], split[1], split[0], split[1], split[0]} {
			if m, _ := a.Add(start, p); c.shared.PerSecond == 0 && (m != nil) != (n == 3) {
				t.Errorf("honest part %d: complete: %v", n, m != nil)
			}
		}
		// The budgets are for each second.
		before := c.shared.Failed
		for n := range byte(100) {
			_, _ = a.Add(start.Add(time.Second), forged(split[n%2], n))
		}
		if got := c.shared.Failed - before; got < c.most-2 || got > c.most {
			t.Errorf("a budget of %d a second: %d joins failed in the next, want about %d", c.shared.PerSecond, got, c.most)
		}
	}
}

// TestHonestPartsFindEachOther puts up to two forged parts between any two honest ones, with no budget
// for further joins: the fourth transmission of the honest message completes it, at the latest.
//
// Shows R1.18.
func TestHonestPartsFindEachOther(t *testing.T) {
	split := Split(pattern(1313), MaxData)
	rapid.Check(t, func(t *rapid.T) {
		a := Assembler{Limit: MaxHandshake, Most: 4, Joins: &Joins{}}
		n := byte(0)
		forge := func(most int) {
			for range rapid.IntRange(0, most).Draw(t, "forged") {
				n++
				p := forged(split[rapid.IntRange(0, 1).Draw(t, "index")], n%200)
				if rapid.Bool().Draw(t, "shorter") {
					p.Data = p.Data[:len(p.Data)-1]
				}
				if m, _ := a.Add(start, p); m != nil {
					t.Fatal("a forged part was joined")
				}
			}
		}
		forge(10)
		for range 4 {
			for _, p := range split {
				if m, err := a.Add(start, p); err != nil {
					t.Fatal(err)
				} else if m != nil {
					return
				}
				forge(2)
			}
		}
		t.Fatal("the honest parts were not joined")
	})
}

// Shows R1.13.
func TestCount(t *testing.T) {
	for size, want := range map[int]int{0: 1, 1: 1, 255: 1, MaxData: 1, MaxData + 1: 2, 1313: 2, 1345: 2, 2 * MaxData: 2, 2*MaxData + 1: 3} {
		if got := Count(size); got != want || size > 0 && len(Split(pattern(size), MaxData)) != want {
			t.Errorf("%d bytes have %d parts, want %d", size, got, want)
		}
	}
}

// Shows R1.18.
func TestForgedPartsDoNoHarm(t *testing.T) {
	message := pattern(400)
	split := Split(message, 100)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		in := slices.Clone(split)
		for n := range byte(maxKept - wire.MaxParts) {
			in = append(in, forged(split[rng.IntN(len(split))], n))
		}
		rng.Shuffle(len(in), func(i, j int) { in[i], in[j] = in[j], in[i] })
		a := Assembler{Limit: MaxHandshake}
		if got := feed(t, &a, in...); len(got) != 1 || !bytes.Equal(got[0], message) {
			t.Fatalf("%d messages came together", len(got))
		}
	}
}

// Shows R1.17.
func TestNinthPartEvictsOldest(t *testing.T) {
	split := Split(pattern(200), 100)
	a := Assembler{Limit: MaxHandshake}
	feed(t, &a, split[0])
	for n := range byte(maxKept - 1) {
		feed(t, &a, forged(split[0], n))
	}
	if got := feed(t, &a, split[1]); len(got) != 0 || a.Kept() != maxKept {
		t.Fatalf("the oldest of nine parts was kept: %d messages, %d parts", len(got), a.Kept())
	}
	// The next transmission of the whole message completes it.
	if got := feed(t, &a, split[0]); len(got) != 1 {
		t.Error("the message sent again did not come together")
	}
	// Duplicates are not kept.
	a = Assembler{Limit: MaxHandshake}
	feed(t, &a, split[0], forged(split[0], 1))
	for range 3 * maxKept {
		feed(t, &a, forged(split[0], 1))
	}
	if got := feed(t, &a, split[1]); a.Kept() != 0 || len(got) != 1 {
		t.Errorf("a part repeated pushed another out: %d messages", len(got))
	}
}

// Shows R1.19.
func TestCompleteMessageDropsItsParts(t *testing.T) {
	message := pattern(300)
	split := Split(message, 100)
	other := Split(pattern(299), 100)
	a := Assembler{Limit: MaxHandshake}
	for round := range 3 {
		in := []wire.Part{other[0], split[2], forged(split[0], 3), split[0], forged(split[1], 9), split[1]}
		if got := feed(t, &a, in...); len(got) != 1 || !bytes.Equal(got[0], message) {
			t.Fatalf("round %d: %d messages", round, len(got))
		}
		if a.Kept() != 1 {
			t.Fatalf("round %d: %d parts are kept beside the other message's", round, a.Kept()-1)
		}
	}
	if got := feed(t, &a, other[2], other[1]); len(got) != 1 {
		t.Error("another message's part was lost")
	}
	feed(t, &a, split[0])
	if a.Reset(); a.Kept() != 0 {
		t.Error("Reset leaves parts")
	}
}

// Shows R1.15, R1.16.
func TestPartsOfDifferentMessagesDoNotJoin(t *testing.T) {
	message := pattern(200)
	split := Split(message, 100)
	otherID, otherCount := split[1], split[1]
	otherID.MessageID[3] ^= 1
	otherCount.Count = 3
	for name, second := range map[string]wire.Part{
		"another id":      otherID,
		"another count":   otherCount,
		"another content": forged(split[1], 0),
		"a longer part":   {Index: 1, Count: 2, MessageID: split[1].MessageID, Data: append(bytes.Clone(split[1].Data), 0)},
		"no data":         {Index: 1, Count: 2, MessageID: split[1].MessageID},
	} {
		a := Assembler{Limit: MaxHandshake}
		if got := feed(t, &a, split[0], second); len(got) != 0 {
			t.Errorf("%s joined", name)
		}
		if got := feed(t, &a, split[1]); len(got) != 1 || !bytes.Equal(got[0], message) {
			t.Errorf("%s kept the honest part from joining", name)
		}
	}
	a := Assembler{Limit: MaxHandshake}
	one := Split(message, MaxData)[0]
	one.MessageID[0] ^= 1
	if m, err := a.Add(start, one); m != nil || !errors.Is(err, ErrHash) {
		t.Errorf("one part with a wrong id: %d bytes, %v", len(m), err)
	}
}

// A message with the right hash is split at other places than Split would.
//
// Shows R1.13, R1.15.
func TestUnequalPartsDoNotJoin(t *testing.T) {
	message := pattern(300)
	for _, cuts := range [][]int{{99, 201, 300}, {101, 200, 300}, {50, 300}, {149, 300}, {100, 200, 300}, {150, 300}, {120, 240, 300}} {
		var in []wire.Part
		start, even := 0, true
		for i, end := range cuts {
			in = append(in, wire.Part{Index: uint8(i), Count: uint8(len(cuts)), MessageID: ID(message), Data: message[start:end]})
			if n := end - start; n > cuts[0] || n < cuts[0] && i < len(cuts)-1 {
				even = false
			}
			start = end
		}
		a := Assembler{Limit: MaxHandshake}
		if got := feed(t, &a, in...); (len(got) == 1) != even {
			t.Errorf("cut at %v: joined: %v, want %v", cuts, len(got) == 1, even)
		}
	}
}

// Shows R1.20.
func TestMessageSizeLimits(t *testing.T) {
	for _, limit := range []int{MaxHandshake, MaxRegister} {
		for _, size := range []int{limit - 1, limit, limit + 1} {
			a := Assembler{Limit: limit}
			var whole []byte
			var failed error
			for _, p := range Split(pattern(size), (limit+4)/4) {
				m, err := a.Add(start, p)
				if m != nil {
					whole = m
				}
				failed = errors.Join(failed, err)
			}
			if want := size <= limit; (len(whole) == size) != want {
				t.Errorf("limit %d: %d bytes joined: %v, %v", limit, size, whole != nil, failed)
			}
			if _, err := a.Add(start, Split(pattern(size), size)[0]); errors.Is(err, ErrTooLong) != (size > limit) {
				t.Errorf("limit %d: one part of %d bytes: %v", limit, size, err)
			}
		}
		// A part that can only belong to a longer message is not kept.
		a := Assembler{Limit: limit}
		if _, err := a.Add(start, wire.Part{Index: 0, Count: 4, Data: pattern(limit/3 + 1)}); !errors.Is(err, ErrTooLong) || a.Kept() != 0 {
			t.Errorf("limit %d: a part of a longer message: %v, %d kept", limit, err, a.Kept())
		}
	}
}

// The packet's memory changes after its part was added.
func TestKeptDataIsCopied(t *testing.T) {
	message := pattern(200)
	split := Split(message, 100)
	a := Assembler{Limit: MaxHandshake}
	first := split[0]
	first.Data = bytes.Clone(first.Data)
	feed(t, &a, first)
	clear(first.Data)
	if got := feed(t, &a, split[1]); len(got) != 1 || !bytes.Equal(got[0], message) {
		t.Error("the assembler kept its caller's memory")
	}
}

// model is a direct implementation of section 1.
type model struct {
	limit int
	kept  []wire.Part
}

func (m *model) add(p wire.Part) []byte {
	if p.Count == 1 {
		if len(p.Data) <= m.limit && ID(p.Data) == p.MessageID {
			return p.Data
		}
		return nil
	}
	least := len(p.Data)
	if p.Index+1 < p.Count {
		least = len(p.Data)*int(p.Count-1) + 1
	}
	if least > m.limit {
		return nil
	}
	same := func(k wire.Part) bool {
		return k.Index == p.Index && k.Count == p.Count && k.MessageID == p.MessageID && bytes.Equal(k.Data, p.Data)
	}
	if n := slices.IndexFunc(m.kept, same); n >= 0 {
		m.kept = slices.Delete(slices.Clone(m.kept), n, n+1)
	} else if len(m.kept) == 8 {
		m.kept = m.kept[1:]
	}
	m.kept = append(slices.Clone(m.kept), p)
	// All combinations of one kept part per index, older ones first.
	choices := [][]wire.Part{nil}
	for index := range p.Count {
		var longer [][]wire.Part
		for _, c := range choices {
			for _, k := range m.kept {
				if k.Index != index || k.Count != p.Count || k.MessageID != p.MessageID || index == p.Index && !same(k) {
					continue
				}
				longer = append(longer, append(slices.Clone(c), k))
			}
		}
		choices = longer
	}
	for _, c := range choices {
		var whole []byte
		good := true
		for i, k := range c {
			whole = append(whole, k.Data...)
			if n := len(k.Data); n == 0 || n > len(c[0].Data) || i < len(c)-1 && n != len(c[0].Data) {
				good = false
			}
		}
		if good && len(whole) <= m.limit && ID(whole) == p.MessageID {
			m.kept = slices.DeleteFunc(slices.Clone(m.kept), func(k wire.Part) bool { return k.MessageID == p.MessageID })
			return whole
		}
	}
	return nil
}

// Shows R1.15, R1.16, R1.17, R1.18, R1.19, R1.20.
func TestAssemblerAgreesWithModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 64).Draw(t, "limit")
		a := Assembler{Limit: limit}
		m := model{limit: limit}
		// Parts of a few short messages, whole, damaged and mixed up.
		var pool []wire.Part
		for range rapid.IntRange(1, 3).Draw(t, "messages") {
			size := rapid.IntRange(1, 70).Draw(t, "size")
			most := rapid.IntRange((size+3)/4, size).Draw(t, "most")
			pool = append(pool, Split(pattern(size), most)...)
		}
		for step := range rapid.IntRange(1, 60).Draw(t, "steps") {
			p := rapid.SampledFrom(pool).Draw(t, "part")
			switch rapid.IntRange(0, 9).Draw(t, "change") {
			case 0:
				p = forged(p, rapid.Byte().Draw(t, "flip")&3)
			case 1:
				p.Data = p.Data[:rapid.IntRange(0, len(p.Data)).Draw(t, "cut")]
			case 2:
				p.Count = uint8(rapid.IntRange(int(p.Index)+1, wire.MaxParts).Draw(t, "count"))
			case 3:
				p.Index = uint8(rapid.IntRange(0, int(p.Count)-1).Draw(t, "index"))
			}
			got, _ := a.Add(start.Add(time.Duration(step)*time.Second), p)
			want := m.add(p)
			if !bytes.Equal(got, want) || (got == nil) != (want == nil) && len(want) > 0 {
				t.Fatalf("step %d: %d bytes, the model has %d", step, len(got), len(want))
			}
			if a.Kept() != len(m.kept) {
				t.Fatalf("step %d: %d parts kept, the model keeps %d", step, a.Kept(), len(m.kept))
			}
		}
	})
}

// FuzzAssembler parses a stream of length-prefixed parts.
func FuzzAssembler(f *testing.F) {
	stream := func(in ...wire.Part) (b []byte) {
		for _, p := range in {
			content := p.Append(nil)
			b = append(b, byte(len(content)))
			b = append(b, content...)
		}
		return b
	}
	split := Split(pattern(200), 60)
	f.Add(stream(split...))
	f.Add(stream(split[3], split[1], split[0], split[2]))
	f.Add(stream(split[0], forged(split[0], 1), split[1], split[1], split[2], forged(split[3], 7), split[3]))
	f.Add(stream(Split(pattern(20), 60)...))
	f.Add([]byte{5, 0x01, 1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, b []byte) {
		const perSecond, each = 3, 8 // further joins, parts in a second
		a := Assembler{Limit: 512, Most: 6, Joins: &Joins{PerSecond: perSecond}}
		for n := uint64(0); len(b) > 0; n++ {
			size := min(int(b[0]), len(b)-1)
			part, err := wire.ParsePart(b[1 : 1+size])
			b = b[1+size:]
			if err != nil {
				continue
			}
			before := a.Kept()
			m, err := a.Add(start.Add(time.Duration(n/each)*time.Second), part)
			switch {
			case a.Kept() > 6 || a.Size() > 6*512:
				t.Fatalf("%d parts of %d bytes are kept", a.Kept(), a.Size())
			case err != nil && (m != nil || a.Kept() != before):
				t.Fatalf("rejected (%v), but kept or joined", err)
			case m != nil && (len(m) > a.Limit || ID(m) != part.MessageID):
				t.Fatalf("a message of %d bytes with another hash than its parts name", len(m))
			case a.Joins.Failed > n+1+(n/each+1)*perSecond:
				t.Fatalf("%d joins failed for %d parts", a.Joins.Failed, n+1)
			}
		}
	})
}

func BenchmarkAssemble(b *testing.B) {
	message := pattern(1313)
	split := Split(message, MaxData)
	for name, in := range map[string][]wire.Part{
		"honest": split,
		"forged": append(func() (f []wire.Part) {
			for n := range byte(6) {
				f = append(f, forged(split[n%2], n))
			}
			return f
		}(), split...),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				a := Assembler{Limit: MaxHandshake}
				if got := feed(b, &a, in...); len(got) != 1 {
					b.Fatal(fmt.Sprint(len(got), " messages"))
				}
			}
		})
	}
}
