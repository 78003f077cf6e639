package client

import (
	"fmt"
	"strings"
)

// Transport says what may carry a session's packets (section 10 of PROTOCOL.md).
type Transport uint8

const (
	// Auto is UDP, and TCP where UDP does not pass.
	Auto Transport = iota
	// UDP alone.
	UDP
	// TCP alone.
	TCP
)

var transportNames = [...]string{Auto: "auto", UDP: "udp", TCP: "tcp"}

func (t Transport) String() string {
	if int(t) < len(transportNames) {
		return transportNames[t]
	}
	return fmt.Sprintf("transport %d", uint8(t))
}

// MarshalText returns auto, udp or tcp.
func (t Transport) MarshalText() ([]byte, error) {
	if int(t) >= len(transportNames) {
		return nil, fmt.Errorf("%w: %s does not exist; take auto, udp or tcp", ErrConfig, t)
	}
	return []byte(t.String()), nil
}

// UnmarshalText reads auto, udp or tcp. On an error t stays as it was.
func (t *Transport) UnmarshalText(text []byte) error {
	for i, name := range transportNames {
		if strings.EqualFold(string(text), name) {
			*t = Transport(i)
			return nil
		}
	}
	return fmt.Errorf("no transport %q; take auto, udp or tcp", text)
}
