package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"runtime"

	"golang.org/x/crypto/chacha20poly1305"

	"lewes/crypto/wipe"
)

// expanded is a key made ready for use. It is never changed, so goroutines may
// use it while Rest or Wipe takes it out of its Key. Nobody can tell when the
// last of them is done but the garbage collector, so it is the collector that
// erases it. Who uses aead must keep the expanded alive until it is done.
type expanded struct{ aead cipher.AEAD }

func expand(s Suite, key *[KeySize]byte) *expanded {
	var e *expanded
	switch s {
	case ChaCha20Poly1305:
		e = &expanded{must(chacha20poly1305.New(key[:]))}
	case AES256GCM:
		block := must(aes.NewCipher(key[:]))
		e = &expanded{must(cipher.NewGCM(block))}
		eraseUnreachable(block) // GCM works on a copy of it
	default:
		panic("seal: " + s.String() + " is not one suite")
	}
	eraseUnreachable(e)
	return e
}

// eraseUnreachable has what p points to overwritten when nothing else points
// there.
func eraseUnreachable(p any) {
	runtime.SetFinalizer(p, func(p any) { wipe.Deep(p) })
}

// must is for constructors that fail only for a key or nonce of a wrong
// length, which the types here exclude.
func must[T any](v T, err error) T {
	if err != nil {
		panic("seal: " + err.Error())
	}
	return v
}
