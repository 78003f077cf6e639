// Package psq makes the post-quantum half of a handshake (section 5 of
// PROTOCOL.md): a preshared key that both ends compute from a KEM, with the
// client's signed credential under it. The messages are those of libcrux-psq
// v1.
//
//	msg, secrets, err := psq.Initiate(id, pk, transcript, key, now, rand.Reader) // client
//	opened, err := psq.Respond(pair, transcript, msg)                            // gateway
//	answer := opened.Secrets.AppendResponderMsg(nil)
//	err = secrets.OpenResponderMsg(answer)                                       // client
//
// The client's message travels as the payload of Noise message 1, the gateway's
// as that of message 2.
//
// The initiator's message is, with the sizes in bytes,
//
//	enc'         as the KEM has it: TLS form of the ciphertext
//	mac       32 HMAC-SHA256 under a key that only the KEM's secret gives
//	tag       16 of the AEAD, before what it belongs to
//	length     2 40 7c, which is 124
//	sealed   124 seconds u64 ‖ milliseconds u32 ‖ ttl in milliseconds u128
//	             ‖ signature 64 over enc' ‖ mac ‖ client's identity 32
//
// with the numbers big-endian, and the responder's is tag 16 ‖ length 1 (10) ‖
// sealed handle 16. Every length is fixed, so there is one spelling of a
// message; the reference also takes longer length fields, longer plaintexts and
// bytes behind the message.
//
// The time in a credential is handed to the caller, who knows the tolerance.
// The ttl is written as the reference writes it and not looked at.
package psq
