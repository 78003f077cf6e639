package parts

import (
	"fmt"

	"lewes/crypto/kdf"
	"lewes/state/wire"
)

// MaxData is the number of message bytes that fit one part of a handshake or
// subsession message, so that its datagram is no larger than
// wire.MaxHandshakeDatagram.
const MaxData = wire.MaxHandshakeDatagram - wire.Overhead - wire.PartHeaderSize

// ID returns what the parts of message bear as their message_id: the first four
// bytes of its BLAKE3.
func ID(message []byte) (id [4]byte) {
	sum := kdf.Hash(message)
	copy(id[:], sum[:])
	return id
}

// Split returns the parts of message, none with more than most bytes, all but
// the last equally long. The parts' Data aliases message. It panics if message
// needs more than wire.MaxParts parts: messages are built by this side, and
// their sizes are known.
func Split(message []byte, most int) []wire.Part {
	count := max(1, (len(message)+most-1)/most)
	if count > wire.MaxParts {
		panic(fmt.Sprintf("parts: message of %d bytes needs %d parts of %d", len(message), count, most))
	}
	size := (len(message) + count - 1) / count
	id := ID(message)
	out := make([]wire.Part, count)
	for i := range out {
		start := i * size
		out[i] = wire.Part{
			Index:     uint8(i),
			Count:     uint8(count),
			MessageID: id,
			Data:      message[start:min(start+size, len(message))],
		}
	}
	return out
}
