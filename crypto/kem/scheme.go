package kem

// scheme is one mechanism: its sizes in bytes, and what to do with keys whose
// sizes have been checked.
type scheme struct {
	seedSize       int // secret that a key pair is made from
	publicKeySize  int
	ciphertextSize int
	encapsSize     int // randomness of one encapsulation

	tlsPublicKey  string // what stands before the raw bytes in the TLS form
	tlsCiphertext string
	tlsSecret     string

	newKey      func(seed []byte) (pk []byte, private decapsulator)
	encapsulate func(pk, coins []byte) (ct []byte, ss [SecretSize]byte, err error)
}

// decapsulator is a private key. wipe.Deep erases all that it points to.
type decapsulator interface {
	decapsulate(ct []byte) (ss [SecretSize]byte, err error)
}

// schemeOf returns nil for a mechanism that is not supported.
func schemeOf(id ID) *scheme {
	switch id {
	case MLKEM768:
		return &mlkem768Scheme
	case XWing:
		return &xwingScheme
	case X25519:
		return &x25519Scheme
	default:
		return nil
	}
}
