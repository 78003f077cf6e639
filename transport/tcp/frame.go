package tcp

import (
	"encoding/binary"
	"errors"
	"fmt"

	"lewes/state/wire"
)

// lengthSize is the size of the length before each packet: u32, big-endian.
const lengthSize = 4

// ErrBadLength: the length before a packet is that of none (R10.6). Nothing behind it
// can be told apart any more.
var ErrBadLength = errors.New("length of no packet")

// lengthOf reads the length before a packet.
func lengthOf(b *[lengthSize]byte) (int, error) {
	n := binary.BigEndian.Uint32(b[:])
	if n < wire.MinPacket || n > wire.MaxTCPPacket {
		return 0, fmt.Errorf("tcp: %w: %d bytes, a packet has from %d to %d", ErrBadLength, n, wire.MinPacket, wire.MaxTCPPacket)
	}
	return int(n), nil
}

// appendFrame appends a packet with its length before it.
func appendFrame(dst, packet []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(packet)))
	return append(dst, packet...)
}
