// Package identity holds the long-term key pair by which Lewes peers know each
// other: Ed25519 for signatures, and the X25519 pair made from it for Noise
// (section 3 of PROTOCOL.md).
//
//	key, err := identity.Load("/etc/lewes/identity.pem")
//	fmt.Println(key.Public())        // base58, as it stands in a directory
//	sig := key.Sign(frame)
//	private, public := key.X25519()  // the Noise static pair
//
// A public key that reached us from outside is only bytes until X25519 or
// Verify has looked at it: both refuse points of low order and encodings that
// are not canonical, so that a key has one spelling and no key makes a shared
// secret, or a signature, that everybody can compute.
//
// A private key lives in a PKCS#8 PEM file that nobody but its owner can read,
// the form that openssl genpkey -algorithm ed25519 writes.
package identity
