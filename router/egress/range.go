package egress

import (
	"fmt"
	"strconv"
	"strings"
)

// Range is the first and the last of a range of local UDP ports.
type Range [2]uint16

// DefaultRange leaves a thousand ports of Linux's range for sockets on ports of the system's choice.
var DefaultRange = Range{20000, 59999}

const (
	minPort  = 1024 // those below need a privilege
	minPorts = 100
)

// ParseRange parses "20000-59999": at least 100 ports, none below 1024.
func ParseRange(s string) (Range, error) {
	first, last, ok := strings.Cut(s, "-")
	low, err1 := strconv.ParseUint(first, 10, 16)
	high, err2 := strconv.ParseUint(last, 10, 16)
	switch {
	case !ok || err1 != nil || err2 != nil:
		return Range{}, fmt.Errorf(`%q is not a range of ports such as "%v"`, s, DefaultRange)
	case low < minPort:
		return Range{}, fmt.Errorf("%q begins below port %d", s, minPort)
	case high < low || high-low+1 < minPorts:
		return Range{}, fmt.Errorf("%q has fewer than %d ports", s, minPorts)
	}
	return Range{uint16(low), uint16(high)}, nil
}

// UnmarshalText implements encoding.TextUnmarshaler by ParseRange.
func (r *Range) UnmarshalText(text []byte) (err error) {
	*r, err = ParseRange(string(text))
	return err
}

func (r Range) String() string { return fmt.Sprintf("%d-%d", r[0], r[1]) }

// MarshalText implements encoding.TextMarshaler.
func (r Range) MarshalText() ([]byte, error) { return []byte(r.String()), nil }
