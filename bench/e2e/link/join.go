package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"lewes/bench/e2e/netns"
)

const (
	defaultMTU    = 1500
	defaultDevice = "link0"
	// deviceQueue is how many packets the kernel keeps for the link to read.
	deviceQueue = 5000
)

// End is a machine that a link is joined to.
type End struct {
	Machine *netns.Machine
	Device  string         // its name there; "" means link0
	MTU     int            // of the device, in bytes; 0 means 1500
	Addrs   []netip.Prefix // that the machine has there, each with the network that is reached so
}

// Join makes a TUN device in each of two machines and a link between them.
func Join(ctx context.Context, a, b End, seed uint64) (*Link, error) {
	first, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	second, err := b.open(ctx)
	if err != nil {
		return nil, errors.Join(err, first.Close())
	}
	return New(first, second, seed), nil
}

// open makes the device.
func (e *End) open(ctx context.Context) (d Device, err error) {
	name, mtu := e.Device, e.MTU
	if name == "" {
		name = defaultDevice
	}
	if mtu == 0 {
		mtu = defaultMTU
	}
	if mtu > MaxMTU {
		return nil, fmt.Errorf("link: a device of %d bytes; at most %d", mtu, MaxMTU)
	}
	if err := e.Machine.Do(func() error {
		d, err = openTUN(name)
		return err
	}); err != nil {
		return nil, fmt.Errorf("link: device %s: %w", name, err)
	}
	err = e.Machine.IP(ctx, "link", "set", name, "mtu", strconv.Itoa(mtu), "txqueuelen", strconv.Itoa(deviceQueue), "addrgenmode", "none")
	if err == nil {
		err = e.Machine.Up(ctx, name, e.Addrs...)
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}
