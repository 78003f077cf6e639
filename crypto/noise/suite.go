package noise

import (
	"bytes"
	"crypto/subtle"
	"io"

	flynn "github.com/flynn/noise"

	"lewes/crypto/wipe"
)

// suite is the cipher suite of one handshake: the library's ChaCha20-Poly1305
// and SHA-256, and circl's X25519, which is faster than the library's. It holds
// the key pairs, the shared secrets and every cipher, so that it can wipe them.
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

// GenerateKeypair returns the caller's ephemeral pair, the same one for every state that is built.
func (s *suite) GenerateKeypair(io.Reader) (flynn.DHKey, error) {
	return s.ephemeral.library(), nil
}

// DH returns a slice of the memo, valid until four other secrets are requested.
// The library mixes it into the chaining key at once.
func (s *suite) DH(private, public []byte) ([]byte, error) {
	return s.memo.secret((*[KeySize]byte)(private), (*[KeySize]byte)(public))
}

func (s *suite) Cipher(key [32]byte) flynn.Cipher {
	c := flynn.CipherChaChaPoly.Cipher(key)
	s.ciphers = append(s.ciphers, c)
	return c
}

// forgetCiphers wipes the ciphers of a discarded state.
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

// library returns a copy of the pair in the library's type.
func (k *KeyPair) library() flynn.DHKey {
	return flynn.DHKey{Private: bytes.Clone(k.Private[:]), Public: bytes.Clone(k.Public[:])}
}

// memo caches the four most recently used shared secrets of a handshake, the
// latest first. Neither pattern has more than four. Rebuilding a state uses
// those of the steps done, so forged messages do not evict them.
type memo struct {
	entries [4]*memoEntry
	misses  int // number of public-key operations, for tests
}

type memoEntry struct {
	private, public, secret [KeySize]byte
	err                     error
}

// secret returns the shared secret of two keys and moves its entry to the front.
func (m *memo) secret(private, public *[KeySize]byte) ([]byte, error) {
	at := len(m.entries) - 1 // the least recently used, if there is no match
	found := false
	for i, e := range m.entries {
		if e != nil && e.public == *public && subtle.ConstantTimeCompare(e.private[:], private[:]) == 1 {
			at, found = i, true
			break
		}
	}
	e := m.entries[at]
	if e == nil {
		e = new(memoEntry)
	}
	copy(m.entries[1:at+1], m.entries[:at])
	m.entries[0] = e
	if !found {
		m.misses++
		e.private, e.public = *private, *public
		e.err = dh(&e.secret, private, public)
	}
	if e.err != nil {
		return nil, e.err
	}
	return e.secret[:], nil
}

func (m *memo) wipe() {
	for _, e := range m.entries {
		if e != nil {
			*e = memoEntry{}
		}
	}
	*m = memo{}
}
