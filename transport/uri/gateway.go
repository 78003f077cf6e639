package uri

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"lewes/crypto/identity"
	"lewes/state/wire"
)

// Scheme is the URI scheme, without "://".
const Scheme = "lewes"

// Default ports (section 10 of PROTOCOL.md).
const (
	DefaultPort    = 51264 // UDP
	DefaultTCPPort = 41264 // TCP
)

// The query's parameters of a gateway that serves every client, and of one that serves clients with tickets.
const (
	openParameter    = "access=open"
	ticketsParameter = "access=tickets"
)

// maxSize bounds the input of Parse; a host name has at most 255 bytes.
const maxSize = 512

// Errors of Parse, which adds the faulty text and a remedy.
var (
	ErrTooLong  = errors.New("too long")
	ErrScheme   = errors.New("must begin with lewes://")
	ErrIdentity = errors.New("invalid identity")
	ErrHost     = errors.New("invalid host")
	ErrPort     = errors.New("invalid port")
	ErrTCPPort  = errors.New("invalid TCP port")
	ErrExtra    = errors.New("unexpected text after host and port")
)

// Gateway is the identity and address of a gateway. It is comparable: Parse returns equal
// values for equal identity, host and ports.
type Gateway struct {
	Identity identity.PublicKey
	// Host is an IP address without brackets or zone, IPv6 in canonical form, or a name
	// in lower case.
	Host string
	Port uint16 // for UDP, never 0
	// TCPPort is the TCP port. 0 means DefaultTCPPort; Parse returns 0 for it.
	TCPPort uint16
	// Open means that the gateway serves every client.
	Open bool
	// Tickets means that the gateway serves clients who pay with tickets (section 9). At most one
	// of Open and Tickets is set.
	Tickets bool
}

// Parse parses a gateway's URI. Its errors wrap ErrTooLong, ErrScheme, ErrIdentity (and the
// error of package identity), ErrHost, ErrPort, ErrTCPPort or ErrExtra.
func Parse(s string) (Gateway, error) {
	g, err := parse(s)
	if err != nil {
		shown := s
		if len(shown) > maxSize {
			shown = shown[:maxSize] + "…"
		}
		return Gateway{}, fmt.Errorf("gateway URI %q: %w (expected lewes://IDENTITY@host:port, as the gateway prints it)", identity.Mask(shown), err)
	}
	return g, nil
}

func parse(s string) (g Gateway, err error) {
	if len(s) > maxSize {
		return g, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLong, len(s), maxSize)
	}
	const prefix = Scheme + "://"
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return g, ErrScheme
	}
	key, address, found := strings.Cut(s[len(prefix):], "@")
	if !found {
		return g, fmt.Errorf("%w: missing @; put the gateway's public key and an @ before the host", ErrIdentity)
	}
	if g.Identity, err = identity.ParsePublicKey(key); err != nil {
		return g, fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	if address, err = g.cutQuery(address); err != nil {
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

// cutQuery splits off an optional slash and a query, whose parameters it sets.
func (g *Gateway) cutQuery(address string) (before string, err error) {
	end := strings.IndexAny(address, "/?#")
	if end < 0 {
		return address, nil
	}
	before = address[:end]
	query := strings.TrimPrefix(address[end:], "/")
	if query == "" {
		return before, nil
	}
	text, found := strings.CutPrefix(query, "?")
	extra := fmt.Errorf("%w: leave out %q; only ?tcp=PORT and access=open or access=tickets are allowed", ErrExtra, address[end:])
	if !found || strings.Contains(text, "#") {
		return "", extra
	}
	var seen []string
	for parameter := range strings.SplitSeq(text, "&") {
		key, value, _ := strings.Cut(parameter, "=")
		switch {
		case slices.Contains(seen, key):
			return "", extra
		case parameter == openParameter:
			g.Open = true
		case parameter == ticketsParameter:
			g.Tickets = true
		case strings.HasPrefix(parameter, "tcp="):
			n, err := strconv.ParseUint(value, 10, 16)
			if err != nil || n == 0 {
				return "", fmt.Errorf("%w: %q; give a number from 1 to 65535, or leave out %q for %d", ErrTCPPort, value, parameter, DefaultTCPPort)
			}
			if n != DefaultTCPPort {
				g.TCPPort = uint16(n)
			}
		default:
			return "", extra
		}
		seen = append(seen, key)
	}
	return before, nil
}

// splitPort splits an address into the host, with its brackets, and the port, by default
// DefaultPort.
func splitPort(address string) (host, port string, err error) {
	end := strings.LastIndexByte(address, ']') + 1
	if end == 0 && strings.Count(address, ":") > 1 {
		return "", "", fmt.Errorf("%w: %q has more than one colon; write an IPv6 address in brackets, as in [2001:db8::1]:%d", ErrHost, address, DefaultPort)
	}
	host, after := address[:end], address[end:]
	name, port, found := strings.Cut(after, ":")
	switch {
	case end > 0 && name != "":
		return "", "", fmt.Errorf("%w: %q between the brackets and the port", ErrHost, name)
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

// PortForTCP returns TCPPort, or DefaultTCPPort if that is 0.
func (g Gateway) PortForTCP() uint16 {
	return cmp.Or(g.TCPPort, DefaultTCPPort)
}

// String returns the URI. It always contains the UDP port, and the TCP port unless it is
// DefaultTCPPort.
func (g Gateway) String() string {
	s := Scheme + "://" + g.Identity.String() + "@" + g.Address()
	var query []string
	if port := g.PortForTCP(); port != DefaultTCPPort {
		query = append(query, "tcp="+strconv.Itoa(int(port)))
	}
	if g.Open {
		query = append(query, openParameter)
	}
	if g.Tickets {
		query = append(query, ticketsParameter)
	}
	if len(query) > 0 {
		s += "?" + strings.Join(query, "&")
	}
	return s
}

// MarshalText returns the URI. It fails with the error of Parse if Parse would reject it.
func (g Gateway) MarshalText() ([]byte, error) {
	parsed, err := Parse(g.String())
	if err != nil {
		return nil, err
	}
	return []byte(parsed.String()), nil
}

// UnmarshalText parses a URI. On an error g is unchanged.
func (g *Gateway) UnmarshalText(text []byte) error {
	parsed, err := Parse(string(text))
	if err != nil {
		return err
	}
	*g = parsed
	return nil
}
