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

type keySetShot struct {
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

func shootKeySet(g *KeySet) (s keySetShot) {
	if g == nil {
		return s
	}
	s = keySetShot{
		number:     g.number,
		index:      g.index,
		sealed:     g.sender.Sealed(),
		binding:    g.binding,
		window:     shootWindow(&g.window),
		started:    g.since,
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
	trial            pathValidation
	heldUntil        time.Time
}

type initiatorShot struct {
	under      bool
	generation uint32
	message    digest
	secrets    digest
	child      keySetShot
	refused    digest
	tries      int
	next       time.Time
	sealed     uint64
}

type rekeyResponderShot struct {
	answered bool
	kk1      [32]byte
	noise    digest
	secrets  digest
	child    keySetShot
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
	current    keySetShot
	demoted    [maxDemoted]keySetShot
	route      routeShot
	offer      initiatorShot
	reply      rekeyResponderShot
	asked      time.Time
	confirming bool
	confirm    backoff
	until      time.Time
	third      digest
	checking   bool
	check      livenessCheck
	echoes     rttEstimator
	search     mtuProber
	maxPacket  uint32
	times      [6]time.Time
	quiet      keepalive
	closed     bool
}

func secretsDigest(s *rekeySecrets) digest {
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
		exporter: x.exporter, seed: x.rekey.seed, terms: x.terms,
		current: shootKeySet(x.keys.current),
		asked:   x.rekey.requestAt,
		times:   [6]time.Time{x.lastOpened, x.compactAt, x.demotedAckAt, x.deadline},
		closed:  x.closed,

		maxPacket: x.mtu.limit.Load(),
	}
	if a := x.liveness.answers; a != nil && a.keepalive != nil {
		s.quiet = *a.keepalive
	}
	for i, g := range x.keys.demoted {
		s.demoted[i] = shootKeySet(g)
	}
	w, r := x.migration.active.state.Load(), &x.migration
	s.route = routeShot{
		path: w.path, validated: w.validated, budget: w.budget.Load(),
		newest: r.newestSequence, newestGeneration: r.newestKeySet, any: r.anyPacket, heldUntil: r.holdUntil,
	}
	if w.fallback != nil {
		s.route.fallback = *w.fallback
	}
	if r.validation != nil {
		s.route.onTrial, s.route.trial = true, *r.validation
	}
	if o := x.rekey.initiator; o != nil {
		var refused [][]byte
		for _, g := range o.rejected {
			refused = append(refused, fmt.Appendf(nil, "%+v", shootKeySet(g)))
		}
		s.offer = initiatorShot{
			under: true, generation: o.generation, message: digestOf(o.message), secrets: secretsDigest(o.secrets),
			child: shootKeySet(o.child), refused: digestOf(refused...), tries: o.tries, next: o.next, sealed: o.sealed,
		}
	}
	if r := x.rekey.responder; r != nil && r.answered {
		s.reply = rekeyResponderShot{answered: true, kk1: r.kk1Hash, noise: digestOf(r.kk2Noise), secrets: secretsDigest(&r.secrets), child: shootKeySet(r.child)}
	}
	if c := x.liveness.confirmation; c != nil {
		var third [][]byte
		for _, one := range c.candidates {
			third = append(third, one.handshake3)
		}
		s.confirming, s.confirm, s.until, s.third = true, backoff{wait: c.retry.wait, at: c.retry.at}, c.until, digestOf(third...)
	}
	if x.liveness.check != nil {
		s.checking, s.check = true, *x.liveness.check
	}
	if x.liveness.rtt != nil {
		s.echoes = *x.liveness.rtt
	}
	if x.mtu.prober != nil {
		s.search = *x.mtu.prober
	}
	return s
}

// initiatorShot is one attempt of a client's handshake.
type attemptShot struct {
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

func shootAttempt(i *attempt) attemptShot {
	var cookies [][]byte
	for _, c := range i.cookies {
		cookies = append(cookies, c[:])
	}
	var acks [][]byte
	for _, k := range i.acks {
		acks = append(acks, k.content)
	}
	return attemptShot{
		index: i.index, keyID: i.hello.KEMKeyID, offset: i.offset, hello: i.hello.Hello(), ephemeral: i.ephemeral.Private,
		request: digestOf(i.request), response: digestOf(i.response, i.kemKey), first: digestOf(i.handshake1),
		transcript: i.transcript, ecdh: i.ecdh, acks: digestOf(acks...), cookies: digestOf(cookies...),
		retry: i.retry.at, wait: i.retry.wait, ended: i.failed != nil, session: i.session != nil,
	}
}

type clientShot struct {
	attempts            [maxAttempts]attemptShot
	count               int
	until               time.Time
	progress            Progress
	clockTried, kktDone bool
	failed              bool
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
		failed: x.err != nil, busy: x.lastHint.Busy != nil, reject: x.lastHint.Reject != nil,
		unproved: x.lastHint.BadKKTSignature, session: shootSession(c.session), data: len(c.data), events: len(c.events),
	}
	s.progress.Answered = time.Time{}
	for i, a := range x.attempts {
		s.attempts[i] = shootAttempt(a)
	}
	return s
}

// recordShot is a gateway's handshake responder.
type responderShot struct {
	attempt, index    uint32
	keyID             uint32
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

func shootResponder(r *responder) responderShot {
	s := responderShot{
		attempt: r.attempt, index: r.index, keyID: r.keyID, hello: r.hello, source: r.source, created: r.created, at: r.timer.at, suite: r.suite,
		out: r.bytesOut, content: digestOf(r.ack, r.request, r.response(), r.handshake2, r.handshake3),
		opened: r.handshake1 != nil, failed: r.kind == failedRecord, client: r.client, static: r.static, psk: r.psk, session: r.session != nil,
	}
	if r.handshake1 != nil {
		s.first = *r.handshake1
	}
	if r.receive != nil {
		s.receive, s.receives = fingerprintOf(r.receive)
	}
	return s
}

type gatewayShot struct {
	responders, sessions, indexes int
	responder                     responderShot // of the test's only handshake
	session                       sessionShot
	data, closed                  int
	opened, established           uint64
}

func shootGateway(g *gatewayEnd) (s gatewayShot) {
	s = gatewayShot{
		responders: g.responders.Len(), sessions: g.sessions.Len(), indexes: len(g.sessions.table), session: shootSession(g.only()),
		data: len(g.data), closed: len(g.closed), opened: g.responders.Stats.Opened, established: g.responders.Stats.Established,
	}
	if len(g.responders.attempts) == 1 {
		for _, r := range g.responders.attempts {
			s.responder = shootResponder(r)
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

// TestDigestDetectsChanges shows that a snapshot tells the steps of a session apart, so
// that equal ones mean something.
func TestDigestDetectsChanges(t *testing.T) {
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
