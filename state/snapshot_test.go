package state

import (
	"encoding/binary"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"lewes/crypto/identity"
	"lewes/crypto/seal"
	"lewes/state/path"
	"lewes/state/replay"
	"lewes/state/wire"
)

// Snapshots of what an end knows. Two of them are equal, by ==, when nothing has
// changed but counters of failures. What they leave out on purpose is what may
// change by a packet that proves nothing: the bounded places where packets wait
// that cannot be judged yet (parts, Handshake 2 before its Ack, data before
// Handshake 3), statistics, and whether a client has heard anything at all.

// digest stands for contents of any length.
type digest uint64

func digestOf(chunks ...[]byte) digest {
	h := xxhash.New()
	for _, c := range chunks {
		var n [8]byte
		binary.LittleEndian.PutUint64(n[:], uint64(len(c)))
		_, _ = h.Write(n[:])
		_, _ = h.Write(c)
	}
	return digest(h.Sum64())
}

type generationShot struct {
	number, index  uint32
	sealed         uint64
	send, receive  fingerprint
	binding        [32]byte
	window         windowShot
	started        time.Time
	lastOpened     time.Time
	readOnly, live bool
}

// windowShot is what a replay window answers for every sequence near its end.
type windowShot struct {
	highest uint64
	any     bool
	seen    digest
}

func shootWindow(w *replay.Window) (s windowShot) {
	s.highest, s.any = w.Highest()
	if !s.any {
		return s
	}
	var answers [(replay.Size + 8) / 8]byte
	for i := range uint64(len(answers) * 8) {
		if i <= s.highest && w.Check(s.highest-i) != nil {
			answers[i/8] |= 1 << (i % 8)
		}
	}
	s.seen = digestOf(answers[:])
	return s
}

func shootGeneration(g *KeySet) (s generationShot) {
	if g == nil {
		return s
	}
	s = generationShot{
		number:     g.number,
		index:      g.index,
		sealed:     g.sender.Sealed(),
		binding:    g.binding,
		window:     shootWindow(&g.window),
		started:    g.started,
		lastOpened: g.lastOpened,
		readOnly:   g.readOnly,
	}
	s.send, s.live = fingerprintOf(g.sender.key)
	s.receive, _ = fingerprintOf(g.receive)
	return s
}

type routeShot struct {
	path, fallback   path.Path
	validated        bool
	budget           int64
	newest           uint64
	newestGeneration uint32
	any              bool
	onTrial          bool
	trial            trial
	heldUntil        time.Time
}

type offerShot struct {
	under      bool
	generation uint32
	message    digest
	secrets    digest
	child      generationShot
	refused    digest
	tries      int
	next       time.Time
	sealed     uint64
}

type replyShot struct {
	answered bool
	kk1      [32]byte
	noise    digest
	secrets  digest
	child    generationShot
}

type sessionShot struct {
	role       Role
	peer       identity.PublicKey
	peerStatic [32]byte
	suite      seal.Suite
	handle     [16]byte
	exporter   [32]byte
	seed       [32]byte
	terms      Terms
	current    generationShot
	demoted    [maxDemoted]generationShot
	route      routeShot
	offer      offerShot
	reply      replyShot
	asked      time.Time
	confirming bool
	confirm    backoff
	until      time.Time
	third      digest
	doubting   bool
	doubt      doubt
	echoes     echoes
	search     mtu
	maxPacket  uint32
	times      [6]time.Time
	quiet      quiet
	closed     bool
}

func secretsDigest(s *subsessionSecrets) digest {
	if s == nil {
		return 0
	}
	return digestOf(s.split.InitiatorToResponder[:], s.split.ResponderToInitiator[:], s.split.Hash[:], s.psk[:], s.ss[:])
}

func shootSession(x *Session) (s sessionShot) {
	if x == nil {
		return s
	}
	s = sessionShot{
		role: x.role, peer: x.peer, peerStatic: x.peerStatic, suite: x.suite, handle: x.handle,
		exporter: x.exporter, seed: x.seed, terms: x.terms,
		current: shootGeneration(x.current),
		asked:   x.asked,
		times:   [6]time.Time{x.lastOpened, x.quietAt(), x.compactAt, x.demotedAckAt, x.deadline},
		closed:  x.closed,

		maxPacket: x.maxPacket.Load(),
	}
	if x.quiet != nil {
		s.quiet = *x.quiet
	}
	for i, g := range x.demoted {
		s.demoted[i] = shootGeneration(g)
	}
	w, r := x.route.at.Load(), &x.roaming
	s.route = routeShot{
		path: w.path, validated: w.validated, budget: w.budget.Load(),
		newest: r.sequence, newestGeneration: r.generation, any: r.any, heldUntil: r.heldUntil,
	}
	if w.fallback != nil {
		s.route.fallback = *w.fallback
	}
	if r.trial != nil {
		s.route.onTrial, s.route.trial = true, *r.trial
	}
	if o := x.offer; o != nil {
		var refused [][]byte
		for _, g := range o.refused {
			refused = append(refused, fmt.Appendf(nil, "%+v", shootGeneration(g)))
		}
		s.offer = offerShot{
			under: true, generation: o.generation, message: digestOf(o.message), secrets: secretsDigest(o.secrets),
			child: shootGeneration(o.child), refused: digestOf(refused...), tries: o.tries, next: o.next, sealed: o.sealed,
		}
	}
	if r := x.reply; r != nil && r.answered {
		s.reply = replyShot{answered: true, kk1: r.kk1, noise: digestOf(r.noise), secrets: secretsDigest(&r.secrets), child: shootGeneration(r.child)}
	}
	if c := x.confirm; c != nil {
		s.confirming, s.confirm, s.until, s.third = true, backoff{wait: c.retry.wait, at: c.retry.at}, c.until, digestOf(c.packet)
	}
	if x.doubt != nil {
		s.doubting, s.doubt = true, *x.doubt
	}
	if x.echoes != nil {
		s.echoes = *x.echoes
	}
	if x.mtu != nil {
		s.search = *x.mtu
	}
	return s
}

// initiatorShot is one attempt of a client's handshake.
type initiatorShot struct {
	index, keyID   uint32
	offset         time.Duration
	hello          [wire.HelloSize]byte
	ephemeral      [32]byte
	request        digest
	response       digest
	first          digest
	transcript     [32]byte
	ecdh           [32]byte
	acks, cookies  digest
	retry          time.Time
	wait           time.Duration
	ended, session bool
}

func shootInitiator(i *initiator) initiatorShot {
	var cookies [][]byte
	for _, c := range i.cookies {
		cookies = append(cookies, c[:])
	}
	return initiatorShot{
		index: i.index, keyID: i.hello.KEMKeyID, offset: i.offset, hello: i.hello.Hello(), ephemeral: i.ephemeral.Private,
		request: digestOf(i.request), response: digestOf(i.response, i.kemKey), first: digestOf(i.first),
		transcript: i.transcript, ecdh: i.ecdh, acks: digestOf(i.acks...), cookies: digestOf(cookies...),
		retry: i.retry.at, wait: i.retry.wait, ended: i.failed != nil, session: i.session != nil,
	}
}

type clientShot struct {
	attempts            [maxAttempts]initiatorShot
	count               int
	until               time.Time
	progress            Progress
	clockTried, kktDone bool
	failed              bool
	collision           bool
	busy, reject        bool
	unproved            bool
	session             sessionShot
	data                int
	events              int
}

func shootClient(c *clientEnd) (s clientShot) {
	x := c.client
	s = clientShot{
		count: len(x.attempts), until: x.until, progress: x.progress, clockTried: x.clockTried, kktDone: x.kktTried,
		failed: x.err != nil, collision: x.heard.collision, busy: x.heard.busy != nil, reject: x.heard.reject != nil,
		unproved: x.heard.unproved, session: shootSession(c.session), data: len(c.data), events: len(c.events),
	}
	s.progress.Answered = time.Time{}
	for i, a := range x.attempts {
		s.attempts[i] = shootInitiator(a)
	}
	return s
}

// recordShot is a gateway's handshake record.
type recordShot struct {
	index, keyID      uint32
	hello             [wire.HelloSize]byte
	source            path.Path
	created, at       time.Time
	suite             seal.Suite
	out               int    // bytes sent; those that came are counted whatever they are
	content           digest // Ack, KKT frames, Handshake 2 and 3
	first             [32]byte
	opened, failed    bool
	client            identity.PublicKey
	static            [32]byte
	psk               [32]byte
	receive           fingerprint
	session, receives bool
}

func shootRecord(r *record) recordShot {
	s := recordShot{
		index: r.index, keyID: r.keyID, hello: r.hello, source: r.source, created: r.created, at: r.timer.at, suite: r.suite,
		out: r.out, content: digestOf(r.ack, r.request, r.response, r.second, r.third),
		opened: r.first != nil, failed: r.queue == r.store.failed, client: r.client, static: r.static, psk: r.psk, session: r.session != nil,
	}
	if r.first != nil {
		s.first = *r.first
	}
	if r.receive != nil {
		s.receive, s.receives = fingerprintOf(r.receive)
	}
	return s
}

type gatewayShot struct {
	records, sessions, indexes int
	record                     recordShot // of the test's only handshake
	session                    sessionShot
	data, closed               int
	opened, established        uint64
}

func shootGateway(g *gatewayEnd) (s gatewayShot) {
	s = gatewayShot{
		records: g.handshakes.Len(), sessions: g.sessions.Len(), indexes: len(g.sessions.table), session: shootSession(g.only()),
		data: len(g.data), closed: len(g.closed), opened: g.handshakes.Stats.Opened, established: g.handshakes.Stats.Established,
	}
	if len(g.handshakes.records) == 1 {
		for _, r := range g.handshakes.records {
			s.record = shootRecord(r)
		}
	}
	return s
}

// difference names the first fields in which two snapshots differ.
func difference(a, b any) string {
	return differenceOf("", reflect.ValueOf(a), reflect.ValueOf(b))
}

func differenceOf(name string, a, b reflect.Value) string {
	if a.Equal(b) {
		return ""
	}
	switch {
	case a.Type() == reflect.TypeFor[time.Time]() || a.Type() == reflect.TypeFor[path.Path]():
	case a.Kind() == reflect.Struct:
		for i := range a.NumField() {
			if d := differenceOf(name+"."+a.Type().Field(i).Name, a.Field(i), b.Field(i)); d != "" {
				return d
			}
		}
	case a.Kind() == reflect.Array && a.Type().Elem().Kind() != reflect.Uint8:
		for i := range a.Len() {
			if d := differenceOf(fmt.Sprintf("%s[%d]", name, i), a.Index(i), b.Index(i)); d != "" {
				return d
			}
		}
	}
	return fmt.Sprintf("%s: %v, then %v", name, a, b)
}

// bothShot is everything.
type bothShot struct {
	client  clientShot
	gateway gatewayShot
}

func shoot(c *clientEnd, g *gatewayEnd) bothShot { return bothShot{shootClient(c), shootGateway(g)} }

// TestSnapshotSees shows that a snapshot tells the steps of a session apart, so
// that equal ones mean something.
func TestSnapshotSees(t *testing.T) {
	c, g := established(t)
	last := shoot(c, g)
	if again := shoot(c, g); last != again {
		t.Fatalf("two snapshots of one state differ: %s", difference(last, again))
	}
	steps := []struct {
		name string
		do   func()
	}{
		{"data", func() { sendData(t, c.session, &c.out, "x"); converse(epoch, c, g) }},
		{"a ping", func() { c.session.Ping(epoch, wire.MinPingPacket, &c.out); converse(epoch, c, g) }},
		{"KK1", func() { c.session.Rekey(epoch, &c.out) }},
		{"a subsession", func() { converse(epoch, c, g) }},
		{"a request", func() { g.only().RequestRekey(epoch, &g.out) }},
		{"a move", func() {
			sendData(t, c.session, &c.out, "y")
			for _, p := range c.take() {
				g.handle(epoch, p.Data, addr("203.0.113.5:5"))
			}
		}},
		{"the end", func() { c.session.Close(wire.CloseDone, "", &c.out); c.settle() }},
	}
	for _, step := range steps {
		step.do()
		now := shoot(c, g)
		if now == last {
			t.Errorf("%s is not seen", step.name)
		}
		if difference(last, now) == "" {
			t.Errorf("%s: no difference is named", step.name)
		}
		last = now
	}
}
