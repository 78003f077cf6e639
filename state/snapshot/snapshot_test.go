package snapshot

import (
	"bytes"
	"errors"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lewes/state/path"
)

var epoch = time.Unix(1_800_000_000, 0)

func drawAddr(t *rapid.T) netip.Addr {
	switch rapid.IntRange(0, 3).Draw(t, "kind") {
	case 0:
		return netip.Addr{}
	case 1:
		return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "v4")))
	case 2:
		return netip.MustParseAddr("fe80::1%eth0")
	}
	b := [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "v6"))
	b[0] = 0x20
	return netip.AddrFrom16(b)
}

// TestReadsWhatWasWritten writes any values and reads them at a later instant:
// times have moved with it, all else is the same.
func TestReadsWhatWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u64 := rapid.Uint64().Draw(t, "u64")
		blob := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "blob")
		away := time.Duration(rapid.Int64Range(-int64(MaxDistance), int64(MaxDistance)).Draw(t, "away"))
		way := path.Path{
			Peer:      netip.AddrPortFrom(drawAddr(t), uint16(u64)),
			Local:     drawAddr(t),
			IfIndex:   uint32(u64),
			Transport: path.Transport(u64 & 1),
		}
		at := epoch.Add(away)
		w := NewWriter(nil, epoch)
		w.Uint8(uint8(u64))
		w.Uint16(uint16(u64))
		w.Uint32(uint32(u64))
		w.Duration(time.Duration(u64))
		Encode(w).Blob(&blob, 300)
		Encode(w).Time(&at)
		Encode(w).Time(new(time.Time))
		w.Part(func() { Encode(w).Path(&way) })
		w.Fixed([]byte("end"))

		later := epoch.Add(time.Hour)
		r := NewReader(w.Bytes(), later)
		if r.Uint8() != uint8(u64) || r.Uint16() != uint16(u64) || r.Uint32() != uint32(u64) || r.Duration() != time.Duration(u64) {
			t.Fatal("a number has changed")
		}
		c := Decode(r)
		var got []byte
		if c.Blob(&got, 300); !bytes.Equal(got, blob) {
			t.Fatalf("%x, want %x", got, blob)
		}
		if c.Time(&at); !at.Equal(later.Add(away)) {
			t.Fatalf("%v, want %v", at, later.Add(away))
		}
		if c.Time(&at); !at.IsZero() {
			t.Fatal("never has become some time")
		}
		part := r.Part()
		gotPath := path.Path{Conn: 1}
		if Decode(part).Path(&gotPath); gotPath != way || part.End() != nil {
			t.Fatalf("%+v, want %+v: %v", gotPath, way, part.End())
		}
		var end [3]byte
		if c.Fixed(end[:]); string(end[:]) != "end" || r.End() != nil {
			t.Fatalf("%q %v", end, r.End())
		}
	})
}

func TestEndsAreSeen(t *testing.T) {
	r := NewReader([]byte{1, 2}, epoch)
	if r.Uint32(); !errors.Is(r.Err(), ErrShort) || r.Uint8() != 0 {
		t.Errorf("reading behind the end: %v", r.Err())
	}
	r = NewReader([]byte{1, 2}, epoch)
	if r.Uint8(); !errors.Is(r.End(), ErrLong) {
		t.Errorf("a byte is left: %v", r.End())
	}
	for name, b := range map[string][]byte{
		"a truth of 2":            {2},
		"an address of 5 bytes":   {5, 1, 1, 1, 1, 1},
		"more than there may be":  {0, 0, 0, 9},
		"a blob over its limit":   {17, 0, 0, 0},
		"an IPv4 address as IPv6": append([]byte{16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4}, 0, 0, 0, 0),
	} {
		r := NewReader(b, epoch)
		switch b[0] {
		case 2:
			Decode(r).Bool(new(bool))
		case 0:
			r.Count(10, 1)
		case 17:
			Decode(r).Blob(new([]byte), 16)
		default:
			Decode(r).addr(new(netip.Addr))
		}
		if !errors.Is(r.Err(), ErrValue) {
			t.Errorf("%s: %v", name, r.Err())
		}
	}
}

// TestWriterLeavesNothingBehind looks into the memory that a growing Writer has
// left.
func TestWriterLeavesNothingBehind(t *testing.T) {
	first := make([]byte, 0, 32)
	w := NewWriter(first, epoch)
	w.Fixed(bytes.Repeat([]byte{0xaa}, 32))
	w.Fixed([]byte{0xbb})
	if !bytes.Equal(first[:32], make([]byte, 32)) {
		t.Errorf("%x is left", first[:32])
	}
	kept := w.Bytes()
	if w.Wipe(); !bytes.Equal(kept, make([]byte, 33)) || w.Len() != 0 {
		t.Errorf("%x is left after Wipe", kept)
	}
}

// A Codec writes the same bytes as a Writer and reads them as a Reader does.
func TestCodecRoundTrip(t *testing.T) {
	type value struct {
		kind uint8
		size int
		ok   bool
		u16  uint16
		u32  uint32
		u64  uint64
		blob []byte
		at   time.Time
		key  [4]byte
		list []uint16
	}
	code := func(c *Codec, v *value) {
		Byte(c, &v.kind)
		Int(c, &v.size)
		c.Bool(&v.ok)
		c.Uint16(&v.u16)
		c.Uint32(&v.u32)
		c.Uint64(&v.u64)
		c.Blob(&v.blob, 8)
		c.Time(&v.at)
		if c.Present(v.ok) {
			c.Fixed(v.key[:])
		}
		for i := range c.Count(len(v.list), 4, 2) {
			if c.Decoding() {
				v.list = append(v.list, 0)
			}
			c.Uint16(&v.list[i])
		}
		c.Check(v.size < 100, "size %d", v.size)
	}
	v := value{1, 2, true, 3, 4, 5, []byte{6, 7}, epoch.Add(8), [4]byte{9}, []uint16{10, 11}}
	w := NewWriter(nil, epoch)
	code(Encode(w), &v)
	var got value
	r := NewReader(w.Bytes(), epoch)
	if code(Decode(r), &got); r.End() != nil || !reflect.DeepEqual(got, v) {
		t.Fatalf("%+v, want %+v: %v", got, v, r.End())
	}
	v.size = 100
	w.Wipe()
	code(Encode(w), &v)
	c := Decode(NewReader(w.Bytes(), epoch))
	if code(c, &got); !errors.Is(c.Err(), ErrValue) {
		t.Errorf("a value that Check rejects: %v", c.Err())
	}
}
