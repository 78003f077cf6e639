package cookie

import (
	"crypto/subtle"

	"lewes/crypto/identity"
	"lewes/crypto/kdf"
)

// TrailerSize is the length in bytes of the MAC1 in which a clear packet ends.
const TrailerSize = kdf.MACSize

// MAC1Key makes and checks the trailers of the clear packets to and from one
// gateway. It is safe for concurrent use.
type MAC1Key struct{ key *kdf.MACKey }

// NewMAC1Key makes the key for a gateway. Both ends use the gateway's.
func NewMAC1Key(gateway identity.PublicKey) *MAC1Key {
	key := kdf.DeriveKey("lewes/2 mac1", gateway[:])
	return &MAC1Key{kdf.NewMACKey(&key)}
}

// Sum writes the trailer into the last 16 bytes of packet, over all that
// stands before them. The packet must have room for it: header, body and 16
// bytes more.
func (k *MAC1Key) Sum(packet []byte) {
	n := len(packet) - TrailerSize
	mac := k.key.MAC(packet[:n])
	copy(packet[n:], mac[:])
}

// Verify tells whether packet ends in the trailer that Sum would write. A
// packet too short to have one has none. It allocates nothing.
func (k *MAC1Key) Verify(packet []byte) bool {
	n := len(packet) - TrailerSize
	if n < 0 {
		return false
	}
	mac := k.key.MAC(packet[:n])
	return subtle.ConstantTimeCompare(mac[:], packet[n:]) == 1
}
