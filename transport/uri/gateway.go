package uri

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"lewes/crypto/identity"
	"lewes/state/wire"
)

// Scheme is the URI scheme, without "://".
const Scheme = "lewes"

// The ports of a URI that names none: those of section 10 of PROTOCOL.md.
const (
	DefaultPort    = 51264 // UDP
	DefaultTCPPort = 41264 // TCP
)

// maxSize bounds what Parse looks at: a name of 255 bytes fits, with room.
const maxSize = 512

// What can be wrong with a URI. Parse wraps these with the text in question and
// what to write instead.
var (
	ErrTooLong  = errors.New("too long")
	ErrScheme   = errors.New("it does not begin with lewes://")
	ErrIdentity = errors.New("no usable identity")
	ErrHost     = errors.New("no usable host")
	ErrPort     = errors.New("no usable port")
	ErrTCPPort  = errors.New("no usable TCP port")
	ErrExtra    = errors.New("something follows host and port")
)

// Gateway is a gateway's identity and where to reach it. It is comparable; two
// that Parse returned are equal exactly where identity, host and ports are.
type Gateway struct {
	Identity identity.PublicKey
	// Host is an IP address without brackets or zone, an IPv6 one in its short
	// form, or a name in lower case.
	Host string
	Port uint16 // for UDP, never 0
	// TCPPort is where it takes packets by TCP. 0 is DefaultTCPPort, for which Parse
	// always has 0.
	TCPPort uint16
}

// Parse reads a gateway's URI. Its errors wrap ErrTooLong, ErrScheme,
// ErrIdentity (and the error of package identity), ErrHost, ErrPort, ErrTCPPort
// or ErrExtra and tell the user what to write.
func Parse(s string) (Gateway, error) {
	g, err := parse(s)
	if err != nil {
		shown := s
		if len(shown) > maxSize {
			shown = shown[:maxSize] + "…"
		}
		return Gateway{}, fmt.Errorf("gateway URI %q: %w (expected lewes://IDENTITY@host:port, as the gateway prints it)", shown, err)
	}
	return g, nil
}

func parse(s string) (g Gateway, err error) {
	if len(s) > maxSize {
		return g, fmt.Errorf("%w: %d bytes, at most %d make sense", ErrTooLong, len(s), maxSize)
	}
	const prefix = Scheme + "://"
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return g, ErrScheme
	}
	key, address, found := strings.Cut(s[len(prefix):], "@")
	if !found {
		return g, fmt.Errorf("%w: there is no @; put the gateway's public key and an @ before the host", ErrIdentity)
	}
	if g.Identity, err = identity.ParsePublicKey(key); err != nil {
		return g, fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	if address, g.TCPPort, err = cutTCPPort(address); err != nil {
		return g, err
	}
	host, port, err := splitPort(address)
	if err != nil {
		return g, err
	}
	if g.Host, err = parseHost(host); err != nil {
		return g, err
	}
	g.Port, err = parsePort(port)
	return g, err
}

// cutTCPPort takes what may follow host and port off an address: a slash, and the
// TCP port in a query.
func cutTCPPort(address string) (before string, port uint16, err error) {
	end := strings.IndexAny(address, "/?#")
	if end < 0 {
		return address, 0, nil
	}
	before = address[:end]
	query := strings.TrimPrefix(address[end:], "/")
	if query == "" {
		return before, 0, nil
	}
	text, found := strings.CutPrefix(query, "?tcp=")
	if !found || strings.ContainsAny(text, "&#") {
		return "", 0, fmt.Errorf("%w: leave out %q; only ?tcp=PORT has a meaning there", ErrExtra, address[end:])
	}
	n, err := strconv.ParseUint(text, 10, 16)
	switch {
	case err != nil || n == 0:
		return "", 0, fmt.Errorf("%w: %q; give a number from 1 to 65535, or leave out %q for %d", ErrTCPPort, text, query, DefaultTCPPort)
	case n == DefaultTCPPort:
		n = 0
	}
	return before, uint16(n), nil
}

// splitPort cuts an address into the host, with its brackets, and the port,
// without the colon; the port is DefaultPort where there is none.
func splitPort(address string) (host, port string, err error) {
	end := strings.LastIndexByte(address, ']') + 1
	if end == 0 && strings.Count(address, ":") > 1 {
		return "", "", fmt.Errorf("%w: %q has more than one colon; write an IPv6 address in brackets, as in [2001:db8::1]:%d", ErrHost, address, DefaultPort)
	}
	host, after := address[:end], address[end:]
	name, port, found := strings.Cut(after, ":")
	switch {
	case end > 0 && name != "":
		return "", "", fmt.Errorf("%w: %q stands between the brackets and the port", ErrHost, name)
	case found:
		return host + name, port, nil
	}
	return host + name, strconv.Itoa(DefaultPort), nil
}

// parseHost returns host in the form that Gateway keeps.
func parseHost(host string) (string, error) {
	if host == "" {
		return "", fmt.Errorf("%w: it is empty; give the gateway's name or address", ErrHost)
	}
	inside, bracketed := strings.CutPrefix(host, "[")
	if bracketed {
		inside, bracketed = strings.CutSuffix(inside, "]")
	}
	a, err := netip.ParseAddr(inside)
	switch {
	case err != nil && bracketed:
		return "", fmt.Errorf("%w: %q is no IPv6 address; only that goes in brackets", ErrHost, inside)
	case err != nil && !wire.IsHostName([]byte(host)):
		return "", fmt.Errorf("%w: %q is neither an IP address nor a host name; write a name of another alphabet in its xn-- form", ErrHost, host)
	case err != nil:
		return strings.ToLower(host), nil
	case a.Is4() && bracketed:
		return "", fmt.Errorf("%w: write the IPv4 address %s without brackets", ErrHost, inside)
	case a.Zone() != "":
		return "", fmt.Errorf("%w: %q has a zone, which means something on one machine only; leave out %q or give a global address", ErrHost, inside, "%"+a.Zone())
	case a.Unmap().IsUnspecified():
		return "", fmt.Errorf("%w: %s is where a gateway listens, not where it is reached; give its public name or address", ErrHost, inside)
	}
	return a.Unmap().String(), nil
}

func parsePort(port string) (uint16, error) {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%w: %q; give a number from 1 to 65535, or leave out the colon for %d", ErrPort, port, DefaultPort)
	}
	return uint16(n), nil
}

// Address returns host:port, for net.Dial("udp", …) and its like.
func (g Gateway) Address() string {
	return net.JoinHostPort(g.Host, strconv.Itoa(int(g.Port)))
}

// TCPAddress returns host:port, for net.Dial("tcp", …) and its like.
func (g Gateway) TCPAddress() string {
	return net.JoinHostPort(g.Host, strconv.Itoa(int(g.PortForTCP())))
}

// PortForTCP returns TCPPort, or DefaultTCPPort where that is 0.
func (g Gateway) PortForTCP() uint16 {
	if g.TCPPort == 0 {
		return DefaultTCPPort
	}
	return g.TCPPort
}

// String returns the URI, with the port also where it is DefaultPort and with the
// TCP port only where it is not DefaultTCPPort.
func (g Gateway) String() string {
	s := Scheme + "://" + g.Identity.String() + "@" + g.Address()
	if port := g.PortForTCP(); port != DefaultTCPPort {
		s += "?tcp=" + strconv.Itoa(int(port))
	}
	return s
}

// MarshalText returns the URI. It refuses a Gateway that Parse would not read
// back, with Parse's error.
func (g Gateway) MarshalText() ([]byte, error) {
	parsed, err := Parse(g.String())
	if err != nil {
		return nil, err
	}
	return []byte(parsed.String()), nil
}

// UnmarshalText is Parse. On an error g stays as it was.
func (g *Gateway) UnmarshalText(text []byte) error {
	parsed, err := Parse(string(text))
	if err != nil {
		return err
	}
	*g = parsed
	return nil
}
