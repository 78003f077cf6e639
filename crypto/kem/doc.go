// Package kem holds the key encapsulation mechanisms that a gateway can offer
// (section 3 of PROTOCOL.md), behind one form of key pair, and the TLS
// encoding of their parts that PSQ computes with (section 5).
//
//	pair, err := kem.Generate(kem.MLKEM768, rand.Reader)     // gateway
//	ct, ss, err := kem.Encapsulate(kem.MLKEM768, pk, rand.Reader) // client
//	ss, err := pair.Decapsulate(ct)                            // gateway
//
// ML-KEM-768 and X-Wing come from circl. X25519 has no post-quantum security
// and is here for the reference vectors and for tests; whether a gateway takes
// it is decided by its configuration, not here.
//
// Everything that comes from a peer is checked for its length and its
// encoding: ML-KEM keys must be reduced, as FIPS 203 requires, and the X25519
// part of a key or ciphertext must be canonical and not of low order, so that
// no X25519 secret is ever zero.
package kem
