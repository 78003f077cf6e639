package wire

import (
	"bytes"
	"encoding/binary"
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
			t.Errorf("%d bytes: ReceiverIdx says %v", row.size, ok)
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
	hello := ClientHello{ReceiverIdx: 0xAABBCCDD}
	p := Finish(hello.Append(Begin(nil, 0, LevelClear, 0, TypeClientHello)))
	if idx, ok := ReceiverIdx(p); !ok || idx != 0xAABBCCDD {
		t.Errorf("of a ClientHello: %#x, %v", idx, ok)
	}
	p = Finish(hello.Append(Begin(nil, 7, LevelTransport, 9, TypeEncryptedData)))
	if idx, ok := ReceiverIdx(p); !ok || idx != 7 {
		t.Errorf("of another packet: %#x, %v", idx, ok)
	}
}

// The type of a hello of another version can be told, so that it is answered.
func TestOtherVersionShowsItsType(t *testing.T) {
	hello := ClientHello{ReceiverIdx: 5}
	p := Finish(hello.Append(Begin(nil, 0, LevelClear, 0, TypeClientHello)))
	p[HeaderSize] = 3
	typ, content, err := ParseBody(Body(p))
	if err != ErrVersion || typ != TypeClientHello || len(content) != HelloSize+1 {
		t.Errorf("%v, %d bytes, %v", typ, len(content), err)
	}
}

func TestBodyShorterThanItsPrefix(t *testing.T) {
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

// The path of every datagram: header, body, content and back, with no
// allocation.
func TestDataPathNoAllocations(t *testing.T) {
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
