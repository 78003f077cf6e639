package state

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"lewes/crypto/kdf"
	"lewes/crypto/noise"
	"lewes/state/parts"
	"lewes/state/path"
	"lewes/state/wire"
)

// The steps of a subsession one by one (section 7).

// up gives what the client has to send to the gateway and says how many packets
// that were; down is the other way.
func up(now time.Time, c *clientEnd, g *gatewayEnd) int {
	p := c.take()
	for _, p := range p {
		g.handle(now, p.Data, clientAt)
	}
	return len(p)
}

func down(now time.Time, c *clientEnd, g *gatewayEnd) int {
	p := g.take()
	for _, p := range p {
		c.handle(now, p.Data, gatewayAt)
	}
	return len(p)
}

// opened returns what is in a packet that an end has sealed, without telling the
// end that gets it.
func openedBy(t testing.TB, receiver *Session, packet []byte) (index uint32, kind wire.Type, content []byte) {
	t.Helper()
	h, err := wire.ParseHeader(packet)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range generationsOf(receiver) {
		if g.index != h.ReceiverIdx {
			continue
		}
		body, err := g.receive.Open(bytes.Clone(packet))
		if err != nil {
			t.Fatalf("generation %d: %v", g.number, err)
		}
		kind, content, err := wire.ParseBody(body)
		if err != nil {
			t.Fatal(err)
		}
		return h.ReceiverIdx, kind, content
	}
	t.Fatalf("no keys for index %#x", h.ReceiverIdx)
	return 0, 0, nil
}

func generationsOf(s *Session) []*KeySet {
	all := append([]*KeySet{s.keys.current}, s.keys.demoted...)
	if o := s.rekey.initiator; o != nil {
		all = append(all, o.rejected...)
		if o.child != nil {
			all = append(all, o.child)
		}
	}
	if r := s.rekey.responder; r != nil && r.child != nil {
		all = append(all, r.child)
	}
	return all
}

// joinedMessage returns the message whose parts the packets bear.
func joinedMessage(t testing.TB, receiver *Session, packets []Packet, want wire.Type) []byte {
	t.Helper()
	a := parts.Assembler{Limit: parts.MaxHandshake}
	var whole []byte
	for _, p := range packets {
		_, kind, content := openedBy(t, receiver, p.Data)
		if kind != want {
			t.Fatalf("a %v among the parts of a %v", kind, want)
		}
		part, err := wire.ParsePart(content)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := a.Add(epoch, part); err != nil {
			t.Fatal(err)
		} else if m != nil {
			whole = m
		}
	}
	if whole == nil {
		t.Fatalf("%d packets are no whole %v", len(packets), want)
	}
	return whole
}

// Shows R7.1, R7.4, R7.5, R7.7, R7.8, R7.9, R6.1.
func TestRepeatedSubsessionMessages(t *testing.T) {
	c, g := established(t)
	s := g.only()
	now := epoch
	c.session.Rekey(now, &c.out)
	kk1 := joinedMessage(t, s, c.out.Packets, wire.TypeSubsessionKK1)
	if len(kk1) != wire.SubsessionKK1Size {
		t.Errorf("KK1 has %d bytes", len(kk1))
	}
	c.take()
	for n := range 3 { // Rekey while one is under way does nothing
		c.session.Rekey(now.Add(time.Duration(n)*time.Second), &c.out)
		if got := len(c.take()); got != 0 {
			t.Fatalf("a second subsession was started: %d packets", got)
		}
	}
	// KK1 goes again after 500 ms five times, and then every ten seconds while
	// there is traffic.
	sends := []time.Duration{}
	for at := time.Duration(0); at < 32*time.Second; at += 100 * time.Millisecond {
		now := epoch.Add(at)
		if at%time.Second == 0 && at > 0 {
			sendData(t, c.session, &c.out, "traffic")
			c.take()
		}
		c.tick(now)
		if p := c.take(); len(p) > 0 {
			sends = append(sends, at)
			if again := joinedMessage(t, s, p, wire.TypeSubsessionKK1); !bytes.Equal(again, kk1) {
				t.Fatalf("KK1 at %v is another one", at)
			}
		}
	}
	if want := "[500ms 1s 1.5s 2s 2.5s 12.5s 22.5s]"; fmt.Sprint(sends) != want {
		t.Errorf("KK1 was sent again at %v, want %v", sends, want)
	}
	// Without traffic it goes once more and then rests.
	quiet := 0
	for at := 32 * time.Second; at < 90*time.Second; at += 100 * time.Millisecond {
		if c.tick(epoch.Add(at)); len(c.take()) > 0 {
			quiet++
		}
	}
	if quiet != 1 {
		t.Errorf("KK1 was sent %d times though nothing else was", quiet)
	}
	// A request makes it go at once.
	now = epoch.Add(100 * time.Second)
	s.RequestRekey(now, &g.out)
	down(now, c, g)
	p := c.take()
	if again := joinedMessage(t, s, p, wire.TypeSubsessionKK1); !bytes.Equal(again, kk1) {
		t.Error("the KK1 that was asked for is another one")
	}
	// KK2 is the same each time that KK1 comes.
	for _, p := range p {
		g.handle(now, p.Data, clientAt)
	}
	kk2 := joinedMessage(t, c.session, g.take(), wire.TypeSubsessionKK2)
	if len(kk2) != wire.SubsessionKK2Size {
		t.Errorf("KK2 has %d bytes", len(kk2))
	}
	for n := range 4 {
		s.config.Terms.IdleTTL = 0
		c.session.rekey.initiator.next = now
		c.tick(now.Add(time.Duration(n) * time.Second))
		up(now, c, g)
		if again := joinedMessage(t, c.session, g.take(), wire.TypeSubsessionKK2); !bytes.Equal(again, kk2) {
			t.Fatalf("KK2 number %d is another one", n)
		}
	}
	// And Ready, sealed anew each time, until the gateway's first packet on the
	// child.
	c.session.rekey.initiator.send(now, c.session, &c.out)
	up(now, c, g)
	down(now, c, g)
	child := c.session.rekey.initiator.child
	for seq := range uint64(3) {
		ready := c.take()
		if len(ready) != 1 {
			t.Fatalf("%d packets, want Ready", len(ready))
		}
		index, kind, content := openedBy(t, s, ready[0].Data)
		h, _ := wire.ParseHeader(ready[0].Data)
		if index != child.index || kind != wire.TypeSubsessionReady || h.Sequence != seq || !bytes.Equal(content, []byte{1, 0, 0, 0}) {
			t.Errorf("Ready %d: index %#x, %v %x, sequence %d", seq, index, kind, content, h.Sequence)
		}
		now = now.Add(rekeyRetry)
		c.tick(now)
	}
	up(now, c, g)
	converse(now, c, g)
	checkExchange(t, now, c, g)
}

// Shows R7.5, R7.6.
func TestSubsessionRequests(t *testing.T) {
	c, g := established(t)
	s := g.only()
	s.RequestRekey(epoch, &g.out)
	s.RequestRekey(epoch, &g.out)
	g.sessions.Touch(s)
	sends := []time.Duration{}
	for at := time.Duration(0); at < 21*time.Second; at += 500 * time.Millisecond {
		g.tick(epoch.Add(at))
		for _, p := range g.take() {
			if _, kind, _ := openedBy(t, c.session, p.Data); kind != wire.TypeSubsessionRequest {
				t.Errorf("at %v the gateway sends %v", at, kind)
			}
			sends = append(sends, at)
		}
	}
	if want := "[0s 5s 10s 15s 20s]"; fmt.Sprint(sends) != want {
		t.Errorf("requests at %v, want %v", sends, want)
	}
	c.session.Rekey(epoch.Add(21*time.Second), &c.out)
	up(epoch.Add(21*time.Second), c, g)
	g.take()
	for at := 21 * time.Second; at < 40*time.Second; at += time.Second {
		if g.tick(epoch.Add(at)); len(g.take()) != 0 {
			t.Fatalf("the gateway asks though KK1 has come")
		}
	}
	// A flood of requests is followed ten times a second.
	now := epoch.Add(time.Minute)
	c.take()
	sent := 0
	for range 1000 {
		_ = s.Send(wire.TypeSubsessionRequest, &wire.Empty{}, &g.out)
		down(now, c, g)
		sent += len(c.take())
		now = now.Add(time.Millisecond)
	}
	if sent != 2*10 {
		t.Errorf("%d parts of KK1 for a flood of requests in a second, want 20", sent)
	}
	// The gateway never starts one itself, whatever its keys have done.
	s.Rekey(epoch, &g.out)
	if len(g.take()) != 0 || s.rekey.initiator != nil {
		t.Error("a gateway sent KK1")
	}
}

// Shows R7.10, R7.15, R7.16, R7.17.
func TestProofOfTheChild(t *testing.T) {
	for _, byData := range []bool{false, true} {
		c, g := established(t)
		s := g.only()
		parent := s.keys.current
		talk := func(wantUp, wantDown uint32) {
			t.Helper()
			sendData(t, c.session, &c.out, "up")
			sendData(t, s, &g.out, "down")
			for _, p := range c.take() {
				index, kind, _ := openedBy(t, s, p.Data)
				if kind == wire.TypeEncryptedData && index != wantUp {
					t.Errorf("the client sends on %#x, want %#x", index, wantUp)
				}
				if kind == wire.TypeEncryptedData {
					g.handle(epoch, p.Data, clientAt)
				}
			}
			for _, p := range g.take() {
				index, kind, _ := openedBy(t, c.session, p.Data)
				if kind == wire.TypeEncryptedData && index != wantDown {
					t.Errorf("the gateway sends on %#x, want %#x", index, wantDown)
				}
			}
		}
		c.session.Rekey(epoch, &c.out)
		up(epoch, c, g)
		kk2 := g.take()
		talk(parent.index, parent.index) // KK2 is on its way
		for _, p := range kk2 {
			c.handle(epoch, p.Data, gatewayAt)
		}
		ready := c.take()
		child := c.session.rekey.initiator.child.index
		talk(parent.index, parent.index) // Ready is on its way
		for _, p := range ready {
			g.handle(epoch, p.Data, clientAt)
		}
		if s.keys.current.index != child || !parent.readOnly || parent.sender.Sealed() == 0 {
			t.Fatal("Ready does not prove the child")
		}
		if byData { // the Ack is lost, data proves as well
			g.take()
			sendData(t, s, &g.out, "proof")
		}
		down(epoch, c, g)
		if c.session.keys.current.index != child || c.session.rekey.initiator != nil {
			t.Fatalf("a packet on the child does not prove it (data: %v)", byData)
		}
		sealed := parent.sender.Sealed()
		talk(child, child)
		if parent.sender.Sealed() != sealed {
			t.Error("the gateway sealed on the parent after the proof")
		}
	}
	// Any packet proves: a client's data in Ready's place would do as well.
	c, g := established(t)
	c.session.Rekey(epoch, &c.out)
	up(epoch, c, g)
	down(epoch, c, g)
	c.take()
	var out Output
	c.session.sendOn(c.session.rekey.initiator.child, wire.TypeEncryptedData, &wire.EncryptedData{FlowID: 1, Payload: []byte("x")}, &out)
	g.handle(epoch, out.Packets[0].Data, clientAt)
	if g.only().keys.current.number != 1 || len(g.data) != 1 {
		t.Error("data on the child does not prove it")
	}
}

// TestLeakedKeysExpire replays attack A: whoever has stolen a client's key uses it every 50 s.
//
// Shows R7.19.
func TestLeakedKeysExpire(t *testing.T) {
	for _, rekeys := range []int{1, 3} {
		c, g := established(t)
		leaked, now := c.session.keys.current, epoch
		for range rekeys {
			c.session.Rekey(now, &c.out)
			converse(now, c, g)
			now = now.Add(10 * time.Second)
		}
		var last time.Time
		for now = epoch; now.Before(epoch.Add(10 * time.Minute)); now = now.Add(50 * time.Second) {
			g.tick(now)
			before := len(g.data)
			p := unsealed(leaked.index, wire.LevelTransport, wire.TypeEncryptedData, &wire.EncryptedData{FlowID: 1})
			if leaked.sender.Seal(p) != nil {
				t.Fatal("the test has lost its copy of the key")
			}
			if g.handle(now, p, clientAt); len(g.data) > before {
				last = now
			}
		}
		if last.Sub(epoch) != 150*time.Second || len(g.only().keys.demoted) != 0 {
			t.Errorf("%d subsessions: the last packet opened after %v, %d key sets are left", rekeys, last.Sub(epoch), len(g.only().keys.demoted))
		}
	}
}

// Shows R7.17, R7.18, R7.19.
func TestDemotedParent(t *testing.T) {
	c, g := established(t)
	s := g.only()
	parent := c.session.keys.current
	c.session.Rekey(epoch, &c.out)
	// Packets of the parent that come late: KK1 once more, data, a Ping, a Close.
	kk1 := c.take()
	for _, p := range kk1 {
		g.handle(epoch, p.Data, clientAt)
	}
	sealOn := func(kind wire.Type, m message) []byte {
		var out Output
		c.session.sendOn(parent, kind, m, &out)
		return out.Packets[0].Data
	}
	converse(epoch, c, g)
	if s.keys.current.number != 1 || s.Phase() != Transport {
		t.Fatal("no subsession")
	}
	late := func(at time.Duration, packet []byte) (kinds []wire.Type) {
		now := epoch.Add(at)
		g.tick(now)
		g.handle(now, packet, clientAt)
		for _, p := range g.take() {
			index, kind, _ := openedBy(t, c.session, p.Data)
			if index != s.keys.current.index {
				t.Errorf("at %v a %v was sealed on %#x", at, kind, index)
			}
			kinds = append(kinds, kind)
		}
		return kinds
	}
	for _, step := range []struct {
		at     time.Duration
		packet []byte
		want   string
	}{
		{time.Second, sealOn(wire.TypeSubsessionReady, &wire.SubsessionReady{Generation: 1}), "[Ack]"},
		{1200 * time.Millisecond, sealOn(wire.TypeSubsessionReady, &wire.SubsessionReady{Generation: 1}), "[]"},
		{1499 * time.Millisecond, sealOn(wire.TypePing, &wire.Ping{}), "[Pong]"},
		{1500 * time.Millisecond, sealOn(wire.TypePing, &wire.Ping{}), "[Ack Pong]"},
		{2 * time.Second, sealOn(wire.TypeSubsessionKK1, &wire.Part{Index: 0, Count: 2, Data: []byte{1}}), "[Ack]"},
		{3 * time.Second, sealOn(wire.TypeEncryptedData, &wire.EncryptedData{FlowID: 1, Payload: []byte("late")}), "[Ack]"},
		{60 * time.Second, sealOn(wire.TypeEncryptedData, &wire.EncryptedData{FlowID: 1, Payload: []byte("later")}), "[Ack]"},
		{119 * time.Second, sealOn(wire.TypeEncryptedData, &wire.EncryptedData{FlowID: 1, Payload: []byte("latest")}), "[Ack]"},
	} {
		if got := late(step.at, step.packet); fmt.Sprint(got) != step.want {
			t.Errorf("at %v: answered by %v, want %v", step.at, got, step.want)
		}
	}
	if got := fmt.Sprint(payloads(g.data)); got != "[late later latest]" {
		t.Errorf("data on the parent: %v", got)
	}
	if s.rekey.responder != nil || s.keys.current.number != 1 {
		t.Error("a subsession message on the parent was processed")
	}
	// A replay keeps nothing alive.
	replayed := sealOn(wire.TypeEncryptedData, &wire.EncryptedData{FlowID: 1, Payload: []byte("once")})
	late(120*time.Second, replayed)
	late(150*time.Second, replayed)
	last := sealOn(wire.TypeEncryptedData, &wire.EncryptedData{FlowID: 1, Payload: []byte("too late")})
	g.tick(epoch.Add(180*time.Second - time.Nanosecond))
	if g.sessions.Find(parent.index) == nil {
		t.Error("the parent went early")
	}
	g.tick(epoch.Add(180 * time.Second))
	if g.sessions.Find(parent.index) != nil || len(s.keys.demoted) != 0 {
		t.Error("the parent is still there 60 s after the last packet on it")
	}
	if got := late(181*time.Second, last); len(got) != 0 || len(g.data) != 4 {
		t.Errorf("a packet on the parent that has gone: %v, %d datagrams", got, len(g.data))
	}
	// The client forgets it as well.
	c.tick(epoch.Add(61 * time.Second))
	if c.byIndex[parent.index] != nil || c.byIndex[c.session.keys.current.index] == nil {
		t.Error("the client still has the parent, or lost the child")
	}
	if _, ok := fingerprintOf(parent.receive); ok {
		t.Error("the client's keys of the parent are not wiped")
	}
}

// Shows R7.21.
func TestRekeySecretsAreWiped(t *testing.T) {
	c, g := established(t)
	s := g.only()
	c.session.Rekey(epoch, &c.out)
	up(epoch, c, g)
	down(epoch, c, g)
	offer, reply, seed := c.session.rekey.initiator, s.rekey.responder, s.rekey.seed
	if offer.psk == [32]byte{} || offer.secrets == nil || offer.secrets.ss != reply.secrets.ss || reply.secrets.psk != offer.psk {
		t.Fatal("the two ends do not have the same secrets before the proof")
	}
	secrets := offer.secrets
	converse(epoch, c, g)
	if c.session.rekey.seed == seed || c.session.rekey.seed != s.rekey.seed || c.session.rekey.initiator != nil || s.rekey.responder != nil {
		t.Error("the seed does not go on, or the attempt is kept")
	}
	if offer.psk != [32]byte{} || *secrets != (rekeySecrets{}) || reply.secrets != (rekeySecrets{}) {
		t.Error("the rekey's secrets are not wiped")
	}
	if _, err := offer.keys.Decapsulate(make([]byte, 1088)); err == nil {
		t.Error("the KEM key of KK1 is not wiped")
	}
}

// Shows R7.12, R7.13.
func TestAborts(t *testing.T) {
	c, g := established(t)
	s := g.only()
	abort := func(on *KeySet, generation uint32, reason wire.AbortReason, index uint32) int {
		var out Output
		c.session.sendOn(on, wire.TypeSubsessionAbort, &wire.SubsessionAbort{Generation: generation, Reason: reason, NewReceiverIdx: index}, &out)
		g.handle(epoch, out.Packets[0].Data, clientAt)
		return len(g.take())
	}
	parent := c.session.keys.current
	if n := abort(parent, 1, wire.AbortIndexCollision, 5); n != 0 || s.rekey.responder != nil {
		t.Errorf("an Abort with nothing under way: %d answers", n)
	}
	c.session.Rekey(epoch, &c.out)
	up(epoch, c, g)
	down(epoch, c, g)
	c.take() // Ready is lost
	proposed := s.rekey.responder.child.index
	before := shootSession(s).reply
	for name, n := range map[string]int{
		"another index":         abort(parent, 1, wire.AbortIndexCollision, proposed+1),
		"the parent's index":    abort(parent, 1, wire.AbortIndexCollision, parent.index),
		"another generation":    abort(parent, 2, wire.AbortIndexCollision, proposed),
		"not now":               abort(parent, 1, wire.AbortNotNow, proposed),
		"not now, and no index": abort(parent, 1, wire.AbortNotNow, 0),
		"an unknown reason":     abort(parent, 1, 9, proposed),
	} {
		if n != 0 || shootSession(s).reply != before {
			t.Errorf("an Abort with %s has an effect: %d answers", name, n)
		}
	}
	// An Abort 2 from the gateway has no effect on the client either.
	wanted := shootSession(c.session).offer
	if err := s.Send(wire.TypeSubsessionAbort, &wire.SubsessionAbort{Generation: 1, Reason: wire.AbortNotNow}, &g.out); err != nil {
		t.Fatal(err)
	}
	down(epoch, c, g)
	if now := shootSession(c.session).offer; now != wanted {
		t.Errorf("an Abort 2 changed the client's %s", difference(wanted, now))
	}
	c.session.RejectIndex(epoch, &c.out)
	up(epoch, c, g)
	if n := down(epoch, c, g); n != 2 || s.rekey.responder.child.index == proposed {
		t.Errorf("the right Abort: %d answers, index %#x after %#x", n, s.rekey.responder.child.index, proposed)
	}
	if g.sessions.Find(proposed) != nil || g.sessions.Find(s.rekey.responder.child.index) == nil {
		t.Error("the gateway's table does not follow")
	}
	second := s.rekey.responder.child.index
	converse(epoch, c, g)
	if s.keys.current.number != 1 {
		t.Fatalf("no subsession after an Abort: %v", g.drops)
	}
	// Once the child is proved an Abort is late.
	if abort(c.session.keys.current, 1, wire.AbortIndexCollision, second); s.keys.current.index != c.session.keys.current.index || s.rekey.responder != nil {
		t.Error("an Abort for a proved child has an effect")
	}
	checkExchange(t, epoch, c, g)
}

// TestRejectedIndexStaysRejected refuses one index after the other, more than an attempt
// keeps keys for, while the first KK2 is still on its way.
//
// Shows R7.12, R7.14, R6.1.
func TestRejectedIndexStaysRejected(t *testing.T) {
	c, g := established(t)
	s := g.only()
	a := newAudit(t)
	see := func(p []Packet, toClient bool) {
		a.learnSession(0, c.session)
		a.learnSession(1, s)
		for _, p := range p {
			a.sealed(sighting{packet: p.Data, toClient: toClient})
		}
	}
	// The audit begins here and ignores earlier packets.
	for direction, sender := range []*Sender{c.session.keys.current.sender, s.keys.current.sender} {
		f, _ := fingerprintOf(sender.key)
		a.next[f], a.newest[direction][sender.index] = sender.Sealed(), sender
	}
	c.session.Rekey(epoch, &c.out)
	p := c.take()
	see(p, false)
	for _, p := range p { // KK1 twice: one KK2 is held back
		g.handle(epoch, p.Data, clientAt)
	}
	held := g.take()
	see(held, true)
	first := s.rekey.responder.child.index
	c.session.rekey.initiator.next = epoch
	c.tick(epoch)
	p = c.take()
	see(p, false)
	for _, p := range p {
		g.handle(epoch, p.Data, clientAt)
	}
	for n := range 3 * maxRejected {
		p := g.take()
		see(p, true)
		for _, p := range p {
			c.handle(epoch, p.Data, gatewayAt)
		}
		see(c.take(), false) // Ready is lost
		if !c.session.RejectIndex(epoch, &c.out) {
			t.Fatalf("index %d was not refused", n)
		}
		if c.session.RejectIndex(epoch, &c.out) {
			t.Fatalf("index %d was refused twice", n)
		}
		p = c.take()
		see(p, false)
		for _, p := range p {
			g.handle(epoch, p.Data, clientAt)
		}
	}
	for _, p := range held {
		c.handle(epoch, p.Data, gatewayAt)
	}
	c.settle()
	p = c.take()
	see(p, false)
	if o := c.session.rekey.initiator; o.child != nil && o.child.index == first {
		t.Error("an index that was refused was taken")
	}
	if len(p) != 1 {
		t.Errorf("the index that was refused draws %d packets", len(p))
	} else if _, kind, _ := openedBy(t, s, p[0].Data); kind != wire.TypeSubsessionAbort {
		t.Errorf("the index that was refused draws %v", kind)
	}
	converse(epoch, c, g)
	if c.session.keys.current.number != 1 || s.keys.current.number != 1 {
		t.Errorf("generations %d and %d", c.session.keys.current.number, s.keys.current.number)
	}
	checkExchange(t, epoch, c, g)
}

// TestIndexRejectedTooLate refuses an index on which Ready got through after all.
//
// Shows R7.13, R7.16.
func TestIndexRejectedTooLate(t *testing.T) {
	c, g := established(t)
	c.session.Rekey(epoch, &c.out)
	up(epoch, c, g)
	down(epoch, c, g)
	index := c.session.rekey.initiator.child.index
	up(epoch, c, g) // Ready
	ack := g.take() // is on its way
	if !c.session.RejectIndex(epoch, &c.out) {
		t.Fatal("nothing to refuse")
	}
	for _, p := range ack {
		c.handle(epoch, p.Data, gatewayAt)
	}
	converse(epoch, c, g)
	if c.session.keys.current.index != index || g.only().keys.current.index != index || c.session.rekey.initiator != nil {
		t.Errorf("the client is on %#x, the gateway on %#x, want %#x", c.session.keys.current.index, g.only().keys.current.index, index)
	}
	checkExchange(t, epoch, c, g)
}

// TestForgottenParent lets a gateway prove a child and forget the parent while
// every packet to the client is lost. The client checks the session and keeps it, also if it has
// refused the child's index meanwhile.
//
// Shows R7.23.
func TestForgottenParent(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		c, g := established(t)
		parent := c.session.keys.current
		c.session.Rekey(epoch, &c.out)
		up(epoch, c, g)
		down(epoch, c, g)
		up(epoch, c, g) // Ready
		g.take()        // its Ack is lost
		now := epoch.Add(2 * DefaultDemotedTTL)
		for c.next().Before(now) {
			c.tick(c.next()) // and so are its repetitions
		}
		g.tick(now)
		if g.sessions.Find(parent.index) != nil {
			t.Fatal("the gateway still has the parent")
		}
		if refuse {
			c.session.RejectIndex(now, &c.out)
		}
		c.take()
		c.kinds()
		c.session.CheckLiveness(now, &c.out)
		converse(now, c, g)
		for at := now; at.Before(now.Add(time.Second)); at = at.Add(50 * time.Millisecond) {
			c.tick(at)
			converse(at, c, g)
		}
		if got := fmt.Sprint(c.kinds()); got != fmt.Sprint([]EventKind{Rekeyed}) {
			t.Errorf("refused %t: events %v, want that the child was proved", refuse, got)
		}
		checkExchange(t, now, c, g)
	}
}

// TestBadSubsessionMessages seals what only a broken peer would: KK1 and KK2 that
// fail, of other generations, and a second one.
//
// Shows R5.27, R7.8, R7.20.
func TestBadSubsessionMessages(t *testing.T) {
	c, g := established(t)
	s := g.only()
	give := func(from *Session, kind wire.Type, m []byte, to func(now time.Time, packet []byte, from path.Path)) {
		var out Output
		from.sendParts(kind, m, &out)
		at := clientAt
		if from == s {
			at = gatewayAt
		}
		for _, p := range out.Packets {
			to(epoch, p.Data, at)
		}
	}
	c.session.Rekey(epoch, &c.out)
	good := joinedMessage(t, s, c.take(), wire.TypeSubsessionKK1)
	junk := func(generation byte, m []byte) []byte {
		b := bytes.Clone(m)
		b[0] = generation
		b[len(b)-1] ^= 1
		return b
	}
	otherGeneration := bytes.Clone(good)
	otherGeneration[0] = 2
	before := shootSession(s)
	for name, m := range map[string][]byte{
		"that does not open":     junk(1, good),
		"of generation 2":        otherGeneration,
		"of generation 0":        junk(0, good),
		"that is too short":      good[:len(good)-1],
		"with another key":       append(append([]byte{1, 0, 0, 0}, bytes.Repeat([]byte{9}, 32)...), good[36:]...),
		"with an e of low order": append(append([]byte{1, 0, 0, 0}, make([]byte, 32)...), good[36:]...),
	} {
		give(c.session, wire.TypeSubsessionKK1, m, g.handle)
		after := shootSession(s)
		before.current.window, before.quiet = after.current.window, after.quiet
		before.route.newest, before.route.any = after.route.newest, after.route.any
		if after != before || len(g.take()) != 0 {
			t.Errorf("a KK1 %s has an effect: %s", name, difference(before, after))
		}
	}
	give(c.session, wire.TypeSubsessionKK1, good, g.handle)
	kk2 := joinedMessage(t, c.session, g.take(), wire.TypeSubsessionKK2)
	// Another KK1, good by itself.
	kk := noise.NewKKInitiator(subsessionPrologueFor(1, &c.session.keys.current.binding), c.session.config.Static,
		noise.KeyPairFrom(kdf.Hash([]byte("another"))), c.session.peerStatic, &c.session.rekey.initiator.psk)
	m, err := kk.WriteMessage1(c.session.rekey.initiator.keys.Public())
	if err != nil {
		t.Fatal(err)
	}
	reply := shootSession(s).reply
	give(c.session, wire.TypeSubsessionKK1, append([]byte{1, 0, 0, 0}, m...), g.handle)
	if got := len(g.take()); got != 0 || shootSession(s).reply != reply {
		t.Errorf("a second KK1 of the generation has an effect: %d answers", got)
	}
	offer := shootSession(c.session).offer
	for name, m := range map[string][]byte{
		"that does not open": junk(1, kk2),
		"of generation 2":    append([]byte{2}, kk2[1:]...),
		"of index 0":         append([]byte{1, 0, 0, 0, 0, 0, 0, 0}, kk2[8:]...),
		"that is too long":   append(bytes.Clone(kk2), 0),
	} {
		give(s, wire.TypeSubsessionKK2, m, c.handle)
		if after := shootSession(c.session).offer; after != offer || len(c.take()) != 0 {
			t.Errorf("a KK2 %s has an effect: %s", name, difference(offer, after))
		}
	}
	give(s, wire.TypeSubsessionKK2, kk2, c.handle)
	converse(epoch, c, g)
	if c.session.keys.current.number != 1 || s.keys.current.number != 1 {
		t.Errorf("after bad ones the good ones fail: %v, %v", c.drops, g.drops)
	}
	checkExchange(t, epoch, c, g)
}

// Shows R7.3.
func TestRekeyByTime(t *testing.T) {
	w := newWorld(t, 1, steady(1), steady(1))
	w.established()
	if terms := w.client.session.Terms(); terms.IdleTTL != 24*time.Hour || terms.RekeyAfter != 15*time.Minute {
		t.Fatalf("terms %+v", terms)
	}
	began := w.client.session.keys.current.since
	w.run(15*time.Minute-w.now.Sub(began)-time.Millisecond, nil)
	if w.client.session.rekey.initiator != nil || w.session().keys.current.number != 0 {
		t.Error("a subsession was started early")
	}
	w.run(time.Second, nil)
	if w.session().keys.current.number != 1 {
		t.Error("no subsession after rekey_after_s")
	}
}

// Shows R6.2, R6.3.
func TestPacketLimits(t *testing.T) {
	if DefaultRekeyPackets != 1<<28 || MaxPackets != 1<<34 {
		t.Fatalf("limits are %d and %d", DefaultRekeyPackets, MaxPackets)
	}
	wear := map[string]func(g *KeySet, n uint64){
		"sealed":         func(g *KeySet, n uint64) { g.sender.next.Store(n) },
		"failed to open": func(g *KeySet, n uint64) { g.failed = n },
	}
	for name, wear := range wear {
		// The client starts a subsession.
		c, g := established(t)
		wear(c.session.keys.current, DefaultRekeyPackets-1)
		c.tick(epoch)
		if c.session.rekey.initiator != nil {
			t.Errorf("client, %s: new keys one packet early", name)
		}
		wear(c.session.keys.current, DefaultRekeyPackets)
		sendData(t, g.only(), &g.out, "any packet")
		converse(epoch, c, g)
		c.tick(c.next())
		converse(epoch, c, g)
		if g.only().keys.current.number != 1 {
			t.Errorf("client, %s: no new keys after 2^28 packets", name)
		}
		// The gateway asks for one.
		c, g = established(t)
		wear(g.only().keys.current, DefaultRekeyPackets)
		sendData(t, c.session, &c.out, "any packet")
		converse(epoch, c, g)
		g.tick(epoch)
		converse(epoch, c, g)
		if g.only().keys.current.number != 1 {
			t.Errorf("gateway, %s: no new keys after 2^28 packets", name)
		}
		// At 2^34 either end closes the session.
		c, g = established(t)
		wear(g.only().keys.current, MaxPackets)
		sendData(t, c.session, &c.out, "any packet")
		up(epoch, c, g)
		g.tick(epoch)
		if g.sessions.Len() != 0 || len(g.closed) != 1 || g.closed[0] != ErrPacketLimit {
			t.Errorf("gateway, %s: %d sessions after 2^34 packets, %v", name, g.sessions.Len(), g.closed)
		}
		c, _ = established(t)
		wear(c.session.keys.current, MaxPackets)
		c.tick(epoch)
		if c.session.Phase() != Ended {
			t.Errorf("client, %s: the session is %v after 2^34 packets", name, c.session.Phase())
		}
	}
	// And nothing is sealed beyond.
	c, _ := established(t)
	s := c.session.Sender()
	s.next.Store(MaxPackets - 1)
	p := wire.Finish(wire.Begin(nil, 0, wire.LevelTransport, 0, wire.TypePing))
	if err := s.Seal(p); err != nil {
		t.Errorf("the last packet: %v", err)
	}
	for range 3 {
		before := bytes.Clone(p)
		if err := s.Seal(p); err != ErrExhausted || !bytes.Equal(p, before) {
			t.Errorf("one packet more: %v", err)
		}
	}
}
