package state

import (
	"time"

	"lewes/crypto/identity"
)

// Sessions is a shard's table of sessions by receiver index and by client. It is not safe for
// concurrent use.
type Sessions struct {
	table  map[uint32]*KeySet // by receiver index
	peers  peerIndex[*Session]
	all    Bag[*Session]
	timers Deadlines[*Session]
}

// NewSessions returns an empty table.
func NewSessions() *Sessions {
	return &Sessions{table: make(map[uint32]*KeySet), peers: make(peerIndex[*Session])}
}

// Len returns the number of sessions.
func (t *Sessions) Len() int { return t.all.Len() }

// Find returns the key set that an index names, or nil.
func (t *Sessions) Find(index uint32) *KeySet { return t.table[index] }

// Add inserts a new session under its first index.
func (t *Sessions) Add(s *Session) {
	t.table[s.keys.current.index] = s.keys.current
	s.timer.Value = s
	t.timers.Set(&s.timer, s.deadline)
	t.all.Add(&s.timer.Slot)
	t.peers.add(s.peer, s)
}

// Restore inserts a decoded session under all its indexes. If one of them is in use, it
// returns false and changes nothing.
func (t *Sessions) Restore(s *Session) bool {
	taken, seen := false, make(map[uint32]bool)
	s.eachKeySet(func(k *KeySet) {
		taken = taken || seen[k.index] || t.Find(k.index) != nil
		seen[k.index] = true
	})
	if taken {
		return false
	}
	s.eachKeySet(func(k *KeySet) { t.table[k.index] = k })
	t.Add(s)
	return true
}

// Touch updates the session's deadline in the table. It is called after each use of the
// session and costs a comparison if nothing has changed.
func (t *Sessions) Touch(s *Session) {
	if !s.closed && !s.deadline.Equal(s.timer.at) {
		t.timers.Set(&s.timer, s.deadline)
	}
}

// Apply updates the table after an event of a session.
func (t *Sessions) Apply(e Event) {
	switch e.Kind {
	case IndexAdded:
		t.table[e.Index] = e.KeySet
	case IndexRemoved:
		if t.table[e.Index] == e.KeySet {
			delete(t.table, e.Index)
		}
	case Closed:
		s := e.Session
		t.timers.Set(&s.timer, time.Time{})
		t.all.Remove(&s.timer.Slot)
		t.peers.remove(s.peer, s)
	}
}

// Due removes and returns a session whose deadline has passed, or nil. The caller ticks
// and touches it.
func (t *Sessions) Due(now time.Time) *Session {
	s, _ := t.timers.Pop(now)
	return s
}

// Next returns the earliest deadline of all sessions; zero means never.
func (t *Sessions) Next() time.Time { return t.timers.Next() }

// OfPeer returns the latest session of a client, or nil.
func (t *Sessions) OfPeer(client identity.PublicKey) *Session { return t.peers[client] }

// EachOfPeer calls f for each session of a client. f must not add or remove sessions.
func (t *Sessions) EachOfPeer(client identity.PublicKey, f func(*Session)) {
	for s := t.peers[client]; s != nil; s = s.ofPeer.next {
		f(s)
	}
}

// idlestOf bounds the sessions of a client that Idlest looks at.
const idlestOf = 256

// Idlest returns that of a client's latest sessions which has been without an authentic packet the
// longest, or nil.
func (t *Sessions) Idlest(client identity.PublicKey) (idlest *Session) {
	s := t.peers[client]
	for n := 0; s != nil && n < idlestOf; n++ {
		if idlest == nil || s.lastOpened.Before(idlest.lastOpened) {
			idlest = s
		}
		s = s.ofPeer.next
	}
	return idlest
}

// Walk returns the next session of a walk through all sessions, as Bag.Next does.
func (t *Sessions) Walk(c *Cursor) (*Session, bool) { return t.all.Next(c) }

// All calls f for every session. f may end the session that it is called with.
func (t *Sessions) All(f func(*Session)) { t.all.All(f) }
