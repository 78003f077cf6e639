// Package payload lays out what a bench sends: which trial a datagram belongs to, and when
// it left. The rest of it is of no matter.
//
//	magic u32 · run u32 · time i64, of the clock that all processes share
package payload

import "encoding/binary"

const (
	// Size is how many bytes of a datagram are looked at, the least that it has.
	Size = 16
	// Opening is the run of what is sent to open a flow: who receives it learns where
	// the flow comes from, and counts nothing.
	Opening uint32 = 0

	magic = 0x4c457762
)

// Put writes into the first bytes of a datagram, which has at least Size.
func Put(datagram []byte, run uint32, at int64) {
	binary.LittleEndian.PutUint32(datagram, magic)
	binary.LittleEndian.PutUint32(datagram[4:], run)
	binary.LittleEndian.PutUint64(datagram[8:], uint64(at))
}

// Get reads what Put wrote. ok is false for a datagram of somebody else's.
func Get(datagram []byte) (run uint32, at int64, ok bool) {
	if len(datagram) < Size || binary.LittleEndian.Uint32(datagram) != magic {
		return 0, 0, false
	}
	return binary.LittleEndian.Uint32(datagram[4:]), int64(binary.LittleEndian.Uint64(datagram[8:])), true
}
