// Package tickets implements the anonymous tickets of section 9 of PROTOCOL.md: publicly verifiable
// tokens of Privacy Pass (RFC 9578 type 2), which are blind RSA-2048 signatures (RFC 9474). An issuer
// signs a ticket without seeing it, so it cannot recognize the ticket when it is spent; a gateway
// verifies it with the issuer's public key and cannot make one.
//
//	challenge := tickets.Challenge("issuer.example", gateway) // the client builds it itself
//	request, err := tickets.Blind(&seed, key, challenge)      // client → issuer
//	response, err := private.Sign(request)                    // issuer → client
//	token, err := tickets.Finalize(&seed, key, challenge, response)
//
//	ticket, err := verifier.Check(token.Append(nil), now)     // gateway: all that is cheap
//	err = ticket.Verify()                                     // gateway: RSA
//
// An issuer has one key for each denomination and epoch. It signs the list of them with an Ed25519
// key, the pin, which clients and gateways know: one key per pair, so that no client can be tagged by
// a key of its own.
package tickets
