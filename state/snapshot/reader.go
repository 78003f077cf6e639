package snapshot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

var (
	// ErrShort means that the input ends inside a value.
	ErrShort = errors.New("snapshot: unexpected end")
	// ErrLong means that bytes follow the last value.
	ErrLong = errors.New("snapshot: trailing bytes")
	// ErrValue means that a value is out of range.
	ErrValue = errors.New("snapshot: invalid value")
)

// Reader reads values from a buffer.
type Reader struct {
	b   []byte
	now time.Time
	err error
}

// NewReader returns a Reader of b. Times are read as distances from now.
func NewReader(b []byte, now time.Time) *Reader { return &Reader{b: b, now: now} }

// Err returns the first error.
func (r *Reader) Err() error { return r.err }

// Len returns the number of bytes left.
func (r *Reader) Len() int { return len(r.b) }

// End returns the first error, or ErrLong when bytes are left.
func (r *Reader) End() error {
	if r.err == nil && len(r.b) > 0 {
		r.err = ErrLong
	}
	return r.err
}

// Fail makes the Reader fail with ErrValue unless it has failed before.
func (r *Reader) Fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrValue, fmt.Sprintf(format, args...))
	}
	r.b = nil
}

func (r *Reader) take(n int) []byte {
	if r.err == nil && (n < 0 || len(r.b) < n) { // int may have 32 bits
		r.err, r.b = ErrShort, nil
	}
	if r.err != nil {
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *Reader) number(size int) uint64 {
	var b [8]byte
	copy(b[:], r.take(size))
	return binary.LittleEndian.Uint64(b[:])
}

// Uint8 reads one byte.
func (r *Reader) Uint8() uint8 { return uint8(r.number(1)) }

// Uint16 reads two bytes.
func (r *Reader) Uint16() uint16 { return uint16(r.number(2)) }

// Uint32 reads four bytes.
func (r *Reader) Uint32() uint32 { return uint32(r.number(4)) }

// Duration reads eight bytes.
func (r *Reader) Duration() time.Duration { return time.Duration(r.number(8)) }

// Count reads the length of a list of at most limit elements, each of at least
// size bytes. A list that cannot fit in the input is an error.
func (r *Reader) Count(limit, size int) int {
	n := r.Uint32()
	if uint64(n) > uint64(limit) || uint64(n)*uint64(size) > uint64(len(r.b)) {
		r.Fail("list of %d elements, limit %d", n, limit)
	}
	if r.err != nil {
		return 0
	}
	return int(n)
}

// Part returns a Reader of the part that Writer.Part wrote.
func (r *Reader) Part() *Reader {
	b := r.take(int(r.Uint32()))
	return &Reader{b: b, now: r.now, err: r.err}
}
