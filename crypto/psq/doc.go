// Package psq is the post-quantum half of a handshake (section 5 of PROTOCOL.md):
// a preshared key from a KEM, which also protects the client's signed
// credential. The messages are those of libcrux-psq v1.
//
//	msg, secrets, err := psq.Initiate(id, pk, transcript, key, now, rand.Reader) // client
//	opened, err := psq.Respond(pair, transcript, msg)                            // gateway
//	answer := opened.Secrets.AppendResponderMsg(nil)
//	err = secrets.OpenResponderMsg(answer)                                       // client
//
// The client's message is the payload of Noise message 1, the gateway's that of message 2.
//
// The initiator's message is, with the sizes in bytes,
//
//	enc'         TLS form of the ciphertext
//	mac       32 HMAC-SHA256 under a key derived from the KEM's secret
//	tag       16 of the AEAD, before the sealed bytes
//	length     2 40 7c, which is 124
//	sealed   124 seconds u64 ‖ milliseconds u32 ‖ ttl in milliseconds u128
//	             ‖ signature 64 over enc' ‖ mac ‖ client's identity 32
//
// with big-endian numbers, and the responder's is tag 16 ‖ length 1 (10) ‖ sealed
// handle 16. Every length is fixed, so a message has one encoding; the reference
// also accepts longer length fields, longer plaintexts and trailing bytes.
//
// The caller checks the time of a credential. The ttl is written as in the
// reference and not checked.
package psq
