package snapshot

import (
	"bytes"
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
// Encoding leaves the values alone. Decoding is as safe on arbitrary bytes as the
// Reader below it.
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

func codeValue[T any](c *Codec, v *T, write func(*Writer, T), read func(*Reader) T) {
	if c.w != nil {
		write(c.w, *v)
	} else {
		*v = read(c.r)
	}
}

// Byte codes an enumeration or flags of one byte.
func Byte[T ~uint8](c *Codec, v *T) {
	u := uint8(*v)
	codeValue(c, &u, (*Writer).Uint8, (*Reader).Uint8)
	if c.r != nil {
		*v = T(u)
	}
}

// Int codes a number as four bytes.
func Int[T ~int | ~uint32](c *Codec, v *T) {
	u := uint32(*v)
	c.Uint32(&u)
	if c.r != nil {
		*v = T(u)
	}
}

// Bool codes one byte, 0 or 1.
func (c *Codec) Bool(v *bool) { codeValue(c, v, (*Writer).Bool, (*Reader).Bool) }

// Uint16 codes two bytes.
func (c *Codec) Uint16(v *uint16) { codeValue(c, v, (*Writer).Uint16, (*Reader).Uint16) }

// Uint32 codes four bytes.
func (c *Codec) Uint32(v *uint32) { codeValue(c, v, (*Writer).Uint32, (*Reader).Uint32) }

// Uint64 codes eight bytes.
func (c *Codec) Uint64(v *uint64) { codeValue(c, v, (*Writer).Uint64, (*Reader).Uint64) }

// Duration codes eight bytes.
func (c *Codec) Duration(v *time.Duration) { codeValue(c, v, (*Writer).Duration, (*Reader).Duration) }

// Time codes eight bytes, as a distance from the snapshot's instant.
func (c *Codec) Time(v *time.Time) { codeValue(c, v, (*Writer).Time, (*Reader).Time) }

// AddrPort codes an address and a port.
func (c *Codec) AddrPort(v *netip.AddrPort) { codeValue(c, v, (*Writer).AddrPort, (*Reader).AddrPort) }

// Path codes a path without its connection.
func (c *Codec) Path(v *path.Path) { codeValue(c, v, (*Writer).Path, (*Reader).Path) }

// Fixed codes a value of fixed length in place.
func (c *Codec) Fixed(v []byte) {
	if c.w != nil {
		c.w.Fixed(v)
	} else {
		c.r.Fixed(v)
	}
}

// Blob codes up to limit bytes with their length. Decoding copies them.
func (c *Codec) Blob(v *[]byte, limit int) {
	if c.w != nil {
		c.w.Blob(*v)
	} else {
		*v = bytes.Clone(c.r.Blob(limit))
	}
}

// Present codes whether an optional value follows.
func (c *Codec) Present(present bool) bool {
	c.Bool(&present)
	return present
}

// Count codes the length n of a list of at most limit elements, each of at least
// size bytes.
func (c *Codec) Count(n, limit, size int) int {
	if c.w != nil {
		c.w.Uint32(uint32(n))
		return n
	}
	return c.r.Count(limit, size)
}
