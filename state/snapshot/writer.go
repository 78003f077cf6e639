package snapshot

import (
	"encoding/binary"
	"slices"
	"time"
)

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

func (w *Writer) number(v uint64, size int) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], v)
	w.Fixed(b[:size])
}

// Uint8 writes one byte.
func (w *Writer) Uint8(v uint8) { w.number(uint64(v), 1) }

// Uint16 writes two bytes.
func (w *Writer) Uint16(v uint16) { w.number(uint64(v), 2) }

// Uint32 writes four bytes.
func (w *Writer) Uint32(v uint32) { w.number(uint64(v), 4) }

// Duration writes eight bytes.
func (w *Writer) Duration(v time.Duration) { w.number(uint64(v), 8) }

// Fixed writes a value of fixed length.
func (w *Writer) Fixed(v []byte) { w.b = append(w.room(len(v)), v...) }

// room makes room for n bytes and wipes the old buffer if it has to move.
func (w *Writer) room(n int) []byte {
	if cap(w.b)-len(w.b) < n {
		grown := slices.Grow(slices.Clip(w.b), max(n, len(w.b)))
		clear(w.b)
		w.b = grown
	}
	return w.b
}

// Part writes the output of f preceded by its length in four bytes, so that a reader can skip it.
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
