package link

import "time"

// Faults are the faults of one direction of a link. The zero value has none. Shares are between
// 0 and 1.
type Faults struct {
	Down  bool    // drop everything
	Loss  float64 // share dropped
	MTU   int     // drop larger IP packets, in bytes; 0 is no limit
	Block []Match // drop packets that match one of these

	Delay  time.Duration // for every packet
	Jitter time.Duration // deviation from Delay in both directions; reorders packets
	// Reorder is the share sent without Delay, ahead of earlier packets.
	Reorder   float64
	Duplicate float64 // share delivered twice

	Corrupt float64 // share with one flipped bit in the UDP or TCP payload
	Repair  bool    // correct the checksum afterwards
}

// Protocols, by their numbers in IP headers.
const (
	TCP uint8 = 6
	UDP uint8 = 17
)

// Match matches packets. A zero field matches all.
type Match struct {
	IP       int // 4 or 6
	Protocol uint8
	Port     uint16 // UDP or TCP port at end B
	Near     uint16 // port at end A, before NAT
}

// matches reports whether a packet with these ports at both ends matches.
func (m *Match) matches(h *header, near, far uint16) bool {
	return (m.IP == 0 || m.IP == h.version) &&
		(m.Protocol == 0 || m.Protocol == h.protocol) &&
		(m.Port == 0 || h.ports && m.Port == far) &&
		(m.Near == 0 || h.ports && m.Near == near)
}

// Counts are the counters of one direction, in packets.
type Counts struct {
	Sent       uint64 // sent by the machine
	Lost       uint64 // by chance
	Down       uint64
	TooLarge   uint64
	Blocked    uint64
	Unmapped   uint64 // without a NAT mapping
	Overflowed uint64 // dropped because maxWaiting packets were delayed
	Carried    uint64 // delivered or delayed

	Duplicated uint64 // of those carried: delivered twice
	Corrupted  uint64 // of those carried
	Reordered  uint64 // of those carried: sent without delay
	Refused    uint64 // rejected by the receiving device
}

// Dropped returns the number of dropped packets.
func (c Counts) Dropped() uint64 {
	return c.Lost + c.Down + c.TooLarge + c.Blocked + c.Unmapped + c.Overflowed
}
