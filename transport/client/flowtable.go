package client

import (
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	// MaxFlows bounds the flows of a session (section 8 of PROTOCOL.md).
	MaxFlows = 256
	// answerWait is how long a flow without an answer is evicted after all others.
	answerWait = 5 * time.Second
	// idRetirement is how long an id is not used for another target.
	idRetirement = 120 * time.Second
	// flowClosedInterval limits the FlowClosed to a gateway that sends on a closed flow.
	flowClosedInterval = time.Second

	idsUsed = "all 65,536 flow ids were used in the last 120 s"
)

// flowTable holds a session's flows and their ids. Its times are those of Session.at.
type flowTable struct {
	mu      sync.RWMutex
	byID    map[uint16]*flow
	retired map[uint16]*retiredID
	former  map[destination]uint16 // a target's retired id
	next    uint16
	swept   time.Duration
	owners  map[*packetConn]struct{}
	ended   error // no more flows may be opened
}

// retiredID is an id in retirement.
type retiredID struct {
	to         destination
	lastUse    time.Duration
	flowClosed time.Duration // when the last FlowClosed was sent
}

func (t *flowTable) init() {
	t.byID = make(map[uint16]*flow)
	t.retired = make(map[uint16]*retiredID)
	t.former = make(map[destination]uint16)
	t.owners = make(map[*packetConn]struct{})
	t.next = uint16(rand.Uint32())
}

// find returns the flow with an id, or nil.
func (t *flowTable) find(id uint16) *flow {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byID[id]
}

// all returns every flow.
func (t *flowTable) all() []*flow {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.Collect(maps.Values(t.byID))
}

// target returns a packetConn's flow to a target, or nil.
func (t *flowTable) target(c *packetConn, to destination) *flow {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return c.targets[to]
}

// register allows a packetConn to open flows.
func (t *flowTable) register(c *packetConn) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended != nil {
		return t.ended
	}
	t.owners[c] = struct{}{}
	return nil
}

// unregister reverts register and returns the packetConn's flows.
func (t *flowTable) unregister(c *packetConn) []*flow {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.owners, c)
	return slices.Collect(maps.Values(c.targets))
}

// add assigns f an id and returns f, or the flow that its packetConn has already opened to
// the target. A full table evicts a flow of a packetConn, which the caller closes.
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
		if evicted = t.leastRecent(now); evicted == nil {
			return nil, nil, f.limitError("the session has 256 open")
		}
	}
	id, ok := t.free(f, now)
	if !ok {
		return nil, nil, f.limitError(idsUsed)
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

func (f *flow) limitError(detail string) error {
	return &FlowError{Gateway: f.s.gateway.Identity, Target: f.to.String(), Reason: ReasonLimit, Detail: detail}
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

// leastRecent returns the flow to evict, or nil if all belong to a DialContext: the least recently used
// one, and those that wait for their first answer after all others.
func (t *flowTable) leastRecent(now time.Duration) *flow {
	var first *flow
	for _, f := range t.byID {
		if f.owner != nil && (first == nil || f.before(first, now)) {
			first = f
		}
	}
	return first
}

// before reports whether a flow is evicted before another.
func (f *flow) before(other *flow, now time.Duration) bool {
	waits := func(f *flow) bool {
		return f.answered.Load() == nil && now-time.Duration(f.lastUse.Load()) < answerWait
	}
	if w := waits(f); w != waits(other) {
		return !w
	}
	return f.lastUse.Load() < other.lastUse.Load()
}

// free returns an id for f. A packetConn reuses the id that it had for the target, so that
// alternating between many targets doesn't exhaust the ids. A connected flow gets an unused
// one, on which no answers to its predecessor arrive.
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
		if r := t.retired[id]; r == nil || now-r.lastUse >= idRetirement {
			return id, true
		}
	}
	return former, known
}

// sweep forgets, now and then, the ids that may be used again.
func (t *flowTable) sweep(now time.Duration) {
	if now-t.swept < idRetirement {
		return
	}
	t.swept = now
	for id, r := range t.retired {
		if now-r.lastUse >= idRetirement {
			t.forget(id, r)
		}
	}
}

// remove removes f.
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
	t.retired[id] = &retiredID{to: f.to, lastUse: lastUse, flowClosed: lastUse}
	t.former[f.to] = id
	if f.owner != nil && f.owner.targets[f.to] == f {
		delete(f.owner.targets, f.to)
	}
}

// renumber assigns f another id.
func (t *flowTable) renumber(f *flow, now time.Duration) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := uint16(f.id.Load())
	if t.byID[old] != f {
		return nil
	}
	id, ok := t.free(f, now)
	if !ok {
		return f.limitError(idsUsed)
	}
	delete(t.byID, old)
	t.retired[old] = &retiredID{lastUse: now, flowClosed: now}
	t.use(id, f)
	return nil
}

// noteClosed is called for a datagram on an id without a flow. It reports whether to send a
// FlowClosed.
func (t *flowTable) noteClosed(id uint16, now time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.retired[id]
	if r == nil {
		return false
	}
	r.lastUse = now
	if now-r.flowClosed < flowClosedInterval {
		return false
	}
	r.flowClosed = now
	return true
}

// end fails all flows with err, and those that are opened later.
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
