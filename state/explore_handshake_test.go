package state

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lewes/crypto/kdf"
	"lewes/crypto/kem"
	"lewes/state/path"
	"lewes/state/wire"
)

// An exhaustive exploration of the handshake, of the code itself: every order in which a client's packets
// can arrive at the gateway and the answers at the client, with losses, duplicates and expired timers. An
// observer copies some of the client's packets from its own address, the hello among them, and shows the
// client what the gateway answers there, or does not: it relays and stops at any point. All this is within
// the bounds of hsBounds.
//
// What an event does to an end is worked out once for each end and event, by the real code: the end is
// built anew by its own history. Randomness is the same for an event in each history, so that ends with
// the same past have the same keys, and ends that do not differ are one.
//
// At every step, no key seals two packets under one nonce, an Ack has at most one Handshake 3, a record at
// most one Handshake 2, no two key sets have the same key, and the client forgets no candidate without a
// Close. From every state, a network that loses nothing more leads to one confirmed session at the client
// with the same keys at the gateway, whether the observer relays everything from then on or has stopped.
// Data then passes both ways, at the client's address. Other sessions of the gateway are candidates that
// the client has closed, whose Close was lost, or came from another address than their record's before
// Handshake 3 did. They end at their idle limit. Without an observer and losses there are none.

// hsBounds make the exploration finite.
type hsBounds struct {
	flight                    int  // packets between the two ends
	copies                    int  // of the client's packets, from the observer's address
	known                     bool // the client keeps a KEM key: no KKT
	whole                     bool // messages go in one part: the KEM is X25519
	losses, repeats, timeouts int
}

func (b hsBounds) String() string {
	return fmt.Sprintf("KEM key known %t, whole messages %t, %d in flight, %d copies, %d losses, %d repeats, %d timeouts",
		b.known, b.whole, b.flight, b.copies, b.losses, b.repeats, b.timeouts)
}

// TestExploreHandshake explores handshakes with one and two copies of the hello.
//
// Shows R5.27, R5.32, R5.35, R5.36.
func TestExploreHandshake(t *testing.T) {
	sizes := map[string][]hsBounds{
		"short": {
			{known: true, flight: 4, losses: 1, timeouts: 1},
			{known: true, whole: true, flight: 4, copies: 3},
		},
		"normal": {
			{flight: 5, losses: 1, timeouts: 1},
			{known: true, flight: 5, losses: 1, repeats: 1, timeouts: 1},
			{known: true, whole: true, flight: 4, copies: 4},
			{whole: true, flight: 4, copies: 3},
		},
		"large": {
			{flight: 8, losses: 2, repeats: 1, timeouts: 1},
			{known: true, flight: 8, losses: 1, repeats: 1, timeouts: 2},
			{known: true, whole: true, flight: 6, copies: 5},
			{known: true, whole: true, flight: 5, copies: 4, losses: 1},
			{known: true, whole: true, flight: 4, copies: 3, timeouts: 1},
			{whole: true, flight: 5, copies: 4},
			{known: true, flight: 6, copies: 5},
		},
	}
	size := "normal"
	switch {
	case *exploreLarge:
		size = "large"
	case testing.Short() || exploreSlowly():
		size = "short"
	}
	for _, b := range sizes[size] {
		t.Run(b.String(), func(t *testing.T) {
			t.Parallel()
			m := newHsModel(t, b)
			start := time.Now()
			err := m.explore()
			t.Logf("%d states, %d transitions, %d steps of fair networks; %d calls of the code, %d ends; at most %d other sessions at the gateway; %v",
				len(m.visited), m.transitions, m.fairSteps, m.ran, len(m.ends), m.others, time.Since(start).Round(time.Millisecond))
			if err != nil {
				t.Fatal(err)
			}
			m.checkReach()
		})
	}
}

type hsKind uint8

const (
	hsStart   hsKind = iota
	hsDeliver        // a packet arrives
	hsLate           // the same, four seconds later by the gateway's clock
	hsTimeout        // client: its timer expires
	hsWait           // gateway: time passes meanwhile
	hsData           // a datagram is sent
	hsLose           // a packet is lost
	hsRepeat         // a packet is duplicated
	hsCopy           // the observer sends a copy of a packet from its address
)

var hsKindNames = [...]string{"starts", "receives", "receives, four seconds later,", "its timer expires", "waits", "sends data", "lost:", "duplicated:", "copied by the observer:"}

type hsEvent struct {
	kind   hsKind
	packet int32
}

// hsPacket is a packet that was sent. observed: from the observer's address, or to it.
type hsPacket struct {
	data     []byte
	toClient bool
	observed bool
}

func (p hsPacket) String() string {
	h := headerOf(p.data)
	to, by := "to the gateway", ""
	if p.toClient {
		to = "to the client"
	}
	if p.observed {
		by = " by way of the observer"
	}
	return fmt.Sprintf("%s of index %#x, sequence %d, %s%s", kindOf(p.data), h.ReceiverIdx, h.Sequence, to, by)
}

// hsKeys are a key set, with the keys by the client's directions.
type hsKeys struct {
	index    uint32
	up, down fingerprint
}

func hsKeysOf(k *KeySet) hsKeys {
	send, _ := fingerprintOf(k.sender.key)
	receive, _ := fingerprintOf(k.receive)
	if k.session.role == RoleGateway {
		send, receive = receive, send
	}
	return hsKeys{k.index, send, receive}
}

// hsLocal is an end after a history, as far as the exploration needs to know it.
type hsLocal struct {
	role  Role
	from  int32
	event hsEvent

	// Of the client.
	waits   bool // it repeats something
	settled bool // the session's Ack has arrived
	ended   string
	keys    hsKeys   // it sends on
	closed  []uint32 // candidates that it has closed

	// Of the gateway.
	sessions []hsKeys
	idle     bool // every session ends by its idle limit
}

// hsStep is the result of an event at one end.
type hsStep struct {
	next      int32
	packets   []int32
	payload   string
	violation string
}

type hsCall struct {
	end   int32
	event hsEvent
}

// hsState is a state of the whole.
type hsState struct {
	client, gateway           int32
	flight                    []int32 // in the order in which they were sent
	losses, repeats, timeouts int
	copies                    int
	number                    int32 // of the visit
}

type hsVisit struct {
	from  int32
	event hsEvent
	by    Role // 0: the network
}

type hsModel struct {
	hsBounds
	t         *testing.T
	gateway   GatewayConfig
	ends      []hsLocal
	ids       map[string]int32
	packets   []hsPacket
	packetIDs map[string]int32
	calls     map[hsCall]*hsStep
	ran       int

	visited     map[string]bool
	visits      []hsVisit
	queue       []hsState
	live        map[string]bool
	transitions int
	fairSteps   int
	others      int // most sessions of the gateway beside the client's
	byObserver  int // states in which the client's session began at the observer's address
}

// hsKEMs are KEM keys, one with short messages among them.
var hsKEMs = sync.OnceValue(func() *KEMKeys {
	keys, err := NewKEMKeys(epoch, []kem.ID{kem.MLKEM768, kem.X25519}, seeded(98))
	if err != nil {
		panic(err)
	}
	return keys
})

func newHsModel(t *testing.T, b hsBounds) *hsModel {
	return &hsModel{
		hsBounds: b, t: t, gateway: GatewayConfig{
			Identity: testIdentity(1), KEMs: hsKEMs(), Suites: 3, CookieThreshold: 1 << 30, Burst: 1 << 20,
			Session: SessionConfig{Terms: Terms{IdleTTL: exploreIdle, MaxDatagram: wire.MaxUDPPacket}},
		},
		ids: map[string]int32{}, packetIDs: map[string]int32{}, calls: map[hsCall]*hsStep{},
		visited: map[string]bool{}, live: map[string]bool{},
	}
}

// hsEnd is an end that runs, and its books.
type hsEnd struct {
	model  *hsModel
	role   Role
	now    time.Time
	random hsRandom
	c      *clientEnd
	g      *gatewayEnd
	source path.Path // of the packet that arrives

	kept    map[bool]uint8    // the part that waits for the other, by observed
	next    map[uint32]uint64 // sequence by index
	level1  map[string][]byte // packets of level 1 by index and address
	closed  []uint32
	payload string
	wrong   string
}

// hsRandom is the randomness of an event.
type hsRandom struct{ io.Reader }

func (e *hsEnd) fail(format string, args ...any) {
	if e.wrong == "" {
		e.wrong = fmt.Sprintf(format, args...)
	}
}

// start makes an end without a history, and returns what it sends.
func (m *hsModel) start(role Role) *hsEnd {
	e := &hsEnd{model: m, role: role, now: epoch, kept: map[bool]uint8{}, next: map[uint32]uint64{}, level1: map[string][]byte{}}
	e.random.Reader = seeded(uint64(role))
	if role == RoleClient {
		config := clientConfig(0)
		config.Rand = &e.random
		if m.whole {
			config.KEM = kem.X25519
		}
		if m.known {
			config.KnownKEM = m.gateway.KEMs.Find(config.KEM, 0).Public()
		}
		e.c = newClientEnd(m.t, epoch, config)
		return e
	}
	config := m.gateway
	config.Session.Rand = &e.random
	e.g = newGatewayEnd(m.t, &config)
	config.Session.NewIndex = func() uint32 { // one of each source
		if e.source == relayAt {
			return 0x8000_0002
		}
		return 0x8000_0001
	}
	return e
}

// do lets an event happen and returns the packets that the end sends.
func (e *hsEnd) do(event hsEvent) []Packet {
	seed := uint64(e.role)<<16 | uint64(event.kind)<<8
	switch event.kind {
	case hsLate: // a move is over
		e.pass(validationTimeout + time.Second)
	case hsWait: // it may be tried again
		e.pass(1500 * time.Millisecond)
	}
	if event.kind == hsDeliver || event.kind == hsLate {
		p := e.model.packets[event.packet]
		e.source = clientAt
		if p.observed {
			e.source = relayAt
		}
		if e.role == RoleGateway { // a nonce or an ephemeral key for each source
			sum := kdf.Hash([]byte(kindOf(p.data)), []byte{byte(bit(p.observed))})
			seed |= uint64(binary.LittleEndian.Uint32(sum[:])) << 24
		}
		e.random.Reader = seeded(seed)
		e.deliver(p)
	} else {
		e.random.Reader = seeded(seed)
	}
	switch event.kind {
	case hsTimeout:
		if at := e.c.next(); at.After(e.now) {
			e.now = at
		}
		e.c.tick(e.now)
	case hsData:
		if e.role == RoleClient {
			sendData(e.model.t, e.c.session, &e.c.out, "up")
		} else {
			for _, s := range e.sessions() {
				if s.keys.current.index == uint32(event.packet)|0x8000_0000 {
					sendData(e.model.t, s, &e.g.out, "down")
				}
			}
		}
	}
	return e.take()
}

// pass lets time pass at the gateway.
func (e *hsEnd) pass(d time.Duration) {
	e.now = e.now.Add(d)
	e.g.tick(e.now)
}

func (e *hsEnd) deliver(p hsPacket) {
	packet, index := bytes.Clone(p.data), headerOf(p.data).ReceiverIdx
	_, part, isPart := clearPart(sighting{packet: packet})
	kept := 0
	if e.role == RoleClient {
		e.c.data = nil
		e.c.handle(e.now, packet, gatewayAt)
		e.payload = strings.Join(payloads(e.c.data), " ")
		kept = e.c.client.attempts[0].assembler.Kept()
	} else {
		e.g.data = nil
		e.g.handle(e.now, packet, e.source)
		e.payload = strings.Join(payloads(e.g.data), " ")
		if r := e.g.responders.attempts[keyOf(index, e.source)]; r != nil {
			kept = r.inbox.Kept()
		}
	}
	if !isPart {
		return
	}
	at := p.observed && e.role == RoleGateway
	delete(e.kept, at)
	if kept > 0 {
		e.kept[at] = part.Index
	}
}

// take returns the packets that an end sends, and keeps the books.
func (e *hsEnd) take() (packets []Packet) {
	if e.role == RoleClient {
		packets = e.c.take()
	} else {
		packets = e.g.take()
	}
	for _, p := range packets {
		h := headerOf(p.Data)
		switch h.Level {
		case wire.LevelTransport:
			if want := e.next[h.ReceiverIdx]; h.Sequence != want {
				e.fail("the %v seals sequence %d of index %#x, whose next is %d", e.role, h.Sequence, h.ReceiverIdx, want)
			}
			e.next[h.ReceiverIdx] = h.Sequence + 1
			if len(p.Data) == hsCloseSize {
				e.closed = append(e.closed, h.ReceiverIdx)
				slices.Sort(e.closed)
			}
		case wire.LevelHandshake:
			at := fmt.Sprint(h.ReceiverIdx, p.Path == relayAt)
			if before := e.level1[at]; before != nil && !bytes.Equal(before, p.Data) {
				e.fail("the %v seals two messages of level 1 with index %#x under one key", e.role, h.ReceiverIdx)
			}
			e.level1[at] = p.Data
		}
	}
	if e.role == RoleClient && e.c.session != nil && !e.c.session.closed {
		e.checkClosed()
	}
	e.checkKeys()
	return packets
}

// hsCloseSize is the size of a Close, which no other packet of the exploration has.
var hsCloseSize = len(unsealed(0, wire.LevelTransport, wire.TypeClose, &wire.Close{}))

// checkClosed checks that the client forgets no candidate without a Close.
func (e *hsEnd) checkClosed() {
	for index := range e.next {
		if (e.c.byIndex[index] == nil) != slices.Contains(e.closed, index) {
			e.fail("the client forgets index %#x: %t, and has closed %#x", index, e.c.byIndex[index] == nil, e.closed)
		}
	}
}

// sessions returns the gateway's sessions, by index.
func (e *hsEnd) sessions() (all []*Session) {
	e.g.sessions.All(func(s *Session) { all = append(all, s) })
	slices.SortFunc(all, func(a, b *Session) int { return int(a.keys.current.index) - int(b.keys.current.index) })
	return all
}

// keySets returns the key sets of an end.
func (e *hsEnd) keySets() (all []*KeySet) {
	if e.role == RoleGateway {
		for _, s := range e.sessions() {
			all = append(all, s.keys.current)
		}
		return all
	}
	for _, index := range slices.Sorted(maps.Keys(e.c.byIndex)) {
		all = append(all, e.c.byIndex[index])
	}
	return all
}

func (e *hsEnd) checkKeys() {
	var known []fingerprint
	for _, k := range e.keySets() {
		keys := hsKeysOf(k)
		if slices.Contains(known, keys.up) || slices.Contains(known, keys.down) || keys.up == keys.down {
			e.fail("two key sets of the %v have the same key", e.role)
		}
		known = append(known, keys.up, keys.down)
	}
}

// local describes an end, and names what it is: ends with the same name go on alike.
func (e *hsEnd) local() (l hsLocal, name string) {
	l.role = e.role
	var b strings.Builder
	fmt.Fprintln(&b, e.role, e.now.Sub(epoch), e.kept, e.closed)
	if e.role == RoleGateway {
		e.localGateway(&l, &b)
	} else {
		e.localClient(&l, &b)
	}
	return l, b.String()
}

func (e *hsEnd) localClient(l *hsLocal, b *strings.Builder) {
	shot := shootClient(e.c)
	shot.events, shot.data = 0, 0
	fmt.Fprintf(b, "%+v\n", shot)
	for _, a := range e.c.client.attempts {
		for _, ack := range a.acks {
			fmt.Fprintln(b, ack.index, ack.opened)
		}
		for _, reply := range a.handshake2s {
			fmt.Fprintln(b, digestOf(reply))
		}
	}
	for _, k := range e.keySets() {
		fmt.Fprintf(b, "%+v\n", shootKeySet(k))
	}
	l.closed = slices.Clone(e.closed)
	if err := e.c.client.Err(); err != nil {
		l.ended = err.Error()
	}
	s := e.c.session
	l.waits = s == nil || s.liveness.confirmation != nil
	if s == nil {
		return
	}
	if s.closed {
		l.ended, l.waits = "its session is closed", false
		return
	}
	if w := s.liveness.confirmation; w != nil {
		fmt.Fprintln(b, w.proved, len(w.candidates))
	}
	l.settled = e.c.confirms > 0
	l.keys = hsKeysOf(s.keys.current)
	if l.settled && len(e.c.byIndex) != 1 {
		e.fail("the client has %d key sets after the session's Ack", len(e.c.byIndex))
	}
}

func (e *hsEnd) localGateway(l *hsLocal, b *strings.Builder) {
	t := e.g.responders
	for _, index := range slices.Sorted(maps.Keys(t.indexes)) {
		r := t.indexes[index]
		fmt.Fprintf(b, "%+v %d %d\n", shootResponder(r), r.bytesIn, r.tryCount)
		for _, p := range r.earlyData {
			fmt.Fprintln(b, digestOf(p.Data), p.Path == relayAt)
		}
	}
	l.idle = true
	for _, s := range e.sessions() {
		fmt.Fprintf(b, "%+v %t\n", shootSession(s), s.Path() == relayAt)
		l.sessions = append(l.sessions, hsKeysOf(s.keys.current))
		l.idle = l.idle && s.idleAt().Equal(s.lastOpened.Add(exploreIdle)) && !s.Deadline().After(s.idleAt())
	}
}

// build makes an end anew by its history.
func (m *hsModel) build(id int32) *hsEnd {
	var history []hsEvent
	for at := id; m.ends[at].event.kind != hsStart; at = m.ends[at].from {
		history = append(history, m.ends[at].event)
	}
	e := m.start(m.ends[id].role)
	e.take()
	for _, event := range slices.Backward(history) {
		e.do(event)
	}
	return e
}

// apply does what an event leads to at an end, once for each end and event.
func (m *hsModel) apply(id int32, event hsEvent) *hsStep {
	call := hsCall{id, event}
	if step := m.calls[call]; step != nil {
		return step
	}
	m.ran++
	e := m.build(id)
	step := m.finish(e, id, event, e.do(event))
	m.calls[call] = step
	return step
}

func (m *hsModel) finish(e *hsEnd, from int32, event hsEvent, packets []Packet) *hsStep {
	step := &hsStep{payload: e.payload}
	for _, p := range packets {
		step.packets = append(step.packets, m.internPacket(hsPacket{p.Data, e.role == RoleGateway, p.Path == relayAt}))
	}
	l, name := e.local()
	step.violation = e.wrong
	id, known := m.ids[name]
	if !known {
		id = int32(len(m.ends))
		l.from, l.event = from, event
		m.ends = append(m.ends, l)
		m.ids[name] = id
	}
	step.next = id
	return step
}

func (m *hsModel) internPacket(p hsPacket) int32 {
	name := fmt.Sprint(p.toClient, p.observed, string(p.data))
	id, ok := m.packetIDs[name]
	if !ok {
		id = int32(len(m.packets))
		m.packets = append(m.packets, p)
		m.packetIDs[name] = id
	}
	return id
}

// sent adds packets to those in flight: of the client's, a copy from the observer's address as well.
func (m *hsModel) sent(flight, packets []int32, relayed bool) []int32 {
	flight = slices.Clone(flight)
	for _, id := range packets {
		flight = append(flight, id)
		if p := m.packets[id]; !p.toClient && relayed {
			flight = append(flight, m.internPacket(hsPacket{p.data, false, true}))
		}
	}
	return flight
}

// explore visits every state, those that are fewest events away first.
func (m *hsModel) explore() error {
	gateway := m.finish(m.start(RoleGateway), -1, hsEvent{}, nil)
	client := m.start(RoleClient)
	begun := m.finish(client, -1, hsEvent{}, client.take())
	first := hsState{client: begun.next, gateway: gateway.next, flight: begun.packets}
	if err := m.visit(first, hsVisit{from: -1}); err != nil {
		return err
	}
	for len(m.queue) > 0 {
		s := m.queue[0]
		m.queue = m.queue[1:]
		if err := m.expand(&s); err != nil {
			return err
		}
	}
	return nil
}

// name stands for a state, but for what was used of the bounds.
func (s *hsState) name(ordered bool) string {
	b := binary.LittleEndian.AppendUint32(nil, uint32(s.client))
	b = binary.LittleEndian.AppendUint32(b, uint32(s.gateway))
	flight := s.flight
	if !ordered {
		flight = slices.Sorted(slices.Values(flight))
	}
	for _, id := range flight {
		b = binary.LittleEndian.AppendUint32(b, uint32(id))
	}
	return string(b)
}

func (m *hsModel) visit(s hsState, how hsVisit) error {
	key := s.name(false) + string([]byte{byte(s.losses), byte(s.repeats), byte(s.timeouts), byte(s.copies)})
	if m.visited[key] {
		return nil
	}
	m.visited[key] = true
	s.number = int32(len(m.visits))
	m.visits = append(m.visits, how)
	for _, relayed := range []bool{false, true} {
		if relayed && m.copies == 0 {
			continue
		}
		if err := m.checkFuture(s, relayed); err != nil {
			return fmt.Errorf("on a fair network, the observer relaying: %t: %w\nafter\n%s", relayed, err, m.story(s.number))
		}
	}
	m.queue = append(m.queue, s)
	return nil
}

// expand does everything that may happen in a state.
func (m *hsModel) expand(s *hsState) error {
	if s.timeouts < m.timeouts && m.ends[s.client].waits {
		next := *s
		next.timeouts++
		if err := m.act(s, next, RoleClient, hsEvent{kind: hsTimeout}); err != nil {
			return err
		}
	}
	for i, id := range s.flight {
		if slices.Contains(s.flight[:i], id) {
			continue
		}
		without := *s
		without.flight = slices.Delete(slices.Clone(s.flight), i, i+1)
		if err := m.act(s, without, m.receiver(id), hsEvent{hsDeliver, id}); err != nil {
			return err
		}
		if s.losses < m.losses {
			lost := without
			lost.losses++
			m.transitions++
			if err := m.visit(lost, hsVisit{s.number, hsEvent{hsLose, id}, 0}); err != nil {
				return err
			}
		}
		if p := m.packets[id]; s.copies < m.copies && !p.toClient && !p.observed && len(s.flight) < m.flight {
			copied := *s
			copied.copies++
			copied.flight = append(slices.Clone(s.flight), m.internPacket(hsPacket{p.data, false, true}))
			m.transitions++
			if err := m.visit(copied, hsVisit{s.number, hsEvent{hsCopy, id}, 0}); err != nil {
				return err
			}
		}
		if s.repeats < m.repeats && len(s.flight) < m.flight {
			twice := *s
			twice.repeats++
			twice.flight = append(slices.Clone(s.flight), id)
			m.transitions++
			if err := m.visit(twice, hsVisit{s.number, hsEvent{hsRepeat, id}, 0}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *hsModel) receiver(id int32) Role {
	if m.packets[id].toClient {
		return RoleClient
	}
	return RoleGateway
}

// act lets an event happen at one end; next is the state so far.
func (m *hsModel) act(s *hsState, next hsState, by Role, event hsEvent) error {
	next, err := m.moved(next, by, event, false)
	if err != nil {
		return fmt.Errorf("%w\nat last, the %v %s%s\nafter\n%s", err, by, hsKindNames[event.kind], m.about(event), m.story(s.number))
	}
	if len(next.flight) > m.flight {
		return nil // something has to arrive or to get lost first
	}
	m.transitions++
	return m.visit(next, hsVisit{s.number, event, by})
}

// moved returns the state after an event at one end.
func (m *hsModel) moved(s hsState, by Role, event hsEvent, relayed bool) (hsState, error) {
	at := &s.client
	if by == RoleGateway {
		at = &s.gateway
	}
	step := m.apply(*at, event)
	if step.violation != "" {
		return s, fmt.Errorf("%s", step.violation)
	}
	*at = step.next
	s.flight = m.sent(s.flight, step.packets, relayed)
	return s, nil
}

// checkFuture follows a state on a network that loses nothing more, in order, until nothing is left to do.
// The observer goes on relaying, or none of its packets arrives any more.
func (m *hsModel) checkFuture(s hsState, relayed bool) error {
	lossless := s.losses == 0 && m.copies == 0
	var way []string
	for range 500 {
		if !relayed {
			s.flight = slices.DeleteFunc(slices.Clone(s.flight), func(id int32) bool { return m.packets[id].observed })
		}
		key := s.name(true) + fmt.Sprint(relayed, lossless)
		if m.live[key] {
			for _, key := range way {
				m.live[key] = true
			}
			return nil
		}
		way = append(way, key)
		m.fairSteps++
		var err error
		switch {
		case len(s.flight) > 0:
			id := s.flight[0]
			s.flight = s.flight[1:]
			s, err = m.moved(s, m.receiver(id), hsEvent{hsDeliver, id}, relayed)
		case m.ends[s.client].waits:
			if s, err = m.moved(s, RoleGateway, hsEvent{kind: hsWait}, relayed); err == nil {
				s, err = m.moved(s, RoleClient, hsEvent{kind: hsTimeout}, relayed)
			}
		default:
			if err := m.checkEnd(s, relayed, lossless); err != nil {
				return err
			}
			for _, key := range way {
				m.live[key] = true
			}
			return nil
		}
		if err != nil {
			return err
		}
		if ended := m.ends[s.client].ended; ended != "" {
			return fmt.Errorf("the client has no session: %s; drops: client %v, gateway %v", ended, m.build(s.client).c.drops, m.build(s.gateway).g.drops)
		}
	}
	return fmt.Errorf("the handshake does not come to an end")
}

// checkEnd checks what is left when nothing is in flight and nothing is waited for.
func (m *hsModel) checkEnd(s hsState, relayed, lossless bool) error {
	c, g := &m.ends[s.client], &m.ends[s.gateway]
	if !c.settled || !slices.Contains(g.sessions, c.keys) {
		return fmt.Errorf("the client's session of index %#x is not one of the gateway's %d, or has no Ack (%t)", c.keys.index, len(g.sessions), c.settled)
	}
	for _, other := range g.sessions {
		if other != c.keys && !slices.Contains(c.closed, other.index) {
			return fmt.Errorf("the gateway has a session of index %#x, which the client neither uses nor has closed", other.index)
		}
	}
	m.others = max(m.others, len(g.sessions)-1)
	if lossless && len(g.sessions) != 1 {
		return fmt.Errorf("the gateway has %d sessions though nothing was lost", len(g.sessions))
	}
	if !g.idle {
		return fmt.Errorf("a session of the gateway does not end by its idle limit")
	}
	if err := m.checkData(s, c.keys.index); err != nil {
		return err
	}
	if c.keys.index == 0x8000_0002 {
		m.byObserver++
	}
	return nil
}

// checkData sends a datagram up, which brings the session to the client's address now that the observer
// has stopped, and then one down.
func (m *hsModel) checkData(s hsState, index uint32) error {
	for _, from := range []Role{RoleClient, RoleGateway} {
		want := "up"
		event := hsEvent{kind: hsData}
		if from == RoleGateway {
			want, event.packet = "down", int32(index&0x7fff_ffff)
		}
		var err error
		if s, err = m.moved(s, from, event, false); err != nil {
			return err
		}
		got := ""
		for len(s.flight) > 0 {
			id := s.flight[0]
			s.flight = s.flight[1:]
			if m.packets[id].observed {
				continue
			}
			by := m.receiver(id)
			at := s.gateway
			if by == RoleClient {
				at = s.client
			}
			event := hsEvent{hsDeliver, id}
			if by == RoleGateway && got == "" {
				event.kind = hsLate
			}
			got += m.apply(at, event).payload
			if s, err = m.moved(s, by, event, false); err != nil {
				return err
			}
		}
		if got != want {
			return fmt.Errorf("of the %v's data arrives %q", from, got)
		}
	}
	return nil
}

// checkReach checks that the exploration was one.
func (m *hsModel) checkReach() {
	if m.copies > 0 && m.byObserver == 0 {
		m.t.Error("the client never took the session that began at the observer's address")
	}
	if len(m.visited) < 30 {
		m.t.Errorf("%d states", len(m.visited))
	}
}

// story describes how a state was reached.
func (m *hsModel) story(number int32) string {
	var lines []string
	for number > 0 {
		v := m.visits[number]
		who := ""
		if v.by != 0 {
			who = "the " + v.by.String() + " "
		}
		lines = append(lines, who+hsKindNames[v.event.kind]+m.about(v.event))
		number = v.from
	}
	slices.Reverse(lines)
	return strings.Join(lines, "\n")
}

func (m *hsModel) about(e hsEvent) string {
	if e.kind == hsDeliver || e.kind == hsLose || e.kind == hsRepeat || e.kind == hsCopy {
		return " " + m.packets[e.packet].String()
	}
	return ""
}
