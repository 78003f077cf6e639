package snapshot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"lewes/state/path"
)

var (
	// ErrShort means that the input ends inside a value.
	ErrShort = errors.New("snapshot: unexpected end")
	// ErrLong means that bytes follow the last value.
	ErrLong = errors.New("snapshot: trailing bytes")
	// ErrValue means that a value is out of range.
	ErrValue = errors.New("snapshot: invalid value")
)

// maxZone bounds the zone name in an address.
const maxZone = 64

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

// Now returns the instant that times are relative to.
func (r *Reader) Now() time.Time { return r.now }

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

// Uint8 reads one byte.
func (r *Reader) Uint8() uint8 {
	if v := r.take(1); v != nil {
		return v[0]
	}
	return 0
}

// Bool reads one byte, which must be 0 or 1.
func (r *Reader) Bool() bool {
	v := r.Uint8()
	if v > 1 {
		r.Fail("bool %d", v)
	}
	return v == 1
}

// Uint16 reads two bytes.
func (r *Reader) Uint16() uint16 {
	if v := r.take(2); v != nil {
		return binary.LittleEndian.Uint16(v)
	}
	return 0
}

// Uint32 reads four bytes.
func (r *Reader) Uint32() uint32 {
	if v := r.take(4); v != nil {
		return binary.LittleEndian.Uint32(v)
	}
	return 0
}

// Uint64 reads eight bytes.
func (r *Reader) Uint64() uint64 {
	if v := r.take(8); v != nil {
		return binary.LittleEndian.Uint64(v)
	}
	return 0
}

// Duration reads eight bytes.
func (r *Reader) Duration() time.Duration { return time.Duration(r.Uint64()) }

// MaxDistance is how far a time may be from now: a century, so that no sum of two
// times overflows.
const MaxDistance = 100 * 365 * 24 * time.Hour

// Time reads eight bytes.
func (r *Reader) Time() time.Time {
	d := r.Duration()
	if r.err != nil || d == never {
		return time.Time{}
	}
	if d > MaxDistance || d < -MaxDistance {
		r.Fail("time %v from now", d)
		return time.Time{}
	}
	return r.now.Add(d)
}

// Fixed reads as many bytes as v has into v.
func (r *Reader) Fixed(v []byte) { copy(v, r.take(len(v))) }

// Blob reads the output of Writer.Blob, at most limit bytes. It aliases the
// buffer and is nil if empty.
func (r *Reader) Blob(limit int) []byte {
	n := r.Uint32()
	if uint64(n) > uint64(limit) {
		r.Fail("blob of %d bytes, limit %d", n, limit)
	}
	if n == 0 || r.err != nil {
		return nil
	}
	return r.take(int(n))
}

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

// Path reads a path.
func (r *Reader) Path() (p path.Path) {
	p.Peer = r.AddrPort()
	p.Local = r.addr()
	p.IfIndex = r.Uint32()
	p.Transport = path.Transport(r.Uint8())
	if p.Transport > path.TCP {
		r.Fail("path over transport %v", p.Transport)
	}
	return p
}

// AddrPort reads an address and a port.
func (r *Reader) AddrPort() netip.AddrPort {
	a := r.addr()
	return netip.AddrPortFrom(a, r.Uint16())
}

func (r *Reader) addr() netip.Addr {
	n := r.Uint8()
	switch n {
	case 0:
		return netip.Addr{}
	case 4, 16:
	default:
		r.Fail("address of %d bytes", n)
	}
	a, _ := netip.AddrFromSlice(r.take(int(n)))
	if n == 16 {
		if zone := r.Blob(maxZone); zone != nil {
			a = a.WithZone(string(zone))
		}
		if a.Is4In6() {
			r.Fail("IPv4-mapped address")
		}
	}
	return a
}
