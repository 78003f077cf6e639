package snapshot

import (
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"time"

	"lewes/state/path"
)

// never encodes the zero time.
const never = math.MinInt64

// Writer appends values to a buffer.
type Writer struct {
	b   []byte
	now time.Time
}

// NewWriter returns a Writer that appends to b, which it then owns. Times are
// written as their distance from now.
func NewWriter(b []byte, now time.Time) *Writer { return &Writer{b, now} }

// Bytes returns the bytes written, which stay valid until the next write.
func (w *Writer) Bytes() []byte { return w.b }

// Len returns the number of bytes written.
func (w *Writer) Len() int { return len(w.b) }

// Uint8 writes one byte.
func (w *Writer) Uint8(v uint8) { w.b = append(w.room(1), v) }

// Bool writes one byte, 0 or 1.
func (w *Writer) Bool(v bool) {
	if v {
		w.Uint8(1)
	} else {
		w.Uint8(0)
	}
}

// Uint16 writes two bytes.
func (w *Writer) Uint16(v uint16) { w.b = binary.LittleEndian.AppendUint16(w.room(2), v) }

// Uint32 writes four bytes.
func (w *Writer) Uint32(v uint32) { w.b = binary.LittleEndian.AppendUint32(w.room(4), v) }

// Uint64 writes eight bytes.
func (w *Writer) Uint64(v uint64) { w.b = binary.LittleEndian.AppendUint64(w.room(8), v) }

// Duration writes eight bytes.
func (w *Writer) Duration(v time.Duration) { w.Uint64(uint64(v)) }

// Time writes eight bytes.
func (w *Writer) Time(t time.Time) {
	if t.IsZero() {
		w.Duration(never)
		return
	}
	w.Duration(t.Sub(w.now))
}

// Fixed writes a value of fixed length.
func (w *Writer) Fixed(v []byte) { w.b = append(w.room(len(v)), v...) }

// Blob writes four bytes of length and the bytes.
func (w *Writer) Blob(v []byte) {
	w.Uint32(uint32(len(v)))
	w.Fixed(v)
}

// Path writes a path without its connection number, which is meaningless in
// another process.
func (w *Writer) Path(p path.Path) {
	w.AddrPort(p.Peer)
	w.addr(p.Local)
	w.Uint32(p.IfIndex)
	w.Uint8(uint8(p.Transport))
}

// AddrPort writes an address, with its zone, and a port.
func (w *Writer) AddrPort(a netip.AddrPort) {
	w.addr(a.Addr())
	w.Uint16(a.Port())
}

func (w *Writer) addr(a netip.Addr) {
	if !a.IsValid() {
		w.Uint8(0)
		return
	}
	b := a.AsSlice()
	w.Uint8(uint8(len(b)))
	w.Fixed(b)
	if a.Is6() {
		w.Blob([]byte(a.Zone()))
	}
}

// room makes room for n bytes and wipes the old buffer if it has to move.
func (w *Writer) room(n int) []byte {
	if cap(w.b)-len(w.b) < n {
		grown := slices.Grow(slices.Clip(w.b), max(n, len(w.b)))
		clear(w.b)
		w.b = grown
	}
	return w.b
}

// Part writes the output of f preceded by its length in four bytes, so that a
// reader can skip it.
func (w *Writer) Part(f func()) {
	w.Uint32(0)
	start := len(w.b)
	f()
	binary.LittleEndian.PutUint32(w.b[start-4:], uint32(len(w.b)-start))
}

// Wipe erases the bytes written and keeps the memory for reuse.
func (w *Writer) Wipe() {
	clear(w.b)
	w.b = w.b[:0]
}
