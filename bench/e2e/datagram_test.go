package e2e

import "encoding/binary"

// What a test sends: a number, and bytes that follow from it, so that a datagram that was
// changed on its way is found.
const leastDatagram = 12

func putDatagram(b []byte, number uint32) {
	binary.LittleEndian.PutUint32(b, number)
	for i := 4; i < len(b); i++ {
		b[i] = byte(number) + byte(i)
	}
}

// datagramNumber returns the number of a datagram. ok is false if it was changed.
func datagramNumber(b []byte) (number uint32, ok bool) {
	if len(b) < leastDatagram {
		return 0, false
	}
	number = binary.LittleEndian.Uint32(b)
	for i := 4; i < len(b); i++ {
		if b[i] != byte(number)+byte(i) {
			return 0, false
		}
	}
	return number, true
}
