// Package wipe overwrites secrets that are no longer needed.
//
// Bytes is for secrets that a package holds itself. Deep is for keys that a
// library has expanded into a structure of its own and that it offers no way
// to erase: the round keys of a cipher, the polynomials of an ML-KEM key.
//
// Neither reaches copies that a library or the compiler left on a stack or in
// a register; Go gives no way to. What is wiped is what would otherwise live
// on for the life of the heap object.
package wipe
