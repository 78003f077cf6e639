// Package identity holds the long-term key pair of a Lewes peer: Ed25519 for signatures, and the
// X25519 pair derived from it for Noise (section 3 of PROTOCOL.md).
//
//	key, err := identity.Load("/etc/lewes/identity.pem")
//	fmt.Println(key.Public())        // base58, as in a directory
//	sig := key.Sign(frame)
//	private, public := key.X25519()  // the Noise static pair
//
// A received public key is unchecked until X25519 or Verify: both reject points
// of low order and non-canonical encodings, so that a key has one encoding, and no
// key gives a shared secret or a signature that anyone could compute.
//
// A private key is stored in a PKCS#8 PEM file readable by its owner only, in the
// format of openssl genpkey -algorithm ed25519.
package identity
