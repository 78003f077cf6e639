package load

import (
	"sync"
	"time"

	"lewes/bench/measure"
	"lewes/bench/payload"
	"lewes/bench/sink"
	"lewes/transport"
)

// Meter counts what comes back: packets of the size that is expected. The first of each
// train is opened, by whoever has the key, and is what delays are taken from.
type Meter struct {
	mu     sync.Mutex
	run    uint32
	size   int
	count  sink.Count
	delays *measure.Histogram
}

// Expect starts to count anew: packets of a size, of a run.
func (m *Meter) Expect(run uint32, size int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.run, m.size, m.count = run, size, sink.Count{}
	m.delays = new(measure.Histogram)
}

// Count returns what has come so far. Foreign counts the first packets of trains that did not open, or
// belonged to another run.
func (m *Meter) Count() sink.Count {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.count
	if m.delays != nil {
		c.Delays = m.delays.Delays()
	}
	return c
}

// take counts a packet or train, if it is what is expected. It then reports true, and the
// caller opens the first packet for first.
func (m *Meter) take(p *transport.Packet) bool {
	size := len(p.Data)
	if p.Segment > 0 && p.Segment < size {
		size = p.Segment
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.size == 0 || size != m.size {
		return false
	}
	now := measure.Now()
	m.count.Datagrams += uint64(p.Count())
	m.count.Bytes += uint64(len(p.Data))
	if m.count.First == 0 {
		m.count.First = now
	}
	m.count.Last = now
	return true
}

// first is told of the payload of a train's first packet; nil where it did not open.
func (m *Meter) first(datagram []byte) {
	run, sent, ok := payload.Get(datagram)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !ok || run != m.run {
		m.count.Foreign++
		return
	}
	m.delays.Add(time.Duration(measure.Now() - sent))
}
