// Package wgkey derives what a registration in mode dvpn needs of WireGuard keys: the proof that the
// client owns its key, and the preshared key that both ends give WireGuard (section 9 of PROTOCOL.md).
//
//	proof, err := wgkey.Prove(&private, gateway, exporter)          // the client
//	ok := wgkey.Verify(identity, &clientPublic, exporter, proof[:]) // the gateway
//	psk := wgkey.PresharedKey(exporter, &clientPublic, &gatewayPublic)
package wgkey

import (
	"crypto/subtle"

	"lewes/crypto/identity"
	"lewes/crypto/kdf"
	"lewes/crypto/noise"
)

// ProofSize is the length of a proof in bytes.
const ProofSize = 16

const (
	contextProof        = "lewes/2 wireguard proof"
	contextPresharedKey = "lewes/2 wireguard psk"
)

// Key is a WireGuard key: an X25519 key or a preshared key.
type Key = [noise.KeySize]byte

// Public returns the public key of a private one.
func Public(private *Key) Key {
	pair := noise.KeyPairFrom(*private)
	defer pair.Wipe()
	return pair.Public
}

// Prove returns the proof that a client owns the WireGuard key, for the gateway at the other end of
// the session with this exporter. It fails if the gateway's identity is not a point of the curve.
func Prove(private *Key, gateway identity.PublicKey, exporter *[32]byte) (proof [ProofSize]byte, err error) {
	static, err := gateway.X25519()
	if err != nil {
		return proof, err
	}
	return derive(private, &static, exporter)
}

// Verify reports whether a proof is that of the owner of the WireGuard key, in constant time. It refuses
// every proof for a key of low order.
func Verify(gateway *identity.PrivateKey, public *Key, exporter *[32]byte, proof []byte) bool {
	static, _ := gateway.X25519()
	defer clear(static[:])
	want, err := derive(&static, public, exporter)
	return subtle.ConstantTimeCompare(want[:], proof) == 1 && err == nil
}

func derive(private, public *Key, exporter *[32]byte) (proof [ProofSize]byte, err error) {
	shared, err := noise.DH(private, public)
	defer clear(shared[:])
	whole := kdf.DeriveKey(contextProof, shared[:], exporter[:])
	defer clear(whole[:])
	return [ProofSize]byte(whole[:ProofSize]), err
}

// PresharedKey derives the preshared key of a client's and a gateway's WireGuard keys (R9.6). The
// caller wipes it.
func PresharedKey(exporter *[32]byte, client, gateway *Key) Key {
	return kdf.DeriveKey(contextPresharedKey, exporter[:], client[:], gateway[:])
}
