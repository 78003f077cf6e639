package tcp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"lewes/state/wire"
)

// FuzzFrame reads a frame from any bytes, in pieces of any size: what comes is what a
// plain reader finds, and no buffer is held after it.
func FuzzFrame(f *testing.F) {
	f.Add(appendFrame(nil, packetOf(wire.MinPacket, 1)), uint8(0))
	f.Add(appendFrame(nil, packetOf(40_000, 1)), uint8(1))
	f.Add(binary.BigEndian.AppendUint32(nil, 65_536), uint8(2))
	f.Add([]byte{0, 0, 0}, uint8(0))
	f.Fuzz(func(t *testing.T, data []byte, how uint8) {
		m := bufferBudget{limit: 1 << 20}
		var r io.Reader = bytes.NewReader(data)
		switch how % 4 {
		case 1:
			r = iotest.OneByteReader(r)
		case 2:
			r = iotest.HalfReader(r)
		case 3:
			r = iotest.DataErrReader(r)
		}
		var head [lengthSize]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return
		}
		n, err := parseLength(&head)
		announced := binary.BigEndian.Uint32(head[:])
		if good := announced >= 34 && announced <= 65_535; good != (err == nil) || err != nil && !errors.Is(err, ErrBadLength) {
			t.Fatalf("length %d: %v", announced, err)
		}
		if err != nil {
			return
		}
		b, err := m.read(r, n)
		rest := data[lengthSize:]
		switch {
		case len(rest) < n && err == nil:
			t.Fatalf("%d of %d bytes are a packet", len(rest), n)
		case len(rest) >= n && err != nil:
			t.Fatal(err)
		case err == nil:
			if !bytes.Equal(b.data, rest[:n]) {
				t.Fatal("another packet came")
			}
			if !bytes.Equal(appendFrame(nil, b.data), data[:lengthSize+n]) {
				t.Fatal("the frame is another one")
			}
			m.release(b)
		}
		if used := m.used.Load(); used != 0 {
			t.Fatalf("%d bytes are held", used)
		}
	})
}

// TestBuffersGrow: a queue of frames of any sizes has them all.
func TestBuffersGrow(t *testing.T) {
	b := newBuffer(0)
	var want []byte
	for _, n := range []int{10, 2000, 100, 16_000, 65_000, 65_000, 65_000, 1} {
		b = b.grow(n)
		b.data = append(b.data, packetOf(n, byte(n))...)
		want = append(want, packetOf(n, byte(n))...)
	}
	if !bytes.Equal(b.data, want) {
		t.Error("bytes were lost")
	}
	b.free()
	for class, size := range classes {
		if b := newBuffer(class); len(b.data) != 0 || cap(b.data) != size {
			t.Errorf("a buffer of class %d has %d bytes, room for %d", class, len(b.data), cap(b.data))
		}
	}
}
