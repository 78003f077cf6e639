package udp

import (
	"net"
	"strconv"
)

// A link-local peer's zone is the interface's number in decimal ("fe80::1%2"):
// numbers need no look-up for each packet, and a renamed interface keeps its peers.

func zoneName(index uint32) string { return strconv.FormatUint(uint64(index), 10) }

// zoneIndex returns the number of an interface by its zone, a number or a name; 0
// where there is none.
func zoneIndex(zone string) uint32 {
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n)
	}
	ifi, err := net.InterfaceByName(zone)
	if err != nil {
		return 0
	}
	return uint32(ifi.Index)
}
