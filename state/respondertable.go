package state

import (
	"container/list"
	"errors"
	"net/netip"
	"slices"
	"time"

	"lewes/crypto/cookie"
	"lewes/crypto/identity"
	"lewes/crypto/kdf"
	"lewes/state/parts"
	"lewes/state/path"
	"lewes/state/ratelimit"
	"lewes/state/snapshot"
	"lewes/state/wire"
)

// maxSalts bounds the responders of one attempt index and source, which differ in their salts.
const maxSalts = 4

// maxCrowd bounds the responders of one source prefix that have shown neither a cookie nor a Handshake 1
// that opens. A further hello needs a cookie.
const maxCrowd = 64

// prefixOf returns the source prefix that a hello is counted under.
func prefixOf(from path.Path) netip.Addr {
	bits := 64
	if from.Peer.Addr().Is4() {
		bits = 32
	}
	return ratelimit.Prefix(from.Peer.Addr(), bits)
}

// attemptKey selects the responders of one attempt index and source. Those of other sources are
// unaffected by it: an observer who sends copies of a hello, or hellos of its own under the same
// index, from elsewhere does not touch the client's.
type attemptKey struct {
	attempt   uint32
	transport path.Transport
	peer      netip.AddrPort // over TCP without the port
}

func keyOf(attempt uint32, from path.Path) attemptKey {
	k := attemptKey{attempt, from.Transport, from.Peer}
	if from.Transport == path.TCP {
		k.peer = netip.AddrPortFrom(from.Peer.Addr(), 0)
	}
	return k
}

// strangersJoins is the number of joins of Handshake 1 in a second, beyond the first of each part:
// a few milliseconds of a shard's time.
const strangersJoins = 2048

// HandshakeStats are the counters of a ResponderTable. The tags describe their metrics.
type HandshakeStats struct {
	Hellos           uint64    `metric:"handshakes_total" label:"step=hello" help:"Handshake messages by outcome."`
	Repeated         uint64    `metric:"handshakes_total" label:"step=repeated"`
	Held             uint64    `metric:"handshakes_total" label:"step=held"`
	Busy             uint64    `metric:"handshakes_total" label:"step=busy"`
	Cookies          uint64    `metric:"handshakes_total" label:"step=cookie"`
	KEMKeys          uint64    `metric:"handshakes_total" label:"step=kem_key"`
	Opened           uint64    `metric:"handshakes_total" label:"step=opened"`
	Failed           uint64    `metric:"handshakes_total" label:"step=failed"`
	Limited          uint64    `metric:"handshakes_total" label:"step=limited"`
	FailedJoins      uint64    `metric:"handshakes_total" label:"step=failed_join"`
	Unlisted         uint64    `metric:"handshakes_total" label:"step=unlisted"`
	Established      uint64    `metric:"handshakes_total" label:"step=established"`
	Evicted          uint64    `metric:"handshakes_total" label:"step=evicted"`
	EvictedForMemory uint64    `metric:"handshakes_total" label:"step=evicted_for_memory"`
	Expired          uint64    `metric:"handshakes_total" label:"step=expired"`
	Rejects          [7]uint64 // by code
}

// recordKind is the progress of a responder, in the order of eviction.
type recordKind uint8

const (
	failedRecord  recordKind = iota // its last Handshake 1 was refused
	doneRecord                      // only answers copies
	waitingRecord                   // waits for Handshake 1
	openedRecord                    // waits for Handshake 3
	recordKinds
)

// ResponderTable holds the responders of a gateway's shard and answers all handshake
// packets. It is not safe for concurrent use.
type ResponderTable struct {
	config *GatewayConfig
	mac    *cookie.MAC1Key
	jar    *cookie.Jar

	attempts map[attemptKey]*responder // linked by next
	indexes  map[uint32]*responder     // by the receiver index of their session
	crowds   map[netip.Addr]int        // responders by source prefix, see maxCrowd
	count    int
	timers   Deadlines[*responder]
	// peers and ready hold the responders that wait for Handshake 3, by client and all.
	peers peerIndex[*responder]
	ready Bag[*responder]
	// queues are the responders of each class of source and kind, in the order in which they came
	// to be of the kind.
	queues  [Classes][recordKinds]*list.List
	turns   uint64
	records Share
	memory  [Classes]Share

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
	t := &ResponderTable{
		config:   config,
		mac:      cookie.NewMAC1Key(config.Identity.Public()),
		jar:      cookie.NewJar(config.Session.Rand),
		attempts: make(map[attemptKey]*responder),
		indexes:  make(map[uint32]*responder),
		crowds:   make(map[netip.Addr]int),
		peers:    make(peerIndex[*responder]),
		joins:    parts.Joins{PerSecond: strangersJoins},
		records:  Share{pool: &budgets.records},
		budgets:  budgets,
	}
	for class := range t.queues {
		t.memory[class].pool = &budgets.memory[class]
		for kind := range t.queues[class] {
			t.queues[class][kind] = list.New()
		}
	}
	return t, nil
}

// SessionConfig returns the configuration of the table's sessions.
func (t *ResponderTable) SessionConfig() *SessionConfig { return &t.config.Session }

// Len returns the number of responders.
func (t *ResponderTable) Len() int { return t.count }

// Has reports whether a receiver index is promised to the session of a responder.
func (t *ResponderTable) Has(index uint32) bool { return t.indexes[index] != nil }

// MAC1 returns the key of the MAC1 in clear packets.
func (t *ResponderTable) MAC1() *cookie.MAC1Key { return t.mac }

// handleKKTRequest answers a KKTRequest for a responder of its attempt and source. There are several
// only under attack.
func (t *ResponderTable) handleKKTRequest(attempt uint32, packet, content []byte, from path.Path, out *Output) error {
	err := error(ErrStale)
	for r := t.attempts[keyOf(attempt, from)]; r != nil; r = r.next {
		if err = r.handleKKT(content, len(packet), from, out); err == nil {
			t.recharge(r)
			return nil
		}
	}
	return err
}

// handleHandshake1Part passes a part of Handshake 1 to the responders of its attempt and source. They
// share their parts, which are joined once.
func (t *ResponderTable) handleHandshake1Part(now time.Time, attempt uint32, packet, content []byte, from path.Path, out *Output) error {
	first := t.attempts[keyOf(attempt, from)]
	err := error(ErrStale)
	var message []byte
	var sum [32]byte
	joined := false
	for r := first; r != nil; r = r.next {
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
			t.ownInbox(r)
			t.Stats.FailedJoins += t.joins.Failed - failed
			t.budgets.tries.add(now, uint32(t.joins.Failed-failed))
			joined = true
		}
		if message == nil {
			continue
		}
		before := r.handshake1
		err = r.handleHandshake1(now, message, sum, from, out)
		t.recharge(r)
		t.countHandshake1(before != r.handshake1, err)
	}
	return err
}

// HandleHandshake3 processes a level-1 packet from the source of its responder, or a copy from the address
// of the session. It returns the session that it creates and the transport packets that arrived before
// it, in order.
func (t *ResponderTable) HandleHandshake3(now time.Time, header wire.Header, packet []byte, from path.Path, out *Output) (*Session, []Packet, error) {
	r := t.indexes[header.ReceiverIdx]
	switch {
	case r == nil:
		return nil, nil, ErrStale
	case !r.isSource(from) && (r.session == nil || !from.SameSource(r.session.Path())):
		return nil, nil, ErrWrongSource
	}
	s, err := r.handleHandshake3(now, packet, out)
	if errors.Is(err, ErrNotListed) {
		t.Stats.Unlisted++
	}
	if s == nil {
		return nil, nil, err
	}
	t.Stats.Established++
	early := r.earlyData
	r.earlyData = nil
	t.setClass(r, Proved)
	return s, early, nil
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
	r := t.indexes[header.ReceiverIdx]
	switch {
	case r == nil:
		return ErrStale
	case !r.isSource(from):
		return ErrWrongSource
	}
	return r.bufferEarly(packet, from)
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

// ofHeader returns the responders that a packet with an index belongs to: the first of its attempt and
// source, or that of its session.
func (t *ResponderTable) ofHeader(header wire.Header, from path.Path) *responder {
	if header.Level == wire.LevelClear {
		return t.attempts[keyOf(header.ReceiverIdx, from)]
	}
	if r := t.indexes[header.ReceiverIdx]; r != nil && r.isSource(from) {
		return r
	}
	return nil
}

// find returns the responder of a hello, or nil.
func (t *ResponderTable) find(hello *wire.ClientHello, from path.Path) *responder {
	for r := t.attempts[keyOf(hello.Attempt, from)]; r != nil; r = r.next {
		if r.salt == hello.Salt {
			return r
		}
	}
	return nil
}

// makeRoom reports whether a new hello of an attempt and source may have a responder beside those with
// other salts. One with a cookie may take the place of the oldest that waits for Handshake 1, if possible
// of one whose hello had no cookie: an observer who sends hellos in the client's name, and sees the
// cookies, must not hold the client's place.
func (t *ResponderTable) makeRoom(key attemptKey, class Class) bool {
	n := 0
	var oldest *responder
	for r := t.attempts[key]; r != nil; r = r.next {
		if n++; r.handshake1 == nil && (oldest == nil || oldest.class != Unproved || r.class == Unproved) {
			oldest = r // new ones are linked in front
		}
	}
	switch {
	case n < maxSalts:
		return true
	case class == Unproved || oldest == nil:
		return false
	}
	t.Stats.Evicted++
	t.remove(oldest)
	return true
}

// inboxOf returns the inbox of a new responder.
func (t *ResponderTable) inboxOf(r *responder) *inbox {
	if other := t.attempts[r.key()]; other != nil {
		return other.inbox
	}
	return &inbox{Assembler: parts.Assembler{Limit: parts.MaxHandshake, Most: maxHandshake1Parts, Joins: &t.joins}}
}

// add inserts a responder that waits for Handshake 1.
func (t *ResponderTable) add(r *responder, until time.Time) {
	r.timer.Value = r
	r.inbox = t.inboxOf(r)
	r.next = t.attempts[r.key()]
	t.attempts[r.key()], t.indexes[r.index] = r, r
	if r.class == Unproved {
		r.crowded = true
		t.crowds[prefixOf(r.source)]++
	}
	t.count++
	t.records.Add(1)
	t.timers.Set(&r.timer, until)
	t.requeue(r, waitingRecord)
	t.recharge(r)
}

// leaveCrowd stops counting a responder under its source prefix.
func (t *ResponderTable) leaveCrowd(r *responder) {
	if !r.crowded {
		return
	}
	r.crowded = false
	if p := prefixOf(r.source); t.crowds[p] > 1 {
		t.crowds[p]--
	} else {
		delete(t.crowds, p)
	}
}

// addReady adds a responder whose Handshake 1 has opened.
func (t *ResponderTable) addReady(r *responder) {
	t.leaveCrowd(r)
	t.ready.Add(&r.timer.Slot)
	t.peers.add(r.client, r)
	t.requeue(r, openedRecord)
}

// removeReady removes a responder that no longer waits for Handshake 3.
func (t *ResponderTable) removeReady(r *responder) {
	t.ready.Remove(&r.timer.Slot)
	t.peers.remove(r.client, r)
}

// requeue makes a responder the latest of a kind.
func (t *ResponderTable) requeue(r *responder, kind recordKind) {
	if r.place != nil {
		t.queues[r.class][r.kind].Remove(r.place)
	}
	t.turns++
	r.kind, r.turn = kind, t.turns
	r.place = t.queues[r.class][kind].PushBack(r)
}

// setClass moves a responder to another class of sources.
func (t *ResponderTable) setClass(r *responder, class Class) {
	t.memory[r.class].Add(-r.charged)
	r.charged = 0
	t.queues[r.class][r.kind].Remove(r.place)
	r.class, r.place = class, nil
	t.requeue(r, r.kind)
	t.recharge(r)
}

// evict removes the responder that R12.1 names. It returns false if there is none.
func (t *ResponderTable) evict() bool {
	for kind := range recordKinds {
		var oldest *responder
		for class := range t.queues {
			if front := t.queues[class][kind].Front(); front != nil {
				if r := front.Value.(*responder); oldest == nil || r.turn < oldest.turn {
					oldest = r
				}
			}
		}
		if oldest != nil {
			t.Stats.Evicted++
			t.remove(oldest)
			return true
		}
	}
	return false
}

// maxEvictions bounds the responders that give way at once: more of them only where the memory was
// reduced, and then with the next packets.
const maxEvictions = 16

// recharge charges a responder for the bytes that it takes now. Others of its class give way if there
// is no room, in the order of eviction.
func (t *ResponderTable) recharge(r *responder) {
	memory, more := &t.memory[r.class], r.size()-r.charged
	for n := 0; more > 0 && n < maxEvictions && memory.Full(more); n++ {
		oldest := t.oldestBut(r)
		if oldest == nil {
			break
		}
		t.Stats.EvictedForMemory++
		t.remove(oldest)
	}
	r.charged += more
	memory.Add(more)
}

// oldestBut returns the responder that gives way to another of its class, or nil.
func (t *ResponderTable) oldestBut(r *responder) *responder {
	for _, queue := range t.queues[r.class] {
		front := queue.Front()
		if front != nil && front.Value == any(r) {
			front = front.Next()
		}
		if front != nil {
			return front.Value.(*responder)
		}
	}
	return nil
}

// ownInbox charges the parts in a responder's inbox to this responder.
func (t *ResponderTable) ownInbox(r *responder) {
	last := r.inbox.owner
	r.inbox.owner = r
	if last != nil && last != r {
		t.recharge(last)
	}
	t.recharge(r)
}

func (t *ResponderTable) remove(r *responder) {
	t.timers.Set(&r.timer, time.Time{})
	t.removeReady(r)
	t.queues[r.class][r.kind].Remove(r.place)
	if r.inbox.owner == r {
		r.inbox.owner = nil
		r.inbox.Reset()
	}
	t.memory[r.class].Add(-r.charged)
	r.wipeSecrets()
	t.count--
	t.records.Add(-1)
	delete(t.indexes, r.index)
	t.leaveCrowd(r)
	if head := t.attempts[r.key()]; head != r {
		for head.next != r {
			head = head.next
		}
		head.next = r.next
	} else if r.next != nil {
		t.attempts[r.key()] = r.next
	} else {
		delete(t.attempts, r.key())
	}
}

// maxTableSize bounds the encoded responders, in bytes.
const maxTableSize = 8 << 20

// Write encodes the state that clients depend on: the cookie secrets, and the responders that wait
// for Handshake 1. One whose Handshake 1 has opened is left out: its Noise state cannot be encoded,
// and opening Handshake 1 again would seal another Handshake 2 with the same nonce. Its client
// starts over when it doubts its session (section 11), and so does a client whose final Ack was lost.
// After a flood only the newest responders are encoded, which clients are still waiting for.
func (t *ResponderTable) Write(w *snapshot.Writer) {
	secrets := t.jar.Secrets()
	defer secrets.Wipe()
	snapshotCookies(snapshot.Encode(w), &secrets)
	newest := t.newest(maxTableSize)
	w.Uint32(uint32(len(newest)))
	for _, r := range newest {
		w.Part(func() {
			r.snapshot(snapshot.Encode(w), &r.timer.at)
			snapshot.Byte(snapshot.Encode(w), &r.class)
		})
	}
}

// newest returns the latest responders of each kind and class that fit in size bytes, oldest first.
// Those that wait come before those that failed, and of both those of proved sources.
func (t *ResponderTable) newest(size int) (newest []*responder) {
	for _, kind := range []recordKind{waitingRecord, failedRecord} {
		for _, class := range []Class{Proved, Unproved} {
			for e := t.queues[class][kind].Back(); e != nil; e = e.Prev() {
				r := e.Value.(*responder)
				size -= minResponderSize + len(r.ack) + len(r.request)
				for _, p := range r.kktPackets {
					size -= len(p)
				}
				if size < 0 {
					break
				}
				newest = append(newest, r)
			}
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
		part, next := r.Part(), &responder{table: t}
		next.snapshot(snapshot.Decode(part), &until)
		if part.Len() > 0 { // an older program does not write the class
			snapshot.Byte(snapshot.Decode(part), &next.class)
			snapshot.Decode(part).Check(next.class < Classes, "class %d", next.class)
		}
		if err := part.End(); err != nil {
			return err
		}
		if next.kem != nil && !t.records.Full(1) {
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
