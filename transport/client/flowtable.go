package client

import (
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"lewes/state/wire"
)

const (
	// MaxFlows is how many flows a session has at most (section 8 of PROTOCOL.md).
	MaxFlows = 256
	// idLife is how long an id is not used for another target after its last use.
	idLife = 120 * time.Second
	// tellAgain is how often a gateway that goes on sending on a closed flow is
	// told that it is closed.
	tellAgain = time.Second
)

// flowTable has a session's flows and their ids. Times in it are those of
// Session.at.
type flowTable struct {
	mu      sync.RWMutex
	byID    map[uint16]*flow
	retired map[uint16]*retiredID
	former  map[destination]uint16 // the id that a target had, while it is retired
	next    uint16
	swept   time.Duration
	owners  map[*packetConn]struct{}
	ended   error // nothing may be opened any more
}

// retiredID is an id that was in use lately.
type retiredID struct {
	to      destination
	lastUse time.Duration
	told    time.Duration
}

func (t *flowTable) init() {
	t.byID = make(map[uint16]*flow)
	t.retired = make(map[uint16]*retiredID)
	t.former = make(map[destination]uint16)
	t.owners = make(map[*packetConn]struct{})
	t.next = uint16(rand.Uint32())
}

// find returns the flow that an id names, or nil.
func (t *flowTable) find(id uint16) *flow {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byID[id]
}

// len returns how many flows there are.
func (t *flowTable) len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.byID)
}

// all returns every flow.
func (t *flowTable) all() []*flow {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.Collect(maps.Values(t.byID))
}

// target returns the flow that a packetConn has to a target, or nil.
func (t *flowTable) target(c *packetConn, to destination) *flow {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return c.targets[to]
}

// register lets a packetConn have flows.
func (t *flowTable) register(c *packetConn) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended != nil {
		return t.ended
	}
	t.owners[c] = struct{}{}
	return nil
}

// unregister lets it have none any more and returns those that it has.
func (t *flowTable) unregister(c *packetConn) []*flow {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.owners, c)
	return slices.Collect(maps.Values(c.targets))
}

// add gives f an id and returns it; where f's packetConn has got a flow to the
// same target meanwhile, that one is returned. Where the table is full, the flow of
// a packetConn that was used least recently leaves it for f: the caller closes it.
func (t *flowTable) add(f *flow, now time.Duration) (open, evicted *flow, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended != nil {
		return nil, nil, t.ended
	}
	if c := f.owner; c != nil {
		if _, ok := t.owners[c]; !ok {
			return nil, nil, net.ErrClosed
		}
		if open = c.targets[f.to]; open != nil {
			return open, nil, nil
		}
	}
	if len(t.byID) >= MaxFlows {
		if evicted = t.leastRecent(); evicted == nil {
			return nil, nil, f.bound("this session has 256 open")
		}
	}
	id, ok := t.free(f, now)
	if !ok {
		return nil, nil, errIDs(f)
	}
	if evicted != nil {
		t.retire(evicted)
	}
	t.use(id, f)
	f.number = id
	f.lastUse.Store(int64(now))
	if f.owner != nil {
		f.owner.targets[f.to] = f
	}
	return f, evicted, nil
}

func errIDs(f *flow) error {
	return f.bound("each of the 65,536 flow ids was used within the last 120 s")
}

func (f *flow) bound(detail string) error {
	return &FlowError{Gateway: f.s.gateway.Identity, Target: f.to.String(), Reason: wire.FlowBound, Detail: detail}
}

func (t *flowTable) use(id uint16, f *flow) {
	if r := t.retired[id]; r != nil {
		t.forget(id, r)
	}
	t.byID[id] = f
	f.id.Store(uint32(id))
}

func (t *flowTable) forget(id uint16, r *retiredID) {
	delete(t.retired, id)
	if t.former[r.to] == id {
		delete(t.former, r.to)
	}
}

// leastRecent returns the flow that gives way, or nil where all are somebody's own.
func (t *flowTable) leastRecent() *flow {
	var oldest *flow
	for _, f := range t.byID {
		if f.owner != nil && (oldest == nil || f.lastUse.Load() < oldest.lastUse.Load()) {
			oldest = f
		}
	}
	return oldest
}

// free returns an id for f. A packetConn comes back to a target under the id that
// it had there, so that many targets in turn do not use the ids up; for others a
// fresh one is better, because nothing meant for the last user comes there.
func (t *flowTable) free(f *flow, now time.Duration) (uint16, bool) {
	t.sweep(now)
	former, known := t.former[f.to]
	if known && f.owner != nil {
		return former, true
	}
	for range 1 << 16 {
		id := t.next
		t.next++
		if t.byID[id] != nil {
			continue
		}
		if r := t.retired[id]; r == nil || now-r.lastUse >= idLife {
			return id, true
		}
	}
	return former, known
}

// sweep forgets, now and then, the ids that may be used again.
func (t *flowTable) sweep(now time.Duration) {
	if now-t.swept < idLife {
		return
	}
	t.swept = now
	for id, r := range t.retired {
		if now-r.lastUse >= idLife {
			t.forget(id, r)
		}
	}
}

// remove takes f out.
func (t *flowTable) remove(f *flow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.retire(f)
}

func (t *flowTable) retire(f *flow) {
	id := uint16(f.id.Load())
	if t.byID[id] != f {
		return
	}
	delete(t.byID, id)
	lastUse := time.Duration(f.lastUse.Load())
	t.retired[id] = &retiredID{to: f.to, lastUse: lastUse, told: lastUse}
	t.former[f.to] = id
	if f.owner != nil && f.owner.targets[f.to] == f {
		delete(f.owner.targets, f.to)
	}
}

// renumber gives f another id.
func (t *flowTable) renumber(f *flow, now time.Duration) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := uint16(f.id.Load())
	if t.byID[old] != f {
		return nil
	}
	id, ok := t.free(f, now)
	if !ok {
		return errIDs(f)
	}
	delete(t.byID, old)
	t.retired[old] = &retiredID{lastUse: now, told: now}
	t.use(id, f)
	return nil
}

// straggler notes a datagram for an id that names no flow. It reports whether the
// gateway should be told that the flow is closed.
func (t *flowTable) straggler(id uint16, now time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.retired[id]
	if r == nil {
		return false
	}
	r.lastUse = now
	if now-r.told < tellAgain {
		return false
	}
	r.told = now
	return true
}

// end makes the table refuse new flows for err, and ends those that are there for
// their users.
func (t *flowTable) end(err error) {
	t.mu.Lock()
	t.ended = err
	owners := slices.Collect(maps.Keys(t.owners))
	t.mu.Unlock()
	for _, c := range owners {
		c.inbox.end(err)
	}
	for _, f := range t.all() {
		f.fail(err)
	}
}
