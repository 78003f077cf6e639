// Package noise runs the two Noise handshakes of the Lewes Protocol over github.com/flynn/noise:
//
//   - XK, Noise_XKpsk3_25519_ChaChaPoly_SHA256, in a session's handshake
//     (section 5 of PROTOCOL.md), and
//   - KK, Noise_KKpsk0_25519_ChaChaPoly_SHA256, in a subsession (section 7).
//
// Each side of each handshake has its own type, with one method per message. A
// message out of order is an error, and a wrong message cannot be written:
//
//	client := noise.NewXKInitiator(prologue, static, ephemeral, gatewayKey)
//	m1, err := client.WriteMessage1(initiatorMsg)
//	...
//	payload, err := client.ReadMessage2(m2) // an error changes nothing
//	m3, split, err := client.WriteMessage3(psk)
//
// # Failure
//
// A datagram may be forged, so a message that does not open must leave the handshake unchanged. The
// library's own rollback is incomplete. Therefore this package discards a library state after a
// failure, and the next attempt builds a new one by repeating the successful steps. X25519 results
// are cached per handshake, so rebuilding costs some hashing but no public-key operation.
//
// # Keys
//
// The caller chooses the ephemeral keys, because the protocol commits to one before the first
// message (section 4), and because tests need fixed keys. An X25519 result of zeros is an error
// everywhere. Wipe erases the secrets of a handshake, including the library's state; a handshake
// that ended in a Split has wiped itself.
//
// The types of this package are not safe for concurrent use.
package noise
