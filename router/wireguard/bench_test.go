package wireguard

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"

	"go.uber.org/zap"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"lewes/crypto/identity"
)

// BenchmarkStep measures a look at a device with 100,000 peers, without the device's part.
func BenchmarkStep(b *testing.B) {
	w := &world{now: t0, charged: make(map[identity.PublicKey]uint64)}
	device := &constant{wgtypes.Device{PrivateKey: wgtypes.Key{1}, PublicKey: wgtypes.Key{1}, ListenPort: 51820}}
	d, err := New(Config{
		Name: "wg0", IPv4: netip.MustParsePrefix("10.0.0.0/8"), IPv6: netip.MustParsePrefix("fd77::/64"), Accounts: w, Control: device,
		Log: zap.NewNop(), Clock: w.time, Own: func() ([]netip.Addr, error) { return own, nil }, Forget: w.forget,
	})
	if err != nil {
		b.Fatal(err)
	}
	r := &request{reconcile: true, done: make(chan error, 1)}
	for i := range uint32(100_000) {
		var p Peer
		binary.LittleEndian.PutUint32(p.Account[:], i+1)
		p.Key, p.PSK = Key(p.Account), Key(p.Account)
		p.IPv4, p.IPv6 = d.pool.at(i + 2)
		r.all = append(r.all, p)
		x := wgtypes.Peer{PublicKey: wgtypes.Key(p.Key), PresharedKey: wgtypes.Key(p.PSK)}
		for _, a := range []netip.Addr{p.IPv4, p.IPv6} {
			x.AllowedIPs = append(x.AllowedIPs, net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())})
		}
		device.d.Peers = append(device.d.Peers, x)
	}
	d.step(b.Context(), []*request{r})
	for b.Loop() {
		d.step(b.Context(), nil)
	}
}

// constant is a device whose peers are as they should be.
type constant struct{ d wgtypes.Device }

func (c *constant) Device(string) (*wgtypes.Device, error) {
	d := c.d
	d.Peers = slices.Clone(d.Peers)
	return &d, nil
}

func (*constant) ConfigureDevice(_ string, c wgtypes.Config) error {
	panic("a change of the device")
}
