package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/kem"
	"lewes/crypto/tickets"
	"lewes/router/textfile"
	"lewes/state/wire"
)

// Errors of values, to follow "is".
var (
	errDuration = errors.New(`not a duration: write a number and a unit, such as "500ms", "30s", "15m" or "24h"`)
	errAddress  = errors.New(`not an address to listen on: write an IP address, with an optional port from 1 to 65535, such as "192.0.2.1" or "[2001:db8::1]:51264"`)
	errNetwork  = errors.New(`not a network: write an address, a slash and a length, such as "10.77.0.0/16" or "fd4c:7768:6979::/64"`)
	errIssuer   = errors.New(`not an issuer: write "https://HOST#PIN" or "FILE#PIN", with the pin that the issuer prints`)
	errHost     = errors.New(`not a host: write a host name or an IP address, with an optional port, such as "gw.example.com" or "203.0.113.7:443"`)
)

// Duration is a time.Duration that is formatted without zero units: "24h".
type Duration time.Duration

// String formats the value for UnmarshalText.
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText parses a duration such as "1h30m". It rejects negative ones.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil || parsed < 0 || text[0] == '-' {
		return fmt.Errorf("%q is %w", text, errDuration)
	}
	*d = Duration(parsed)
	return nil
}

// Size is a number of bytes.
type Size int64

// String formats s for UnmarshalText, in the largest unit that needs no fraction.
func (s Size) String() string {
	if s < 0 {
		return strconv.FormatInt(int64(s), 10)
	}
	return textfile.FormatSize(uint64(s))
}

// MarshalText implements encoding.TextMarshaler.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText parses a size as textfile.ParseSize does.
func (s *Size) UnmarshalText(text []byte) error {
	n, err := textfile.ParseSize(string(text))
	if err != nil {
		return err
	}
	*s = Size(n)
	return nil
}

// Address is an IP address to listen on. Port 0 stands for the port of the table.
type Address struct{ netip.AddrPort }

// String formats a for UnmarshalText: "192.0.2.1", "[2001:db8::1]:443".
func (a Address) String() string {
	if a.Port() == 0 {
		return a.Addr().String()
	}
	return a.AddrPort.String()
}

// MarshalText implements encoding.TextMarshaler.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText parses an IP address with an optional port.
func (a *Address) UnmarshalText(text []byte) error {
	s := string(text)
	addr, err := netip.ParseAddr(s)
	port := uint16(0)
	if err != nil {
		with, err := netip.ParseAddrPort(s)
		if err != nil || with.Port() == 0 {
			return fmt.Errorf("%q is %w", text, errAddress)
		}
		addr, port = with.Addr(), with.Port()
	}
	a.AddrPort = netip.AddrPortFrom(addr.Unmap(), port)
	return nil
}

// Host is a name or address at which clients reach the gateway. It is comparable.
type Host struct {
	Name string // a host name in lower case, or an IP address without brackets
	Port uint16 // 0: the port that the gateway listens on
}

// String formats the value for UnmarshalText.
func (h Host) String() string {
	if h.Port == 0 {
		return h.Name
	}
	return net.JoinHostPort(h.Name, strconv.Itoa(int(h.Port)))
}

// MarshalText implements encoding.TextMarshaler.
func (h Host) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText parses a host name or an IP address with an optional port. It rejects unspecified addresses
// and addresses with a zone.
func (h *Host) UnmarshalText(text []byte) error {
	s := string(text)
	name, portText, err := net.SplitHostPort(s)
	var port uint64
	if err == nil {
		if port, err = strconv.ParseUint(portText, 10, 16); err != nil || port == 0 {
			return fmt.Errorf("%q is %w", text, errHost)
		}
	} else {
		name = s
	}
	addr, err := netip.ParseAddr(name)
	switch {
	case err != nil && !wire.IsHostName([]byte(name)):
		return fmt.Errorf("%q is %w", text, errHost)
	case err != nil:
		name = strings.ToLower(name)
	case addr.Unmap().IsUnspecified() || addr.Zone() != "":
		return fmt.Errorf("%q is not reachable from other machines: write a host name or an address of this gateway", text)
	default:
		name = addr.Unmap().String()
	}
	*h = Host{name, uint16(port)}
	return nil
}

// Issuer is where the keys of an issuer of tickets come from. It is comparable.
type Issuer struct {
	URL  string // of tickets.Issuer; empty: File
	File string
	Pin  identity.PublicKey
}

// String formats the value for UnmarshalText.
func (i Issuer) String() string { return i.URL + i.File + "#" + i.Pin.String() }

// MarshalText implements encoding.TextMarshaler.
func (i Issuer) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// UnmarshalText parses URL#PIN or FILE#PIN.
func (i *Issuer) UnmarshalText(text []byte) error {
	s := string(text)
	if strings.Contains(s, "://") {
		parsed, err := tickets.ParseIssuer(s)
		if err != nil {
			return err
		}
		*i = Issuer{URL: parsed.URL.String(), Pin: parsed.Pin}
		return nil
	}
	at := strings.LastIndexByte(s, '#')
	if at <= 0 {
		return fmt.Errorf("%q is %w", identity.Mask(s), errIssuer)
	}
	pin, err := identity.ParsePublicKey(s[at+1:])
	if err != nil {
		return fmt.Errorf("pin of the issuer: %w", err)
	}
	*i = Issuer{File: s[:at], Pin: pin}
	return nil
}

// Network is a prefix of IP addresses as text, or empty.
type Network string

// Prefix returns the prefix; it is not valid for the empty Network.
func (n Network) Prefix() netip.Prefix {
	p, _ := netip.ParsePrefix(string(n))
	return p
}

// UnmarshalText parses a prefix such as "10.77.0.0/16", or the empty string. It rejects one with bits beyond its length.
func (n *Network) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*n = ""
		return nil
	}
	p, err := netip.ParsePrefix(string(text))
	switch {
	case err != nil || p.Addr().Is4In6():
		return fmt.Errorf("%q is %w", text, errNetwork)
	case p != p.Masked():
		return fmt.Errorf("%q is an address in a network; the network is %q", text, p.Masked())
	}
	*n = Network(p.String())
	return nil
}

// KEM is a kem.ID that a file contains by name.
type KEM kem.ID

// String returns the name of the KEM.
func (k KEM) String() string { return kem.ID(k).String() }

// MarshalText implements encoding.TextMarshaler.
func (k KEM) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText parses the name of a KEM, as kem.ParseID does.
func (k *KEM) UnmarshalText(text []byte) error {
	id, err := kem.ParseID(string(text))
	if err != nil {
		return err
	}
	*k = KEM(id)
	return nil
}
