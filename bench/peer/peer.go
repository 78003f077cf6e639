// Package peer is what a bench and the programs in bench/peers, which are modules of their
// own, have to agree on: how their workers are called and what they are told.
package peer

import "net/netip"

// The names of the peers' programs, each in the folder of that name, and of the roles
// that they have.
const (
	WireGuard = "wireguard"
	MASQUE    = "masque"

	RoleWireGuard    = "wireguard"
	RoleMASQUEProxy  = "masque proxy"
	RoleMASQUEClient = "masque client"
)

// WireGuardPort is that of both ends of a tunnel, which have networks of their own.
const WireGuardPort = 51820

// End is what one end of a WireGuard tunnel is told of the other.
type End struct {
	Public   string         `json:"public"` // key, hexadecimal
	Endpoint netip.AddrPort `json:"endpoint"`
	Allowed  netip.Prefix   `json:"allowed"` // what is inside the tunnel
}

// Proxy is what a MASQUE client has to know of its proxy.
type Proxy struct {
	Addr        netip.AddrPort `json:"addr"`
	Certificate []byte         `json:"certificate"` // DER
}

// Client starts a MASQUE client: the proxy, and the target to reach through it.
type Client struct {
	Proxy  Proxy          `json:"proxy"`
	Target netip.AddrPort `json:"target"`
}
