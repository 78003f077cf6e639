package seal

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"lewes/crypto/wipe"
)

const (
	// HeaderSize is the length in bytes of a packet's header, which is
	// authenticated and stays in clear.
	HeaderSize = 12

	// TagSize is the length in bytes of the tag in which a packet ends.
	TagSize = 16

	// Overhead is the length of the smallest packet that can be sealed: one
	// with an empty body.
	Overhead = HeaderSize + TagSize

	// KeySize is the length of a key in bytes.
	KeySize = 32
)

// ErrOpen means that a packet is not one that was sealed under this key: it
// was damaged or forged, is too short, or belongs to another key; or that the
// key is wiped.
var ErrOpen = errors.New("packet does not open")

// Key seals and opens the packets of one direction and level. All its methods
// may be called by several goroutines at once. It must not be copied.
type Key struct {
	cipher atomic.Pointer[expanded] // nil at rest, and once wiped

	mu     sync.Mutex     // taken to expand and to wipe, not for a packet
	secret *[KeySize]byte // behind a pointer, where printing a struct around the Key does not reach
	suite  Suite          // 0 once wiped
}

// NewKey makes a Key of the 32 bytes at key, which it copies. With a suite
// that is not Valid it returns a key that is wiped already: it seals and opens
// nothing.
func NewKey(s Suite, key *[KeySize]byte) *Key {
	if !s.Valid() {
		return &Key{secret: new([KeySize]byte)}
	}
	secret := *key
	return &Key{secret: &secret, suite: s}
}

// Seal seals packet in place: 12 bytes of header, the body, and 16 bytes of
// room in which the tag is written. It tells whether it did; it does not, and
// the packet must not be sent, if the key is wiped or the packet is shorter
// than Overhead. It allocates nothing where the cipher has assembly (see the
// package comment).
func (k *Key) Seal(packet []byte) bool {
	c := k.expanded()
	if c == nil || len(packet) < Overhead {
		return false
	}
	n := nonceOf(packet)
	header, body := packet[:HeaderSize], packet[HeaderSize:len(packet)-TagSize]
	c.aead.Seal(body[:0], n[:], body, header)
	nonces.Put(n)
	runtime.KeepAlive(c) // erased once unreachable: not before the packet is done
	return true
}

// Open opens packet in place and returns its body, which aliases packet. On
// ErrOpen the bytes between header and tag are no longer those that came. It
// allocates as little as Seal.
func (k *Key) Open(packet []byte) (body []byte, err error) {
	c := k.expanded()
	if c == nil || len(packet) < Overhead {
		return nil, ErrOpen
	}
	n := nonceOf(packet)
	header, sealed := packet[:HeaderSize], packet[HeaderSize:]
	body, err = c.aead.Open(sealed[:0], n[:], sealed, header)
	nonces.Put(n)
	runtime.KeepAlive(c)
	if err != nil {
		return nil, ErrOpen
	}
	return body, nil
}

// Secret copies the key to secret, for a process that goes on in this one's place.
// The caller wipes it. It reports false once the key was wiped.
func (k *Key) Secret(secret *[KeySize]byte) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.suite == 0 {
		return false
	}
	*secret = *k.secret
	return true
}

// Rest forgets the expanded cipher and keeps the 32 bytes, for a session that
// is idle. The next packet expands the key again.
func (k *Key) Compact() { k.cipher.Store(nil) }

// Wipe overwrites the key. From then on Seal returns false and Open ErrOpen; a
// packet that another goroutine is sealing or opening at this moment is still
// finished under the key.
func (k *Key) Wipe() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.suite = 0
	wipe.Bytes(k.secret[:])
	k.cipher.Store(nil)
}

// IsExpanded reports whether the next packet finds the cipher ready.
func (k *Key) IsExpanded() bool {
	c := k.cipher.Load()
	return c != nil && c.aead != nil
}

// expanded returns nil if the key is wiped.
func (k *Key) expanded() *expanded {
	if c := k.cipher.Load(); c != nil {
		return c
	}
	return k.wake()
}

func (k *Key) wake() *expanded {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.suite == 0 {
		return nil
	}
	c := k.cipher.Load()
	if c == nil {
		c = expand(k.suite, k.secret)
		k.cipher.Store(c)
	}
	return c
}

// nonces lends the twelve bytes of a nonce. On a goroutine's own stack they
// would move to the heap with each packet, as the compiler cannot see that
// what stands behind the interface cipher.AEAD keeps none of its arguments.
var nonces = sync.Pool{New: func() any { return new(nonce) }}

// nonce is eight counter bytes and four bytes that are never written.
type nonce [12]byte

func nonceOf(packet []byte) *nonce {
	n := nonces.Get().(*nonce)
	copy(n[:8], packet[4:HeaderSize])
	return n
}

// Format writes a fixed text for every verb: a key is never printed.
func (k *Key) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, "seal.Key(redacted)") }
