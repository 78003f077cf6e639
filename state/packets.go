package state

import (
	"lewes/crypto/cookie"
	"lewes/state/parts"
	"lewes/state/wire"
)

// message is what every message of state/wire can do.
type message interface{ Append(dst []byte) []byte }

// unsealed builds a packet up to its trailer, which is still zero.
func unsealed(index uint32, level wire.Level, t wire.Type, m message) []byte {
	p := wire.Begin(make([]byte, 0, 128), index, level, 0, t)
	return wire.Finish(m.Append(p))
}

// clearPacket builds a packet in clear with its MAC1.
func clearPacket(mac *cookie.MAC1Key, index uint32, t wire.Type, m message) []byte {
	p := unsealed(index, wire.LevelClear, t, m)
	mac.Sum(p)
	return p
}

// padded is a message whose packet is made size bytes long with zeros.
type padded struct {
	message
	size int
}

func (p padded) Append(dst []byte) []byte {
	start := len(dst) - wire.HeaderSize - wire.PrefixSize
	return wire.Pad(p.message.Append(dst), start, p.size)
}

// parsePart reads a part of a message. Over a stream a message has one part only.
func parsePart(content []byte, stream bool) (wire.Part, error) {
	part, err := wire.ParsePart(content)
	if err == nil && stream && part.Count != 1 {
		err = wire.ErrPart
	}
	return part, err
}

// splitFor divides a handshake or subsession message for the transport that it
// goes by: parts over UDP, always one part where packets may be large.
func splitFor(message []byte, stream bool) []wire.Part {
	if stream {
		return parts.Split(message, wire.MaxTCPPacket)
	}
	return parts.Split(message, parts.MaxData)
}
