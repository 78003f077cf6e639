package state

import (
	"container/list"
	"errors"
	"slices"
	"time"

	"lewes/crypto/cookie"
	"lewes/crypto/identity"
	"lewes/crypto/kdf"
	"lewes/state/parts"
	"lewes/state/path"
	"lewes/state/snapshot"
	"lewes/state/wire"
)

// maxCollisions bounds the responders of one index, with different sources or salts, until
// a Handshake 3 opens for one of them. An observer who copies a client's packets from
// elsewhere, faster than the originals, thus cannot prevent its session: the copies lead to
// a Handshake 2 for the copying address at most.
const maxCollisions = 16

// strangersJoins is the number of joins of Handshake 1 in a second, beyond the first of each part:
// a few milliseconds of a shard's time.
const strangersJoins = 2048

// HandshakeStats are the counters of a ResponderTable. The tags describe their metrics.
type HandshakeStats struct {
	Hellos      uint64    `metric:"handshakes_total" label:"step=hello" help:"Handshake messages by outcome."`
	Repeated    uint64    `metric:"handshakes_total" label:"step=repeated"`
	Collisions  uint64    `metric:"handshakes_total" label:"step=collision"`
	Busy        uint64    `metric:"handshakes_total" label:"step=busy"`
	Cookies     uint64    `metric:"handshakes_total" label:"step=cookie"`
	KEMKeys     uint64    `metric:"handshakes_total" label:"step=kem_key"`
	Opened      uint64    `metric:"handshakes_total" label:"step=opened"`
	Failed      uint64    `metric:"handshakes_total" label:"step=failed"`
	Limited     uint64    `metric:"handshakes_total" label:"step=limited"`
	FailedJoins uint64    `metric:"handshakes_total" label:"step=failed_join"`
	Unlisted    uint64    `metric:"handshakes_total" label:"step=unlisted"`
	Established uint64    `metric:"handshakes_total" label:"step=established"`
	Evicted     uint64    `metric:"handshakes_total" label:"step=evicted"`
	Expired     uint64    `metric:"handshakes_total" label:"step=expired"`
	Rejects     [7]uint64 // by code
}

// ResponderTable holds the responders of a gateway's shard and answers all handshake
// packets. It is not safe for concurrent use.
type ResponderTable struct {
	config *GatewayConfig
	mac    *cookie.MAC1Key
	jar    *cookie.Jar

	responders map[uint32]*responder // by index, linked by next
	count      int
	timers     Deadlines[*responder]
	// peers and ready hold the responders that wait for Handshake 3, by client and all.
	peers peerIndex[*responder]
	ready Bag[*responder]
	// Queues in the order of eviction: responders that failed, that only answer
	// copies, that wait for Handshake 1, and that wait for Handshake 3.
	failed, done, waiting, opened *list.List
	earlyBytes                    int

	budgets *GatewayBudgets
	joins   parts.Joins // of Handshake 1
	Stats   HandshakeStats
}

// NewResponderTable returns an empty table. Without Budgets in the configuration, which the tables of
// one gateway share, it makes its own.
func NewResponderTable(now time.Time, config *GatewayConfig) (*ResponderTable, error) {
	private, public := config.Identity.X25519()
	config.Session.Static.Private, config.Session.Static.Public = private, public
	budgets := config.Budgets
	if budgets == nil {
		var err error
		if budgets, err = NewGatewayBudgets(now, config, 1); err != nil {
			return nil, err
		}
	}
	return &ResponderTable{
		config:     config,
		mac:        cookie.NewMAC1Key(config.Identity.Public()),
		jar:        cookie.NewJar(config.Session.Rand),
		responders: make(map[uint32]*responder),
		peers:      make(peerIndex[*responder]),
		failed:     list.New(),
		done:       list.New(),
		waiting:    list.New(),
		opened:     list.New(),
		joins:      parts.Joins{PerSecond: strangersJoins},
		budgets:    budgets,
	}, nil
}

// SessionConfig returns the configuration of the table's sessions.
func (t *ResponderTable) SessionConfig() *SessionConfig { return &t.config.Session }

// Len returns the number of responders.
func (t *ResponderTable) Len() int { return t.count }

// Has reports whether an index names a responder.
func (t *ResponderTable) Has(index uint32) bool { return t.responders[index] != nil }

// MAC1 returns the key of the MAC1 in clear packets.
func (t *ResponderTable) MAC1() *cookie.MAC1Key { return t.mac }

// handleKKTRequest answers a KKTRequest for a responder of its index and source. There are several
// only under attack.
func (t *ResponderTable) handleKKTRequest(index uint32, packet, content []byte, from path.Path, out *Output) error {
	err := error(ErrStale)
	for r := t.responders[index]; r != nil; r = r.next {
		if !r.isSource(from) {
			err = ErrWrongSource
		} else if err = r.handleKKT(content, len(packet), from, out); err == nil {
			return nil
		}
	}
	return err
}

// handleHandshake1Part passes a part of Handshake 1 to the responders of its index and source. They
// share their parts, which are joined once.
func (t *ResponderTable) handleHandshake1Part(now time.Time, index uint32, packet, content []byte, from path.Path, out *Output) error {
	first := t.responders[index]
	err := error(ErrStale)
	var message []byte
	var sum [32]byte
	joined := false
	for r := first; r != nil; r = r.next {
		if !r.isSource(from) {
			err = ErrWrongSource
			continue
		}
		if r.handshake1 == nil && first.next == nil {
			r.bytesIn += len(packet)
		}
		part, bad := parsePart(content, handshake1Parts(r.kem.ID()), from.Transport == path.TCP)
		if bad != nil {
			err = bad
			continue
		}
		if !joined {
			failed := t.joins.Failed
			if message, err = r.inbox.Add(now, part); message != nil {
				sum = kdf.Hash(message)
			}
			t.Stats.FailedJoins += t.joins.Failed - failed
			t.budgets.tries.add(now, uint32(t.joins.Failed-failed))
			joined = true
		}
		if message == nil {
			continue
		}
		before := r.handshake1
		err = r.handleHandshake1(now, message, sum, from, out)
		t.countHandshake1(before != r.handshake1, err)
	}
	return err
}

// HandleHandshake3 processes a level-1 packet. It returns the session that it creates and
// the transport packets that arrived before it, in order.
func (t *ResponderTable) HandleHandshake3(now time.Time, header wire.Header, packet []byte, out *Output) (*Session, []Packet, error) {
	err := error(ErrStale)
	for r := t.responders[header.ReceiverIdx]; r != nil; r = r.next {
		var s *Session
		s, err = r.handleHandshake3(now, packet, out)
		if errors.Is(err, ErrNotListed) {
			t.Stats.Unlisted++
			break
		}
		if s != nil {
			t.Stats.Established++
			early := r.takeEarlyData()
			t.removeCollisions(r)
			return s, early, nil
		}
		if err == nil {
			break // a copy, answered
		}
	}
	return nil, nil, err
}

// admits reports whether a client may have a session now.
func (t *ResponderTable) admits(client identity.PublicKey) bool {
	return t.config.Admit == nil || t.config.Admit(client)
}

// RemoveOf removes a responder of a client that waits for Handshake 3, and reports whether there
// was one.
func (t *ResponderTable) RemoveOf(client identity.PublicKey) bool {
	r := t.peers[client]
	if r == nil {
		return false
	}
	t.remove(r)
	return true
}

// Reapply takes the next step of a walk through the responders that wait for Handshake 3: it
// removes one whose client is no longer admitted. It reports whether the walk goes on.
func (t *ResponderTable) Reapply(c *Cursor) (more bool) {
	r, more := t.ready.Next(c)
	if more && !t.admits(r.client) {
		t.remove(r)
	}
	return more
}

// BufferEarly keeps a transport packet for a session whose Handshake 3 is expected.
func (t *ResponderTable) BufferEarly(header wire.Header, packet []byte, from path.Path) error {
	err := error(ErrStale)
	for r := t.responders[header.ReceiverIdx]; r != nil; r = r.next {
		if !r.isSource(from) {
			err = ErrWrongSource
		} else if err = r.bufferEarly(packet, from); err == nil {
			return nil
		}
	}
	return err
}

// Reset builds a Reset for an unknown index, or returns nil if the source has had its share of them
// (section 11).
func (t *ResponderTable) Reset(now time.Time, index uint32, to path.Path) []byte {
	if _, ok := t.budgets.resets.Take(now, to.Peer.Addr()); !ok {
		return nil
	}
	return clearPacket(t.mac, index, wire.TypeReset, &wire.Empty{})
}

// TickOne removes one expired responder and reports whether there was one.
func (t *ResponderTable) TickOne(now time.Time) bool {
	r, ok := t.timers.Pop(now)
	if !ok {
		return false
	}
	if r.session == nil {
		t.Stats.Expired++
	}
	t.remove(r)
	return true
}

// Next returns when TickOne is due; zero means never.
func (t *ResponderTable) Next() time.Time { return t.timers.Next() }

// find returns the responder of a hello, or nil.
func (t *ResponderTable) find(hello *wire.ClientHello, from path.Path) *responder {
	for r := t.responders[hello.ReceiverIdx]; r != nil; r = r.next {
		if r.salt == hello.Salt && r.isSource(from) {
			return r
		}
	}
	return nil
}

// indexTaken reports whether a new hello must choose another index: it names a session, or
// has too many responders.
func (t *ResponderTable) indexTaken(index uint32) bool {
	r := t.responders[index]
	return r != nil && (r.session != nil || t.countCollisions(index) == maxCollisions) ||
		t.config.IndexInUse != nil && t.config.IndexInUse(index)
}

// countCollisions returns the number of responders of an index.
func (t *ResponderTable) countCollisions(index uint32) (n int) {
	for r := t.responders[index]; r != nil; r = r.next {
		n++
	}
	return n
}

// removeCollisions removes the other responders of the winner's index.
func (t *ResponderTable) removeCollisions(winner *responder) {
	for r := t.responders[winner.index]; r != nil; {
		next := r.next
		if r != winner {
			t.remove(r)
		}
		r = next
	}
}

func (t *ResponderTable) newResponder() *responder {
	return &responder{table: t}
}

// inboxOf returns the inbox of a new responder.
func (t *ResponderTable) inboxOf(r *responder) *inbox {
	for other := t.responders[r.index]; other != nil; other = other.next {
		if other.isSource(r.source) {
			return other.inbox
		}
	}
	return &inbox{parts.Assembler{Limit: parts.MaxHandshake, Most: maxHandshake1Parts, Joins: &t.joins}}
}

// add inserts a responder that waits for Handshake 1.
func (t *ResponderTable) add(r *responder, until time.Time) {
	r.timer.Value = r
	r.inbox = t.inboxOf(r)
	r.next = t.responders[r.index]
	t.responders[r.index] = r
	t.count++
	t.budgets.records.used.Add(1)
	t.timers.Set(&r.timer, until)
	t.requeue(r, t.waiting)
}

// addReady adds a responder whose Handshake 1 has opened.
func (t *ResponderTable) addReady(r *responder) {
	t.ready.Add(&r.timer.Slot)
	t.peers.add(r.client, r)
	t.requeue(r, t.opened)
}

// removeReady removes a responder that no longer waits for Handshake 3.
func (t *ResponderTable) removeReady(r *responder) {
	t.ready.Remove(&r.timer.Slot)
	t.peers.remove(r.client, r)
}

// requeue moves a responder to the end of another queue.
func (t *ResponderTable) requeue(r *responder, to *list.List) {
	if r.place != nil {
		r.queue.Remove(r.place)
	}
	r.queue, r.place = to, to.PushBack(r)
}

// evict removes the oldest responder of the first queue that is not empty.
func (t *ResponderTable) evict() {
	for _, queue := range []*list.List{t.failed, t.done, t.waiting, t.opened} {
		if oldest := queue.Front(); oldest != nil {
			t.Stats.Evicted++
			t.remove(oldest.Value.(*responder))
			return
		}
	}
}

func (t *ResponderTable) remove(r *responder) {
	t.timers.Set(&r.timer, time.Time{})
	t.removeReady(r)
	r.queue.Remove(r.place)
	r.takeEarlyData()
	r.wipeSecrets()
	t.count--
	t.budgets.records.used.Add(-1)
	if head := t.responders[r.index]; head != r {
		for head.next != r {
			head = head.next
		}
		head.next = r.next
	} else if r.next != nil {
		t.responders[r.index] = r.next
	} else {
		delete(t.responders, r.index)
	}
}

// maxTableSize bounds the encoded responders, in bytes.
const maxTableSize = 8 << 20

// Write encodes the state that clients depend on: the cookie secrets, and the responders that wait
// for Handshake 1. One whose Handshake 1 has opened is left out: its Noise state cannot be encoded,
// and opening Handshake 1 again would seal another Handshake 2 with the same nonce. Its client
// starts over after a Reset, within a round trip, and so does a client whose final Ack was lost.
// After a flood only the newest responders are encoded, which clients are still waiting for.
func (t *ResponderTable) Write(w *snapshot.Writer) {
	secrets := t.jar.Secrets()
	defer secrets.Wipe()
	snapshotCookies(snapshot.Encode(w), &secrets)
	newest := t.newest(maxTableSize)
	w.Uint32(uint32(len(newest)))
	for _, r := range newest {
		w.Part(func() { r.snapshot(snapshot.Encode(w), &r.timer.at) })
	}
}

// newest returns the latest responders that fit in size bytes, oldest first. Failed ones
// are included if there is room after those that wait.
func (t *ResponderTable) newest(size int) (newest []*responder) {
	for _, queue := range []*list.List{t.waiting, t.failed} {
		for e := queue.Back(); e != nil; e = e.Prev() {
			r := e.Value.(*responder)
			if size -= minResponderSize + len(r.ack) + len(r.request) + len(r.response); size < 0 {
				break
			}
			newest = append(newest, r)
		}
	}
	slices.Reverse(newest)
	return newest
}

// Read decodes the output of Write. It drops responders whose KEM key is gone and those
// beyond the table's bound.
func (t *ResponderTable) Read(r *snapshot.Reader) error {
	var secrets cookie.Secrets
	defer secrets.Wipe()
	snapshotCookies(snapshot.Decode(r), &secrets)
	if r.Err() == nil {
		t.jar.Restore(&secrets)
	}
	for range r.Count(1<<24, 8) {
		var until time.Time
		part, next := r.Part(), t.newResponder()
		next.snapshot(snapshot.Decode(part), &until)
		if err := part.End(); err != nil {
			return err
		}
		if next.kem != nil && !t.budgets.records.full(int64(t.count), 1) {
			t.add(next, until)
		}
	}
	return r.Err()
}

func snapshotCookies(c *snapshot.Codec, s *cookie.Secrets) {
	c.Time(&s.Start)
	for _, key := range []**[32]byte{&s.Present, &s.Last} {
		if k := snapshot.Optional(c, key); k != nil {
			c.Fixed(k[:])
		}
	}
}
