package state

import (
	"sync/atomic"
	"time"

	"lewes/state/path"
	"lewes/state/snapshot"
	"lewes/state/wire"
)

// Path MTU discovery by padded Pings (RFC 8899, section 6 of PROTOCOL.md). It starts
// with the largest packet assumed to fit, so that no packet waits for a probe; a
// smaller limit is found within seconds.
const (
	// basePacket fits every path: the smallest IPv6 MTU less IPv6 and UDP headers.
	basePacket = 1280 - 40 - 8
	// probeTries is the number of probes after which a size is assumed not to fit.
	probeTries = 3
	probeWait  = 500 * time.Millisecond
	// confirmEvery is the interval at which the current size is probed again while
	// the session carries traffic: the path may have shrunk.
	confirmEvery = 30 * time.Second
	// raiseEvery is the interval at which larger sizes are probed again.
	raiseEvery = 10 * time.Minute
)

// packetSizes are the sizes probed beside the largest: the room that common tunnels
// and links leave of 1500 bytes.
var packetSizes = [...]int{basePacket, 1280, 1332, 1372, 1392, 1412, 1432, 1452, 1472}

// pmtu is the path MTU of a session.
type pmtu struct {
	prober      *mtuProber    // nil before the first probe
	limit       atomic.Uint32 // largest packet assumed to fit; 0: not probed
	largeWanted atomic.Bool   // a large packet was asked for
}

// mtuProber is the discovery of one session.
type mtuProber struct {
	largest int       // to probe
	fits    int       // largest size that was answered on this path
	fails   int       // smallest size that was not; 0: none
	raiseAt time.Time // when fails is reset

	probing bool
	token   [8]byte
	size    int
	tries   int
	since   time.Time // of the first try
	next    time.Time
	sealed  uint64 // packets sealed when the search settled
}

// MaxPacket returns the largest packet assumed to fit the path to the peer, in
// bytes. It is safe for any goroutine.
func (s *Session) MaxPacket() int {
	if n := s.mtu.limit.Load(); n != 0 {
		return int(n)
	}
	return wire.MaxUDPPacket
}

// Fits reports whether a packet of n bytes is assumed to fit the path. Asking for a
// large packet requests discovery. It is safe for any goroutine.
func (s *Session) Fits(n int) bool {
	if s.NeedsMTUProbe(n) && !s.mtu.largeWanted.Load() {
		s.mtu.largeWanted.Store(true)
	}
	return n <= s.MaxPacket()
}

// NeedsMTUProbe reports whether discovery has to start before a packet of n bytes can
// be relied on. It is safe for any goroutine.
func (s *Session) NeedsMTUProbe(n int) bool { return n > basePacket && s.mtu.limit.Load() == 0 }

// MaybeProbeMTU starts discovery if a large packet was asked for and the terms are known. The
// session calls it for incoming packets; an owner that only sends has to call it, because a path
// that drops large packets may return none. There is no discovery over TCP.
func (s *Session) MaybeProbeMTU(now time.Time, out *Output) {
	if s.mtu.prober == nil && s.mtu.largeWanted.Load() && s.terms != (Terms{}) && s.Path().Transport == path.UDP {
		s.ProbeMTU(now, s.config.MaxPacket, out)
	}
}

// ProbeMTU starts discovery up to largest bytes, at a client no more than the gateway
// accepts. It has no effect while discovery is running.
func (s *Session) ProbeMTU(now time.Time, largest int, out *Output) {
	if most := int(s.terms.MaxDatagram); s.role == RoleClient && most > 0 {
		largest = min(largest, most)
	}
	if s.closed || s.mtu.prober != nil || largest <= basePacket {
		return
	}
	s.mtu.prober = &mtuProber{largest: largest, fits: basePacket}
	s.mtu.limit.Store(uint32(largest))
	s.mtu.probe(now, s, largest, out)
	s.reschedule()
}

// TooLarge reports that the operating system refused a packet of size bytes because it
// knows a smaller limit of the path.
func (s *Session) TooLarge(now time.Time, size int, out *Output) {
	p := s.mtu.prober
	if s.closed || p == nil || size <= basePacket || p.fails != 0 && size >= p.fails {
		return
	}
	s.mtu.failed(now, s, size, out)
	s.reschedule()
}

// probe sends a Ping padded to size.
func (m *pmtu) probe(now time.Time, s *Session, size int, out *Output) {
	p := m.prober
	if !p.probing || p.size != size {
		p.probing, p.size, p.tries, p.since = true, size, 0, now
		s.config.random(p.token[:])
	}
	p.tries++
	p.next = now.Add(max(probeWait, 2*s.RTT()))
	s.send(wire.TypePing, padded{&wire.Ping{Data: p.token}, size}, out)
}

func (m *pmtu) handlePong(now time.Time, s *Session, token *[8]byte, out *Output) {
	p := m.prober
	if p == nil || !p.probing || *token != p.token || s.Path().Transport == path.TCP {
		return
	}
	p.fits = max(p.fits, p.size)
	m.advance(now, s, out)
	s.reschedule()
}

// failed records that packets of size bytes do not fit.
func (m *pmtu) failed(now time.Time, s *Session, size int, out *Output) {
	p := m.prober
	if p.fails = size; p.fits >= size {
		p.fits = basePacket
	}
	p.raiseAt = now.Add(raiseEvery)
	m.advance(now, s, out)
}

// advance probes the next larger size, or settles on the current one.
func (m *pmtu) advance(now time.Time, s *Session, out *Output) {
	p := m.prober
	p.probing = false
	next := p.candidate()
	if p.fails != 0 || next == 0 {
		m.limit.Store(uint32(p.fits))
	}
	if next != 0 {
		m.probe(now, s, next, out)
		return
	}
	p.next, p.sealed = now.Add(confirmEvery), s.keys.current.sender.Sealed()
}

// candidate returns the next size to probe, or 0: the largest until a size has failed,
// then the middle one of those between fits and fails.
func (p *mtuProber) candidate() int {
	if p.fails == 0 {
		if p.fits < p.largest {
			return p.largest
		}
		return 0
	}
	var open []int
	for _, size := range packetSizes {
		if size > p.fits && size < p.fails && size < p.largest {
			open = append(open, size)
		}
	}
	if len(open) == 0 {
		return 0
	}
	return open[len(open)/2]
}

// tick repeats a probe, treats its size as too large after the last try, or starts to
// confirm the current size or to raise it.
func (m *pmtu) tick(now time.Time, s *Session, out *Output) {
	p := m.prober
	if p == nil || now.Before(p.next) {
		return
	}
	switch {
	case s.Path().Transport == path.TCP:
		// A stream carries every size; keep the result for UDP until it is used again.
		p.probing, p.next = false, now.Add(confirmEvery)
	case p.probing && p.tries < probeTries:
		m.probe(now, s, p.size, out)
		if p.tries == probeTries {
			s.Ping(now, wire.MinPingPacket, out) // does a small packet pass?
		}
	case p.probing && !s.lastOpened.After(p.since):
		// No packet arrived at all, so the size need not be the cause.
		p.probing, p.next = false, now.Add(confirmEvery)
	case p.probing:
		m.failed(now, s, p.size, out)
	case s.keys.current.sender.Sealed() == p.sealed:
		p.next = now.Add(confirmEvery) // an idle session has nothing to lose
	default:
		if p.fails != 0 && !now.Before(p.raiseAt) {
			p.fails = 0
		}
		size := p.fits
		if next := p.candidate(); next != 0 {
			size = next
		}
		m.probe(now, s, size, out)
	}
}

// reprobe probes a size above basePacket again at once: if the peer has become
// unresponsive, it may be that only large packets are lost.
func (m *pmtu) reprobe(now time.Time) {
	if p := m.prober; p != nil && !p.probing && p.fits > basePacket {
		p.next = now
	}
}

// restart discards the result and probes a new path.
func (m *pmtu) restart(now time.Time, s *Session, out *Output) {
	if p := m.prober; p != nil {
		m.prober = nil
		s.ProbeMTU(now, p.largest, out)
	}
}

func (m *pmtu) deadline() time.Time {
	if m.prober == nil {
		return time.Time{}
	}
	return m.prober.next
}

func (m *pmtu) snapshot(c *snapshot.Codec) {
	if p := snapshot.Optional(c, &m.prober); p != nil {
		p.snapshot(c)
	}
	limit, wanted := m.limit.Load(), m.largeWanted.Load()
	c.Uint32(&limit)
	c.Bool(&wanted)
	if c.Decoding() {
		m.limit.Store(limit)
		m.largeWanted.Store(wanted)
	}
}

func (p *mtuProber) snapshot(c *snapshot.Codec) {
	for _, size := range []*int{&p.largest, &p.fits, &p.fails, &p.size, &p.tries} {
		snapshot.Int(c, size)
		c.Check(0 <= *size && *size <= 1<<16, "packet of %d bytes", *size)
	}
	c.Time(&p.raiseAt)
	c.Bool(&p.probing)
	c.Fixed(p.token[:])
	c.Time(&p.since)
	c.Time(&p.next)
	c.Uint64(&p.sealed)
}
