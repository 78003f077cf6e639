// Package wire is the packet codec of the Lewes Protocol, version 2: the byte
// layout of every packet and message in PROTOCOL.md, and nothing else. It
// knows no key, socket, clock or session, and imports nothing of ours.
//
// # Sending
//
// A packet is appended to a buffer of the caller's: Begin writes the outer
// header and the body's prefix, a message's Append writes the content, Finish
// makes room for the trailer, which the sealing of a packet or its MAC1 then
// fills.
//
//	p := wire.Begin(buf[:0], idx, wire.LevelTransport, seq, wire.TypeEncryptedData)
//	p = (&wire.EncryptedData{FlowID: 7, Payload: payload}).Append(p)
//	p = wire.Finish(p)
//	key.Seal(p)
//
// Pad, between Append and Finish, lengthens a ClientHello, a KKTRequest or a
// Ping with zeros.
//
// # Receiving
//
//	h, err := wire.ParseHeader(p)        // size and level
//	body := wire.Body(p)                 // clear packets; sealed ones: what opening returns
//	t, content, err := wire.ParseBody(body)
//	if !h.Allows(t, wire.ToGateway) { … }
//	m, err := wire.ParseEncryptedData(content)
//
// A type that PROTOCOL.md marks ◇ (Type.Parts) begins with a part header:
// ParsePart first; the message's own parser reads what the parts join to.
//
// # Rules that hold for all of it
//
//   - Nothing allocates, neither parsing nor, given a buffer with room,
//     appending; nor does a refusal.
//   - A slice in a parsed message aliases the buffer that was parsed and is good
//     as long as that buffer is. Its capacity ends where it ends. Appending
//     copies.
//   - Parsing is strict: it takes exactly what appending writes (and zero
//     padding where section 2 allows padding), so for every message
//     parse(append(m)) = m and append(parse(b)) = b up to that padding.
//   - Errors are the named values of errors.go, bare: whoever parses a message
//     knows its type and says it.
//   - Codes and reasons that this version does not know are kept as they stand;
//     unknown flags of a flow are refused, because what they would change is
//     where a datagram goes.
package wire
