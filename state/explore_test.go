package state

import (
	"encoding/binary"
	"flag"
	"fmt"
	"hash/maphash"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"lewes/state/wire"
)

// An exhaustive exploration of subsessions, of the code itself and not of a model
// of it: from an established session, every order in which packets in flight can
// arrive, get lost and be repeated, timers can expire, indexes can be refused and
// both ends can want new keys, within the bounds of exploreBounds.
//
// A state is what both ends are and what is between them. States that differ but
// in sequences and in the names of indexes are one. It is gone on from once, and
// again only if it is reached with more of some bound left. What an event does to
// an end is worked out once for each end and event, by the real methods on a copy
// of the session, with real keys; it depends on nothing else, since randomness is
// the same for a side and generation in every history. So there are far fewer
// calls than there are ways to interleave them.
//
// In every state:
//
//   - both ends have the same generation, keys and seed, or the gateway is one
//     ahead, on keys that the client has as a child;
//   - a datagram passes at once, in either direction (unless the gateway was
//     allowed to forget the parent);
//   - from there on, with nothing lost any more, both ends come to agree, data
//     pass both ways, and the next generation is reached.
//
// At every step no key seals a sequence twice, no packet is accepted twice, no
// datagram is refused, and the rules of section 7 hold that exploreRun checks.

var exploreLarge = flag.Bool("explore.large", false, "explore subsessions for minutes, not seconds")

// exploreBounds make the exploration finite.
type exploreBounds struct {
	whole       bool   // messages go in one part, not in two
	generations uint32 // reached by subsessions
	flight      int    // packets between the two ends
	age         int    // times that demoted generations are forgotten

	// In each generation of the end concerned:
	retries, refusals, copies, asks, repeats, up, down int
}

// exploreUsed counts the used part of the bounds.
type exploreUsed struct {
	retries, refusals, copies, up, asks, repeats, down, age uint8
}

// within reports whether no more was used than in v.
func (u *exploreUsed) within(v *exploreUsed) bool {
	return u.retries <= v.retries && u.refusals <= v.refusals && u.copies <= v.copies && u.up <= v.up &&
		u.asks <= v.asks && u.repeats <= v.repeats && u.down <= v.down && u.age <= v.age
}

// exploreFlight is a packet between the two ends, several times if it was
// duplicated.
type exploreFlight struct {
	packet int32
	copies int32
}

// exploreState is a state of the whole.
type exploreState struct {
	client, gateway int32
	flight          []exploreFlight
	used            exploreUsed
	number          int32 // in the order of visits
}

// exploreKey stands for a state where states are compared.
type exploreKey [2]uint64

// exploreVisit is how a state was reached first.
type exploreVisit struct {
	from  int32
	event exploreEvent
	by    Role // 0: the network
}

type exploreModel struct {
	exploreBounds
	rand    exploreRand
	running *exploreEnd

	ends      []*exploreLocal
	ids       map[string]int32
	packets   []explorePacket
	packetIDs map[string]int32
	parts     map[[4]byte]exploreTopic // by message id
	calls     map[exploreCall]*exploreStep
	tries     map[exploreCall]*exploreStep
	ran       int // calls that were run

	seeds   [2]maphash.Seed
	visited map[exploreKey]int32 // the last visit's place in spent
	spent   []exploreSpent
	visits  []exploreVisit
	queue   []exploreState
	live    map[exploreKey]struct{} // without what was used: agreement follows
	renewed map[exploreKey]struct{} // the next generation follows
	passed  map[[2]int32]struct{}   // pairs of ends between which data passed

	transitions, fairSteps int
	scratch                []byte
	items                  []uint32
}

func newExploreModel(b exploreBounds) *exploreModel {
	m := &exploreModel{
		exploreBounds: b,
		ids:           map[string]int32{},
		packetIDs:     map[string]int32{},
		parts:         map[[4]byte]exploreTopic{},
		calls:         map[exploreCall]*exploreStep{},
		tries:         map[exploreCall]*exploreStep{},
		seeds:         [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		visited:       map[exploreKey]int32{},
		live:          map[exploreKey]struct{}{},
		renewed:       map[exploreKey]struct{}{},
		passed:        map[[2]int32]struct{}{},
	}
	m.rand.model = m
	return m
}

// exploreSizes are explorations of one kind: for short runs, for seconds, and for
// minutes.
type exploreSizes struct{ short, normal, large []exploreBounds }

// TestExploreSubsessions explores subsessions whose messages are whole packets.
//
// Shows R6.1, R6.4, R6.6, R7.5, R7.6, R7.7, R7.8, R7.10, R7.12, R7.13.
// Shows R7.14, R7.15, R7.16, R7.17, R7.18, R7.20.
func TestExploreSubsessions(t *testing.T) {
	exploreEach(t, exploreSizes{
		short: []exploreBounds{
			{whole: true, generations: 3, flight: 2, retries: 1, refusals: 1, copies: 1, asks: 1, up: 1, down: 1},
		},
		normal: []exploreBounds{
			{whole: true, generations: 3, flight: 2, retries: 2, refusals: 2, copies: 1, asks: 1, repeats: 1, up: 1, down: 1},
			{whole: true, generations: 2, flight: 3, retries: 1, refusals: 1, copies: 1, asks: 1, repeats: 1, up: 1, down: 1},
			{whole: true, generations: 3, flight: 3, retries: 1, refusals: 1, copies: 1, up: 1, down: 1},
		},
		large: []exploreBounds{
			{whole: true, generations: 3, flight: 3, retries: 2, refusals: 2, copies: 1, asks: 1, repeats: 1, up: 1, down: 1},
			{whole: true, generations: 3, flight: 4, retries: 2, refusals: 1, copies: 1, up: 1},
		},
	})
}

// TestExploreSubsessionsInParts explores subsessions whose messages travel in two
// parts.
//
// Shows R1.19, R7.7, R7.8, R7.12, R7.14, R7.20.
func TestExploreSubsessionsInParts(t *testing.T) {
	exploreEach(t, exploreSizes{
		short: []exploreBounds{
			{generations: 2, flight: 3, retries: 1, refusals: 1, copies: 1},
		},
		normal: []exploreBounds{
			{generations: 3, flight: 3, retries: 1, refusals: 1, copies: 1},
			{generations: 2, flight: 3, retries: 1, refusals: 1, copies: 1, up: 1, down: 1},
			{generations: 2, flight: 4, retries: 1, copies: 1, up: 1},
		},
		large: []exploreBounds{
			{generations: 2, flight: 4, retries: 1, refusals: 1, copies: 1, up: 1, down: 1},
			{generations: 3, flight: 4, retries: 1, refusals: 1, copies: 1},
		},
	})
}

// TestExploreForgottenParents explores subsessions during which nothing passes
// for so long that the gateway forgets the parent.
//
// Shows R7.19, R7.23.
func TestExploreForgottenParents(t *testing.T) {
	exploreEach(t, exploreSizes{
		short: []exploreBounds{
			{whole: true, generations: 2, flight: 2, age: 1, retries: 1, refusals: 1, up: 1, down: 1},
		},
		normal: []exploreBounds{
			{whole: true, generations: 3, flight: 2, age: 1, retries: 1, refusals: 1, copies: 1, asks: 1, up: 1, down: 1},
			{whole: true, generations: 2, flight: 3, age: 1, retries: 1, refusals: 1, copies: 1, up: 1, down: 1},
		},
		large: []exploreBounds{
			{whole: true, generations: 3, flight: 3, age: 1, retries: 1, refusals: 1, copies: 1, asks: 1, up: 1, down: 1},
		},
	})
}

func exploreEach(t *testing.T, sizes exploreSizes) {
	chosen := sizes.normal
	switch {
	case *exploreLarge:
		chosen = sizes.large
	case testing.Short() || exploreSlowly():
		chosen = sizes.short
	}
	for _, b := range chosen {
		t.Run(b.String(), func(t *testing.T) {
			t.Parallel()
			m := newExploreModel(b)
			start := time.Now()
			err := m.explore()
			t.Logf("%d states, %d transitions, %d steps of fair networks; %d calls of the code, %d ends; %v",
				len(m.visited), m.transitions, m.fairSteps, m.ran, len(m.ends), time.Since(start).Round(time.Millisecond))
			if err != nil {
				t.Fatal(err)
			}
			m.checkReach(t)
		})
	}
}

// checkReach checks that the exploration was one: every kind of message arrived
// at an end that took it, and the last generation was reached.
func (m *exploreModel) checkReach(t *testing.T) {
	var highest uint32
	for _, l := range m.ends {
		highest = max(highest, l.number)
	}
	if highest < m.generations {
		t.Errorf("the highest generation is %d", highest)
	}
	taken := map[wire.Type]bool{}
	for call, step := range m.calls {
		if step.opened {
			taken[m.packets[call.event.packet].kind] = true
		}
	}
	want := []wire.Type{wire.TypeSubsessionKK1, wire.TypeSubsessionKK2, wire.TypeSubsessionReady, wire.TypeAck, wire.TypeEncryptedData}
	if m.refusals > 0 {
		want = append(want, wire.TypeSubsessionAbort)
	}
	if m.asks > 0 {
		want = append(want, wire.TypeSubsessionRequest)
	}
	for _, kind := range want {
		if !taken[kind] {
			t.Errorf("no %v arrived", kind)
		}
	}
}

// exploreSlowly reports whether the race detector is there, which has nothing to
// find: an exploration is one goroutine.
func exploreSlowly() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// String names an exploration by its bounds.
func (b exploreBounds) String() string {
	name := fmt.Sprintf("%d generations, %d in flight", b.generations, b.flight)
	for _, part := range [...]struct {
		n    int
		what string
	}{{b.retries, "retries"}, {b.refusals, "refusals"}, {b.copies, "copies"}, {b.asks, "asks"}, {b.repeats, "repeats"}, {b.up, "up"}, {b.down, "down"}, {b.age, "ages"}} {
		if part.n > 0 {
			name += fmt.Sprintf(", %d %s", part.n, part.what)
		}
	}
	return name
}

// explore visits every state, those that are fewest events away first.
func (m *exploreModel) explore() error {
	client, gateway := m.newExploreEnds()
	first := exploreState{client: m.intern(client), gateway: m.intern(gateway)}
	if err := m.visit(first, exploreVisit{from: -1}); err != nil {
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

// visit enters a state that was reached, unless it was before.
func (m *exploreModel) visit(s exploreState, how exploreVisit) error {
	key := m.key(&s)
	if m.visitedBefore(key, &s.used) {
		return nil
	}
	s.number = int32(len(m.visits))
	m.visits = append(m.visits, how)
	if err := m.checkState(&s, key); err != nil {
		return fmt.Errorf("%w\nafter\n%s", err, m.story(s.number))
	}
	m.queue = append(m.queue, s)
	return nil
}

// visitedBefore reports whether a state was visited when no more of any bound was
// used: whatever can happen now could happen then. If not, it enters the state.
func (m *exploreModel) visitedBefore(key exploreKey, used *exploreUsed) bool {
	last, ok := m.visited[key]
	for ok && last >= 0 {
		before := &m.spent[last]
		if before.used.within(used) {
			return true
		}
		last = before.other
	}
	if last, ok = m.visited[key]; !ok {
		last = -1
	}
	m.visited[key] = int32(len(m.spent))
	m.spent = append(m.spent, exploreSpent{*used, last})
	return false
}

// exploreSpent is what was used when a state was visited, and other visits to the
// same state, -1 for none.
type exploreSpent struct {
	used  exploreUsed
	other int32
}

// key returns what stands for a state, but for what was used of the bounds.
func (m *exploreModel) key(s *exploreState) exploreKey {
	client, gateway := m.ends[s.client], m.ends[s.gateway]
	spoken := client.spoken | gateway.spoken
	for _, f := range s.flight {
		spoken |= m.packets[f.packet].spoken()
	}
	names := exploreRename(spoken)
	b := m.scratch[:0]
	for _, l := range [...]*exploreLocal{client, gateway} {
		start := len(b)
		b = append(b, l.shape...)
		for _, at := range l.named {
			b[start+int(at)] = names[l.shape[at]]
		}
	}
	items := m.items[:0]
	for _, f := range s.flight {
		items = append(items, m.item(s, f, &names))
	}
	slices.Sort(items)
	for _, item := range items {
		b = binary.LittleEndian.AppendUint32(b, item)
	}
	m.scratch, m.items = b, items
	return exploreKey{maphash.Bytes(m.seeds[0], b), maphash.Bytes(m.seeds[1], b)}
}

// item describes a packet in flight: what it says, under which keys, how often it
// is there, whether its receiver has opened it before, and whether the client has
// known the index that it proposes.
func (m *exploreModel) item(s *exploreState, f exploreFlight, names *[64]uint8) uint32 {
	p := &m.packets[f.packet]
	receiver := s.gateway
	if p.toClient {
		receiver = s.client
	}
	book := m.ends[receiver].end.book(p.index)
	about, known := uint32(63), false
	if p.about.index != 0 {
		about = uint32(names[exploreSlot(p.about.index)])
		known = m.ends[s.client].end.book(p.about.index) != nil
	}
	return uint32(bit(p.toClient)) | uint32(p.kind&31)<<1 | uint32(names[exploreSlot(p.index)])<<6 | about<<12 |
		p.about.generation&7<<18 | uint32(p.part&3)<<21 | uint32(f.copies&7)<<23 |
		uint32(bit(book != nil && book.has(p.sequence)))<<26 | uint32(bit(known))<<27
}

func (p *explorePacket) spoken() uint64 {
	spoken := uint64(1) << exploreSlot(p.index)
	if p.about.index != 0 {
		spoken |= 1 << exploreSlot(p.about.index)
	}
	return spoken
}

// expand does everything that may happen in a state.
func (m *exploreModel) expand(s *exploreState) error {
	client, gateway := m.ends[s.client], m.ends[s.gateway]
	type choice struct {
		by      Role
		event   exploreKind
		enabled bool
		used    *uint8
		most    int
	}
	next := *s
	u := &next.used
	var none uint8
	for _, c := range [...]choice{
		{RoleClient, exploreRekey, !client.offering && client.number < m.generations, &none, 1},
		{RoleClient, exploreRetry, client.offering, &u.retries, m.retries},
		{RoleClient, exploreRefuse, client.refusable, &u.refusals, m.refusals},
		{RoleClient, exploreData, true, &u.up, m.up},
		{RoleGateway, exploreAsk, gateway.askable && gateway.number < m.generations, &u.asks, m.asks},
		{RoleGateway, exploreRepeat, gateway.asked, &u.repeats, m.repeats},
		{RoleGateway, exploreData, true, &u.down, m.down},
	} {
		if !c.enabled || int(*c.used) >= c.most {
			continue
		}
		*c.used++
		err := m.act(s, next, c.by, exploreEvent{kind: c.event})
		*c.used--
		if err != nil {
			return err
		}
	}
	if len(s.flight) == 0 && int(s.used.age) < m.age {
		if err := m.grow(s); err != nil {
			return err
		}
	}
	for i := range s.flight {
		if err := m.travel(s, i); err != nil {
			return err
		}
	}
	return nil
}

// act lets an event happen at one end; next is the state so far.
func (m *exploreModel) act(s *exploreState, next exploreState, by Role, event exploreEvent) error {
	next, err := m.moved(next, by, event)
	if err != nil {
		return fmt.Errorf("%w\nat last, the %v %s%s\nafter\n%s", err, by, exploreKindNames[event.kind], m.about(event), m.story(s.number))
	}
	if next.count() > m.flight {
		return nil // something has to arrive or to get lost first
	}
	m.transitions++
	return m.visit(next, exploreVisit{s.number, event, by})
}

// moved returns the state after an event at one end.
func (m *exploreModel) moved(s exploreState, by Role, event exploreEvent) (exploreState, error) {
	at := &s.client
	if by == RoleGateway {
		at = &s.gateway
	}
	before := m.ends[*at]
	step := m.apply(*at, event)
	if step.violation != "" {
		return s, fmt.Errorf("%s", step.violation)
	}
	*at = step.next
	s.flight = slices.Clone(s.flight)
	for _, p := range step.packets {
		s.flight = append(s.flight, exploreFlight{p, 1})
	}
	if event.kind == exploreDeliver || event.kind == exploreLate {
		if err := m.checkArrival(before, event.packet, step, s.used.age > 0); err != nil {
			return s, err
		}
	}
	if m.ends[*at].number != before.number {
		u := &s.used
		if by == RoleClient {
			u.retries, u.refusals, u.copies, u.up = 0, 0, 0, 0
		} else {
			u.asks, u.repeats, u.down = 0, 0, 0
		}
	}
	return s, nil
}

// checkArrival checks that a datagram that comes for the first time is taken, and
// is the one that was sent.
func (m *exploreModel) checkArrival(receiver *exploreLocal, packet int32, step *exploreStep, aged bool) error {
	p := &m.packets[packet]
	if p.kind != wire.TypeEncryptedData {
		return nil
	}
	book := receiver.end.book(p.index)
	if book != nil && book.has(p.sequence) || aged && receiver.end.find(p.index) == nil {
		return nil
	}
	from := RoleClient
	if p.toClient {
		from = RoleGateway
	}
	if want := explorePayload(from, p.index>>8&7); step.payload != want {
		return fmt.Errorf("%v is not taken (R7.10): %q, want %q", p, step.payload, want)
	}
	return nil
}

// grow lets so much time pass that both ends forget demoted generations.
func (m *exploreModel) grow(s *exploreState) error {
	next := *s
	event := exploreEvent{kind: exploreAge}
	for _, by := range [...]Role{RoleClient, RoleGateway} {
		var err error
		if next, err = m.moved(next, by, event); err != nil {
			return fmt.Errorf("%w\nat last, the %v %s\nafter\n%s", err, by, exploreKindNames[event.kind], m.story(s.number))
		}
	}
	next.used.age++
	m.transitions++
	return m.visit(next, exploreVisit{s.number, event, 0})
}

// travel does what may happen to a packet in flight.
func (m *exploreModel) travel(s *exploreState, i int) error {
	f := s.flight[i]
	by := RoleGateway
	if m.packets[f.packet].toClient {
		by = RoleClient
	}
	without := *s
	without.flight = slices.Clone(s.flight)
	if without.flight[i].copies--; without.flight[i].copies == 0 {
		without.flight = slices.Delete(without.flight, i, i+1)
	}
	if err := m.act(s, without, by, exploreEvent{exploreDeliver, f.packet}); err != nil {
		return err
	}
	if by == RoleGateway && m.ends[s.gateway].limited {
		if err := m.act(s, without, by, exploreEvent{exploreLate, f.packet}); err != nil {
			return err
		}
	}
	m.transitions++
	if err := m.visit(without, exploreVisit{s.number, exploreEvent{exploreLose, f.packet}, 0}); err != nil {
		return err
	}
	if int(s.used.copies) >= m.copies || s.count() == m.flight {
		return nil
	}
	with := *s
	with.flight = slices.Clone(s.flight)
	with.flight[i].copies++
	with.used.copies++
	m.transitions++
	return m.visit(with, exploreVisit{s.number, exploreEvent{exploreCopy, f.packet}, 0})
}

// count returns the number of packets in flight.
func (s *exploreState) count() (n int) {
	for _, f := range s.flight {
		n += int(f.copies)
	}
	return n
}

// checkState checks what holds in every state.
func (m *exploreModel) checkState(s *exploreState, core exploreKey) error {
	if err := m.checkKeys(s); err != nil {
		return err
	}
	if s.used.age == 0 {
		if err := m.checkData(s); err != nil {
			return err
		}
	}
	return m.checkFuture(s, core)
}

// checkKeys checks that the two ends have the same keys and seed, or that the
// gateway is on a child that the client has, too.
func (m *exploreModel) checkKeys(s *exploreState) error {
	c, g := m.ends[s.client], m.ends[s.gateway]
	switch {
	case c.number == g.number:
		if c.index != g.index || c.binding != g.binding || c.seed != g.seed {
			return fmt.Errorf("both are at generation %d, the client with index %s, the gateway with %s; same binding %t, same seed %t",
				c.number, exploreName(c.index), exploreName(g.index), c.binding == g.binding, c.seed == g.seed)
		}
	case c.number+1 == g.number:
		if !slices.Contains(c.children, exploreChild{g.index, g.binding}) || c.next != g.seed {
			return fmt.Errorf("the gateway is at generation %d, index %s, which the client does not have; same seed to come %t",
				g.number, exploreName(g.index), c.next == g.seed)
		}
	default:
		return fmt.Errorf("the client is at generation %d, the gateway at %d", c.number, g.number)
	}
	return nil
}

// checkData checks that a datagram passes in each direction, whatever is still in
// flight.
func (m *exploreModel) checkData(s *exploreState) error {
	pair := [2]int32{s.client, s.gateway}
	if _, ok := m.passed[pair]; ok {
		return nil
	}
	m.passed[pair] = struct{}{}
	for _, from := range [...]Role{RoleClient, RoleGateway} {
		sender, receiver := s.client, s.gateway
		if from == RoleGateway {
			sender, receiver = receiver, sender
		}
		sent := m.try(sender, exploreEvent{kind: exploreData})
		if sent.violation != "" || len(sent.packets) != 1 {
			return fmt.Errorf("the %v cannot send: %s", from, sent.violation)
		}
		event := exploreEvent{exploreDeliver, sent.packets[0]}
		came := m.try(receiver, event)
		if came.violation != "" {
			return fmt.Errorf("data from the %v: %s", from, came.violation)
		}
		if err := m.checkArrival(m.ends[receiver], event.packet, came, false); err != nil {
			return err
		}
	}
	return nil
}

// exploreFair bounds the steps in which both ends come to agree on a fair
// network.
const exploreFair = 200

// checkFuture follows the way of a state on a network that loses nothing more,
// until both ends agree, and from there to the next generation. It stops where
// the way joins one that was followed before.
func (m *exploreModel) checkFuture(s *exploreState, core exploreKey) error {
	way := []exploreKey{}
	now := *s
	for range exploreFair {
		if _, ok := m.live[core]; ok {
			break
		}
		way = append(way, core)
		settled, err := m.fair(&now)
		if err != nil {
			return fmt.Errorf("on a fair network: %w", err)
		}
		if settled {
			if err := m.checkRenewal(now, core); err != nil {
				return err
			}
			break
		}
		core = m.key(&now)
		if len(way) == exploreFair {
			return fmt.Errorf("after %d steps on a fair network the ends do not agree; %s", exploreFair, m.standing(&now))
		}
	}
	for _, key := range way {
		m.live[key] = struct{}{}
	}
	return nil
}

// fair does one step of a network that loses nothing: what is in flight arrives;
// else the client, if it waits for something, sends data, and what it waits for
// is repeated when its time comes; else what the gateway waits for is. settled
// means that there was nothing to do.
//
// The gateway sends nothing of its own accord before that: a session must not
// depend on it.
func (m *exploreModel) fair(s *exploreState) (settled bool, err error) {
	m.fairSteps++
	s.used = exploreUsed{age: s.used.age}
	switch {
	case len(s.flight) > 0:
		err = m.arrive(s)
	case m.ends[s.client].offering:
		*s, err = m.moved(*s, RoleClient, exploreEvent{kind: exploreData})
		for err == nil && len(s.flight) > 0 {
			err = m.arrive(s)
		}
		if err == nil && m.ends[s.client].offering {
			*s, err = m.moved(*s, RoleClient, exploreEvent{kind: exploreRetry})
		}
	case m.ends[s.gateway].asked:
		*s, err = m.moved(*s, RoleGateway, exploreEvent{kind: exploreRepeat})
	default:
		settled = true
	}
	return settled, err
}

// arrive delivers the packet that is longest in flight. If the gateway leaves a
// datagram or Ping unanswered, the client is in doubt at once.
func (m *exploreModel) arrive(s *exploreState) (err error) {
	f := s.flight[0]
	p := &m.packets[f.packet]
	by := RoleGateway
	if p.toClient {
		by = RoleClient
	}
	if s.flight = slices.Clone(s.flight); f.copies > 1 {
		s.flight[0].copies--
	} else {
		s.flight = s.flight[1:]
	}
	unanswered := m.ends[s.gateway].drops(p) && p.index == m.ends[s.client].index
	if *s, err = m.moved(*s, by, exploreEvent{exploreLate, f.packet}); err == nil && unanswered {
		*s, err = m.moved(*s, RoleClient, exploreEvent{kind: exploreLivenessCheck})
	}
	return err
}

// drops reports whether a gateway drops a datagram or a Ping because it knows no such
// index (R11.20).
func (l *exploreLocal) drops(p *explorePacket) bool {
	return !p.toClient && len(p.data) >= wire.MinPingPacket && l.end.find(p.index) == nil
}

// checkRenewal checks that both ends, now that nothing is under way, agree, that
// data pass, and that new keys can be had.
func (m *exploreModel) checkRenewal(s exploreState, core exploreKey) error {
	if _, ok := m.renewed[core]; ok {
		return nil
	}
	if err := m.checkAgreement(&s); err != nil {
		return err
	}
	number := m.ends[s.client].number
	next, err := m.moved(s, RoleClient, exploreEvent{kind: exploreRekey})
	for steps := 0; err == nil; steps++ {
		var settled bool
		if settled, err = m.fair(&next); settled || err != nil {
			break
		}
		if steps == exploreFair {
			return fmt.Errorf("new keys were not made in %d steps on a fair network; %s", exploreFair, m.standing(&next))
		}
	}
	if err != nil {
		return fmt.Errorf("for the next generation: %w", err)
	}
	if err := m.checkAgreement(&next); err != nil {
		return fmt.Errorf("for the next generation: %w", err)
	}
	if got := m.ends[next.client].number; got != number+1 {
		return fmt.Errorf("new keys were wanted at generation %d, and it is %d now", number, got)
	}
	m.renewed[core] = struct{}{}
	return nil
}

// checkAgreement checks that nothing is under way and that both ends agree.
func (m *exploreModel) checkAgreement(s *exploreState) error {
	c, g := m.ends[s.client], m.ends[s.gateway]
	if c.number != g.number || c.offering || len(c.children)+len(g.children) != 0 {
		return fmt.Errorf("nothing is in flight and the ends are stranded; %s", m.standing(s))
	}
	if err := m.checkKeys(s); err != nil {
		return err
	}
	return m.checkData(s)
}

func (m *exploreModel) standing(s *exploreState) string {
	c, g := m.ends[s.client], m.ends[s.gateway]
	return fmt.Sprintf("client: generation %d, index %s, offer %t, %d children; gateway: generation %d, index %s, %d children",
		c.number, exploreName(c.index), c.offering, len(c.children), g.number, exploreName(g.index), len(g.children))
}

// story describes how a state was reached.
func (m *exploreModel) story(number int32) string {
	var lines []string
	for number > 0 {
		v := m.visits[number]
		who := ""
		if v.by != 0 {
			who = "the " + v.by.String() + " "
		}
		lines = append(lines, who+exploreKindNames[v.event.kind]+m.about(v.event))
		number = v.from
	}
	slices.Reverse(lines)
	return strings.Join(lines, "\n")
}

func (m *exploreModel) about(e exploreEvent) string {
	switch e.kind {
	case exploreDeliver, exploreLate, exploreLose, exploreCopy:
		return " " + m.packets[e.packet].String()
	}
	return ""
}
