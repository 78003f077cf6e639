package gatewayd

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"time"

	"go.uber.org/zap"

	"lewes/cmd/lewes/internal/config"
	"lewes/cmd/lewes/internal/doctor"
	"lewes/crypto/identity"
	"lewes/router/wireguard"
	"lewes/state/ledger"
)

// idlePeer is the time without traffic after which a peer ends that no account pays for.
const idlePeer = ledger.AccountLife

// newWireGuard returns the device of mode dvpn, or nil if the configuration has none. The caller runs it.
func newWireGuard(c *config.Config, key *identity.PrivateKey, accounts wireguard.Accounts, stop bool, log *zap.Logger) (*wireguard.Device, error) {
	w := &c.WireGuard
	if w.Device == "" {
		return nil, nil
	}
	control, err := newWireGuardControl()
	if err != nil {
		return nil, fmt.Errorf("cannot use WireGuard on this system: %w", err)
	}
	endpoint := w.Endpoint
	if endpoint == "" {
		endpoint = c.Public[0].Name // without a port: the configuration is valid
	}
	idle := time.Duration(0)
	if c.Registration.Access == config.RegistrationOpen { // no account ends there
		idle = idlePeer
	}
	for _, lack := range lacks(w) {
		log.Warn("packets of WireGuard peers may not leave this machine", zap.String("reason", lack.Text), zap.String("remedy", lack.Mend))
	}
	return wireguard.New(wireguard.Config{
		Name: w.Device, IPv4: w.IPv4.Prefix(), IPv6: w.IPv6.Prefix(), Endpoint: endpoint, Identity: key,
		Accounts: accounts, StopWithoutLedger: stop, Idle: idle, Control: control, Log: log, Clock: time.Now, Own: interfaceAddresses,
	})
}

func lacks(w *config.WireGuard) []wireguard.Lack {
	return wireguard.Lacks("/", w.Device, w.IPv4.Prefix(), w.IPv6.Prefix())
}

// interfaceAddresses returns the addresses of this machine.
func interfaceAddresses() (all []netip.Addr, err error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			all = append(all, p.Addr().Unmap())
		}
	}
	return all, nil
}

// wireGuardRemedy returns the command for an error of a device.
func wireGuardRemedy(device string, err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "systemctl start wg-quick@" + device + "   # or wireguard-go " + device + "; wireguard.device names the device"
	case errors.Is(err, fs.ErrPermission):
		return "systemctl edit lewes-gateway   # [Service] AmbientCapabilities=CAP_NET_ADMIN; wireguard-go: run it as the gateway's user"
	default:
		return "wg show " + device
	}
}

// checkWireGuard grades the device, and what its peers need of this machine.
func checkWireGuard(r *doctor.Results, d *wireguard.Device, w *config.WireGuard) {
	s := d.Stats()
	if err := d.Err(); err != nil {
		r.Fault(wireGuardRemedy(w.Device, err), "%v: registrations in mode dvpn fail", err)
	} else {
		r.OK("%s works; peers of clients: %d", w.Device, s.Peers)
	}
	for _, lack := range lacks(w) {
		r.Warn(lack.Mend, "%s", lack.Text)
	}
	if s.Foreign > 0 {
		r.Warn("wg show "+w.Device+" allowed-ips", "peers of others have %d prefixes in the pool, which clients do not get", s.Foreign)
	}
}
