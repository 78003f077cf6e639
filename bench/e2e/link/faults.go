package link

import "time"

// Faults are what is wrong with one direction of a link. The zero value is a link without
// any. Shares are between 0 and 1.
type Faults struct {
	Down  bool    // drop everything
	Loss  float64 // share that is dropped
	MTU   int     // drop IP packets of more bytes; 0 means none
	Block []Match // drop what one of these matches

	Delay  time.Duration // for every packet
	Jitter time.Duration // more or less than Delay by up to this, so that packets overtake each other
	// Reorder is the share that waits for nothing and so overtakes what has a Delay.
	Reorder   float64
	Duplicate float64 // share that comes twice

	Corrupt float64 // share with one bit of the UDP or TCP payload turned
	Repair  bool    // make the checksum right again after that
}

// Protocols, by their numbers in IP headers.
const (
	TCP uint8 = 6
	UDP uint8 = 17
)

// Match matches packets. A field that is 0 matches all.
type Match struct {
	IP       int // 4 or 6
	Protocol uint8
	Port     uint16 // at end B, UDP or TCP: where the link leads to
	Near     uint16 // the port at end A, as that machine has it: without a NAT
}

// matches judges a packet by its header and its ports at both ends.
func (m *Match) matches(h *header, near, far uint16) bool {
	return (m.IP == 0 || m.IP == h.version) &&
		(m.Protocol == 0 || m.Protocol == h.protocol) &&
		(m.Port == 0 || h.ports && m.Port == far) &&
		(m.Near == 0 || h.ports && m.Near == near)
}

// Counts are what one direction of a link has done so far, in packets.
type Counts struct {
	Sent       uint64 // that the machine sent: all of the following but Duplicated
	Lost       uint64 // by chance
	Down       uint64
	TooLarge   uint64
	Blocked    uint64
	Unmapped   uint64 // that the NAT had no mapping for
	Overflowed uint64 // that found too many waiting
	Carried    uint64 // that were handed to the other machine, or wait to be

	Duplicated uint64 // of those carried: that went twice
	Corrupted  uint64 // of those carried
	Reordered  uint64 // of those carried: that waited for nothing
	Refused    uint64 // that the other machine's device did not take
}

// Dropped returns how many packets the link did not carry.
func (c Counts) Dropped() uint64 {
	return c.Lost + c.Down + c.TooLarge + c.Blocked + c.Unmapped + c.Overflowed
}
