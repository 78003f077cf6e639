package state

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/kem"
	"lewes/crypto/noise"
	"lewes/crypto/psq"
	"lewes/state/parts"
	"lewes/state/path"
	"lewes/state/wire"
)

// A gateway's side of a handshake from Handshake 1 on (section 5).

// atFirst returns two ends between which the hello and KKT are done: the client
// has Handshake 1 to send, and has not sent it.
func atFirst(t testing.TB, config *GatewayConfig) (*clientEnd, *gatewayEnd, *attempt) {
	t.Helper()
	g := newGatewayEnd(t, config)
	c := newClientEnd(t, epoch, clientConfig(2))
	for _, p := range c.take() {
		g.handle(epoch, p.Data, clientAt)
	}
	for _, p := range g.take() {
		c.handle(epoch, p.Data, gatewayAt)
	}
	i := c.client.attempts[0]
	if i.handshake1 == nil || len(i.acks) != 1 {
		t.Fatalf("no KKT: client %v, gateway %v", c.drops, g.drops)
	}
	return c, g, i
}

// credentialOf is a PSQ message of an identity and a time for an attempt.
func credentialOf(t testing.TB, i *attempt, who *identity.PrivateKey, at time.Time) ([]byte, *psq.Secrets) {
	t.Helper()
	m, secrets, err := psq.Initiate(i.config.KEM, i.kemKey, i.transcript[:], who, at, seeded(77))
	if err != nil {
		t.Fatal(err)
	}
	return m, secrets
}

// firstWith makes a Handshake 1 with the attempt's own e and any payload: what
// only the client can.
func firstWith(t testing.TB, i *attempt, static noise.KeyPair, payload []byte) (*noise.XKInitiator, []byte) {
	t.Helper()
	x := noise.NewXKInitiator(noisePrologue(&i.transcript), static, i.ephemeral, i.config.gatewayStatic)
	m, err := x.WriteMessage1(payload)
	if err != nil {
		t.Fatal(err)
	}
	return x, m
}

// sendFirst gives a Handshake 1 to the gateway and returns its answer, if any.
func (g *gatewayEnd) sendFirst(now time.Time, index uint32, message []byte, from path.Path) []Packet {
	for _, p := range splitFor(message, false) {
		g.handle(now, clearPacket(g.responders.MAC1(), index, wire.TypeHandshake, &p), from)
	}
	return g.take()
}

// TestBadHandshake1ChangesNothing sends messages that fail at one step after the
// other, all sealed by the client's own e, and then the good one.
//
// Shows R5.6, R5.15, R5.19.
func TestBadHandshake1ChangesNothing(t *testing.T) {
	config := gatewayConfig(t, 1)
	config.Admit = func(who identity.PublicKey) bool { return who == testIdentity(2).Public() }
	c, g, i := atFirst(t, config)
	static := i.config.Session.Static
	good, _ := credentialOf(t, i, testIdentity(2), epoch)
	flipped := func(at int) []byte {
		b := bytes.Clone(good)
		b[at] ^= 1
		return b
	}
	late, _ := credentialOf(t, i, testIdentity(2), epoch.Add(time.Minute))
	unlisted, _ := credentialOf(t, i, testIdentity(3), epoch)
	now := epoch
	for _, bad := range []struct {
		name    string
		payload []byte
	}{
		{"no payload", nil},
		{"junk", []byte("junk")},
		{"another ciphertext", flipped(100)},
		{"another mac", flipped(1095)},
		{"another tag", flipped(1130)},
		{"another credential", flipped(len(good) - 5)},
		{"bytes behind it", append(bytes.Clone(good), 0)},
		{"a late credential", late},
		{"an identity that is not listed", unlisted},
	} {
		_, m := firstWith(t, i, static, bad.payload)
		if got := g.sendFirst(now, i.index, m, clientAt); len(got) != 0 || g.responders.attempts[keyOf(i.index, clientAt)].handshake1 != nil {
			t.Errorf("%s: %d answers", bad.name, len(got))
		}
		now = now.Add(300 * time.Millisecond)
	}
	if g.sessions.Len() != 0 || g.responders.Stats.Opened != 0 {
		t.Fatal("a bad Handshake 1 opened")
	}
	if got := g.sendFirst(now, i.index, i.handshake1, stranger); len(got) != 0 {
		t.Error("a Handshake 1 from elsewhere was answered")
	}
	converse(now, c, g)
	if c.session == nil || g.sessions.Len() != 1 {
		t.Fatalf("the good one does not complete the handshake: client %v, gateway %v", c.drops, g.drops)
	}
	checkExchange(t, now, c, g)
}

// TestEphemeralMustMatchSalt sends a Handshake 1 that is good but for its e, which is not
// the one of the hello's salt: nothing is computed for it.
//
// Shows R5.16.
func TestEphemeralMustMatchSalt(t *testing.T) {
	c, g, i := atFirst(t, gatewayConfig(t, 1))
	own := i.ephemeral
	i.ephemeral = noise.KeyPairFrom([32]byte{42})
	payload, _ := credentialOf(t, i, testIdentity(2), epoch)
	_, m := firstWith(t, i, i.config.Session.Static, payload)
	i.ephemeral = own
	responder := g.responders.attempts[keyOf(i.index, clientAt)]
	if got := g.sendFirst(epoch, i.index, m, clientAt); len(got) != 0 || g.drops[ErrSaltMismatch.Error()] != 1 {
		t.Errorf("%d answers, drops %v", len(got), g.drops)
	}
	// The Noise state, with the shared secret of e, is made when it is needed.
	if responder.noise != nil || responder.transcript != nil || responder.tryCount != 0 || g.responders.budgets.tries.rate(epoch) != 0 {
		t.Error("the gateway did work for it")
	}
	converse(epoch, c, g)
	if c.session == nil || responder.transcript == nil {
		t.Errorf("the good one completes nothing: %v", g.drops)
	}
}

// noPSQ returns a payload of the right size that is no PSQ message.
func noPSQ(n any) []byte {
	return append(fmt.Appendf(nil, "opens, and is no PSQ message: %v", n), make([]byte, parts.MaxData)...)
}

// Shows R5.17, R5.18.
func TestHandshake1TriesAreLimited(t *testing.T) {
	c, g, i := atFirst(t, gatewayConfig(t, 1))
	// Whatever does not open under e costs no try, however much of it comes.
	for n := range 50 {
		junk := append(bytes.Clone(i.handshake1[:32]), bytes.Repeat([]byte{byte(n)}, 1281)...)
		g.sendFirst(epoch, i.index, junk, clientAt)
	}
	responder := g.responders.attempts[keyOf(i.index, clientAt)]
	if responder.tryCount != 0 {
		t.Errorf("junk was charged %d tries", responder.tryCount)
	}
	// What opens is processed four times a second.
	for n := range 7 {
		_, m := firstWith(t, i, i.config.Session.Static, noPSQ(n))
		g.sendFirst(epoch.Add(time.Duration(n)*100*time.Millisecond), i.index, m, clientAt)
	}
	if refused := g.drops[ErrRateLimited.Error()]; refused != 3 {
		t.Errorf("of seven messages that opened within a second %d were refused, want 3; drops %v", refused, g.drops)
	}
	if got := g.sendFirst(epoch.Add(900*time.Millisecond), i.index, i.handshake1, clientAt); len(got) != 0 {
		t.Error("a fifth message within the second was processed")
	}
	converse(epoch.Add(time.Second), c, g) // the client sends it again
	if c.session == nil {
		t.Errorf("a second later the good one is not processed; drops %v", g.drops)
	}
}

// Shows R5.20, R5.21, R5.22, R5.23.
func TestCopiesGetStoredAnswer(t *testing.T) {
	c, g, i := atFirst(t, gatewayConfig(t, 1))
	first := bytes.Clone(i.handshake1)
	second := g.sendFirst(epoch, i.index, first, clientAt)
	if len(second) != 1 {
		t.Fatalf("%d answers to Handshake 1", len(second))
	}
	other, _ := credentialOf(t, i, testIdentity(3), epoch)
	_, another := firstWith(t, i, i.config.Session.Static, other)
	if got := g.sendFirst(epoch, i.index, another, clientAt); len(got) != 0 || g.responders.attempts[keyOf(i.index, clientAt)].client != testIdentity(2).Public() {
		t.Error("a second Handshake 1, good by itself, took the first one's place")
	}
	for n := range 10 {
		now := epoch.Add(time.Duration(n) * time.Second)
		if again := g.sendFirst(now, i.index, first, clientAt); len(again) != 1 || !bytes.Equal(again[0].Data, second[0].Data) {
			t.Fatalf("copy %d of Handshake 1: another answer", n)
		}
	}
	c.take()
	c.handle(epoch, second[0].Data, gatewayAt)
	third := c.take()
	if len(third) != 2 || c.session == nil { // Handshake 3 and a Ping
		t.Fatalf("%d packets to Handshake 2", len(third))
	}
	for seq := range uint64(5) {
		g.handle(epoch, third[0].Data, clientAt)
		ack := g.take()
		if len(ack) != 1 {
			t.Fatalf("copy %d of Handshake 3: %d answers", seq, len(ack))
		}
		if h, _ := wire.ParseHeader(ack[0].Data); h.Level != wire.LevelTransport || h.Sequence != seq {
			t.Errorf("copy %d of Handshake 3: answer of level %v, sequence %d", seq, h.Level, h.Sequence)
		}
		c.handle(epoch, ack[0].Data, gatewayAt)
	}
	if c.confirms != 1 || g.sessions.Len() != 1 || g.responders.Stats.Established != 1 {
		t.Errorf("%d confirmations, %d sessions", c.confirms, g.sessions.Len())
	}
	damaged := bytes.Clone(third[0].Data)
	damaged[40] ^= 1
	g.handle(epoch, damaged, clientAt)
	if len(g.take()) != 0 {
		t.Error("another Handshake 3 was answered")
	}
	// Ten seconds after Handshake 3 the responder goes, with keys and answers.
	responder := g.responders.attempts[keyOf(i.index, clientAt)]
	g.tick(epoch.Add(responderLinger - time.Nanosecond))
	if g.responders.Len() != 1 {
		t.Error("the responder expired early")
	}
	g.tick(epoch.Add(responderLinger))
	g.handle(epoch.Add(responderLinger), third[0].Data, clientAt)
	if g.responders.Len() != 0 || len(g.take()) != 0 {
		t.Error("the responder is still there")
	}
	if responder.psk != [32]byte{} || responder.noise != nil || responder.psq.KPQ != [32]byte{} {
		t.Error("the responder's secrets are not wiped")
	}
	if _, ok := fingerprintOf(responder.receive); ok {
		t.Error("the responder's handshake key is not wiped")
	}
	checkExchange(t, epoch.Add(responderLinger), c, g)
}

// Shows R5.8.
func TestCredentialTimeTolerance(t *testing.T) {
	for _, c := range []struct {
		off  time.Duration
		good bool
	}{
		{0, true}, {30 * time.Second, true}, {-30 * time.Second, true},
		{30*time.Second + time.Millisecond, false}, {-30*time.Second - time.Millisecond, false},
		{time.Hour, false}, {time.Since(epoch), false}, {-epoch.Sub(time.Unix(0, 0)), false},
		{time.Unix(253_402_300_799, 999e6).Sub(epoch), false},
	} {
		_, g, i := atFirst(t, gatewayConfig(t, 1))
		payload, _ := credentialOf(t, i, testIdentity(2), epoch.Add(c.off))
		_, m := firstWith(t, i, i.config.Session.Static, payload)
		if got := g.sendFirst(epoch, i.index, m, clientAt); (len(got) == 1) != c.good {
			t.Errorf("a credential %v off: %d answers, drops %v", c.off, len(got), g.drops)
		}
	}
}

// TestForeignStaticKeyIsRejected proves one identity by PSQ and another by Noise.
//
// Shows R5.24.
func TestForeignStaticKeyIsRejected(t *testing.T) {
	for _, same := range []bool{true, false} {
		c, g, i := atFirst(t, gatewayConfig(t, 1))
		static := i.config.Session.Static
		if !same {
			private, public := testIdentity(3).X25519()
			static = noise.KeyPair{Private: private, Public: public}
		}
		payload, secrets := credentialOf(t, i, testIdentity(2), epoch)
		x, m := firstWith(t, i, static, payload)
		i.noise, i.handshake1, i.psq = x, m, secrets
		c.take()
		for _, p := range g.sendFirst(epoch, i.index, m, clientAt) {
			c.handle(epoch, p.Data, gatewayAt)
		}
		converse(epoch, c, g)
		if (g.sessions.Len() == 1) != same {
			t.Errorf("static key of the credential: %v; %d sessions; drops %v", same, g.sessions.Len(), g.drops)
		}
		if !same && g.drops[ErrStaticMismatch.Error()] != 1 {
			t.Errorf("refused for another reason: %v", g.drops)
		}
	}
}

// TestEarlyPacketsAreDelivered sends data behind Handshake 3 and lets it overtake.
//
// Shows R5.25, R5.26, R5.32.
func TestEarlyPacketsAreDelivered(t *testing.T) {
	c, g, i := atFirst(t, gatewayConfig(t, 1))
	early := wire.Finish(append(wire.Begin(nil, g.responders.attempts[keyOf(i.index, clientAt)].index, wire.LevelTransport, 0, wire.TypeEncryptedData), "junk"...))
	g.handle(epoch, early, clientAt)
	if g.drops[ErrUnexpectedMessage.Error()] != 1 {
		t.Errorf("a transport packet before Handshake 1 was kept: %v", g.drops)
	}
	c.take()
	for _, p := range g.sendFirst(epoch, i.index, i.handshake1, clientAt) {
		c.handle(epoch, p.Data, gatewayAt)
	}
	third := c.take()
	for n := range 6 {
		sendData(t, c.session, &c.out, fmt.Sprint("early ", n))
	}
	for _, p := range c.take() {
		g.handle(epoch, p.Data, clientAt)
	}
	if len(g.data) != 0 || g.sessions.Len() != 0 || len(g.take()) != 0 {
		t.Fatal("something was done before Handshake 3")
	}
	before := g.responders.budgets.Memory(Unproved)
	if before < 4*int64(len("early 0")) {
		t.Error("the bytes that wait are not counted")
	}
	for _, p := range third {
		g.handle(epoch, p.Data, clientAt)
	}
	if got := fmt.Sprint(payloads(g.data)); got != "[early 0 early 1 early 2 early 3]" {
		t.Errorf("after Handshake 3 the gateway has %v, want the first four", got)
	}
	if n := g.responders.budgets.Memory(Unproved); n != 0 {
		t.Errorf("%d bytes of the established client are counted with those of spoofed sources", n)
	}
	converse(epoch, c, g)
	checkExchange(t, epoch, c, g)
}

// Shows R11.6.
func TestRespondersExpire(t *testing.T) {
	for _, ttl := range []time.Duration{0, 20 * time.Second} {
		config := gatewayConfig(t, 1)
		config.HandshakeTTL = ttl
		c, g, i := atFirst(t, config)
		end := epoch.Add(cmp.Or(ttl, 90*time.Second))
		if next := g.responders.Next(); !next.Equal(end) {
			t.Errorf("the responder expires at %v, want %v", next, end)
		}
		g.tick(end.Add(-time.Nanosecond))
		if g.responders.Len() != 1 {
			t.Error("the responder expired early")
		}
		g.tick(end)
		if g.responders.Len() != 0 || g.responders.Stats.Expired != 1 {
			t.Errorf("%d responders are left", g.responders.Len())
		}
		if got := g.sendFirst(end, i.index, i.handshake1, clientAt); len(got) != 0 {
			t.Error("an expired responder answers")
		}
		if c.session != nil {
			t.Error("a session came of it")
		}
	}
}

// TestEvictionOrder fills the store with responders of each kind and adds more: what
// gives way first is what failed, then what is done or waits for Handshake 1,
// then what waits for Handshake 3, and of each kind the oldest.
//
// Shows R12.1.
func TestEvictionOrder(t *testing.T) {
	config := gatewayConfig(t, 1)
	config.MaxHandshakes = 10
	g := newGatewayEnd(t, config)
	now := epoch
	// client goes through a handshake until its responder is as it should be.
	client := func(n int, until func(*responder) bool, bad bool) *responder {
		from := addr(fmt.Sprintf("192.0.2.%d:1", n))
		c := newClientEnd(t, now, clientConfig(uint64(100+n)))
		i := c.client.attempts[0]
		for range 10 {
			if bad && i.handshake1 != nil {
				payload, _ := credentialOf(t, i, testIdentity(2), now.Add(time.Hour))
				_, m := firstWith(t, i, i.config.Session.Static, payload)
				g.sendFirst(now, i.index, m, from)
				c.take()
			}
			if r := g.responders.attempts[keyOf(i.index, from)]; r != nil && until(r) {
				now = now.Add(time.Millisecond)
				return r
			}
			for _, p := range c.take() {
				g.handle(now, p.Data, from)
			}
			for _, p := range g.take() {
				c.handle(now, p.Data, gatewayAt)
			}
		}
		t.Fatalf("client %d does not come as far; drops %v", n, g.drops)
		return nil
	}
	waiting := func(r *responder) bool { return r.kktPackets != nil }
	opened := func(r *responder) bool { return r.handshake1 != nil }
	done := func(r *responder) bool { return r.session != nil }
	failed := func(r *responder) bool { return r.kind == failedRecord }
	opened1, opened2 := client(1, opened, false), client(2, opened, false)
	idle1, idle2 := client(3, waiting, false), client(4, waiting, false)
	done1, done2 := client(5, done, false), client(6, done, false)
	failed1, failed2 := client(7, failed, true), client(8, failed, true)
	// In the order in which they should go:
	order := []*responder{failed1, failed2, done1, done2, idle1, idle2}
	if n := len(order) + 2; g.responders.Len() != n {
		t.Fatalf("%d responders, want %d", g.responders.Len(), n)
	}
	sessions := g.sessions.Len()
	var fillers []uint32
	next := func() {
		m := goodHello(now, uint32(0x4000_0000+len(fillers)))
		from := addr(fmt.Sprintf("203.0.113.%d:1", len(fillers)+1))
		a := g.askOne(now, g.helloPacket(m), from)
		if a.kind == wire.TypeBusy { // the store is above half its bound
			m.HasCookie, m.Cookie = true, a.busy(t).Cookie
			a = g.askOne(now, g.helloPacket(m), from)
		}
		if a.kind != wire.TypeAck {
			t.Fatalf("a new hello got %v", a.kind)
		}
		ack, err := wire.ParseAck(a.content)
		if err != nil {
			t.Fatal(err)
		}
		fillers = append(fillers, ack.ReceiverIdx)
		now = now.Add(time.Millisecond)
	}
	next()
	next() // full
	for n, gone := range order {
		if !g.responders.Has(gone.index) {
			t.Fatalf("responder %d of the order is gone already", n)
		}
		next()
		if g.responders.Len() != 10 || g.responders.Has(gone.index) {
			t.Fatalf("%d responders; responder %d of the order is still there: %v", g.responders.Len(), n, g.responders.Has(gone.index))
		}
	}
	for n := range fillers {
		if n >= 8 {
			break
		}
		next()
		if g.responders.Has(fillers[n]) {
			t.Fatalf("idle responder %d is younger than another and gave way later", n)
		}
	}
	if !g.responders.Has(opened1.index) || !g.responders.Has(opened2.index) || g.sessions.Len() != sessions {
		t.Error("a responder that waits for Handshake 3, or a session, gave way to a hello")
	}
	if got := g.responders.Stats.Evicted; got != uint64(len(order)+8) {
		t.Errorf("%d evictions were counted, want %d", got, len(order)+8)
	}
}

// Shows R3.4, R3.5.
func TestKEMKeysAreRenewed(t *testing.T) {
	make := func(seed uint64) *KEMKeys {
		k, err := NewKEMKeys(epoch, []kem.ID{kem.MLKEM768, kem.XWing}, seeded(seed))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	if a, b := make(1).Find(kem.MLKEM768, 0), make(2).Find(kem.MLKEM768, 0); a.KeyID() == b.KeyID() {
		t.Error("two starts have the same KEM key")
	}
	k := make(1)
	for _, id := range []kem.ID{kem.MLKEM768, kem.XWing} {
		old := k.Find(id, 0)
		if k.Find(id, old.KeyID()) != old || k.Find(id, old.KeyID()+1) != nil {
			t.Errorf("%v: the present key is not found by its id alone", id)
		}
	}
	if k.Find(kem.McEliece, 0) != nil || k.Offered(kem.X25519) {
		t.Error("a KEM without a key is offered")
	}
	old := k.Find(kem.MLKEM768, 0)
	tick := func(at time.Duration, want time.Duration) {
		t.Helper()
		if next, err := k.Tick(epoch.Add(at)); err != nil || !next.Equal(epoch.Add(want)) {
			t.Errorf("at %v: next at %v, want %v (%v)", at, next.Sub(epoch), want, err)
		}
	}
	tick(23*time.Hour, 24*time.Hour)
	if k.Find(kem.MLKEM768, 0) != old {
		t.Error("the key was renewed early")
	}
	tick(24*time.Hour, 25*time.Hour)
	fresh := k.Find(kem.MLKEM768, 0)
	if fresh == old || k.Find(kem.MLKEM768, old.KeyID()) != old {
		t.Error("after a day the key is not renewed, or the last one not accepted")
	}
	tick(25*time.Hour-time.Second, 25*time.Hour)
	if k.Find(kem.MLKEM768, old.KeyID()) != old {
		t.Error("the last key went early")
	}
	tick(25*time.Hour, 48*time.Hour)
	if k.Find(kem.MLKEM768, old.KeyID()) != nil || k.Find(kem.MLKEM768, 0) != fresh {
		t.Error("the last key is still accepted after an hour")
	}
	if ct, _, err := kem.Encapsulate(kem.MLKEM768, fresh.Public(), seeded(3)); err != nil {
		t.Error(err)
	} else if _, err := old.Decapsulate(ct); err == nil {
		t.Error("the last key is not wiped")
	}
}

// How often Handshake 1 is tried, and what is left of a handshake (section 5).

// TestTryLimitHoldsForAnySecond spreads messages that open so that a second which begins
// anew at some moment would let more of them through.
//
// Shows R5.18.
func TestTryLimitHoldsForAnySecond(t *testing.T) {
	_, g, i := atFirst(t, gatewayConfig(t, 1))
	processed := []time.Duration{}
	for at := time.Duration(0); at < 10*time.Second; at += 90 * time.Millisecond {
		if at > 200*time.Millisecond && at < 900*time.Millisecond {
			continue // the first second's tries come at its end
		}
		_, m := firstWith(t, i, i.config.Session.Static, noPSQ(at))
		refused := g.drops[ErrRateLimited.Error()]
		g.sendFirst(epoch.Add(at), i.index, m, clientAt)
		if g.drops[ErrRateLimited.Error()] == refused {
			processed = append(processed, at)
		}
	}
	for n := range processed[triesPerSecond:] {
		if gap := processed[n+triesPerSecond] - processed[n]; gap < time.Second {
			t.Errorf("five messages were processed within %v: at %v", gap, processed[n:n+triesPerSecond+1])
		}
	}
	if n := len(processed); n < 36 || n > 40 {
		t.Errorf("%d messages were processed in ten seconds, want about four a second", n)
	}
}

// TestHandshakeSecretsAreOverwritten holds on to everything that a handshake made
// at either end and looks at it once the session stands, and when the responder goes.
//
// Shows R5.13.
func TestHandshakeSecretsAreOverwritten(t *testing.T) {
	c, g, i := atFirst(t, gatewayConfig(t, 1))
	responder := g.responders.attempts[keyOf(i.index, clientAt)]
	second := g.sendFirst(epoch, i.index, i.handshake1, clientAt)
	clientPSQ, gatewayPSQ := i.psq, responder.psq
	if *clientPSQ == (psq.Secrets{}) || *clientPSQ != *gatewayPSQ || responder.psk == [32]byte{} || i.ecdh == [32]byte{} {
		t.Fatal("the two ends do not have the same secrets before the session")
	}
	clientNoise := i.noise
	gatewayNoise := responder.noise

	c.handle(epoch, second[0].Data, gatewayAt)
	if c.session == nil {
		t.Fatal("the client has no session")
	}
	converse(epoch, c, g)
	if *clientPSQ != (psq.Secrets{}) || i.ecdh != [32]byte{} || i.ephemeral.Private != [32]byte{} {
		t.Error("the client's session is confirmed, and k_pq, psq_psk, ecdh or e is left")
	}
	if _, err := clientNoise.Clone().ReadMessage2(second[0].Data); !errors.Is(err, noise.ErrOrder) {
		t.Error("the client's Noise state is left")
	}
	if g.sessions.Len() != 1 {
		t.Fatal("the gateway has no session")
	}
	if *gatewayPSQ != (psq.Secrets{}) || responder.psk != [32]byte{} {
		t.Error("the gateway holds its transport keys, and k_pq, psq_psk or psk is left")
	}
	if _, _, err := gatewayNoise.ReadMessage3(&[32]byte{}, make([]byte, 64)); err == nil {
		t.Error("the gateway's Noise state is left")
	}
	g.tick(epoch.Add(responderLinger))
	if g.responders.Len() != 0 {
		t.Fatal("the responder is still there")
	}
	if _, ok := fingerprintOf(responder.receive); ok {
		t.Error("the responder has gone, and hk_c2g is left")
	}
	checkExchange(t, epoch.Add(responderLinger), c, g)

	// A responder that comes to nothing is wiped as well, and so is an attempt.
	c, g, i = atFirst(t, gatewayConfig(t, 1))
	responder = g.responders.attempts[keyOf(i.index, clientAt)]
	g.sendFirst(epoch, i.index, i.handshake1, clientAt)
	clientPSQ, gatewayPSQ = i.psq, responder.psq
	g.tick(epoch.Add(90 * time.Second))
	c.take()
	c.wait(epoch)
	if *clientPSQ != (psq.Secrets{}) || *gatewayPSQ != (psq.Secrets{}) || responder.psk != [32]byte{} || i.ephemeral.Private != [32]byte{} {
		t.Error("a handshake came to nothing, and its secrets are left")
	}
	if _, ok := fingerprintOf(responder.receive); ok {
		t.Error("a handshake came to nothing, and hk_c2g is left")
	}
}

// TestHandshake3OfRemovedClient removes a client from the list between Handshake 1 and Handshake 3:
// nothing is answered and no session is established, also with copies and early packets.
//
// Shows R5.34.
func TestHandshake3OfRemovedClient(t *testing.T) {
	listed := true
	config := gatewayConfig(t, 1)
	config.Admit = func(identity.PublicKey) bool { return listed }
	c, g, i := atFirst(t, config)
	c.take() // Handshake 1, which the next line sends
	for _, p := range g.sendFirst(epoch, i.index, i.handshake1, clientAt) {
		c.handle(epoch, p.Data, gatewayAt)
	}
	handshake3 := c.take()
	if c.session == nil || len(handshake3) == 0 {
		t.Fatalf("no Handshake 2: client %v, gateway %v", c.drops, g.drops)
	}
	if err := c.session.Send(wire.TypePing, &wire.Ping{}, &c.out); err != nil {
		t.Fatal(err)
	}
	g.handle(epoch, c.out.Packets[0].Data, clientAt) // kept for the session
	if r := g.responders.attempts[keyOf(i.index, clientAt)]; len(r.earlyData) == 0 {
		t.Fatalf("no early packet is kept: drops %v", g.drops)
	}
	listed = false
	for range 2 {
		for _, p := range handshake3 {
			g.handle(epoch, p.Data, clientAt)
		}
	}
	if got := g.take(); len(got) != 0 || g.sessions.Len() != 0 {
		t.Errorf("%d answers, %d sessions for a client that is no longer listed", len(got), g.sessions.Len())
	}
	if r := g.responders; r.Stats.Unlisted != 1 || r.Len() != 0 || r.budgets.Memory(Unproved) != 0 || r.ready.Len() != 0 || len(r.peers) != 0 {
		t.Errorf("counted %d times; %d records, %d bytes, %d and %d in the indexes", r.Stats.Unlisted, r.Len(), r.budgets.Memory(Unproved), r.ready.Len(), len(r.peers))
	}
}

// TestRecordsOfRemovedClients removes the records of one client, then those of all that are not
// admitted. A record that has its session, or waits for Handshake 1, stays.
//
// Shows R5.34.
func TestRecordsOfRemovedClients(t *testing.T) {
	listed := func(identity.PublicKey) bool { return true }
	config := gatewayConfig(t, 1)
	config.Admit = func(who identity.PublicKey) bool { return listed(who) }
	g := newGatewayEnd(t, config)
	start := func(who byte, steps int) {
		config := clientConfig(uint64(who))
		config.Identity = testIdentity(who)
		c := newClientEnd(t, epoch, config)
		for range steps {
			for _, p := range c.take() {
				g.handle(epoch, p.Data, clientAt)
			}
			for _, p := range g.take() {
				c.handle(epoch, p.Data, gatewayAt)
			}
		}
	}
	for _, who := range []byte{2, 3, 4} {
		start(who, 2) // Handshake 2 has been sent
	}
	start(5, 1) // waits for Handshake 1
	start(6, 3) // has its session
	if r := g.responders; r.Len() != 5 || r.ready.Len() != 3 || g.sessions.Len() != 1 {
		t.Fatalf("%d records, %d of them ready, %d sessions; drops %v", r.Len(), r.ready.Len(), g.sessions.Len(), g.drops)
	}
	id := func(who byte) identity.PublicKey { return testIdentity(who).Public() }
	for who, want := range map[byte]bool{2: true, 5: false, 6: false, 7: false} {
		if got := g.responders.RemoveOf(id(who)); got != want {
			t.Errorf("client %d: removed %v", who, got)
		}
	}
	if g.responders.RemoveOf(id(2)) {
		t.Error("the record was removed twice")
	}
	listed = func(who identity.PublicKey) bool { return who == id(4) }
	for c := Start; g.responders.Reapply(&c); {
	}
	if r := g.responders; r.Len() != 3 || r.ready.Len() != 1 || r.peers[id(4)] == nil || g.sessions.OfPeer(id(6)) == nil {
		t.Errorf("%d records, %d of them ready", r.Len(), r.ready.Len())
	}
}

// TestPartsOfWrongCountAreDropped cuts a good Handshake 1, KKTResponse, KK1 and KK2 into more parts
// than they need, and sends longer parts than a datagram of a handshake holds: nothing is kept and
// nothing joined. The same messages in the fewest parts are taken.
//
// Shows R1.13.
func TestPartsOfWrongCountAreDropped(t *testing.T) {
	wrong := func(message []byte) (all []wire.Part) {
		for count := 3; count <= wire.MaxParts; count++ {
			all = append(all, parts.Split(message, (len(message)+count-1)/count)...)
		}
		all = append(all, parts.Split(message, wire.MaxTCPPacket)...)
		// The right count, and a part too long for it.
		long := wire.Part{Index: 0, Count: 2, MessageID: parts.ID(message), Data: message[:parts.MaxData+1]}
		return append(all, long)
	}
	c, g, i := atFirst(t, gatewayConfig(t, 1))
	r := g.responders.attempts[keyOf(i.index, clientAt)]
	for _, p := range wrong(i.handshake1) {
		g.handle(epoch, clearPacket(g.responders.MAC1(), i.index, wire.TypeHandshake, &p), clientAt)
		if len(g.take()) != 0 || r.handshake1 != nil || r.inbox.Kept() != 0 || r.noise != nil {
			t.Fatalf("Handshake 1: part %d of %d with %d bytes was taken", p.Index, p.Count, len(p.Data))
		}
	}
	other := newClientEnd(t, epoch, clientConfig(3))
	for _, p := range other.take() {
		g.handle(epoch, p.Data, stranger)
	}
	answers, a := g.take(), other.client.attempts[0]
	for _, p := range wrong(g.responders.attempts[keyOf(a.index, stranger)].response()) {
		other.handle(epoch, clearPacket(g.responders.MAC1(), a.index, wire.TypeKKTResponse, &p), gatewayAt)
		if a.handshake1 != nil || a.assembler.Kept() != 0 {
			t.Fatalf("KKTResponse: part %d of %d with %d bytes was taken", p.Index, p.Count, len(p.Data))
		}
	}
	for _, p := range answers {
		other.handle(epoch, p.Data, gatewayAt)
	}
	if a.handshake1 == nil {
		t.Error("the KKTResponse in two parts was not taken")
	}

	converse(epoch, c, g)
	s := g.only()
	var out Output
	c.session.Rekey(epoch, &out)
	kk1 := c.session.rekey.initiator.message
	for _, p := range wrong(kk1) {
		c.session.send(wire.TypeSubsessionKK1, &p, &c.out)
	}
	converse(epoch, c, g)
	if s.rekey.responder != nil {
		t.Error("a part of KK1 was taken")
	}
	for _, p := range out.Packets {
		g.handle(epoch, p.Data, clientAt)
	}
	proper := g.take()
	kk2 := (&wire.SubsessionKK2{Generation: 1, NewReceiverIdx: s.rekey.responder.child.index, Noise: s.rekey.responder.kk2Noise}).Append(nil)
	for _, p := range wrong(kk2) {
		s.send(wire.TypeSubsessionKK2, &p, &g.out)
	}
	converse(epoch, c, g)
	if o := c.session.rekey.initiator; o.secrets != nil || o.kk2Parts.Kept() != 0 {
		t.Error("a part of KK2 was taken")
	}
	for _, p := range proper {
		c.handle(epoch, p.Data, gatewayAt)
	}
	converse(epoch, c, g)
	if c.session.keys.current.number != 1 {
		t.Error("KK2 in two parts was not taken")
	}
}

// TestForgedPartsOfHandshake1AreBounded floods a record with parts of one message_id, while three
// other records have the same index and source. Four parts are kept, and each part is joined with one
// other beyond a budget. The joins count towards the rate at which cookies begin and not as tries.
// The client's own parts are joined once they are repeated.
//
// Shows R1.17, R1.18, R4.17, R5.18.
func TestForgedPartsOfHandshake1AreBounded(t *testing.T) {
	config := gatewayConfig(t, 1)
	c, g, i := atFirst(t, config)
	r := g.responders.attempts[keyOf(i.index, clientAt)]
	for n := 0; n < maxSalts-1; n++ {
		m := goodHello(epoch, i.index)
		m.Salt[31] = byte(n)
		g.askOne(epoch, g.helloPacket(m), clientAt)
	}
	honest := splitFor(i.handshake1, false)
	forge := func(n int) {
		p := honest[n%2]
		p.Data = bytes.Clone(p.Data)
		p.Data[0], p.Data[1] = byte(n), byte(n>>8)+1
		g.handle(epoch, clearPacket(g.responders.MAC1(), i.index, wire.TypeHandshake, &p), clientAt)
	}
	const forgeries = 600
	for n := range forgeries {
		forge(n)
	}
	if got := g.responders.joins.Failed; got != forgeries-1+parts.MaxJoins {
		t.Errorf("%d parts caused %d failed joins", forgeries, got)
	}
	if r.inbox.Kept() != maxHandshake1Parts || r.tryCount != 0 {
		t.Errorf("%d parts are kept, %d tries charged", r.inbox.Kept(), r.tryCount)
	}
	if b := g.askOne(epoch, g.helloPacket(goodHello(epoch, 9)), stranger).busy(t); !b.HasCookie {
		t.Error("failed joins do not make cookies necessary")
	}
	c.take()
	for range 2 {
		for _, p := range g.sendFirst(epoch, i.index, i.handshake1, clientAt) {
			c.handle(epoch, p.Data, gatewayAt)
		}
	}
	converse(epoch, c, g)
	if c.session == nil {
		t.Errorf("no session: %v", g.drops)
	}
}
