package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestHeaderRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Header{
			ReceiverIdx: rapid.Uint32().Draw(t, "idx"),
			Level:       Level(rapid.IntRange(0, 2).Draw(t, "level")),
			Sequence:    rapid.Uint64Range(0, MaxSequence).Draw(t, "sequence"),
		}
		if want.Level == LevelHandshake {
			want.Sequence = 0
		}
		typ := Type(rapid.Uint16().Draw(t, "type"))
		content := rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(t, "content")

		p := Begin(nil, want.ReceiverIdx, want.Level, want.Sequence, typ)
		p = Finish(append(p, content...))
		if len(p) != Overhead+len(content) {
			t.Fatalf("packet of %d bytes for %d of content", len(p), len(content))
		}
		got, err := ParseHeader(p)
		if err != nil || got != want {
			t.Fatalf("header %+v, %v; want %+v", got, err, want)
		}
		gotType, gotContent, err := ParseBody(Body(p))
		if err != nil || gotType != typ || !bytes.Equal(gotContent, content) {
			t.Fatalf("type %v, content %x, %v", gotType, gotContent, err)
		}
		if counter := binary.LittleEndian.Uint64(p[4:]); counter != Counter(want.Level, want.Sequence) {
			t.Fatalf("counter %#x", counter)
		}
	})
}

// Shows R1.2.
func TestHeaderSizes(t *testing.T) {
	for _, row := range []struct {
		size int
		want error
	}{
		{0, ErrShort}, {HeaderSize, ErrShort}, {MinPacket - 1, ErrShort},
		{MinPacket, nil}, {MaxUDPPacket, nil}, {MaxTCPPacket, nil},
		{MaxTCPPacket + 1, ErrLong},
	} {
		p := make([]byte, row.size)
		if _, err := ParseHeader(p); err != row.want {
			t.Errorf("%d bytes: %v, want %v", row.size, err, row.want)
		}
		if _, ok := ReceiverIdx(p); ok != (row.size >= MinPacket) {
			t.Errorf("%d bytes: ReceiverIdx returned %v", row.size, ok)
		}
		if body := Body(p); (body != nil) != (row.size >= MinPacket) || body != nil && len(body) != row.size-HeaderSize-TrailerSize {
			t.Errorf("%d bytes: body of %d", row.size, len(body))
		}
	}
}

// Shows R1.3, R1.9.
func TestSequenceAtEachLevel(t *testing.T) {
	for level, want := range map[Level]error{LevelTransport: nil, LevelHandshake: ErrSequence, LevelClear: nil, 3: ErrLevel} {
		for _, seq := range []uint64{1, 1 << 32, MaxSequence} {
			if _, err := ParseHeader(Finish(Begin(nil, 1, level, seq, TypeAck))); err != want {
				t.Errorf("%v, sequence %d: %v, want %v", level, seq, err, want)
			}
		}
	}
}

func TestReceiverIdx(t *testing.T) {
	hello := ClientHello{Attempt: 0xAABBCCDD}
	p := Finish(hello.Append(Begin(nil, 0, LevelClear, 0, TypeClientHello)))
	if idx, ok := ReceiverIdx(p); !ok || idx != 0xAABBCCDD {
		t.Errorf("of a ClientHello: %#x, %v", idx, ok)
	}
	p = Finish(hello.Append(Begin(nil, 7, LevelTransport, 9, TypeEncryptedData)))
	if idx, ok := ReceiverIdx(p); !ok || idx != 7 {
		t.Errorf("of another packet: %#x, %v", idx, ok)
	}
}

// A hello of another version is answered, so ParseBody returns its type.
func TestOtherVersionReturnsType(t *testing.T) {
	hello := ClientHello{Attempt: 5}
	p := Finish(hello.Append(Begin(nil, 0, LevelClear, 0, TypeClientHello)))
	p[HeaderSize] = 3
	typ, content, err := ParseBody(Body(p))
	if err != ErrVersion || typ != TypeClientHello || len(content) != HelloSize+1 {
		t.Errorf("%v, %d bytes, %v", typ, len(content), err)
	}
}

func TestBodyShorterThanPrefix(t *testing.T) {
	for n := range PrefixSize {
		if _, _, err := ParseBody([]byte{Version, 0, 0, 0, 0, 0}[:n]); err != ErrShort {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestPad(t *testing.T) {
	buf := make([]byte, 0, 4096)
	for i := range buf[:cap(buf)] {
		buf[:cap(buf)][i] = 0xEE // an old packet: padding must not show it
	}
	p := Begin(buf, 1, LevelClear, 0, TypeKKTRequest)
	p = Finish(Pad(p, 0, MinHelloDatagram))
	if len(p) != MinHelloDatagram || !zero(p[HeaderSize+PrefixSize:]) {
		t.Errorf("%d bytes, or not zero", len(p))
	}
	start := len(p)
	p = Begin(p, 1, LevelClear, 0, TypeKKTRequest)
	p = Finish(Pad(p, start, 100))
	if len(p) != start+100 {
		t.Errorf("the second packet has %d bytes", len(p)-start)
	}
	if q := Pad(p[:start+50], start, 60); len(q) != start+50 {
		t.Errorf("padding to less than there is changed the length to %d", len(q)-start)
	}
}

func TestLevelString(t *testing.T) {
	for l, want := range map[Level]string{LevelTransport: "transport", LevelHandshake: "handshake", LevelClear: "clear", 3: "level 3"} {
		if got := l.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func FuzzPacket(f *testing.F) {
	v := loadVectors(f)
	for _, r := range v.Vectors {
		f.Add([]byte(r.Packet))
	}
	for _, r := range v.NegativePackets {
		f.Add([]byte(r.Packet))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		idx, routed := ReceiverIdx(p)
		h, err := ParseHeader(p)
		if err != nil {
			if !isNamed(err) || h != (Header{}) {
				t.Fatalf("%v with %+v", err, h)
			}
			return
		}
		if !routed || h.ReceiverIdx != 0 && idx != h.ReceiverIdx {
			t.Fatalf("routed by %#x, %v; header %+v", idx, routed, h)
		}
		typ, content, err := ParseBody(Body(p))
		if err != nil {
			if !isNamed(err) {
				t.Fatal(err)
			}
			return
		}
		q := Finish(append(Begin(nil, h.ReceiverIdx, h.Level, h.Sequence, typ), content...))
		if !bytes.Equal(q[:len(q)-TrailerSize], p[:len(p)-TrailerSize]) || len(q) != len(p) {
			t.Fatalf("%x is appended as %x", p, q)
		}
	})
}

func TestDataPathDoesNotAllocate(t *testing.T) {
	payload := make([]byte, 1200)
	buf := make([]byte, 0, MaxUDPPacket)
	target := Target{Name: []byte("example.com"), Port: 443}
	if n := testing.AllocsPerRun(1000, func() {
		for _, flags := range []FlowFlags{0, FlagTarget} {
			p := Begin(buf, 7, LevelTransport, 9, TypeEncryptedData)
			p = (&EncryptedData{FlowID: 1, Flags: flags, Target: target, Payload: payload}).Append(p)
			p = Finish(p)
			h, err := ParseHeader(p)
			if err != nil || h.Sequence != 9 {
				t.Fatal(h, err)
			}
			typ, content, err := ParseBody(Body(p))
			if err != nil || !h.Allows(typ, ToGateway) {
				t.Fatal(typ, err)
			}
			m, err := ParseEncryptedData(content)
			if err != nil || len(m.Payload) != len(payload) {
				t.Fatal(m, err)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkParseData(b *testing.B) {
	for _, row := range []struct {
		name string
		data EncryptedData
	}{
		{"known flow", EncryptedData{FlowID: 1}},
		{"IPv4 target", EncryptedData{FlowID: 1, Flags: FlagTarget, Target: mustTarget("192.0.2.1:53")}},
		{"name", EncryptedData{FlowID: 1, Flags: FlagTarget, Target: Target{Name: []byte("www.example.com"), Port: 53}}},
	} {
		b.Run(row.name, func(b *testing.B) {
			row.data.Payload = make([]byte, 1200)
			p := Finish(row.data.Append(Begin(nil, 7, LevelTransport, 9, TypeEncryptedData)))
			b.ReportAllocs()
			for b.Loop() {
				h, err := ParseHeader(p)
				if err != nil {
					b.Fatal(err)
				}
				typ, content, err := ParseBody(Body(p))
				if err != nil || !h.Allows(typ, ToGateway) {
					b.Fatal(err)
				}
				if _, err := ParseEncryptedData(content); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendData(b *testing.B) {
	buf := make([]byte, 0, MaxUDPPacket)
	m := EncryptedData{FlowID: 1, Payload: make([]byte, 1200)}
	b.SetBytes(int64(len(m.Payload)))
	b.ReportAllocs()
	for b.Loop() {
		buf = Finish(m.Append(Begin(buf[:0], 7, LevelTransport, 9, TypeEncryptedData)))
	}
}

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

func TestParseInner(t *testing.T) {
	hello := Finish((&ClientHello{Attempt: 0xAABBCCDD}).Append(Begin(nil, 0, LevelClear, 0, TypeClientHello)))
	change := func(offset int, b byte) []byte {
		p := append([]byte(nil), hello...)
		p[offset] = b
		return p
	}
	for _, row := range []struct {
		name  string
		p     []byte
		idx   uint32
		hello bool
		err   error
	}{
		{"a hello", hello, 0xAABBCCDD, true, nil},
		{"a hello of another version", change(12, 7), 0xAABBCCDD, true, nil},
		{"a sealed packet", Finish(Begin(nil, 7, LevelTransport, 3, TypePing)), 7, false, nil},
		{"another clear packet", Finish(Begin(nil, 7, LevelClear, 0, TypeKKTRequest)), 7, false, nil},
		{"a hello for index 0", Finish((&ClientHello{}).Append(Begin(nil, 0, LevelClear, 0, TypeClientHello))), 0, false, ErrIndex},
		{"a hello without content", Finish(Begin(nil, 0, LevelClear, 0, TypeClientHello)), 0, false, ErrShort},
		{"index 0 with another type", change(16, byte(TypeKKTRequest)), 0, false, ErrBootstrap},
		{"index 0, sealed", change(11, 0), 0, false, ErrBootstrap},
		{"index 0, reserved bytes", change(13, 1), 0, false, ErrBootstrap},
		{"level 3", change(11, 0xC0), 0, false, ErrLevel},
		{"level 1 with a sequence", Finish(Begin(nil, 7, LevelHandshake, 1, TypeHandshake)), 0, false, ErrSequence},
		{"33 bytes", hello[:33], 0, false, ErrShort},
	} {
		idx, isHello, err := ParseInner(row.p)
		if idx != row.idx || isHello != row.hello || err != row.err {
			t.Errorf("%s: %#x, %v, %v", row.name, idx, isHello, err)
		}
	}
}

func FuzzParseInner(f *testing.F) {
	v := loadVectors(f)
	for _, r := range v.Vectors {
		f.Add([]byte(r.Packet))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		idx, hello, err := ParseInner(p)
		if err != nil {
			if idx != 0 || hello || !isNamed(err) {
				t.Fatalf("%#x, %v, %v", idx, hello, err)
			}
			return
		}
		// It claims the index that everything else routes it by.
		if routed, ok := ReceiverIdx(p); !ok || routed != idx || idx == 0 {
			t.Fatalf("claims %#x, is routed by %#x, %v", idx, routed, ok)
		}
	})
}

// section2 is the table of section 2: type, name, level, direction. Handshake's row
// has the levels per direction of section 5; ◇ marks parts.
const section2 = `
0x0000 Busy              clear:G→C
0x0001 Handshake ◇       clear:C→G handshake:C→G handshake:G→C
0x0002 EncryptedData     transport:C→G transport:G→C
0x0003 ClientHello       clear:C→G
0x0004 KKTRequest        clear:C→G
0x0005 KKTResponse ◇     clear:G→C
0x0006 ForwardPacket     transport:C→G transport:G→C
0x0007 Held              clear:G→C
0x0008 Ack               clear:G→C transport:G→C
0x0009 SubsessionRequest transport:G→C
0x000A SubsessionKK1 ◇   transport:C→G
0x000B SubsessionKK2 ◇   transport:G→C
0x000C SubsessionReady   transport:C→G
0x000D SubsessionAbort   transport:C→G transport:G→C
0x0010 FlowClosed        transport:C→G transport:G→C
0x0011 Register ◇        transport:C→G
0x0012 RegisterResult ◇  transport:G→C
0x0013 Ping              transport:C→G transport:G→C
0x0014 Pong              transport:C→G transport:G→C
0x0015 Close             transport:C→G transport:G→C
0x0017 Reject            clear:G→C
0x0018 Poll              transport:C→G
`

func TestTypeTable(t *testing.T) {
	rows := make(map[string][]string)
	for line := range strings.Lines(strings.TrimSpace(section2)) {
		f := strings.Fields(line)
		rows[f[0]] = f[1:]
	}
	arrows := map[Direction]string{ToGateway: "C→G", ToClient: "G→C"}
	for i := range 1 << 16 {
		typ := Type(i)
		number := fmt.Sprintf("0x%04X", i)
		row, known := rows[number]
		if typ.Known() != known {
			t.Fatalf("%v: Known is %v", typ, typ.Known())
		}
		parts := known && len(row) > 1 && row[1] == "◇"
		if (typ.MaxMessage() > 0) != parts {
			t.Fatalf("%v: MaxMessage is %d", typ, typ.MaxMessage())
		}
		if known && typ.String() != row[0] || !known && typ.String() != "type "+number {
			t.Fatalf("%s is called %q", number, typ)
		}
		for l := range Level(5) {
			for d := range Direction(3) {
				want := known && strings.Contains(strings.Join(row, " ")+" ", " "+l.String()+":"+arrows[d]+" ") && d < 2
				if got := typ.Allowed(l, d); got != want {
					t.Fatalf("%v at level %v %v: %v", typ, l, d, got)
				}
			}
		}
	}
	if TypeHandshake.MaxMessage() != 4096 || TypeSubsessionKK1.MaxMessage() != 4096 || TypeRegister.MaxMessage() != 8192 {
		t.Error("the bounds of whole messages are not those of section 1")
	}
}
