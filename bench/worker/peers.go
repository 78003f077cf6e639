package worker

import "net/netip"

// The roles and parameters below are shared with the programs in bench/peers, which are modules
// of their own. Each program is in the folder of its name.
const (
	WireGuard = "wireguard"
	MASQUE    = "masque"

	RoleWireGuard    = "wireguard"
	RoleMASQUEProxy  = "masque proxy"
	RoleMASQUEClient = "masque client"

	// WireGuardPort is the port of both ends of a tunnel, which are in different networks.
	WireGuardPort = 51820
)

// TunnelEnd describes one end of a WireGuard tunnel to the other.
type TunnelEnd struct {
	Public   string         `json:"public"` // key, hexadecimal
	Endpoint netip.AddrPort `json:"endpoint"`
	Allowed  netip.Prefix   `json:"allowed"` // inside the tunnel
}

// MASQUEProxy describes a proxy to its client.
type MASQUEProxy struct {
	Addr        netip.AddrPort `json:"addr"`
	Certificate []byte         `json:"certificate"` // DER
}

// MASQUEClient starts a client: the proxy, and the target behind it.
type MASQUEClient struct {
	Proxy  MASQUEProxy    `json:"proxy"`
	Target netip.AddrPort `json:"target"`
}
