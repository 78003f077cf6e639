package router

import (
	"sync"

	"lewes/state"
)

// sharedTable lets other shards look into a shard's table of sessions: its owner, which reads it
// without a lock, locks it to write.
type sharedTable struct {
	mu       sync.RWMutex
	sessions *state.Sessions
}

// write calls f, which may write the table.
func (t *sharedTable) write(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f()
}

func (t *sharedTable) holds(index uint32) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.sessions.Find(index) != nil
}

// holds reports whether a session has a receiver index, in whichever shard. It is safe for any
// goroutine, and costs a hello that doubts a session (section 11) a look-up.
func (g *Gateway) holds(index uint32) bool {
	for _, s := range g.shards {
		if s.steer.Shard(index) == s.id {
			return s.table.holds(index)
		}
	}
	return false
}
