package ledger

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net/netip"
	"slices"
	"time"

	"lewes/state/snapshot"
)

// base is the instant from which times are stored as distances, of a century at most.
var base = time.Unix(1767225600, 0).UTC() // 2026-01-01

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A value begins with the CRC-32C of the bucket's name, the key and the content.
const crcSize = 4

func checksum(bucket string, key, content []byte) uint32 {
	sum := crc32.Update(0, castagnoli, []byte(bucket))
	sum = crc32.Update(sum, castagnoli, key)
	return crc32.Update(sum, castagnoli, content)
}

func encodeValue(bucket string, key []byte, code func(*snapshot.Codec)) []byte {
	w := snapshot.NewWriter(make([]byte, crcSize, 128), base)
	code(snapshot.Encode(w))
	b := w.Bytes()
	binary.LittleEndian.PutUint32(b, checksum(bucket, key, b[crcSize:]))
	return b
}

func decodeValue(bucket string, key, value []byte, code func(*snapshot.Codec)) error {
	if len(value) < crcSize || binary.LittleEndian.Uint32(value) != checksum(bucket, key, value[crcSize:]) {
		return fmt.Errorf("%w: checksum of %s %x", ErrDamaged, bucket, key)
	}
	r := snapshot.NewReader(value[crcSize:], base)
	code(snapshot.Decode(r))
	if err := r.End(); err != nil {
		return fmt.Errorf("%w: %s %x: %w", ErrDamaged, bucket, key, err)
	}
	return nil
}

// validTime reports whether an instant can be stored.
func validTime(t time.Time) bool {
	d := t.Sub(base)
	return !t.IsZero() && d < snapshot.MaxDistance && d > -snapshot.MaxDistance
}

func codeAddr(c *snapshot.Codec, ip *netip.Addr) {
	a := netip.AddrPortFrom(*ip, 0)
	if c.AddrPort(&a); c.Decoding() {
		*ip = a.Addr()
		c.Check(a.Port() == 0, "port %d", a.Port())
	}
}

func (g *Grant) code(c *snapshot.Codec) {
	c.Uint64(&g.Bytes)
	c.Uint64(&g.Used)
	c.Time(&g.Expires)
	snapshot.Byte(c, &g.Source)
	c.Uint64(&g.Number)
	c.Check(g.Used <= g.Bytes && !g.Expires.IsZero(), "grant of %d bytes with %d used until %v", g.Bytes, g.Used, g.Expires)
	c.Check(g.Source == SourceTicket || g.Source == SourceListed, "grant from source %d", g.Source)
}

func (a *Attachment) code(c *snapshot.Codec) {
	snapshot.Byte(c, &a.Mode)
	snapshot.Byte(c, &a.State)
	if a.Mode == DVPN {
		c.Fixed(a.WireGuardKey[:])
		c.Blob(&a.PSK, MaxSealed)
		codeAddr(c, &a.IPv4)
		codeAddr(c, &a.IPv6)
	}
	if a.Mode == Mixnet {
		c.Fixed(a.ClientID[:])
	}
	c.Check(c.Err() != nil || a.valid(), "attachment of mode %v, state %v", a.Mode, a.State)
}

func (a *Account) code(c *snapshot.Codec) {
	c.Time(&a.Seen)
	c.Uint64(&a.numbers)
	n := c.Count(len(a.Grants), MaxGrants, 33)
	if c.Decoding() {
		a.Grants = make([]Grant, n)
	}
	for i := range a.Grants {
		a.Grants[i].code(c)
	}
	c.Check(slices.IsSortedFunc(a.Grants, byExpiry), "grants out of order")
	n = c.Count(len(a.Attachments), MaxAttachments, 2)
	if c.Decoding() {
		a.Attachments = make([]Attachment, n)
	}
	for i := range a.Attachments {
		a.Attachments[i].code(c)
	}
}

func byExpiry(a, b Grant) int { return a.Expires.Compare(b.Expires) }

// spend is the value of a spent ticket.
type spend struct {
	request, account [32]byte
}

func (s *spend) code(c *snapshot.Codec) {
	c.Fixed(s.request[:])
	c.Fixed(s.account[:])
}

// result is the value of a kept result.
type result struct {
	expires time.Time
	bytes   []byte
}

func (r *result) code(c *snapshot.Codec) {
	c.Time(&r.expires)
	c.Blob(&r.bytes, MaxResult)
	c.Check(!r.expires.IsZero(), "result that never expires")
}

func (r *Reservation) code(c *snapshot.Codec) {
	c.Fixed(r.Owner[:])
	c.Time(&r.Until)
}

// issuer is the value of an issuer.
type issuer struct {
	newest time.Time // the latest From of a spent ticket; zero if there is none
	floor  time.Time // the latest Until of a list of spent tickets that was dropped; zero if there is none
}

func (i *issuer) code(c *snapshot.Codec) {
	c.Time(&i.newest)
	c.Time(&i.floor)
}

// reference is a value that names an account.
type reference [32]byte

func (r *reference) code(c *snapshot.Codec) { c.Fixed(r[:]) }

const (
	magic   = "lewes ledger"
	version = 1
)

// header is the value that every version of a ledger begins with.
type header struct {
	magic    [len(magic)]byte
	version  uint32
	gateway  [32]byte
	boot     [16]byte // of the run that opened the file last
	previous [16]byte // of the run before
	clock    time.Time
	trust    time.Time // when clock may follow a jump; zero if there is none
}

func (h *header) code(c *snapshot.Codec) {
	c.Fixed(h.magic[:])
	c.Uint32(&h.version)
	if c.Decoding() && (string(h.magic[:]) != magic || h.version != version) {
		c.Check(false, "magic %q, version %d", h.magic, h.version)
		return
	}
	c.Fixed(h.gateway[:])
	c.Fixed(h.boot[:])
	c.Fixed(h.previous[:])
	c.Time(&h.clock)
	c.Time(&h.trust)
	c.Check(!h.clock.IsZero(), "clock unset")
}
