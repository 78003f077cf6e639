// Package uri parses and formats gateway URIs, which contain all that a client needs to
// connect: the gateway's identity and address.
//
//	lewes://IDENTITY@host:port?tcp=port&access=open
//
// IDENTITY is the gateway's Ed25519 public key in base58. host is a name, an IPv4 address,
// or an IPv6 address in brackets. The UDP and TCP ports are optional and default to
// DefaultPort and DefaultTCPPort. access=open means that the gateway serves every client, access=tickets
// that it serves clients who pay with tickets. The identity authenticates the gateway, so a URI from the
// gateway's owner cannot lead to another gateway.
//
//	g, err := uri.Parse("lewes://9qA…@gw.example.com")
//	conn, err := net.Dial("udp", g.Address())
//
// Gateway implements encoding.TextMarshaler and TextUnmarshaler, for JSON, TOML and flag.TextVar.
package uri
