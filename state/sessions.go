package state

import "time"

// Sessions is a shard's table of sessions by receiver index. It has one owner and
// no lock.
type Sessions struct {
	table  map[uint32]*KeySet // by receiver index
	timers Deadlines[*Session]
	count  int
}

// NewSessions returns an empty table.
func NewSessions() *Sessions { return &Sessions{table: make(map[uint32]*KeySet)} }

// Len returns the number of sessions.
func (t *Sessions) Len() int { return t.count }

// Find returns the generation that an index names, or nil.
func (t *Sessions) Find(index uint32) *KeySet { return t.table[index] }

// Add puts a new session in, under its first index.
func (t *Sessions) Add(s *Session) {
	t.table[s.current.index] = s.current
	t.count++
	s.timer.Value = s
	t.timers.Set(&s.timer, s.deadline)
}

// Restore puts a session in that was read, under all its indexes. It reports false,
// and changes nothing, if one of them names something already.
func (t *Sessions) Restore(s *Session) bool {
	taken, seen := false, make(map[uint32]bool)
	s.eachKeySet(func(g *KeySet) {
		taken = taken || seen[g.index] || t.Find(g.index) != nil
		seen[g.index] = true
	})
	if taken {
		return false
	}
	s.eachKeySet(func(g *KeySet) { t.table[g.index] = g })
	t.Add(s)
	return true
}

// Touch is called after a session was used: it keeps the session's place among
// the deadlines right. Where nothing changed it costs a comparison.
func (t *Sessions) Touch(s *Session) {
	if !s.closed && !s.deadline.Equal(s.timer.at) {
		t.timers.Set(&s.timer, s.deadline)
	}
}

// Apply follows an event of a session: which indexes name it, and its end.
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

// Due takes out a session whose deadline has come; the caller ticks it and
// touches it. It returns nil when there is none.
func (t *Sessions) Due(now time.Time) *Session {
	s, _ := t.timers.Pop(now)
	return s
}

// Next returns the earliest deadline of all sessions; zero means never.
func (t *Sessions) Next() time.Time { return t.timers.Next() }

// All calls f for every session; f changes no table. It is for shutting down.
func (t *Sessions) All(f func(*Session)) {
	for index, g := range t.table {
		if s := g.session; s.current == g && g.index == index {
			f(s)
		}
	}
}
