// Package seal protects packets: it seals and opens a packet's body in place,
// with the AEAD that the handshake chose (section 1 of PROTOCOL.md).
//
//	suite, ok := seal.Choose(hello.AEADOffer, seal.Offer())
//	key := seal.NewKey(suite, &tk)
//	key.Seal(packet)            // header 12 ‖ body ‖ 16 bytes of room
//	body, err := key.Open(packet)
//
// The nonce is the eight counter bytes of the header, then four zero bytes; the
// header is the associated data. The caller must never repeat a sequence number
// under one key, and keeps the replay window.
//
// Sealing and opening do not allocate, except with ChaCha20-Poly1305 on CPUs for
// which golang.org/x/crypto has no assembly (all but amd64 with AVX2): there its
// cipher makes two small allocations. AES-256-GCM, chosen wherever both ends
// have instructions for it, allocates nothing anywhere.
//
// # Memory
//
// A compacted Key takes 64 bytes: the 32 of the key and the fields that guard them. The first
// packet expands it into a cipher, which takes about 50 bytes more for ChaCha20-Poly1305 and about
// 800 for AES-256-GCM (round keys and a table for GHASH), and one to three microseconds. Compact
// drops the cipher of an idle session; the next packet expands it again. A dropped cipher is
// overwritten once the garbage collector finds it unreachable.
package seal
