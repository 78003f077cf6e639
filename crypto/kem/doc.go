// Package kem holds the key encapsulation mechanisms that a gateway can offer
// (section 3 of PROTOCOL.md), behind one type of key pair, and the TLS encoding
// of keys and ciphertexts for PSQ (section 5).
//
//	pair, err := kem.Generate(kem.MLKEM768, rand.Reader)     // gateway
//	ct, ss, err := kem.Encapsulate(kem.MLKEM768, pk, rand.Reader) // client
//	ss, err := pair.Decapsulate(ct)                            // gateway
//
// ML-KEM-768 and X-Wing come from circl. X25519 has no post-quantum security and is here for the
// reference vectors and for tests; the configuration decides whether a gateway accepts it.
//
// All input from a peer is checked for length and encoding: ML-KEM keys must be
// reduced, as FIPS 203 requires, and the X25519 part of a key or ciphertext must
// be canonical and not of low order, so that no X25519 secret is ever zero.
package kem
