package snapshot

import (
	"bytes"
	"math"
	"net/netip"
	"time"

	"lewes/state/path"
)

// Codec moves values in one direction, to a Writer or from a Reader, so that a
// type describes its snapshot once for both:
//
//	func (t *Timer) snapshot(c *snapshot.Codec) {
//		c.Uint32(&t.id)
//		c.Time(&t.deadline)
//		c.Check(t.id != 0, "timer without an id")
//	}
//
// Encoding leaves the values alone. Decoding is as safe on arbitrary bytes as the Reader below it.
type Codec struct {
	w *Writer
	r *Reader
}

// Encode returns a Codec that writes to w.
func Encode(w *Writer) *Codec { return &Codec{w: w} }

// Decode returns a Codec that reads from r.
func Decode(r *Reader) *Codec { return &Codec{r: r} }

// Decoding reports whether values are read.
func (c *Codec) Decoding() bool { return c.r != nil }

// Err returns the first error of decoding.
func (c *Codec) Err() error {
	if c.r == nil {
		return nil
	}
	return c.r.Err()
}

// Check fails decoding with ErrValue unless ok.
func (c *Codec) Check(ok bool, format string, args ...any) {
	if c.r != nil && !ok {
		c.r.Fail(format, args...)
	}
}

func (c *Codec) number(v uint64, size int) uint64 {
	if c.r != nil {
		return c.r.number(size)
	}
	c.w.number(v, size)
	return v
}

func number[T ~int | ~int64 | ~uint8 | ~uint16 | ~uint32 | ~uint64](c *Codec, v *T, size int) {
	if n := c.number(uint64(*v), size); c.r != nil {
		*v = T(n)
	}
}

// Byte codes an enumeration or flags of one byte.
func Byte[T ~uint8](c *Codec, v *T) { number(c, v, 1) }

// Int codes a number as four bytes.
func Int[T ~int | ~uint32](c *Codec, v *T) { number(c, v, 4) }

// Bool codes one byte, 0 or 1.
func (c *Codec) Bool(v *bool) {
	var n uint8
	if *v {
		n = 1
	}
	Byte(c, &n)
	c.Check(n <= 1, "bool %d", n)
	if c.r != nil {
		*v = n == 1
	}
}

// Uint16 codes two bytes.
func (c *Codec) Uint16(v *uint16) { number(c, v, 2) }

// Uint32 codes four bytes.
func (c *Codec) Uint32(v *uint32) { number(c, v, 4) }

// Uint64 codes eight bytes.
func (c *Codec) Uint64(v *uint64) { number(c, v, 8) }

// Duration codes eight bytes.
func (c *Codec) Duration(v *time.Duration) { number(c, v, 8) }

// MaxDistance is how far a decoded time may be from the snapshot's instant: a century,
// so that no sum of two times overflows.
const MaxDistance = 100 * 365 * 24 * time.Hour

// never encodes the zero time.
const never = math.MinInt64

// Time codes eight bytes, as a distance from the snapshot's instant.
func (c *Codec) Time(v *time.Time) {
	d := time.Duration(never)
	if c.w != nil {
		if !v.IsZero() {
			d = v.Sub(c.w.now)
		}
		c.w.Duration(d)
		return
	}
	*v = time.Time{}
	switch d = c.r.Duration(); {
	case c.r.err != nil || d == never:
	case d > MaxDistance || d < -MaxDistance:
		c.r.Fail("time %v from now", d)
	default:
		*v = c.r.now.Add(d)
	}
}

// Path codes a path without its connection number, which is meaningless in another process.
func (c *Codec) Path(v *path.Path) {
	if c.r != nil {
		*v = path.Path{}
	}
	c.AddrPort(&v.Peer)
	c.addr(&v.Local)
	c.Uint32(&v.IfIndex)
	Byte(c, &v.Transport)
	c.Check(v.Transport <= path.TCP, "path over transport %v", v.Transport)
}

// AddrPort codes an address, with its zone, and a port.
func (c *Codec) AddrPort(v *netip.AddrPort) {
	a, port := v.Addr(), v.Port()
	c.addr(&a)
	c.Uint16(&port)
	if c.r != nil {
		*v = netip.AddrPortFrom(a, port)
	}
}

// maxZone bounds the zone name in an address.
const maxZone = 64

func (c *Codec) addr(v *netip.Addr) {
	b, zone := v.AsSlice(), []byte(v.Zone())
	n := uint8(len(b))
	Byte(c, &n)
	if c.r != nil {
		c.Check(n == 0 || n == 4 || n == 16, "address of %d bytes", n)
		b = c.r.take(int(n))
	} else {
		c.w.Fixed(b)
	}
	if n == 16 {
		c.Blob(&zone, maxZone)
	}
	if c.r == nil {
		return
	}
	*v, _ = netip.AddrFromSlice(b)
	if n == 16 {
		*v = v.WithZone(string(zone))
	}
	c.Check(!v.Is4In6(), "IPv4-mapped address")
}

// Fixed codes a value of fixed length in place.
func (c *Codec) Fixed(v []byte) {
	if c.w != nil {
		c.w.Fixed(v)
	} else {
		copy(v, c.r.take(len(v)))
	}
}

// Blob codes up to limit bytes with their length in four bytes. Decoding copies them,
// and gives nil if there are none.
func (c *Codec) Blob(v *[]byte, limit int) {
	if c.w != nil {
		c.w.Uint32(uint32(len(*v)))
		c.w.Fixed(*v)
		return
	}
	*v = nil
	n := c.r.Uint32()
	if uint64(n) > uint64(limit) {
		c.r.Fail("blob of %d bytes, limit %d", n, limit)
	}
	if n > 0 {
		*v = bytes.Clone(c.r.take(int(n)))
	}
}

// Present codes whether an optional value follows.
func (c *Codec) Present(present bool) bool {
	c.Bool(&present)
	return present
}

// Optional codes whether *v is set; decoding then allocates it. It returns *v.
func Optional[T any](c *Codec, v **T) *T {
	if present := c.Present(*v != nil); c.r != nil {
		*v = nil
		if present {
			*v = new(T)
		}
	}
	return *v
}

// Count codes the length n of a list of at most limit elements, each of at least size bytes.
func (c *Codec) Count(n, limit, size int) int {
	if c.w != nil {
		c.w.Uint32(uint32(n))
		return n
	}
	return c.r.Count(limit, size)
}
