// Package seal protects packets: it seals and opens a packet's body in place,
// with the AEAD that the handshake chose (section 1 of PROTOCOL.md).
//
//	suite, ok := seal.Choose(hello.AEADOffer, seal.Offer())
//	key := seal.NewKey(suite, &tk)
//	key.Seal(packet)            // header 12 ‖ body ‖ 16 bytes of room
//	body, err := key.Open(packet)
//
// The nonce is the eight counter bytes as they stand in the header, then four
// zero bytes; the header is the associated data. The sequence in it must never
// repeat under one key: that is the caller's part, as is the replay window.
//
// No packet costs an allocation, except with ChaCha20-Poly1305 on CPUs for
// which golang.org/x/crypto has no assembly (all but amd64 with AVX2): there
// its cipher makes two small ones. AES-256-GCM, which is chosen wherever both
// ends have instructions for it, has none anywhere.
//
// # What a key holds
//
// A Key at rest takes 64 bytes: the 32 of the key and what guards them. The
// first packet expands it into a cipher, which for ChaCha20-Poly1305 takes
// about 50 bytes more and for AES-256-GCM (round keys and a table for GHASH)
// about 800, and one to three microseconds. Rest drops the cipher of a session
// that has gone quiet; the next packet expands it again. A dropped cipher is
// overwritten once the garbage collector finds that no packet uses it any
// more.
package seal
