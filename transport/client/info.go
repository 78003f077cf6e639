package client

import (
	"net"
	"sync/atomic"
	"time"

	"lewes/state"
	"lewes/state/wire"
)

// Info describes a session.
type Info struct {
	Gateway PublicKey
	Via     []PublicKey // the entries, the nearest first
	KEM     KEM
	AEAD    string
	// Handle identifies the session in the logs of both ends, until a reconnect.
	Handle [16]byte
	// Generation is the number of the keys, counted from 0 in each handshake.
	Generation uint32
	// RTT is the smoothed round trip to the gateway.
	RTT time.Duration
	// Transport carries packets to the first gateway. TransportReason explains why it
	// is not the preferred one, or not the first port; else it is empty.
	Transport       Transport
	TransportReason string
	// Local is the underlay's own address.
	Local net.Addr
	// Handshake is the progress of the last handshake.
	Handshake HandshakeTimes
	// Terms are the gateway's; zero until they have arrived.
	Terms Terms
	// MaxPacket is the size of the largest packet that the session sends now.
	MaxPacket int
	// Down is the reason for reconnecting; nil while the session is up.
	Down error
}

// HandshakeTimes is when each step of a handshake was done.
type HandshakeTimes struct {
	Started     time.Time
	Answered    time.Time // the first answer to the hello
	Key         time.Time // the gateway's KEM key, signed
	Established time.Time // the gateway has proved its identity
}

// Terms are the gateway's terms for a session.
type Terms struct {
	IdleTTL     time.Duration // the session ends after such an idle time
	RekeyAfter  time.Duration // the client rekeys
	MaxDatagram int           // largest packet over UDP, in bytes
	// Registers: the gateway answers Session.Register. RegistrationRequired: it carries nothing before.
	Registers, RegistrationRequired bool
}

// Info describes the session at the moment.
func (s *Session) Info() Info {
	c := s.conn.Load()
	s.mu.Lock()
	down := s.lastErr
	s.mu.Unlock()
	over, reason := s.carrier()
	c.mu.Lock()
	defer c.mu.Unlock()
	var via []PublicKey
	for _, g := range s.config.Via[:s.hop] {
		via = append(via, g.Identity)
	}
	progress, terms := c.st.client.Progress(), c.session.Terms()
	return Info{
		Gateway:         s.gateway.Identity,
		Via:             via,
		KEM:             s.config.KEM,
		AEAD:            c.session.Suite().String(),
		Handle:          c.session.Handle(),
		Generation:      c.session.Current().Number(),
		RTT:             roundTrip(c.session, progress),
		Transport:       over,
		TransportReason: reason,
		Local:           c.active.Load().conn.LocalAddr(),
		Handshake:       HandshakeTimes{progress.Started, progress.Answered, progress.KKT, progress.Established},
		Terms:           termsOf(terms),
		MaxPacket:       s.maxPacket(),
		Down:            down,
	}
}

func termsOf(t state.Terms) Terms {
	return Terms{
		t.IdleTTL, t.RekeyAfter, int(t.MaxDatagram),
		t.Flags&wire.AckRegisters != 0, t.Flags&wire.AckRegistrationRequired != 0,
	}
}

// carrier returns the transport that carries packets to the first gateway, and the reason.
func (s *Session) carrier() (Transport, string) {
	for s.outer != nil {
		s = s.outer
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return transportOf(s.conn.Load().active.Load().path.Transport), s.pathReason
}

// Stats counts what a session has done, over all its handshakes.
type Stats struct {
	// Sent and Received count the datagrams of flows and their payload.
	Sent, SentBytes         uint64
	Received, ReceivedBytes uint64
	// Unsent counts datagrams dropped before sending: the session was reconnecting, or
	// the socket's send buffer was full.
	Unsent uint64
	// Expired counts packets that got no TCP connection in time.
	Expired uint64
	// Overflowed counts received datagrams dropped because a receive queue was full.
	Overflowed uint64
	// Discarded counts received packets that were forged, replayed or sealed with old
	// keys. Faults counts errors of the socket. Both are of the current handshake.
	Discarded, Faults uint64
	// Flows is the number of open flows.
	Flows int
	// Rekeys and Reconnects count new keys and new handshakes.
	Rekeys, Reconnects uint64
}

// counters are the parts of Stats that span handshakes.
type counters struct {
	sent, sentBytes, unsent, expired    atomic.Uint64
	_                                   [64]byte // separates the writers' cache line from the reader's
	received, receivedBytes, overflowed atomic.Uint64
	rekeys, reconnects                  atomic.Uint64
}

// Stats returns the session's counters.
func (s *Session) Stats() Stats {
	c := s.conn.Load()
	c.mu.Lock()
	discarded, faults := c.st.discarded, c.st.networkErrors
	expired := s.count.expired.Load() + c.active.Load().expired()
	c.mu.Unlock()
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
		Flows:         len(s.flows.all()),
		Rekeys:        s.count.rekeys.Load(),
		Reconnects:    s.count.reconnects.Load(),
	}
}
