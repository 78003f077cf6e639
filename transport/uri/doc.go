// Package uri reads and writes the one line that a client needs to know of a
// gateway: who it is and where it is.
//
//	lewes://IDENTITY@host:port?tcp=port
//
// IDENTITY is the gateway's Ed25519 public key in base58; host a name, an IPv4
// address, or an IPv6 address in brackets; the ports, that for UDP and that for TCP,
// may be left out where they are DefaultPort and DefaultTCPPort. Since the identity is in it, whoever has the line from the
// gateway's owner cannot be led to another gateway.
//
//	g, err := uri.Parse("lewes://9qA…@gw.example.com")
//	conn, err := net.Dial("udp", g.Address())
//
// A Gateway is a text value: encoding/json, TOML and flag.TextVar take it as it
// is.
package uri
