package link

import (
	"errors"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
)

const (
	// MaxMTU is the largest IP packet that a link carries, in bytes.
	MaxMTU = 2000
	// maxWaiting bounds the packets that wait for their time, in each direction.
	maxWaiting = 20_000
)

// Direction is one of the two ways of a link, by the end where its packets come from.
type Direction int

const (
	A Direction = iota
	B
)

// Device is an end of a link as the link sees it. Read takes one packet that the machine
// has sent, Write hands it one. Close ends a Read.
type Device = io.ReadWriteCloser

// Link is a link. All methods may be called by several goroutines, while it carries.
type Link struct {
	ways    [2]*way
	nat     atomic.Pointer[nat]
	running sync.WaitGroup
	quit    chan struct{}
	once    sync.Once
}

// New makes a link of two devices, which it closes in its time, and begins to carry.
func New(a, b Device, seed uint64) *Link {
	l := &Link{quit: make(chan struct{})}
	l.ways[A] = newWay(l, A, a, b, seed)
	l.ways[B] = newWay(l, B, b, a, seed)
	for _, w := range l.ways {
		l.running.Go(w.read)
		l.running.Go(w.deliver)
	}
	return l
}

// Set puts the faults of one direction in the place of those before. What is under way
// stays under way.
func (l *Link) Set(d Direction, f Faults) { l.ways[d].faults.Store(&f) }

// Both sets the faults of both directions.
func (l *Link) Both(f Faults) {
	l.Set(A, f)
	l.Set(B, f)
}

// Counts returns what one direction has done so far.
func (l *Link) Counts(d Direction) Counts { return l.ways[d].counts.read() }

// Translate makes the link a NAT: what comes from A goes on under another IPv4 address and
// port. It takes at least one address, which has to lead to the link at B.
func (l *Link) Translate(outer ...netip.Addr) { l.nat.Store(newNAT(outer)) }

// Rebind makes the NAT forget its mappings. The machine at A is then known at B by a
// new port, at the next of the addresses, and what still comes for the old one is
// dropped.
func (l *Link) Rebind() { l.nat.Load().rebind() }

// Close ends the link. Its devices are gone when it returns.
func (l *Link) Close() error {
	var err error
	l.once.Do(func() {
		close(l.quit)
		err = errors.Join(l.ways[A].from.Close(), l.ways[B].from.Close())
		l.running.Wait()
	})
	return err
}

// noFaults are those of a new link.
var noFaults Faults
