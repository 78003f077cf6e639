package state

import (
	"bytes"
	"time"

	"lewes/crypto/seal"
	"lewes/state/wire"
)

// confirmation is a client's wait for the first authentic packet of its session. Each Handshake 2
// that opened, under an Ack of its own, makes a candidate. The session begins with the first; the
// first packet that opens decides, and the gateway closes the others (section 5).
type confirmation struct {
	attempt    *attempt
	candidates []candidate
	retry      backoff
	until      time.Time
	proved     bool // a packet has opened; what is missing is the session's Ack
}

// candidate is what one Handshake 2 made of a session.
type candidate struct {
	handshake3 []byte
	suite      seal.Suite
	keys       *KeySet
	exporter   [32]byte
	seed       [32]byte
}

// addCandidate adds the session of a further Handshake 2 and answers it.
func (s *Session) addCandidate(c candidate, out *Output) {
	w := s.liveness.confirmation
	w.candidates = append(w.candidates, c)
	out.event(Event{Kind: IndexAdded, Session: s, KeySet: c.keys, Index: c.keys.index})
	s.sendHandshake3(&c, out)
}

// sendHandshake3 sends a candidate's Handshake 3 and a Ping: its Pong confirms a client that has
// nothing to send, and its arrival from the client's own address brings the session there.
func (s *Session) sendHandshake3(c *candidate, out *Output) {
	out.send(s.Path(), bytes.Clone(c.handshake3))
	var token [8]byte
	s.config.random(token[:])
	s.sendOn(c.keys, wire.TypePing, &wire.Ping{Data: token}, out)
}

// packetOpened settles on the candidate whose packet opened first, and closes the others.
func (w *confirmation) packetOpened(s *Session, k *KeySet, out *Output) {
	if w == nil || w.proved {
		return
	}
	w.proved = true
	all := w.candidates
	for i := range all {
		if c := &all[i]; c.keys == k {
			s.suite, s.exporter, s.rekey.seed = c.suite, c.exporter, c.seed
			s.keys.use(k)
			w.candidates = all[i : i+1]
		}
	}
	s.closeOthers(all, &wire.Close{Reason: wire.CloseDone}, out)
	for i := range all {
		if c := &all[i]; c.keys != k {
			s.remove(c.keys, out)
		}
		all[i].wipe()
	}
	w.attempt.wipe()
}

// closeOthers sends a Close under each candidate that the session does not use.
func (s *Session) closeOthers(all []candidate, m *wire.Close, out *Output) {
	for i := range all {
		if k := all[i].keys; k != s.keys.current {
			s.sendOn(k, wire.TypeClose, m, out)
		}
	}
}

// tick repeats Handshake 3, and until the session is confirmed what came before it: an observer that
// relayed the only candidate's Handshake 2 may have stopped since. It reports false when nothing has
// confirmed the session in time.
func (w *confirmation) tick(now time.Time, s *Session, out *Output) bool {
	if w == nil {
		return true
	}
	if !now.Before(w.until) {
		w.end(s, out)
		return w.proved
	}
	if w.retry.due(now) {
		if a := w.attempt; !w.proved && s.Path() == a.config.Path {
			a.send(true, out)
		}
		for i := range w.candidates {
			s.sendHandshake3(&w.candidates[i], out)
		}
	}
	return true
}

func (w *confirmation) deadline() time.Time {
	if w == nil {
		return time.Time{}
	}
	return earliest(w.retry.at, w.until)
}

// Confirmed reports whether the other end is known to have the session's keys.
func (s *Session) Confirmed() bool {
	return s.liveness.confirmation == nil || s.liveness.confirmation.proved
}

// end removes the candidates that the session has not settled on.
func (w *confirmation) end(s *Session, out *Output) {
	if w == nil {
		return
	}
	for i := range w.candidates {
		c := &w.candidates[i]
		if c.keys != s.keys.current {
			s.remove(c.keys, out)
		}
		c.wipe()
	}
	w.attempt.wipe()
	s.liveness.confirmation = nil
}

func (c *candidate) wipe() {
	clear(c.exporter[:])
	clear(c.seed[:])
}
