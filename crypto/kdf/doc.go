// Package kdf holds the three uses that the Lewes Protocol makes of BLAKE3: a
// key derivation with a context string, a short keyed MAC and a plain hash
// (the notation at the head of PROTOCOL.md).
//
//	tk := kdf.DeriveKey("lewes/2 transport c2g", root[:])
//	tag := kdf.MAC(&key, header, body)
//	sid := kdf.Hash(hello)
//
// All functions take their input in parts and hash the concatenation. No
// length stands between two parts: where a length could be moved from one
// part to its neighbour, the caller writes the length itself, as the protocol
// does with len32.
package kdf
