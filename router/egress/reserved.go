package egress

import (
	"os"
	"strconv"
	"strings"
)

// reservedFile lists the ports that Linux takes for no socket by itself, such as "41264,8000-8009".
const reservedFile = "/proc/sys/net/ipv4/ip_local_reserved_ports"

// readReserved returns the machine's reserved ports; none if it has no such list.
func readReserved() portSet {
	text, _ := os.ReadFile(reservedFile)
	return parseReserved(string(text))
}

// portSet is a set of ports, one bit for each.
type portSet [1 << 16 / 64]uint64

func (s *portSet) has(port uint16) bool { return s[port/64]>>(port%64)&1 != 0 }

// parseReserved parses a list of ports and ranges. Other entries are ignored.
func parseReserved(text string) (s portSet) {
	for entry := range strings.SplitSeq(strings.TrimSpace(text), ",") {
		first, last, ranged := strings.Cut(entry, "-")
		if !ranged {
			last = first
		}
		low, err1 := strconv.ParseUint(first, 10, 16)
		high, err2 := strconv.ParseUint(last, 10, 16)
		if err1 != nil || err2 != nil {
			continue
		}
		for port := low; port <= high; port++ {
			s[port/64] |= 1 << (port % 64)
		}
	}
	return s
}
