package state

import (
	"time"

	"lewes/state/path"
	"lewes/state/wire"
)

// A search for the largest packet that fits the path to the peer, by padded Pings
// (RFC 8899, section 6 of PROTOCOL.md). It begins by believing the largest, so
// that nothing waits for it; what does not fit is found out within seconds.
const (
	// basePacket fits every path: the smallest IPv6 MTU less IPv6 and UDP headers.
	basePacket = 1280 - 40 - 8
	// probeTries is how often a size is tried before it is taken not to fit.
	probeTries = 3
	probeWait  = 500 * time.Millisecond
	// confirmEvery is how often the size in use is tried again, while the session
	// carries traffic: a path may come to take less.
	confirmEvery = 30 * time.Second
	// raiseEvery is how often a larger size is tried again.
	raiseEvery = 10 * time.Minute
)

// packetSizes are the sizes that are tried, beside the largest: what common
// tunnels and links leave of 1500.
var packetSizes = [...]int{basePacket, 1280, 1332, 1372, 1392, 1412, 1432, 1452, 1472}

// mtu is the search of one session.
type mtu struct {
	largest int       // to try
	fits    int       // the largest that was answered on this path
	fails   int       // the smallest that was not; 0: none yet
	raiseAt time.Time // when fails is forgotten

	probing bool
	token   [8]byte
	size    int
	tries   int
	since   time.Time // of the first try
	next    time.Time
	sealed  uint64
}

// MaxPacket returns the largest packet that is believed to fit the path to the
// peer, in bytes. It is safe for any goroutine.
func (s *Session) MaxPacket() int {
	if n := s.maxPacket.Load(); n != 0 {
		return int(n)
	}
	return wire.MaxUDPPacket
}

// Fits reports whether a packet of n bytes is believed to fit the path. It is
// safe for any goroutine. A session that has not searched yet does so once a
// large packet was asked for.
func (s *Session) Fits(n int) bool {
	limit := s.maxPacket.Load()
	if limit == 0 && n > basePacket && !s.large.Load() {
		s.large.Store(true)
	}
	return n <= s.MaxPacket()
}

// Unsearched reports whether a packet of n bytes is one that a search has to be begun
// for: nobody knows yet whether it passes. It is safe for any goroutine.
func (s *Session) NeedsMTUProbe(n int) bool { return n > basePacket && s.maxPacket.Load() == 0 }

// Look begins the search if a large packet was asked for and the peer's terms are known.
// Where packets come in, the session looks by itself. Who only sends large ones has to
// make it look: if the path drops them all, nothing ever comes in. Over TCP there is
// nothing to find.
func (s *Session) MaybeProbeMTU(now time.Time, out *Output) {
	if s.mtu == nil && s.large.Load() && s.terms != (Terms{}) && s.Path().Transport == path.UDP {
		s.ProbeMTU(now, s.config.MaxPacket, out)
	}
}

// Search begins to look for the largest packet that fits the path, at most
// largest bytes, and at a client no more than the gateway takes. A search under
// way goes on.
func (s *Session) ProbeMTU(now time.Time, largest int, out *Output) {
	if most := int(s.terms.MaxDatagram); s.role == RoleClient && most > 0 {
		largest = min(largest, most)
	}
	if s.closed || s.mtu != nil || largest <= basePacket {
		return
	}
	s.mtu = &mtu{largest: largest, fits: basePacket}
	s.maxPacket.Store(uint32(largest))
	s.probe(now, largest, out)
	s.reschedule()
}

// TooLarge tells the session that the system refused a packet of size bytes: it
// knows of a smaller limit on the path.
func (s *Session) TooLarge(now time.Time, size int, out *Output) {
	m := s.mtu
	if s.closed || m == nil || size <= basePacket || m.fails != 0 && size >= m.fails {
		return
	}
	if m.fails = size; m.fits >= size {
		m.fits = basePacket
	}
	m.raiseAt = now.Add(raiseEvery)
	s.advanceSearch(now, out)
	s.reschedule()
}

func (s *Session) probe(now time.Time, size int, out *Output) {
	m := s.mtu
	if !m.probing || m.size != size {
		m.probing, m.size, m.tries, m.since = true, size, 0, now
		s.random(m.token[:])
	}
	m.tries++
	m.next = now.Add(max(probeWait, 2*s.RTT()))
	s.send(wire.TypePing, padded{&wire.Ping{Data: m.token}, size}, out)
}

// probed is called with every Pong.
func (s *Session) probed(now time.Time, token *[8]byte, out *Output) {
	m := s.mtu
	if m == nil || !m.probing || *token != m.token || s.Path().Transport == path.TCP {
		return
	}
	m.fits = max(m.fits, m.size)
	s.advanceSearch(now, out)
	s.reschedule()
}

// advanceSearch tries the next larger size, or settles on what fits.
func (s *Session) advanceSearch(now time.Time, out *Output) {
	m := s.mtu
	m.probing = false
	next := m.candidate()
	if m.fails != 0 || next == 0 {
		s.maxPacket.Store(uint32(m.fits))
	}
	if next != 0 {
		s.probe(now, next, out)
		return
	}
	m.next, m.sealed = now.Add(confirmEvery), s.current.sender.Sealed()
}

// candidate returns the size to try next, or 0: the largest while nothing has
// failed, then the middle one of those between what fits and what does not.
func (m *mtu) candidate() int {
	if m.fails == 0 {
		if m.fits < m.largest {
			return m.largest
		}
		return 0
	}
	var open []int
	for _, size := range packetSizes {
		if size > m.fits && size < m.fails && size < m.largest {
			open = append(open, size)
		}
	}
	if len(open) == 0 {
		return 0
	}
	return open[len(open)/2]
}

// tickSearch repeats a probe, takes its size not to fit after the last try, or
// begins to confirm and to raise.
func (s *Session) tickSearch(now time.Time, out *Output) {
	m := s.mtu
	if m == nil || now.Before(m.next) {
		return
	}
	switch {
	case s.Path().Transport == path.TCP:
		// A stream takes every size, which says nothing about datagrams: what was found
		// about them stays until there are some again.
		m.probing, m.next = false, now.Add(confirmEvery)
	case m.probing && m.tries < probeTries:
		s.probe(now, m.size, out)
		if m.tries == probeTries {
			s.Ping(now, wire.MinPingPacket, out) // does anything come through?
		}
	case m.probing && !s.lastOpened.After(m.since):
		// Nothing small came either: that says nothing about sizes.
		m.probing, m.next = false, now.Add(confirmEvery)
	case m.probing:
		if m.fails = m.size; m.fits >= m.size {
			m.fits = basePacket
		}
		m.raiseAt = now.Add(raiseEvery)
		s.advanceSearch(now, out)
	case s.current.sender.Sealed() == m.sealed:
		m.next = now.Add(confirmEvery) // a quiet session has nothing to lose
	default:
		if m.fails != 0 && !now.Before(m.raiseAt) {
			m.fails = 0
		}
		size := m.fits
		if next := m.candidate(); next != 0 {
			size = next
		}
		s.probe(now, size, out)
	}
}

// suspectSize makes a size in use that not every path takes be tried again at once: where
// nothing came back for a while, it may be that alone what is large gets lost.
func (s *Session) suspectSize(now time.Time) {
	if m := s.mtu; m != nil && !m.probing && m.fits > basePacket {
		m.next = now
	}
}

// restartSearch forgets what was found: the path is another.
func (s *Session) restartSearch(now time.Time, out *Output) {
	if m := s.mtu; m != nil {
		largest := m.largest
		s.mtu = nil
		s.ProbeMTU(now, largest, out)
	}
}
