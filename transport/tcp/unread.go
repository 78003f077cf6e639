package tcp

import (
	"container/heap"
	"sync"
)

// unreadBudget bounds the memory of all answers that their peers have not read. Beyond the bound,
// the connections with most give way. It is safe for concurrent use.
type unreadBudget struct {
	limit int

	mu    sync.Mutex
	used  int      // bytes; guarded by mu
	conns byUnread // guarded by mu; connections with unread answers
}

// byUnread is a heap of connections: the one with most unread answers first, among equals the
// oldest.
type byUnread []*serverConn

func (b byUnread) Len() int { return len(b) }

func (b byUnread) Less(i, j int) bool {
	if b[i].unread != b[j].unread {
		return b[i].unread > b[j].unread
	}
	return b[i].path.Conn < b[j].path.Conn
}

func (b byUnread) Swap(i, j int) {
	b[i], b[j] = b[j], b[i]
	b[i].unreadIndex, b[j].unreadIndex = i, j
}

func (b *byUnread) Push(x any) {
	c := x.(*serverConn)
	c.unreadIndex = len(*b)
	*b = append(*b, c)
}

func (b *byUnread) Pop() any {
	last := len(*b) - 1
	c := (*b)[last]
	(*b)[last] = nil
	*b = (*b)[:last]
	return c
}

// set records the memory of a connection's unread answers.
func (u *unreadBudget) set(c *serverConn, bytes int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	before := c.unread
	u.used += bytes - before
	c.unread = bytes
	switch {
	case before == bytes:
	case before == 0:
		heap.Push(&u.conns, c)
	case bytes == 0:
		heap.Remove(&u.conns, c.unreadIndex)
	default:
		heap.Fix(&u.conns, c.unreadIndex)
	}
}

// excess returns the connection that gives way, or nil while the memory is within its bound.
func (u *unreadBudget) excess() *serverConn {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.used <= u.limit {
		return nil
	}
	c := heap.Pop(&u.conns).(*serverConn)
	u.used -= c.unread
	c.unread = 0
	return c
}
