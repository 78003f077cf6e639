// Package wire is the packet codec of the Lewes Protocol, version 2: the byte layout
// of every packet and message in PROTOCOL.md. It has no keys, sockets, clocks or
// sessions, and imports no other package of this module.
//
// # Sending
//
// A packet is appended to the caller's buffer: Begin writes the outer header and the
// body's prefix, a message's Append writes the content, and Finish appends room for
// the trailer, the AEAD tag or MAC1.
//
//	p := wire.Begin(buf[:0], idx, wire.LevelTransport, seq, wire.TypeEncryptedData)
//	p = (&wire.EncryptedData{FlowID: 7, Payload: payload}).Append(p)
//	p = wire.Finish(p)
//	key.Seal(p)
//
// Pad, between Append and Finish, pads a ClientHello, a KKTRequest or a Ping with zeros.
//
// # Receiving
//
//	h, err := wire.ParseHeader(p)        // size and level
//	body := wire.Body(p)                 // or the opened body of a sealed packet
//	t, content, err := wire.ParseBody(body)
//	if !h.Allows(t, wire.ToGateway) { … }
//	m, err := wire.ParseEncryptedData(content)
//
// A type that PROTOCOL.md marks ◇ (Type.MaxMessage) begins with a part header, for
// ParsePart; the message's own parser reads the reassembled message.
//
// # Rules
//
//   - Parsing does not allocate, errors included; nor does appending to a buffer
//     with room. A RegisterResult, which only clients parse, owns its fields.
//   - A slice in a parsed message aliases the parsed buffer, with its capacity cut
//     to its length. Appending copies.
//   - Parsing is strict: it accepts exactly the output of Append, and zero padding
//     where section 2 allows it. For every message, parse(append(m)) = m and
//     append(parse(b)) = b up to that padding. A Register and its result are accepted in
//     every encoding that section 9 allows, with unknown keys.
//   - Errors are unwrapped, since the caller knows the type.
//   - Unknown codes and reasons are kept. Unknown flow flags are rejected, because
//     they would change the destination of a datagram.
package wire
