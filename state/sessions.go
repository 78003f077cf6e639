package state

import "time"

// Sessions is a shard's table of sessions by receiver index. It is not safe for concurrent use.
type Sessions struct {
	table  map[uint32]*KeySet // by receiver index
	timers Deadlines[*Session]
	count  int
}

// NewSessions returns an empty table.
func NewSessions() *Sessions { return &Sessions{table: make(map[uint32]*KeySet)} }

// Len returns the number of sessions.
func (t *Sessions) Len() int { return t.count }

// Find returns the key set that an index names, or nil.
func (t *Sessions) Find(index uint32) *KeySet { return t.table[index] }

// Add inserts a new session under its first index.
func (t *Sessions) Add(s *Session) {
	t.table[s.keys.current.index] = s.keys.current
	t.count++
	s.timer.Value = s
	t.timers.Set(&s.timer, s.deadline)
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
		t.timers.Set(&e.Session.timer, time.Time{})
		t.count--
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

// All calls f for every session. f must not change the table.
func (t *Sessions) All(f func(*Session)) {
	for index, k := range t.table {
		if s := k.session; s.keys.current == k && k.index == index {
			f(s)
		}
	}
}
