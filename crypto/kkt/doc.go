// Package kkt is the KEM key transfer of the Lewes Protocol (section 4 of
// PROTOCOL.md): a client requests a gateway's KEM public key and receives it
// signed with the gateway's identity. The frames are those of KKT version 1.
//
//	request := kkt.AppendRequest(nil, kem.MLKEM768, session)            // client
//	id, session, err := kkt.ParseRequest(request)                       // gateway
//	response := kkt.AppendResponse(nil, id, pair.Public(), session, key) // gateway
//	pk, err := kkt.VerifyResponse(response, id, session, gateway)       // client
//
// The session id is the first 16 bytes of BLAKE3(hello). The signature covers it and the rest of
// the frame, which binds a response to one hello and its choice of KEM.
//
// A frame is
//
//	context 7 ‖ body ‖ session id 16 ‖ signature 64
//
// where the body is a KEM public key or empty, and an anonymous request has no
// signature. The context is
//
//	byte 0   version << 4 | sequence
//	byte 1   status << 5 | mode << 2 | role
//	bytes 2–5  KEM, hash, hash length (0 for 32), signature scheme
//	byte 6   0
//
// KKT also defines signed and mutual requests, other hashes and other hash lengths. This package
// parses them, for exact errors, but accepts only anonymous one-way requests and the responses to
// them. It also rejects several frames that the reference implementation accepts: version 0, a
// status in a request, a reserved byte that is not zero, a second encoding of the hash length, a
// response to another request, and a signature that does not cover the exact bytes of the frame.
package kkt
