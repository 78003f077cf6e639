package link

import (
	"container/heap"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// direction is one direction of a link.
type direction struct {
	link      *Link
	direction Direction
	from, to  Device
	faults    atomic.Pointer[Faults]
	counts    counts
	random    *rand.Rand // used by the reader only

	mu      sync.Mutex
	waiting queue
	order   uint64
	wake    chan struct{} // the earliest due time has changed
}

// counts are the atomic counters behind Counts.
type counts struct {
	sent, lost, down, tooLarge, blocked, unmapped, overflowed, carried atomic.Uint64
	duplicated, corrupted, reordered, refused                          atomic.Uint64
}

func (c *counts) read() Counts {
	return Counts{
		Sent: c.sent.Load(), Lost: c.lost.Load(), Down: c.down.Load(), TooLarge: c.tooLarge.Load(), Blocked: c.blocked.Load(),
		Unmapped: c.unmapped.Load(), Overflowed: c.overflowed.Load(), Carried: c.carried.Load(),
		Duplicated: c.duplicated.Load(), Corrupted: c.corrupted.Load(), Reordered: c.reordered.Load(), Refused: c.refused.Load(),
	}
}

func newDirection(l *Link, d Direction, from, to Device, seed uint64) *direction {
	w := &direction{link: l, direction: d, from: from, to: to, random: rand.New(rand.NewPCG(seed, uint64(d))), wake: make(chan struct{}, 1)}
	w.faults.Store(&noFaults)
	return w
}

var packets = sync.Pool{New: func() any { return new(packet) }}

// read forwards the machine's packets until the link is closed.
func (w *direction) read() {
	for {
		p := packets.Get().(*packet)
		n, err := w.from.Read(p.buf[:])
		if err != nil {
			if errors.Is(err, os.ErrClosed) || w.ended() {
				return
			}
			w.pause(time.Millisecond, nil) // the device is down
			continue
		}
		p.size = n
		w.take(time.Now(), p)
	}
}

func (w *direction) ended() bool {
	select {
	case <-w.link.quit:
		return true
	default:
		return false
	}
}

// chance returns true for a share of its calls.
func (w *direction) chance(share float64) bool { return share > 0 && w.random.Float64() < share }

// take applies the faults to a packet.
func (w *direction) take(now time.Time, p *packet) {
	w.counts.sent.Add(1)
	f := w.faults.Load()
	h := parse(p.data())
	if drop := w.drops(f, &h, p.data()); drop != nil {
		drop.Add(1)
		packets.Put(p)
		return
	}
	if w.chance(f.Corrupt) && h.flip(p.data(), w.random.Uint64(), f.Repair) {
		w.counts.corrupted.Add(1)
	}
	if w.chance(f.Duplicate) {
		again := packets.Get().(*packet)
		again.size = copy(again.buf[:], p.data())
		w.counts.duplicated.Add(1)
		w.carry(now, w.delay(f), again)
	}
	if w.carry(now, w.delay(f), p) {
		w.counts.carried.Add(1)
	} else {
		w.counts.overflowed.Add(1)
	}
}

// drops returns the counter of the reason why a packet is dropped, or nil. Packets that pass have
// been translated by the NAT.
func (w *direction) drops(f *Faults, h *header, b []byte) *atomic.Uint64 {
	switch {
	case f.Down:
		return &w.counts.down
	case f.MTU > 0 && len(b) > f.MTU:
		return &w.counts.tooLarge
	case w.blocks(f, h, b):
		return &w.counts.blocked
	case w.chance(f.Loss):
		return &w.counts.lost
	}
	if nat := w.link.nat.Load(); nat != nil && !nat.translate(w.direction, h, b) {
		return &w.counts.unmapped
	}
	return nil
}

func (w *direction) blocks(f *Faults, h *header, b []byte) bool {
	var near, far uint16
	if h.ports {
		near, far = h.port(b, source), h.port(b, destination)
	}
	if w.direction == B {
		near, far = far, near
	}
	for i := range f.Block {
		if f.Block[i].matches(h, near, far) {
			return true
		}
	}
	return false
}

// delay returns the delay of a packet.
func (w *direction) delay(f *Faults) time.Duration {
	if w.chance(f.Reorder) {
		w.counts.reordered.Add(1)
		return 0
	}
	d := f.Delay
	if f.Jitter > 0 {
		d += time.Duration(w.random.Int64N(2*int64(f.Jitter))) - f.Jitter
	}
	return max(d, 0)
}

// carry delivers a packet after its delay. It returns false if too many packets are delayed.
func (w *direction) carry(now time.Time, delay time.Duration, p *packet) bool {
	if delay == 0 {
		w.hand(p)
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.waiting) == maxWaiting {
		packets.Put(p)
		return false
	}
	w.order++
	heap.Push(&w.waiting, held{now.Add(delay), w.order, p})
	if w.waiting[0].packet == p {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
	return true
}

// deliver delivers delayed packets until the link is closed.
func (w *direction) deliver() {
	for !w.ended() {
		p, wait := w.due(time.Now())
		if p != nil {
			w.hand(p)
			continue
		}
		w.pause(wait, w.wake)
	}
}

// pause waits for a time, for woken, or for the end of the link.
func (w *direction) pause(d time.Duration, woken <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-woken:
	case <-w.link.quit:
	}
}

// forever is longer than the life of a link.
const forever = 24 * time.Hour

// due returns a packet that is due, or the time until the next one.
func (w *direction) due(now time.Time) (*packet, time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.waiting) == 0 {
		return nil, forever
	}
	if wait := w.waiting[0].at.Sub(now); wait > 0 {
		return nil, wait
	}
	return heap.Pop(&w.waiting).(held).packet, 0
}

// hand writes a packet to the other machine's device.
func (w *direction) hand(p *packet) {
	if _, err := w.to.Write(p.data()); err != nil {
		w.counts.refused.Add(1)
	}
	packets.Put(p)
}

// held is a delayed packet. Packets due at the same time keep their order.
type held struct {
	at     time.Time
	order  uint64
	packet *packet
}

// queue is a heap of held packets, the next due first.
type queue []held

func (q queue) Len() int      { return len(q) }
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q queue) Less(i, j int) bool {
	if !q[i].at.Equal(q[j].at) {
		return q[i].at.Before(q[j].at)
	}
	return q[i].order < q[j].order
}
func (q *queue) Push(x any) { *q = append(*q, x.(held)) }
func (q *queue) Pop() any {
	last := len(*q) - 1
	x := (*q)[last]
	(*q)[last] = held{}
	*q = (*q)[:last]
	return x
}
