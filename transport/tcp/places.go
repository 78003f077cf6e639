package tcp

import (
	"container/heap"
	"errors"
	"net/netip"
	"sync"
)

const (
	// sourceBits is the prefix of an IPv6 address that identifies a source: a /64
	// belongs to one subscriber.
	sourceBits = 64
	// siteBits is the prefix of an IPv6 address whose sources count as one holder where
	// all share a bound: whoever gets a /48 has 65,536 sources.
	siteBits = 48
)

// Reasons why a connection has no place.
var (
	errFull       = errors.New("tcp: every connection is authenticated")
	errSourceFull = errors.New("tcp: every connection of the source is authenticated")
)

// places bounds the open connections, in total, per source and per account. At a bound, a new
// connection takes the place of an unauthenticated one: the oldest of the source, or of the prefix
// with the most. An account loses its oldest one. It is safe for concurrent use.
type places struct {
	max, maxPerSource int

	mu       sync.Mutex
	all      holder                   // guarded by mu
	holders  map[netip.Prefix]*holder // guarded by mu; sources and sites with an open connection
	accounts map[any]*connList        // guarded by mu; with an authenticated connection
}

// connList lists connections by age, linked by their older and newer.
type connList struct {
	oldest, newest *serverConn
	len            int
}

func (l *connList) add(c *serverConn) {
	if c.older = l.newest; c.older == nil {
		l.oldest = c
	} else {
		c.older.newer = c
	}
	l.newest = c
	l.len++
}

func (l *connList) remove(c *serverConn) {
	if c.older == nil {
		l.oldest = c.newer
	} else {
		c.older.newer = c.newer
	}
	if c.newer == nil {
		l.newest = c.older
	} else {
		c.newer.older = c.older
	}
	c.older, c.newer = nil, nil
	l.len--
}

func newPlaces(limit, perSource int) places {
	return places{max: limit, maxPerSource: perSource, holders: make(map[netip.Prefix]*holder), accounts: make(map[any]*connList)}
}

// holder is a prefix with open connections: a source, or a site with its sources, or all.
type holder struct {
	prefix    netip.Prefix
	parent    *holder  // nil: all
	index     int      // in parent.parts
	parts     parts    // with an unauthenticated connection, or empty at a source
	open      int      // connections
	unproved  int      // unauthenticated connections
	strangers connList // a source's unauthenticated connections
}

// prefixOf returns an IPv4 address as it is, and a prefix of an IPv6 address.
func prefixOf(a netip.Addr, bits int) netip.Prefix {
	a = a.Unmap().WithZone("")
	if a.Is4() {
		bits = a.BitLen()
	}
	prefix, _ := a.Prefix(bits) // fails only for more bits than the address has
	return prefix
}

// victim returns the connection that gives way, or nil.
func (h *holder) victim() *serverConn {
	for len(h.parts) > 0 {
		h = h.parts[0]
	}
	return h.strangers.oldest
}

// parts is a heap of holders: the one with most unauthenticated connections first, among equals
// the one whose victim is the oldest.
type parts []*holder

func (p parts) Len() int { return len(p) }

func (p parts) Less(i, j int) bool {
	a, b := p[i], p[j]
	if a.unproved != b.unproved {
		return a.unproved > b.unproved
	}
	return a.victim().path.Conn < b.victim().path.Conn
}

func (p parts) Swap(i, j int) {
	p[i], p[j] = p[j], p[i]
	p[i].index, p[j].index = i, j
}

func (p *parts) Push(x any) {
	h := x.(*holder)
	h.index = len(*p)
	*p = append(*p, h)
}

func (p *parts) Pop() any {
	last := len(*p) - 1
	h := (*p)[last]
	(*p)[last] = nil
	*p = (*p)[:last]
	return h
}

// add gives an unauthenticated connection a place, and returns the one that loses its place, if
// any. It fails if there is none that could.
func (p *places) add(c *serverConn, source netip.Addr) (victim *serverConn, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.holder(source, sourceBits)
	c.holder = h
	h.strangers.add(c)
	h.count(1, 1)
	switch {
	case h.open > p.maxPerSource:
		victim, err = h.victim(), errSourceFull
	case p.all.open > p.max:
		victim, err = p.all.victim(), errFull
	default:
		return nil, nil
	}
	p.removeLocked(victim)
	if victim == c {
		return nil, err
	}
	return victim, err
}

// holder returns the holder of an address's prefix.
func (p *places) holder(a netip.Addr, bits int) *holder {
	prefix := prefixOf(a, bits)
	h := p.holders[prefix]
	if h == nil {
		h = &holder{prefix: prefix, parent: &p.all}
		if bits == sourceBits && prefix.Addr().Is6() {
			h.parent = p.holder(a, siteBits)
		}
		p.holders[prefix] = h
	}
	return h
}

// count adds to the connections of a source and of what it is a part of.
func (h *holder) count(open, unproved int) {
	for ; h != nil; h = h.parent {
		before := h.unproved
		h.open += open
		h.unproved += unproved
		switch {
		case h.parent == nil:
		case before == 0 && h.unproved > 0:
			heap.Push(&h.parent.parts, h)
		case before > 0 && h.unproved == 0:
			heap.Remove(&h.parent.parts, h.index)
		case before > 0:
			heap.Fix(&h.parent.parts, h.index)
		}
	}
}

// authenticate moves a connection to an account, so that it gives way to others of the account only.
// It returns the one that loses its place, if any: an account has no more than half of what all
// accounts leave.
func (p *places) authenticate(c *serverConn, account any) (victim *serverConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.holder == nil || c.account != nil {
		return nil
	}
	c.holder.strangers.remove(c)
	c.holder.count(0, -1)
	list := p.accounts[account]
	if list == nil {
		list = new(connList)
		p.accounts[account] = list
	}
	c.account = account
	list.add(c)
	if left := p.max - (p.all.open - p.all.unproved); list.len > 1 && list.len > left/2 {
		victim = list.oldest
		p.removeLocked(victim)
	}
	return victim
}

// remove frees a connection's place, and reports whether it had one.
func (p *places) remove(c *serverConn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.holder == nil {
		return false
	}
	p.removeLocked(c)
	return true
}

func (p *places) removeLocked(c *serverConn) {
	h := c.holder
	c.holder = nil
	if list := p.accounts[c.account]; c.account == nil {
		h.strangers.remove(c)
		h.count(-1, -1)
	} else {
		if list.remove(c); list.len == 0 {
			delete(p.accounts, c.account)
		}
		h.count(-1, 0)
	}
	for ; h.parent != nil && h.open == 0; h = h.parent {
		delete(p.holders, h.prefix)
	}
}

// len returns the number of open connections.
func (p *places) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all.open
}
