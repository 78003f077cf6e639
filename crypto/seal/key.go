package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/chacha20poly1305"

	"lewes/crypto/wipe"
)

const (
	// HeaderSize is the length in bytes of a packet's header, which is
	// authenticated but not encrypted.
	HeaderSize = 12

	// TagSize is the length in bytes of the tag at the end of a packet.
	TagSize = 16

	// Overhead is the length of a packet with an empty body, the smallest that can be sealed.
	Overhead = HeaderSize + TagSize

	// KeySize is the length of a key in bytes.
	KeySize = 32
)

// ErrOpen means that a packet was not sealed under this key: it is damaged,
// forged, too short, or belongs to another key. A wiped key returns it too.
var ErrOpen = errors.New("packet does not open")

// Key seals and opens the packets of one direction and level. It is safe for
// concurrent use. It must not be copied.
type Key struct {
	cipher atomic.Pointer[expanded] // nil when compacted or wiped

	mu     sync.Mutex     // guards expansion and wiping; not taken per packet
	secret *[KeySize]byte // a pointer, so that printing an enclosing struct does not show it
	suite  Suite          // 0 when wiped
}

// NewKey returns a Key with a copy of the 32 bytes at key. If the suite is not
// Valid, the Key is already wiped: it seals and opens nothing.
func NewKey(s Suite, key *[KeySize]byte) *Key {
	if !s.Valid() {
		return &Key{secret: new([KeySize]byte)}
	}
	secret := *key
	return &Key{secret: &secret, suite: s}
}

// Seal seals packet in place: a 12-byte header, the body, and 16 bytes of room for the tag. It
// returns false, and the packet must not be sent, if the key is wiped or the packet is shorter than
// Overhead. It does not allocate where the cipher has assembly (see the package comment).
func (k *Key) Seal(packet []byte) bool {
	c := k.expanded()
	if c == nil || len(packet) < Overhead {
		return false
	}
	n := nonceOf(packet)
	header, body := packet[:HeaderSize], packet[HeaderSize:len(packet)-TagSize]
	c.aead.Seal(body[:0], n[:], body, header)
	nonces.Put(n)
	runtime.KeepAlive(c) // the cipher is erased once c is unreachable
	return true
}

// Open opens packet in place and returns its body, which aliases packet. After ErrOpen the bytes
// between header and tag are undefined. It allocates as little as Seal.
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

// Secret copies the key to secret, for a snapshot. The caller wipes it. It
// returns false if the key is wiped.
func (k *Key) Secret(secret *[KeySize]byte) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.suite == 0 {
		return false
	}
	*secret = *k.secret
	return true
}

// Compact drops the expanded cipher of an idle session and keeps the 32 bytes.
// The next packet expands the key again.
func (k *Key) Compact() { k.cipher.Store(nil) }

// Wipe overwrites the key. From then on Seal returns false and Open ErrOpen. A
// Seal or Open that is already running in another goroutine still completes.
func (k *Key) Wipe() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.suite = 0
	clear(k.secret[:])
	k.cipher.Store(nil)
}

// IsExpanded reports whether the cipher is ready for the next packet. It reads
// the first words of the cipher and so pulls them into cache.
func (k *Key) IsExpanded() bool {
	c := k.cipher.Load()
	return c != nil && c.aead != nil
}

// expanded returns the cipher, or nil if the key is wiped.
func (k *Key) expanded() *expanded {
	if c := k.cipher.Load(); c != nil {
		return c
	}
	return k.expand()
}

func (k *Key) expand() *expanded {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.suite == 0 {
		return nil
	}
	c := k.cipher.Load()
	if c == nil {
		c = expand(k.suite, k.secret)
		c.eraseUnreachable()
		k.cipher.Store(c)
	}
	return c
}

// Format writes a fixed text for every verb, so that a key is never printed.
func (k *Key) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, "seal.Key(redacted)") }

// expanded is a key ready for use. It is immutable, so goroutines may use it while Compact or Wipe
// removes it from its Key. Only the garbage collector knows when the last of them is done, so the
// collector erases it; users of aead keep the expanded alive until they are done.
type expanded struct{ aead cipher.AEAD }

func expand(s Suite, key *[KeySize]byte) *expanded {
	switch s {
	case ChaCha20Poly1305:
		return &expanded{must(chacha20poly1305.New(key[:]))}
	case AES256GCM:
		block := must(aes.NewCipher(key[:]))
		defer wipe.Deep(block) // GCM works on a copy
		return &expanded{must(cipher.NewGCM(block))}
	default:
		panic("seal: " + s.String() + " is not one suite")
	}
}

// eraseUnreachable has the cipher overwritten once e is unreachable. A cleanup
// costs about half as much as a finalizer here (BenchmarkDropKeys).
func (e *expanded) eraseUnreachable() {
	runtime.AddCleanup(e, func(aead cipher.AEAD) { wipe.Deep(aead) }, e.aead)
}

// must is for constructors that fail only for a wrong key or nonce length,
// which the types here exclude.
func must[T any](v T, err error) T {
	if err != nil {
		panic("seal: " + err.Error())
	}
	return v
}

// nonces holds nonces for reuse. On the stack of Seal and Open they would
// escape to the heap with each packet, because the compiler cannot see that the
// cipher.AEAD behind the interface keeps none of its arguments.
var nonces = sync.Pool{New: func() any { return new(nonce) }}

// nonce is eight counter bytes and four zero bytes.
type nonce [12]byte

func nonceOf(packet []byte) *nonce {
	n := nonces.Get().(*nonce)
	copy(n[:8], packet[4:HeaderSize])
	return n
}
