package measure

import "encoding/binary"

// A datagram of the bench begins with the number of the trial that it belongs to and the time
// when it was sent:
//
//	magic u32 · run u32 · time i64, of Now
const (
	// HeaderSize is the length of that header, and the shortest datagram.
	HeaderSize = 16
	// OpeningRun is the run of datagrams that only open a flow. They are not counted.
	OpeningRun uint32 = 0

	magic = 0x4c457762
)

// PutHeader writes the header of a datagram.
func PutHeader(datagram []byte, run uint32, at int64) {
	binary.LittleEndian.PutUint32(datagram, magic)
	binary.LittleEndian.PutUint32(datagram[4:], run)
	binary.LittleEndian.PutUint64(datagram[8:], uint64(at))
}

// Header reads the header of a datagram. ok is false if it has none.
func Header(datagram []byte) (run uint32, at int64, ok bool) {
	if len(datagram) < HeaderSize || binary.LittleEndian.Uint32(datagram) != magic {
		return 0, 0, false
	}
	return binary.LittleEndian.Uint32(datagram[4:]), int64(binary.LittleEndian.Uint64(datagram[8:])), true
}
