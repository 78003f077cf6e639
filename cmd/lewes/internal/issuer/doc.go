// Package issuer issues anonymous tickets over HTTP: Privacy Pass tokens (RFC 9578 type 2), for
// vouchers that its operator hands out.
//
// Its state is a directory that one issuer at a time uses:
//
//	pin             the Ed25519 key that signs the list of keys
//	plans           what vouchers can be made for, one per line
//	directory       the last directory that was published, which the next one must extend
//	keys/           one RSA key for each denomination and epoch
//	vouchers/       one file for each voucher, named by its hash: what it is for, then the hash of
//	                each request that it paid for
//
// A request is written to the voucher's file, and synced, before it is signed; a repeated request is
// found there and signed again for nothing. A voucher is made by writing its file, also while the
// issuer runs. All secrets are in files of mode 0600; vouchers are stored as hashes only.
package issuer
