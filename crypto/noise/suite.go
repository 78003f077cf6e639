package noise

import (
	"bytes"
	"crypto/subtle"
	"io"

	flynn "github.com/flynn/noise"

	"lewes/crypto/wipe"
)

// suite is the cipher suite of one handshake: the library's ChaCha20-Poly1305
// and SHA-256, and X25519 by circl, which is faster than the library's. It
// holds what the library asks for by way of the suite: our key pairs, shared
// secrets already computed, and every cipher made, so that all of it can be
// wiped.
type suite struct {
	static, ephemeral KeyPair
	memo              memo
	ciphers           []flynn.Cipher
}

var (
	_ flynn.DHFunc     = (*suite)(nil)
	_ flynn.CipherFunc = (*suite)(nil)
)

func (s *suite) DHLen() int         { return KeySize }
func (s *suite) DHName() string     { return flynn.DH25519.DHName() }
func (s *suite) CipherName() string { return flynn.CipherChaChaPoly.CipherName() }

// GenerateKeypair hands out the ephemeral pair that the caller of this package
// chose, on every building of the state the same one. Nothing is drawn.
func (s *suite) GenerateKeypair(io.Reader) (flynn.DHKey, error) {
	return s.ephemeral.library(), nil
}

// DH returns a slice of the memo, which is good until four other secrets have
// been asked for. The library mixes it into the chaining key at once.
func (s *suite) DH(private, public []byte) ([]byte, error) {
	return s.memo.secret((*[KeySize]byte)(private), (*[KeySize]byte)(public))
}

func (s *suite) Cipher(key [32]byte) flynn.Cipher {
	c := flynn.CipherChaChaPoly.Cipher(key)
	s.ciphers = append(s.ciphers, c)
	return c
}

// forgetCiphers wipes the ciphers of a state that is thrown away.
func (s *suite) forgetCiphers() {
	for i := range s.ciphers {
		wipe.Deep(&s.ciphers[i])
	}
	clear(s.ciphers)
	s.ciphers = s.ciphers[:0]
}

func (s *suite) wipe() {
	s.forgetCiphers()
	s.static.Wipe()
	s.ephemeral.Wipe()
	s.memo.wipe()
}

// library is a copy of the pair as the library wants it.
func (k *KeyPair) library() flynn.DHKey {
	return flynn.DHKey{Private: bytes.Clone(k.Private[:]), Public: bytes.Clone(k.Public[:])}
}

// memo remembers the last shared secrets of a handshake, the latest used
// first. Neither pattern has more than four in all, and those of the steps
// that stand are used again each time a state is built, so they are not the
// ones that forged messages push out.
type memo struct {
	entries [4]*memoEntry
	misses  int // public-key operations done, for tests
}

type memoEntry struct {
	private, public, secret [KeySize]byte
	err                     error
}

func (m *memo) secret(private, public *[KeySize]byte) ([]byte, error) {
	e := m.find(private, public)
	if e == nil {
		m.misses++
		e = m.oldest()
		e.private, e.public = *private, *public
		e.err = dh(&e.secret, private, public)
	}
	if e.err != nil {
		return nil, e.err
	}
	return e.secret[:], nil
}

// find moves the entry found to the front.
func (m *memo) find(private, public *[KeySize]byte) *memoEntry {
	for i, e := range m.entries {
		if e != nil && e.public == *public && subtle.ConstantTimeCompare(e.private[:], private[:]) == 1 {
			copy(m.entries[1:i+1], m.entries[:i])
			m.entries[0] = e
			return e
		}
	}
	return nil
}

func (m *memo) wipe() {
	for _, e := range m.entries {
		if e != nil {
			*e = memoEntry{}
		}
	}
	*m = memo{}
}

// oldest makes the entry used longest ago, or a new one, the first.
func (m *memo) oldest() *memoEntry {
	e := m.entries[len(m.entries)-1]
	if e == nil {
		e = new(memoEntry)
	}
	copy(m.entries[1:], m.entries[:len(m.entries)-1])
	m.entries[0] = e
	return e
}
