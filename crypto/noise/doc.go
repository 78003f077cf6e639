// Package noise runs the two Noise handshakes of the Lewes Protocol over
// github.com/flynn/noise:
//
//   - XK, Noise_XKpsk3_25519_ChaChaPoly_SHA256, in a session's handshake
//     (section 5 of PROTOCOL.md), and
//   - KK, Noise_KKpsk0_25519_ChaChaPoly_SHA256, in a subsession (section 7).
//
// Each side of each handshake is a type of its own, with a method a message,
// so that a message out of turn is an error and a wrong kind of message cannot
// be written at all:
//
//	client := noise.NewXKInitiator(prologue, static, ephemeral, gatewayKey)
//	m1, err := client.WriteMessage1(initiatorMsg)
//	...
//	payload, err := client.ReadMessage2(m2) // an error here costs nothing
//	m3, split, err := client.WriteMessage3(psk)
//
// # Failure
//
// A datagram may be forged, so a message that does not open must leave the
// handshake as it was. The library's own rollback does not restore everything;
// therefore a library state on which anything failed is thrown away here, and
// the next attempt builds a new one by going through the steps that succeeded.
// The results of X25519 are remembered within one handshake, so that building
// anew costs some hashing, but no public-key operation.
//
// # Keys
//
// Key pairs are passed by value. Ephemeral keys are chosen by the caller,
// because the protocol commits to one before the first message is written
// (section 4), and because a test needs them fixed. An X25519 result of zero
// bytes is refused everywhere. Wipe erases what a handshake holds, the
// library's state with it; a handshake that ended in a Split has wiped itself.
//
// No value of this package is safe for use by several goroutines at once.
package noise
