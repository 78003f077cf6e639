package wire

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"
)

// TargetKind is the kind of a target's address, section 8.
type TargetKind uint8

// The kinds of target, as encoded.
const (
	TargetName TargetKind = 3
	TargetIPv4 TargetKind = 4
	TargetIPv6 TargetKind = 6
)

// MaxName is the maximum size of a target name in bytes.
const MaxName = 255

// Target is the destination of a flow or, from a gateway on an endpoint-independent
// or reverse flow, the source of a datagram, section 8.
//
//	kind u8 (4, 6, or 3 for a name) · 4 or 16 bytes, or u8 length and name · port u16
//
// An IPv4 address is always of kind 4: IPv4-mapped IPv6 addresses are rejected, so
// that an address has one form for policies. Port 0 is rejected.
type Target struct {
	Addr netip.Addr // IPv4, or IPv6 without zone; zero if Name is set
	Name []byte     // a host name, to be resolved by the gateway
	Port uint16     // never 0
}

// AddrTarget returns the target for an address, unmapped and without zone.
func AddrTarget(a netip.AddrPort) Target {
	return Target{Addr: a.Addr().Unmap().WithZone(""), Port: a.Port()}
}

// NameTarget returns the target for a host name. Errors: ErrName, ErrPort.
func NameTarget(name string, port uint16) (Target, error) {
	t := Target{Name: []byte(name), Port: port}
	return t, t.Check()
}

// Kind returns the target's kind, or 0 for a target with neither name nor address.
func (t *Target) Kind() TargetKind {
	switch {
	case len(t.Name) > 0:
		return TargetName
	case t.Addr.Is4():
		return TargetIPv4
	case t.Addr.Is6():
		return TargetIPv6
	}
	return 0
}

// Check returns nil if t can be sent, otherwise ErrTargetKind, ErrMapped, ErrName or
// ErrPort. It returns nil for every parsed target.
func (t *Target) Check() error {
	switch t.Kind() {
	case TargetName:
		if !IsHostName(t.Name) {
			return ErrName
		}
	case TargetIPv4:
	case TargetIPv6:
		if t.Addr.Is4In6() {
			return ErrMapped
		}
	default:
		if t.Name != nil {
			return ErrName
		}
		return ErrTargetKind
	}
	if t.Port == 0 {
		return ErrPort
	}
	return nil
}

// AddrPort returns address and port; the address is the zero netip.Addr for a target with a name.
func (t *Target) AddrPort() netip.AddrPort { return netip.AddrPortFrom(t.Addr, t.Port) }

// Equal reports whether t and u are the same target. Names are compared byte by byte.
func (t *Target) Equal(u *Target) bool {
	return t.Port == u.Port && t.Addr == u.Addr && bytes.Equal(t.Name, u.Name)
}

// String returns host:port, an IPv6 address in brackets.
func (t *Target) String() string {
	host := string(t.Name)
	if t.Kind() != TargetName {
		host = t.Addr.String()
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + strconv.Itoa(int(t.Port))
}

// Append appends the target to dst. A target that Check rejects is encoded so that
// the receiver rejects it too.
func (t *Target) Append(dst []byte) []byte {
	kind := t.Kind()
	if kind == TargetName && len(t.Name) > MaxName {
		kind = 0
	}
	dst = append(dst, byte(kind))
	switch kind {
	case TargetName:
		dst = append(dst, byte(len(t.Name)))
		dst = append(dst, t.Name...)
	case TargetIPv4, TargetIPv6:
		dst, _ = t.Addr.WithZone("").AppendBinary(dst)
	}
	return binary.LittleEndian.AppendUint16(dst, t.Port)
}

// CutTarget parses a target at the front of b. Name and rest, the remaining bytes, alias b. Errors:
// ErrShort, ErrTargetKind, ErrMapped, ErrName, ErrPort.
func CutTarget(b []byte) (t Target, rest []byte, err error) {
	if len(b) < 1 {
		return Target{}, nil, ErrShort
	}
	var size int // of kind and address
	switch TargetKind(b[0]) {
	case TargetIPv4:
		if size = 1 + 4; len(b) < size+2 {
			return Target{}, nil, ErrShort
		}
		t.Addr = netip.AddrFrom4([4]byte(b[1:]))
	case TargetIPv6:
		if size = 1 + 16; len(b) < size+2 {
			return Target{}, nil, ErrShort
		}
		if t.Addr = netip.AddrFrom16([16]byte(b[1:])); t.Addr.Is4In6() {
			return Target{}, nil, ErrMapped
		}
	case TargetName:
		if len(b) < 2 {
			return Target{}, nil, ErrShort
		}
		if size = 2 + int(b[1]); len(b) < size+2 {
			return Target{}, nil, ErrShort
		}
		if t.Name = b[2:size:size]; !IsHostName(t.Name) {
			return Target{}, nil, ErrName
		}
	default:
		return Target{}, nil, ErrTargetKind
	}
	if t.Port = binary.LittleEndian.Uint16(b[size:]); t.Port == 0 {
		return Target{}, nil, ErrPort
	}
	return t, b[size+2:], nil
}

// IsHostName reports whether name is a host name that may be resolved: at most MaxName bytes,
// dot-separated labels of 1 to 63 ASCII letters, digits, hyphens (not first) and underscores, with
// an optional final dot. Other alphabets use their ASCII form (xn--…). The last label must not be a
// number, since resolvers read "127.1" or "0x7f000001" as an address.
func IsHostName(name []byte) bool {
	if len(name) == 0 || len(name) > MaxName {
		return false
	}
	start := 0 // of the current label
	for i, c := range name {
		switch {
		case c == '.':
			if i == start {
				return false
			}
			if i < len(name)-1 {
				start = i + 1
			}
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_',
			c == '-' && i > start:
			if i-start >= 63 {
				return false
			}
		default:
			return false
		}
	}
	return !isNumber(bytes.TrimSuffix(name[start:], []byte(".")))
}

// isNumber reports whether label is a decimal number, or 0x and hexadecimal digits.
func isNumber(label []byte) bool {
	hex := len(label) > 1 && label[0] == '0' && label[1]|0x20 == 'x'
	if hex {
		label = label[2:]
	}
	for _, c := range label {
		if '0' <= c && c <= '9' || hex && 'a' <= c|0x20 && c|0x20 <= 'f' {
			continue
		}
		return false
	}
	return true
}
