package tcp

import (
	"sync"

	"lewes/state/path"
)

// stripes spreads the table's lock.
const stripes = 16

// table finds connections by their number.
type table [stripes]struct {
	mu     sync.Mutex
	visits map[uint64]*visit
}

func (t *table) add(v *visit) {
	s := &t[v.path.Conn%stripes]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.visits == nil {
		s.visits = make(map[uint64]*visit)
	}
	s.visits[v.path.Conn] = v
}

func (t *table) remove(v *visit) {
	s := &t[v.path.Conn%stripes]
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.visits, v.path.Conn)
}

// find returns the connection of a path, nil if it is not there any more.
func (t *table) find(p path.Path) *visit {
	s := &t[p.Conn%stripes]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.visits[p.Conn]
}
