package state

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"lewes/crypto/kdf"
	"lewes/crypto/seal"
	"lewes/state/parts"
	"lewes/state/path"
	"lewes/state/wire"
)

// exploreEnd is one end of the explored session, with nothing above it, and its
// books: what this history has seen of its keys and messages. An exploreEnd that
// is stored is never changed; an event works on a copy.
type exploreEnd struct {
	session *Session
	now     time.Time     // by this end's clock
	table   []*KeySet     // those that an index names
	books   []exploreBook // one of each key set that the end ever had
	made    [][32]byte    // HASH of the KK1 or KK2 Noise message made, by generation
	offered []uint8       // indexes proposed so far, by generation
}

// exploreBook records the sequence numbers used with one key set.
type exploreBook struct {
	generation *KeySet // nil once it is forgotten
	index      uint32
	number     uint32
	send       fingerprint
	sealed     uint64   // sequences used
	accepted   []uint64 // sequences opened, a bit each
	refused    bool     // the client refused its index
}

func (b *exploreBook) has(seq uint64) bool {
	return seq/64 < uint64(len(b.accepted)) && b.accepted[seq/64]&(1<<(seq%64)) != 0
}

func (b *exploreBook) mark(seq uint64) {
	for seq/64 >= uint64(len(b.accepted)) {
		b.accepted = append(b.accepted, 0)
	}
	b.accepted[seq/64] |= 1 << (seq % 64)
}

func (e *exploreEnd) book(index uint32) *exploreBook {
	for i := range e.books {
		if e.books[i].index == index {
			return &e.books[i]
		}
	}
	return nil
}

func (e *exploreEnd) find(index uint32) *KeySet {
	for _, g := range e.table {
		if g.index == index {
			return g
		}
	}
	return nil
}

// exploreKind is what may happen.
type exploreKind uint8

const (
	exploreRekey         exploreKind = iota // client: new keys are wanted
	exploreRetry                            // client: its timer expires
	exploreRefuse                           // client: the proposed index is taken on its way
	exploreAsk                              // gateway: it wants new keys
	exploreRepeat                           // gateway: its timer expires
	exploreData                             // a datagram is sent
	exploreDeliver                          // a packet arrives
	exploreLate                             // the same, when the gateway may send an Ack again
	exploreAge                              // demoted generations are forgotten
	exploreLivenessCheck                    // client: it is in doubt of the session
	exploreLose                             // a packet is lost
	exploreCopy                             // a packet is duplicated
)

var exploreKindNames = [...]string{
	"wants new keys", "its timer expires", "refuses the index", "asks for new keys", "its timer expires",
	"sends data", "receives", "receives, half a second later,", "hears nothing for minutes", "is in doubt", "lost:", "duplicated:",
}

// exploreEvent is one thing that happens, packet the one that it happens to.
type exploreEvent struct {
	kind   exploreKind
	packet int32
}

// exploreStep is the result of an event at one end.
type exploreStep struct {
	next      int32   // the end as it is then
	packets   []int32 // sent
	opened    bool    // the packet that was delivered opened
	payload   string  // of the data that came
	violation string  // which rule was broken
}

// explorePacket is a packet that was sealed somewhere in the exploration.
type explorePacket struct {
	data     []byte
	toClient bool
	index    uint32
	sequence uint64
	kind     wire.Type
	about    exploreTopic
	part     uint8
}

// exploreTopic is which generation and which index a subsession message names.
type exploreTopic struct {
	generation uint32
	index      uint32 // 0: none
}

// Times of the explored ends. Demoted generations outlive everything that the
// timers of an exploration add up to, and go by exploreAge alone.
const (
	exploreDemoted = 10 * time.Minute
	exploreAging   = exploreDemoted + time.Minute
	exploreIdle    = 24 * time.Hour
)

// exploreIndex is the receiver index that a gateway proposes: renaming indexes
// comes down to counting those of one generation that are still spoken of.
func exploreIndex(generation uint32, proposal uint8) uint32 {
	return 0x8000_0000 | generation<<8 | uint32(proposal)
}

// exploreSlot numbers an index among all: eight for each generation.
func exploreSlot(index uint32) uint8 { return uint8(index>>8&7)<<3 | uint8(index&7) }

// exploreRand gives every generation of a side the same randomness in each
// history, so that equal histories have equal keys.
type exploreRand struct {
	model  *exploreModel
	stream io.Reader
}

func (r *exploreRand) Read(p []byte) (int, error) {
	if r.stream == nil {
		s := r.model.running.session
		r.stream = seeded(uint64(s.role)<<32 | uint64(s.keys.current.number))
	}
	return r.stream.Read(p)
}

// newExploreEnds makes both ends of an established session.
func (m *exploreModel) newExploreEnds() (client, gateway *exploreEnd) {
	terms := Terms{IdleTTL: exploreIdle, MaxDatagram: wire.MaxUDPPacket}
	configs := map[Role]*SessionConfig{}
	for role, seed := range map[Role]byte{RoleGateway: 1, RoleClient: 2} {
		c := &SessionConfig{Rand: &m.rand, Terms: terms, DemotedTTL: exploreDemoted, NewIndex: m.newIndex, Stream: m.whole}
		c.Static.Private, c.Static.Public = testIdentity(seed).X25519()
		configs[role] = c
	}
	first := firstSecrets{keys: deriveTransportKeys(&[32]byte{1}), exporter: [32]byte{2}, seed: [32]byte{3}}
	end := func(role, peer Role, at path.Path, identity byte) *exploreEnd {
		s := &Session{
			config: configs[role], role: role, suite: seal.ChaCha20Poly1305,
			peer: testIdentity(identity).Public(), peerStatic: configs[peer].Static.Public,
		}
		secrets := first
		s.establish(epoch, exploreIndex(0, 0), &secrets, at)
		e := &exploreEnd{session: s, now: epoch}
		e.learn(s.keys.current)
		return e
	}
	return end(RoleClient, RoleGateway, gatewayAt, 1), end(RoleGateway, RoleClient, clientAt, 2)
}

// newIndex is the NewIndex of the gateway that is running.
func (m *exploreModel) newIndex() uint32 {
	e := m.running
	number := e.session.keys.current.number + 1
	for uint32(len(e.offered)) <= number {
		e.offered = append(e.offered, 0)
	}
	e.offered[number]++
	return exploreIndex(number, e.offered[number]-1)
}

// learn begins to keep books of a generation. Keys that were there before are
// the same book: their sequences must not begin again.
func (e *exploreEnd) learn(g *KeySet) {
	e.table = append(e.table, g)
	f, _ := fingerprintOf(g.sender.key)
	for i := range e.books {
		if e.books[i].send == f {
			e.books[i].generation = g
			return
		}
	}
	e.books = append(e.books, exploreBook{generation: g, index: g.index, number: g.number, send: f})
}

func (e *exploreEnd) forget(g *KeySet) {
	e.table = slices.DeleteFunc(e.table, func(x *KeySet) bool { return x == g })
	for i := range e.books {
		if e.books[i].generation == g {
			e.books[i].generation = nil
		}
	}
}

// apply does what an event leads to at an end. It is done once for each end and
// event: nothing but the two goes into it.
func (m *exploreModel) apply(id int32, event exploreEvent) *exploreStep {
	call := exploreCall{id, event}
	if step := m.calls[call]; step != nil {
		return step
	}
	after, step := m.run(id, event)
	if step.violation == "" {
		step.next = m.intern(after)
	}
	m.calls[call] = step
	return step
}

// try is apply where only the step counts.
func (m *exploreModel) try(id int32, event exploreEvent) *exploreStep {
	call := exploreCall{id, event}
	step := m.calls[call]
	if step == nil {
		step = m.tries[call]
	}
	if step == nil {
		_, step = m.run(id, event)
		m.tries[call] = step
	}
	return step
}

type exploreCall struct {
	end   int32
	event exploreEvent
}

// run lets an event happen to a copy of an end.
func (m *exploreModel) run(id int32, event exploreEvent) (*exploreEnd, *exploreStep) {
	m.ran++
	before := m.ends[id].end
	e := cloned(before)
	m.running, m.rand.stream = e, nil
	r := exploreRun{exploreModel: m, end: e, before: before, step: &exploreStep{next: -1}}
	r.event(event)
	r.settle()
	r.check()
	return e, r.step
}

// exploreRun is one event happening at one end.
type exploreRun struct {
	*exploreModel
	end, before *exploreEnd
	step        *exploreStep
	out         Output
	lost        bool // sent packets are dropped
}

func (r *exploreRun) fail(format string, args ...any) {
	if r.step.violation == "" {
		r.step.violation = fmt.Sprintf(format, args...)
	}
}

func (r *exploreRun) event(event exploreEvent) {
	e, s := r.end, r.end.session
	switch event.kind {
	case exploreRekey:
		s.Rekey(e.now, &r.out)
	case exploreRefuse:
		e.book(s.rekey.initiator.child.index).refused = true
		if !s.RejectIndex(e.now, &r.out) {
			r.fail("an index that is announced cannot be refused")
		}
	case exploreAsk:
		s.RequestRekey(e.now, &r.out)
		if len(r.out.Packets) != 1 {
			r.fail("the gateway does not ask for new keys (R7.6)")
		}
	case exploreRetry:
		r.tickUntil(s.rekey.initiator.next)
	case exploreRepeat:
		r.tickUntil(s.rekey.requestAt)
		if len(r.out.Packets) == 0 {
			r.fail("the gateway asks for new keys once only (R7.6)")
		}
	case exploreData:
		m := wire.EncryptedData{FlowID: 1, Payload: []byte(explorePayload(s.role, s.keys.current.number))}
		if err := s.Send(wire.TypeEncryptedData, &m, &r.out); err != nil {
			r.fail("data cannot be sent: %v", err)
		}
	case exploreLate:
		if s.demotedAckAt.After(e.now) {
			e.now = s.demotedAckAt
		}
		r.deliver(&r.packets[event.packet])
	case exploreDeliver:
		r.deliver(&r.packets[event.packet])
	case exploreLivenessCheck:
		s.CheckLiveness(e.now, &r.out)
	case exploreAge:
		r.lost = true
		r.age()
	}
}

// explorePayload is the data of an end in a generation. Its packet is as long as a
// Ping's, and longer than those of messages about keys.
func explorePayload(from Role, generation uint32) string {
	return fmt.Sprintf("%-24v%8d", from, generation)
}

// tickUntil ticks the session whenever it asks for it, up to a time at which it
// has something to do.
func (r *exploreRun) tickUntil(at time.Time) {
	for range 100 {
		r.tickOnce()
		if !r.end.now.Before(at) || r.step.violation != "" {
			return
		}
	}
	r.fail("the session wants to be ticked without end")
}

// tickOnce ticks the session at its deadline.
func (r *exploreRun) tickOnce() {
	e := r.end
	at := e.session.Deadline()
	if at.IsZero() {
		r.fail("the session waits for something but does not ask to be ticked")
		return
	}
	if at.After(e.now) {
		e.now = at
	}
	e.session.Tick(e.now, &r.out)
}

// age lets time pass until demoted generations are gone. What an end sends
// meanwhile is lost.
func (r *exploreRun) age() {
	e := r.end
	until := e.now.Add(exploreAging)
	for e.session.Deadline().Before(until) && r.step.violation == "" {
		r.tickOnce()
	}
	e.now = until
	e.session.Tick(e.now, &r.out)
	if len(e.session.keys.demoted) > 0 {
		r.fail("demoted generations are kept though nothing opened on them (R7.19)")
	}
}

// deliver routes and opens a packet as an owner of sessions does.
func (r *exploreRun) deliver(p *explorePacket) {
	e, s := r.end, r.end.session
	g := e.find(p.index)
	if g == nil {
		return
	}
	switch p.kind {
	case wire.TypeSubsessionKK2:
		r.renewOffer()
	case wire.TypeSubsessionRequest: // never so soon after another that it is ignored
		if at := s.liveness.answers.followAt; at.After(e.now) {
			e.now = at
		}
	}
	from, book := clientAt, e.book(p.index)
	if s.role == RoleClient {
		from = gatewayAt
	}
	again := book.has(p.sequence)
	demoted, waits := g.readOnly, s.demotedAckAt.After(e.now)
	kind, content, err := g.Open(e.now, bytes.Clone(p.data), from, &r.out)
	switch {
	case again && !IsReplay(err):
		r.fail("%v was accepted twice (R6.4): %v", p, err)
		return
	case again:
		return
	case err != nil:
		r.fail("%v does not open: %v", p, err)
		return
	}
	book.mark(p.sequence)
	r.step.opened = true
	if !g.readOnly && s.keys.current != g {
		r.fail("%v opened on a child and did not prove it (R7.16)", p)
	}
	if acked := len(r.out.Packets) == 1; demoted && s.role == RoleGateway && acked == waits {
		r.fail("%v opened on a demoted parent: Ack %t, the last one half a second ago %t (R7.18)", p, acked, !waits)
	}
	if kind == wire.TypeEncryptedData {
		r.step.payload = string(content[3:])
		return
	}
	sent := len(r.out.Packets)
	switch err := s.Control(e.now, g, kind, content, from, &r.out); {
	case err != nil && err != ErrStale:
		r.fail("%v: %v", p, err)
	case demoted && len(r.out.Packets) != sent:
		r.fail("%v on a demoted parent had another effect (R7.18)", p)
	}
	r.checkControl(p, demoted)
}

// renewOffer makes the secrets of a client's offer anew, from the same
// randomness, when they are about to be used and wiped: the copy shares them with
// its original.
func (r *exploreRun) renewOffer() {
	o := r.end.session.rekey.initiator
	if o == nil || o.secrets != nil {
		return
	}
	r.rand.stream = nil
	again, err := newRekeyInitiator(r.end.session)
	if err != nil {
		r.fail("making KK1 again: %v", err)
		return
	}
	r.rand.stream = nil
	if !bytes.Equal(again.message, o.message) {
		r.fail("KK1 made again from the same randomness is another one")
		return
	}
	o.keys, o.kk = again.keys, again.kk
}

// checkControl checks what a message that came may have changed.
func (r *exploreRun) checkControl(p *explorePacket, demoted bool) {
	was, is := r.before.session, r.end.session
	if is.role == RoleClient {
		if p.kind == wire.TypeSubsessionRequest && !demoted && (is.rekey.initiator == nil || len(r.out.Packets) == 0) {
			r.fail("%v had no effect (R7.5)", p)
		}
		if p.kind == wire.TypeSubsessionKK2 && (demoted || p.about.generation != was.keys.current.number+1) && childOf(is) != childOf(was) {
			r.fail("%v changed the client's child (R7.20)", p)
		}
		return
	}
	switch p.kind {
	case wire.TypeSubsessionKK1:
		if (demoted || p.about.generation != was.keys.current.number+1 || childOf(was) != 0) && childOf(is) != childOf(was) {
			r.fail("%v changed the gateway's child (R7.8, R7.20)", p)
		}
	case wire.TypeSubsessionReady:
		if !demoted && len(r.out.Packets) != 1 {
			r.fail("%v is not answered by an Ack", p)
		}
	case wire.TypeSubsessionAbort:
		meant := !demoted && childOf(was) == p.about.index
		if meant == (childOf(is) == childOf(was)) {
			r.fail("%v: the child's index was %#x and is %#x (R7.12, R7.13)", p, childOf(was), childOf(is))
		}
	}
}

// childOf returns the index of the child that is not proved, 0 for none.
func childOf(s *Session) uint32 {
	switch {
	case s.rekey.initiator != nil && s.rekey.initiator.child != nil:
		return s.rekey.initiator.child.index
	case s.rekey.responder != nil && s.rekey.responder.child != nil:
		return s.rekey.responder.child.index
	}
	return 0
}

// settle processes the events and registers the packets sent.
func (r *exploreRun) settle() {
	e := r.end
	known := slices.Clone(e.table)
	for _, event := range r.out.Events {
		switch event.Kind {
		case IndexAdded:
			e.learn(event.KeySet)
			known = append(known, event.KeySet)
		case IndexRemoved:
			e.forget(event.KeySet)
		case PeerUnresponsive:
			r.fail("the client takes the session for lost")
		case Closed:
			r.fail("the session ended: %v", event.Reason)
		}
	}
	messages := r.messages(known)
	for i := range r.out.Packets {
		r.sent(r.out.Packets[i].Data, known, messages)
	}
}

// messages returns the messages of the parts sent, by message id.
func (r *exploreRun) messages(known []*KeySet) map[[4]byte]exploreTopic {
	topics := map[[4]byte]exploreTopic{}
	var waiting parts.Assembler
	waiting.Limit = parts.MaxHandshake
	for i := range r.out.Packets {
		kind, content := r.peek(r.out.Packets[i].Data, known)
		if kind != wire.TypeSubsessionKK1 && kind != wire.TypeSubsessionKK2 {
			continue
		}
		part, err := wire.ParsePart(content)
		if err != nil {
			r.fail("%v in a part that does not parse: %v", kind, err)
			continue
		}
		message, err := waiting.Add(r.end.now, part)
		if err != nil {
			r.fail("%v in parts that make nothing: %v", kind, err)
		}
		if message != nil {
			topics[part.MessageID] = r.made(kind, message)
		}
	}
	return topics
}

// made checks a whole KK1 or KK2 that an end sends: it is the only one of its
// generation.
func (r *exploreRun) made(kind wire.Type, message []byte) (topic exploreTopic) {
	var noise []byte
	if kind == wire.TypeSubsessionKK1 {
		kk1, err := wire.ParseSubsessionKK1(message)
		if err != nil {
			r.fail("KK1: %v", err)
		}
		topic.generation, noise = kk1.Generation, kk1.Noise
	} else {
		kk2, err := wire.ParseSubsessionKK2(message)
		if err != nil {
			r.fail("KK2: %v", err)
		}
		topic.generation, topic.index, noise = kk2.Generation, kk2.NewReceiverIdx, kk2.Noise
	}
	e := r.end
	for uint32(len(e.made)) <= topic.generation {
		e.made = append(e.made, [32]byte{})
	}
	sum := kdf.Hash(noise)
	if before := e.made[topic.generation]; before != [32]byte{} && before != sum {
		r.fail("the %v made a second %v for generation %d (R7.7, R7.8)", e.session.role, kind, topic.generation)
	}
	e.made[topic.generation] = sum
	return topic
}

// peek opens a packet with the keys of the end that sealed it: both ends' are in
// the same process.
func (r *exploreRun) peek(packet []byte, known []*KeySet) (wire.Type, []byte) {
	index := binary.LittleEndian.Uint32(packet)
	for _, g := range known {
		if g.index != index {
			continue
		}
		if body, err := g.sender.key.Open(bytes.Clone(packet)); err == nil {
			kind, content, err := wire.ParseBody(body)
			if err != nil {
				r.fail("the %v sealed a message that does not parse: %v", r.end.session.role, err)
			}
			return kind, content
		}
	}
	r.fail("the %v sent a packet of index %#x under keys that it does not have", r.end.session.role, index)
	return 0, nil
}

// sent enters a packet in the books and among the packets of the exploration.
func (r *exploreRun) sent(data []byte, known []*KeySet, messages map[[4]byte]exploreTopic) {
	s := r.end.session
	h, err := wire.ParseHeader(data)
	if err != nil {
		r.fail("the %v sent a packet that does not parse: %v", s.role, err)
		return
	}
	kind, content := r.peek(data, known)
	p := explorePacket{data: data, toClient: s.role == RoleGateway, index: h.ReceiverIdx, sequence: h.Sequence, kind: kind}
	switch kind {
	case wire.TypeSubsessionKK1, wire.TypeSubsessionKK2:
		part, _ := wire.ParsePart(content)
		p.part, p.about = part.Index, messages[part.MessageID]
		r.parts[part.MessageID] = p.about
	case wire.TypeSubsessionAbort:
		a, err := wire.ParseSubsessionAbort(content)
		if err != nil || a.Reason != wire.AbortIndexCollision {
			r.fail("the %v sent an abort that it should not: %+v %v", s.role, a, err)
		}
		p.about = exploreTopic{a.Generation, a.NewReceiverIdx}
	case wire.TypeSubsessionReady:
		ready, err := wire.ParseSubsessionReady(content)
		if err != nil {
			r.fail("Ready: %v", err)
		}
		p.about.generation = ready.Generation
	}
	r.sentUnder(&p)
	if !r.lost {
		r.step.packets = append(r.step.packets, r.register(p))
	}
}

// sentUnder checks the keys and the sequence of a packet that was sent.
func (r *exploreRun) sentUnder(p *explorePacket) {
	e, s := r.end, r.end.session
	b := e.book(p.index)
	if b == nil {
		r.fail("%v under keys that nobody announced", p)
		return
	}
	if p.sequence != b.sealed {
		r.fail("%v has sequence %d where %d is next: a nonce is used twice or left out (R6.1)", p, p.sequence, b.sealed)
	}
	b.sealed = p.sequence + 1
	if p.index == s.keys.current.index && !r.lost {
		return
	}
	o := s.rekey.initiator
	switch {
	case r.lost: // the current generation may have been another then
	case p.kind != wire.TypeSubsessionReady || o == nil:
		r.fail("%v is neither on the current generation nor Ready (R7.15, R7.17)", p)
	case o.child != nil && o.child.index == p.index:
		if b.refused {
			r.fail("%v announces an index that was refused (R7.14)", p)
		}
	case s.liveness.check == nil || o.child != nil || len(o.rejected) == 0 || o.rejected[len(o.rejected)-1].index != p.index:
		r.fail("%v is Ready on what was not proposed last", p)
	}
}

// check checks what holds at an end whatever has happened.
func (r *exploreRun) check() {
	e, s := r.end, r.end.session
	if s.keys.sender.Load() != s.keys.current.sender {
		r.fail("the %v seals on another generation than its current one", s.role)
	}
	live := generationsOf(s)
	if len(live) != len(e.table) {
		r.fail("the %v has %d key sets, but %d indexes name it", s.role, len(live), len(e.table))
	}
	for _, g := range live {
		if e.find(g.index) != g {
			r.fail("index %#x does not name the key set that has it", g.index)
		}
		if g.readOnly != (g.number < s.keys.current.number) || g.number > s.keys.current.number+1 {
			r.fail("the %v of generation %d has generation %d, read only %t", s.role, s.keys.current.number, g.number, g.readOnly)
		}
		if p := make([]byte, wire.MinPacket); !g.receive.Seal(p) || !seals(g) {
			r.fail("keys of index %#x are wiped though it names them", g.index)
		}
	}
	if o := s.rekey.initiator; o != nil && (s.Deadline().IsZero() || s.Deadline().After(o.next)) {
		r.fail("the client does not ask to be ticked for its repetitions")
	}
	if s.rekey.responder != nil && s.rekey.responder.answered && !s.rekey.requestAt.IsZero() {
		r.fail("the gateway goes on asking for the KK1 that it has (R7.6)")
	}
	if !s.rekey.requestAt.IsZero() && (s.Deadline().IsZero() || s.Deadline().After(s.rekey.requestAt)) {
		r.fail("the gateway does not ask to be ticked for its repetitions")
	}
}

// exploreLocal is an end that was reached, with what the search asks of it.
type exploreLocal struct {
	end    *exploreEnd
	shape  []byte  // what the end is, but for sequences and names of indexes
	named  []uint8 // places in shape that hold a slot
	spoken uint64  // the slots in shape

	number, index   uint32
	binding         [32]byte
	seed, next      [32]byte       // next: of the generation under way, where it is known
	children        []exploreChild // not proved
	offering, asked bool           // a client has an offer; a gateway asks
	refusable       bool           // a child is announced
	askable         bool           // a gateway may ask
	limited         bool           // no Ack on a demoted parent until the interval is over
}

type exploreChild struct {
	index   uint32
	binding [32]byte
}

// intern stores an end, or finds the equal one that is stored already.
func (m *exploreModel) intern(e *exploreEnd) int32 {
	l := &exploreLocal{end: e}
	l.describe(m)
	key := string(l.identity())
	if id, ok := m.ids[key]; ok {
		return id
	}
	id := int32(len(m.ends))
	m.ends = append(m.ends, l)
	m.ids[key] = id
	return id
}

// describe records the shape and the properties that the search checks.
func (l *exploreLocal) describe(m *exploreModel) {
	e, s := l.end, l.end.session
	l.number, l.index, l.binding, l.seed = s.keys.current.number, s.keys.current.index, s.keys.current.binding, s.rekey.seed
	l.put(uint8(s.role), uint8(s.keys.current.number))
	l.putIndex(s.keys.current.index)
	l.put(uint8(len(s.keys.demoted)))
	for _, g := range s.keys.demoted {
		l.put(uint8(g.number))
		l.putIndex(g.index)
	}
	for _, g := range generationsOf(s) {
		if !g.readOnly && g != s.keys.current {
			l.children = append(l.children, exploreChild{g.index, g.binding})
		}
	}
	if o := s.rekey.initiator; o != nil {
		l.describeOffer(m, o)
	}
	if r := s.rekey.responder; r != nil {
		l.put('r', bit(r.answered))
		l.putChild(r.child)
		l.putParts(m, &r.kk1Parts)
		if r.answered {
			l.next = r.secrets.nextSeed(&s.rekey.seed)
		}
	}
	l.asked = !s.rekey.requestAt.IsZero()
	l.limited = s.demotedAckAt.After(e.now)
	l.askable = s.role == RoleGateway && s.rekey.requestAt.IsZero() && (s.rekey.responder == nil || !s.rekey.responder.answered)
	l.put(bit(l.asked), bit(l.limited), bit(s.liveness.check != nil))
}

func (l *exploreLocal) describeOffer(m *exploreModel, o *rekeyInitiator) {
	e, s := l.end, l.end.session
	l.offering, l.refusable = true, o.child != nil
	slow := o.next.Sub(e.now) > rekeyRetry
	quiet := o.tries > rekeyFastTries && e.now.Sub(s.lastOpened) >= rekeySlowRetry && s.keys.current.sender.Sealed() == o.sealed
	l.put('o', uint8(o.generation), bit(o.secrets != nil), uint8(min(o.tries, rekeyFastTries+1)), bit(slow), bit(quiet), uint8(len(o.rejected)), uint8(len(o.retiredIndexes)))
	for _, g := range o.rejected {
		l.putIndex(g.index)
	}
	for _, index := range o.retiredIndexes {
		l.putIndex(index)
	}
	l.putChild(o.child)
	l.putParts(m, &o.kk2Parts)
	if o.secrets != nil {
		l.next = o.secrets.nextSeed(&s.rekey.seed)
	}
}

func bit(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

func (l *exploreLocal) put(b ...uint8) { l.shape = append(l.shape, b...) }

func (l *exploreLocal) putIndex(index uint32) {
	slot := exploreSlot(index)
	l.spoken |= 1 << slot
	l.named = append(l.named, uint8(len(l.shape)))
	l.put(slot)
}

func (l *exploreLocal) putChild(g *KeySet) {
	if g == nil {
		l.put(0)
		return
	}
	l.put(1)
	l.putIndex(g.index)
}

// putParts writes down which parts wait for others.
func (l *exploreLocal) putParts(m *exploreModel, a *parts.Assembler) {
	kept := reflect.ValueOf(a).Elem().FieldByName("kept")
	l.put(uint8(kept.Len()))
	for i := range kept.Len() {
		part := kept.Index(i)
		var id [4]byte
		for j := range id {
			id[j] = uint8(part.FieldByName("MessageID").Index(j).Uint())
		}
		about := m.parts[id]
		l.put(uint8(part.FieldByName("Index").Uint()), uint8(about.generation), bit(about.index != 0))
		if about.index != 0 {
			l.putIndex(about.index)
		}
	}
}

// identity is the end with its sequences and keys: two ends with the same one
// behave alike.
func (l *exploreLocal) identity() []byte {
	e, s := l.end, l.end.session
	id := bytes.Clone(l.shape)
	id = append(id, s.rekey.seed[:8]...)
	id = append(id, s.keys.current.binding[:8]...)
	for i := range e.books {
		b := &e.books[i]
		id = append(id, b.send[:8]...)
		id = binary.LittleEndian.AppendUint16(id, uint16(b.sealed))
		id = append(id, bit(b.generation != nil), bit(b.refused), uint8(len(b.accepted)))
		for _, word := range b.accepted {
			id = binary.LittleEndian.AppendUint64(id, word)
		}
	}
	for _, made := range e.made {
		id = append(id, made[:4]...)
	}
	return append(id, e.offered...)
}

// TestExplorationCoversAllFields fails when a subsession has got a field of which
// describe and identity were not told: ends that differ in it might be taken for
// one.
func TestExplorationCoversAllFields(t *testing.T) {
	for _, known := range []struct {
		of     reflect.Type
		fields string
	}{
		{reflect.TypeFor[rekeyInitiator](), "generation keys kk psk message kk2Parts secrets child rejected retiredIndexes tries next sealed"},
		{reflect.TypeFor[rekeyResponder](), "kk1Parts answered kk1Hash kk2Noise secrets child"},
		{reflect.TypeFor[KeySet](), "session number index sender receive binding window failed since lastOpened readOnly"},
	} {
		for i := range known.of.NumField() {
			if name := known.of.Field(i).Name; !slices.Contains(strings.Fields(known.fields), name) {
				t.Errorf("%v has a field %s: let exploreLocal distinguish ends by it where they behave otherwise, then list it here", known.of, name)
			}
		}
	}
}

// register returns the number of a packet.
func (m *exploreModel) register(p explorePacket) int32 {
	if id, ok := m.packetIDs[string(p.data)]; ok {
		return id
	}
	id := int32(len(m.packets))
	m.packets = append(m.packets, p)
	m.packetIDs[string(p.data)] = id
	return id
}

func (p *explorePacket) String() string {
	to := "gateway"
	if p.toClient {
		to = "client"
	}
	s := fmt.Sprintf("%v to %s (index %s sequence %d", p.kind, to, exploreName(p.index), p.sequence)
	if p.kind == wire.TypeSubsessionKK1 || p.kind == wire.TypeSubsessionKK2 {
		s += fmt.Sprintf(" part %d", p.part)
	}
	if p.about.generation != 0 {
		s += fmt.Sprintf(", about generation %d", p.about.generation)
	}
	if p.about.index != 0 {
		s += " index " + exploreName(p.about.index)
	}
	return s + ")"
}

func exploreName(index uint32) string { return fmt.Sprintf("%d.%d", index>>8&7, index&7) }

// exploreRename gives each slot that is spoken of the least name that keeps the
// order of proposals within its generation.
func exploreRename(spoken uint64) (names [64]uint8) {
	for rest := spoken; rest != 0; rest &= rest - 1 {
		slot := uint(bits.TrailingZeros64(rest))
		first := slot &^ 7
		below := spoken >> first & (1<<(slot-first) - 1)
		names[slot] = uint8(first) | uint8(bits.OnesCount64(below))
	}
	return names
}
