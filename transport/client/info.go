package client

import (
	"net"
	"sync/atomic"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/kem"
	"lewes/crypto/seal"
	"lewes/state"
	"lewes/state/path"
)

// Info says what a session is at the moment.
type Info struct {
	Gateway identity.PublicKey
	Via     []identity.PublicKey // the gateways on the way, the nearest first
	KEM     kem.ID
	AEAD    seal.Suite
	// Handle names the session in both ends' logs; the gateway that a session is
	// made anew with gives it another.
	Handle [16]byte
	// Generation is the number of the keys, counted from 0 in each handshake.
	Generation uint32
	// RTT is the smoothed round trip to the gateway.
	RTT time.Duration
	// Transport is what carries packets to the first gateway, and TransportReason says
	// why that is not the first choice, or not the first port; empty where it is.
	Transport       path.Transport
	TransportReason string
	// Local is the underlay's own address.
	Local net.Addr
	// Handshake says when each step of the last handshake was done.
	Handshake state.Progress
	// Terms are what the gateway said about the session; zero until it has.
	Terms state.Terms
	// MaxPacket is the size of the largest LP packet that this session sends now:
	// what Config allows and the gateway takes, less where Pings have shown that
	// the path takes less.
	MaxPacket int
	// Down says why the session is being made anew; nil while it stands.
	Down error
}

// Info returns what the session is at the moment.
func (s *Session) Info() Info {
	l := s.link.Load()
	s.mu.Lock()
	down := s.lastErr
	s.mu.Unlock()
	carrier, why := s.carrier()
	l.mu.Lock()
	defer l.mu.Unlock()
	progress := l.client.Progress()
	return Info{
		Gateway:    s.gateway.Identity,
		Via:        s.previous(),
		KEM:        *s.config.KEM,
		AEAD:       l.session.Suite(),
		Handle:     l.session.Handle(),
		Generation: l.session.Current().Number(),
		RTT:        roundTrip(l.session, progress),
		Transport:  carrier,
		Local:      l.way.Load().conn.LocalAddr(),
		Handshake:  progress,
		Terms:      l.session.Terms(),
		MaxPacket:  s.maxPacket(),
		Down:       down,

		TransportReason: why,
	}
}

// carrier returns the transport that carries packets to the first gateway, and why it
// does.
func (s *Session) carrier() (path.Transport, string) {
	for s.outer != nil {
		s = s.outer
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.link.Load()
	if l == nil {
		return path.UDP, ""
	}
	return l.way.Load().path.Transport, s.pathReason
}

// Stats counts what a session did, over all its handshakes.
type Stats struct {
	// Sent and Received count the datagrams of flows and their payload.
	Sent, SentBytes         uint64
	Received, ReceivedBytes uint64
	// Unsent counts datagrams of flows that did not leave this machine: the session
	// was being made anew, or the socket took no more.
	Unsent uint64
	// Expired counts packets that found no connection in time while the session was on
	// TCP.
	Expired uint64
	// Overflowed counts received datagrams that gave way because nobody read them.
	Overflowed uint64
	// Discarded counts packets that came and were of no use: forged, repeated, of
	// keys that are gone. Faults counts errors of the underlay. Both are of the
	// present handshake.
	Discarded, Faults uint64
	// Flows is how many are open now.
	Flows int
	// Rekeys and Reconnects count new keys and new handshakes.
	Rekeys, Reconnects uint64
}

// counters are what Stats has of the whole session.
type counters struct {
	sent, sentBytes, unsent, expired    atomic.Uint64
	_                                   [64]byte // writers and the reader on cache lines of their own
	received, receivedBytes, overflowed atomic.Uint64
	rekeys, reconnects                  atomic.Uint64
}

// Stats returns what was counted so far.
func (s *Session) Stats() Stats {
	l := s.link.Load()
	l.mu.Lock()
	discarded, faults := l.stats.dropped, l.stats.faults
	expired := s.count.expired.Load() + l.way.Load().expired()
	l.mu.Unlock()
	return Stats{
		Sent:          s.count.sent.Load(),
		SentBytes:     s.count.sentBytes.Load(),
		Received:      s.count.received.Load(),
		ReceivedBytes: s.count.receivedBytes.Load(),
		Unsent:        s.count.unsent.Load(),
		Expired:       expired,
		Overflowed:    s.count.overflowed.Load(),
		Discarded:     discarded,
		Faults:        faults,
		Flows:         s.flows.len(),
		Rekeys:        s.count.rekeys.Load(),
		Reconnects:    s.count.reconnects.Load(),
	}
}
