package gatewayd

import (
	"net/netip"
	"slices"
	"testing"

	"lewes/crypto/identity"
	"lewes/transport/uri"
)

func TestAdvertised(t *testing.T) {
	key := identity.FromSeed(&[32]byte{1})
	ports := func(list ...string) (addrs []netip.AddrPort) {
		for _, s := range list {
			addrs = append(addrs, netip.MustParseAddrPort(s))
		}
		return addrs
	}
	var machine []netip.Addr
	for _, s := range []string{"127.0.0.1", "10.0.0.7", "198.51.100.7", "100.64.0.9", "169.254.3.4", "::1", "fe80::1", "fd00::7", "2001:db8::7"} {
		machine = append(machine, netip.MustParseAddr(s))
	}
	lan := machine[:2]
	wild := ports("0.0.0.0:51264", "[::]:51264")
	for _, row := range []struct {
		name      string
		public    []uri.Gateway
		listening []netip.AddrPort
		machine   []netip.Addr
		want      []string
		unknown   bool
	}{
		{"names that were given", []uri.Gateway{{Host: "gw.example"}, {Host: "2001:db8::99", Port: 443}}, wild, machine, []string{"gw.example:51264", "[2001:db8::99]:443"}, false},
		{"global addresses", nil, wild, machine, []string{"198.51.100.7:51264", "[2001:db8::7]:51264"}, false},
		{"of the family that is served", nil, wild[:1], machine, []string{"198.51.100.7:51264"}, false},
		{"none of them global", nil, wild, lan, []string{"127.0.0.1:51264", "[::1]:51264"}, true},
		{"one global address", nil, ports("198.51.100.7:1"), machine, []string{"198.51.100.7:1"}, false},
		{"one private address", nil, ports("10.0.0.7:1"), machine, []string{"10.0.0.7:1"}, false},
		{"loopback", nil, ports("127.0.0.1:9", "[::1]:9"), machine, []string{"127.0.0.1:9", "[::1]:9"}, false},
		{"interfaces that cannot be read", nil, wild[:1], nil, []string{"127.0.0.1:51264"}, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			uris, unknown := advertised(key.Public(), row.public, row.listening, row.machine)
			var got []string
			for _, u := range uris {
				if u.Identity != key.Public() {
					t.Errorf("%v is of another identity", u)
				}
				if _, err := uri.Parse(u.String()); err != nil {
					t.Error(err)
				}
				got = append(got, u.Address())
			}
			if !slices.Equal(got, row.want) || unknown != row.unknown {
				t.Errorf("got %q, %v; want %q, %v", got, unknown, row.want, row.unknown)
			}
		})
	}
	if many, _ := advertised(key.Public(), make([]uri.Gateway, 0), ports("1.0.0.1:1", "1.0.0.2:1", "1.0.0.3:1", "1.0.0.4:1", "1.0.0.5:1", "1.0.0.6:1", "1.0.0.7:1", "1.0.0.8:1", "1.0.0.9:1"), nil); len(many) != maxAdvertised {
		t.Errorf("%d URIs, want %d", len(many), maxAdvertised)
	}
}
