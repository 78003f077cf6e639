package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"

	"lewes/bench/e2e/netns"
)

const (
	// MaxMTU is the largest IP packet that a link carries, in bytes.
	MaxMTU = 2000
	// maxWaiting bounds the delayed packets of each direction.
	maxWaiting = 20_000
)

// Direction is one of the two directions of a link, named after the end that sends.
type Direction int

const (
	A Direction = iota
	B
)

// Device is an end of a link. Read returns one packet sent by the machine, Write delivers one to
// it. Close ends a Read.
type Device = io.ReadWriteCloser

// Link connects two devices. All methods are safe for concurrent use.
type Link struct {
	directions [2]*direction
	nat        atomic.Pointer[nat]
	running    sync.WaitGroup
	quit       chan struct{}
	once       sync.Once
}

// New starts a link between two devices. Close closes them.
func New(a, b Device, seed uint64) *Link {
	l := &Link{quit: make(chan struct{})}
	l.directions[A] = newDirection(l, A, a, b, seed)
	l.directions[B] = newDirection(l, B, b, a, seed)
	for _, w := range l.directions {
		l.running.Go(w.read)
		l.running.Go(w.deliver)
	}
	return l
}

// Set replaces the faults of one direction. Delayed packets are not affected.
func (l *Link) Set(d Direction, f Faults) { l.directions[d].faults.Store(&f) }

// Both sets the faults of both directions.
func (l *Link) Both(f Faults) {
	l.Set(A, f)
	l.Set(B, f)
}

// Counts returns the counters of one direction.
func (l *Link) Counts(d Direction) Counts { return l.directions[d].counts.read() }

// Translate turns the link into a NAT: packets from A get another IPv4 source address and port.
// B must route the outer addresses, at least one, to the link.
func (l *Link) Translate(outer ...netip.Addr) { l.nat.Store(newNAT(outer)) }

// Rebind drops the NAT's mappings. The machine at A then appears at B with a new port on the next
// outer address, and packets to the old one are dropped.
func (l *Link) Rebind() { l.nat.Load().rebind() }

// Close stops the link and closes its devices.
func (l *Link) Close() error {
	var err error
	l.once.Do(func() {
		close(l.quit)
		err = errors.Join(l.directions[A].from.Close(), l.directions[B].from.Close())
		l.running.Wait()
	})
	return err
}

// noFaults are the faults of a new link.
var noFaults Faults

const (
	defaultMTU    = 1500
	defaultDevice = "link0"
	// deviceQueue is the length of the device's transmit queue, in packets.
	deviceQueue = 5000
)

// End is a machine that a link is joined to.
type End struct {
	Machine *netns.Machine
	Device  string         // name; "" means link0
	MTU     int            // of the device, in bytes; 0 means 1500
	Addrs   []netip.Prefix // of the device, with their networks
}

// Join creates a TUN device in each of two machines and a link between them.
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

// open creates the device.
func (e *End) open(ctx context.Context) (d Device, err error) {
	name, mtu := e.Device, e.MTU
	if name == "" {
		name = defaultDevice
	}
	if mtu == 0 {
		mtu = defaultMTU
	}
	if mtu > MaxMTU {
		return nil, fmt.Errorf("link: MTU %d is larger than %d", mtu, MaxMTU)
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
