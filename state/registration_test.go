package state

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"lewes/state/parts"
	"lewes/state/snapshot"
	"lewes/state/wire"
)

// registrationPair is a session of a gateway that answers Register. took are the requests of new Registers.
type registrationPair struct {
	*testing.T
	c    *clientEnd
	g    *gatewayEnd
	now  time.Time
	took []*RegisterRequest
	lost bool // packets to the client
}

func newRegistrationPair(t *testing.T) *registrationPair {
	config := gatewayConfig(t, 1)
	config.Session.Terms.Flags = wire.AckRegisters
	p := &registrationPair{T: t, g: newGatewayEnd(t, config), c: newClientEnd(t, epoch, clientConfig(2)), now: epoch}
	p.g.registers = func(_ *Session, r *RegisterRequest) { p.took = append(p.took, r) }
	converse(p.now, p.c, p.g)
	if !p.c.session.Confirmed() {
		t.Fatalf("no session: %v %v", p.c.drops, p.g.drops)
	}
	return p
}

// carry carries packets until neither end has any.
func (p *registrationPair) carry() {
	for {
		up, down := p.c.take(), p.g.take()
		if len(up)+len(down) == 0 {
			return
		}
		for _, packet := range up {
			p.g.handle(p.now, packet.Data, clientAt)
		}
		for _, packet := range down {
			if !p.lost {
				p.c.handle(p.now, packet.Data, gatewayAt)
			}
		}
	}
}

// send sends a Register that the test has made.
func (p *registrationPair) send(m *wire.Register) {
	p.c.session.sendParts(wire.TypeRegister, m.Append(nil), &p.c.out)
	p.carry()
}

// finish answers a request.
func (p *registrationPair) finish(id uint32, code wire.RegisterCode) {
	p.g.only().FinishRegister(id, (&wire.RegisterResult{Code: code, Remaining: uint64(id)}).AppendCBOR(nil), &p.g.out)
	p.carry()
}

// results are the results that arrived at the client since the last call, of any request.
func (p *registrationPair) results() (got []string) {
	for _, e := range p.c.events {
		if e.Kind == Registered {
			got = append(got, fmt.Sprintf("%d %v", e.Result.RequestID, e.Result.Code))
		}
	}
	p.c.events = nil
	return got
}

func (p *registrationPair) want(want ...string) {
	p.Helper()
	if got := p.results(); !reflect.DeepEqual(got, want) {
		p.Errorf("results %q, want %q", got, want)
	}
}

var relay = wire.Register{Mode: wire.ModeRelay, Timestamp: 1_800_000_000}

// TestRegisterOverLoss repeats a Register until its result arrives, and acts on it once.
//
// Shows R9.3, R9.11, R9.12.
func TestRegisterOverLoss(t *testing.T) {
	p := newRegistrationPair(t)
	id, err := p.c.session.Register(p.now, &relay, &p.c.out)
	if err != nil || id != 1 {
		t.Fatal(id, err)
	}
	p.carry()
	p.c.tick(p.now.Add(registerRetry - 1))
	if got := p.c.take(); len(got) != 0 {
		t.Fatalf("repeated early: %d packets", len(got))
	}
	var waits []time.Duration
	for range 6 { // under way: nothing answers, and nothing is done twice
		at := p.c.session.registration.next
		waits = append(waits, at.Sub(p.now))
		p.now = at
		p.c.tick(p.now)
		p.carry()
	}
	if fmt.Sprint(waits) != "[500ms 1s 2s 4s 8s 8s]" || len(p.took) != 1 {
		t.Fatalf("repeats after %v, %d requests", waits, len(p.took))
	}
	p.lost = true
	p.finish(1, wire.CodeOK)
	p.lost = false
	p.want()
	p.now = p.c.session.registration.next
	p.c.tick(p.now)
	p.carry()
	p.want("1 ok")
	if !p.c.session.registration.next.IsZero() || len(p.took) != 1 {
		t.Errorf("repeats go on, or %d requests", len(p.took))
	}
	p.g.only().FinishRegister(1, []byte{0xA0}, &p.g.out) // again: it is finished
	if len(p.g.take()) != 0 {
		t.Error("finished twice")
	}
}

// TestReusedRequestIDs sends Registers with ids that a client does not use.
//
// Shows R9.3, R9.11.
func TestReusedRequestIDs(t *testing.T) {
	p := newRegistrationPair(t)
	other := relay
	p.c.session.registration = newRegistration()
	for _, m := range []*wire.Register{&relay, &other} {
		m.RequestID = 7
	}
	other.Timestamp++
	expect := func(id uint32, want ...string) { // as if the client waited for id
		t.Helper()
		for i := range want {
			want[i] = fmt.Sprintf("%d %s", id, want[i])
		}
		p.want(want...)
	}
	wait := func(id uint32) { p.c.session.registration.id, p.c.session.registration.message = id, []byte{0} }

	wait(7)
	p.send(&relay)
	expect(7)
	wait(7)
	p.send(&other) // other bytes, while the first is under way
	expect(7, "bad request")
	wait(7)
	p.finish(7, wire.CodeOK)
	expect(7, "ok")
	wait(7)
	p.send(&other)
	expect(7, "bad request")
	wait(7)
	p.send(&relay)
	expect(7, "ok")
	other.RequestID = 6
	wait(6)
	p.send(&other)
	expect(6, "bad request")
	if len(p.took) != 1 {
		t.Errorf("%d requests", len(p.took))
	}
	// One more beside another: busy, and busy it stays.
	third, fourth := other, other
	third.RequestID, fourth.RequestID = 8, 9
	p.send(&third)
	wait(9)
	p.send(&fourth)
	expect(9, "busy")
	p.finish(8, wire.CodeOK)
	wait(9)
	p.send(&fourth)
	expect(9, "busy")
	if len(p.took) != 2 {
		t.Errorf("%d requests", len(p.took))
	}
}

// TestLastResultsAreKept answers repeats of the last 16 Registers, through a rekey and a handover.
//
// Shows R7.22, R9.12.
func TestLastResultsAreKept(t *testing.T) {
	p := newRegistrationPair(t)
	register := func(id uint32) []string {
		m := relay
		m.RequestID = id
		p.c.session.registration = &registration{parts: parts.Assembler{Limit: parts.MaxRegister}, id: id, message: []byte{0}}
		p.send(&m)
		if n := len(p.took); n > 0 && p.took[n-1].ID == id {
			p.finish(id, wire.CodeTicketNeeded)
		}
		return p.results()
	}
	for id := uint32(1); id <= 20; id++ {
		register(id)
	}
	m := relay
	m.RequestID = 21
	p.send(&m) // under way: the successor takes its repeat for new
	taken := len(p.took)
	p.c.session.Rekey(p.now, &p.c.out)
	p.carry()
	p.g = successor(t, p.now, p.now, p.g)
	for id := uint32(1); id <= 20; id++ {
		want := fmt.Sprintf("%d ticket needed", id)
		if id <= 4 {
			want = fmt.Sprintf("%d bad request", id)
		}
		if got := register(id); fmt.Sprint(got) != "["+want+"]" {
			t.Errorf("after the handover %v, want %s", got, want)
		}
	}
	if len(p.took) != taken {
		t.Errorf("%d requests, want %d", len(p.took), taken)
	}
	if got := register(21); len(p.took) != taken+1 || fmt.Sprint(got) != "[21 ticket needed]" {
		t.Errorf("the repeat of a Register that was under way: %v, %d requests", got, len(p.took)-taken)
	}
}

// TestSessionOfVersion1 reads a session as a program without registration wrote it.
func TestSessionOfVersion1(t *testing.T) {
	p := newRegistrationPair(t)
	s := p.g.only()
	s.Freeze()
	w := snapshot.NewWriter(nil, p.now)
	w.Uint8(1)
	s.snapshot(snapshot.Encode(w), 1)
	r := snapshot.NewReader(w.Bytes(), p.now)
	read, err := ReadSession(r, p.g.responders.config.session())
	if err != nil || r.End() != nil || read.registration != nil {
		t.Errorf("%+v, %v, %v", read, err, r.End())
	}
}

// TestRegisterUnderWayIsNeverDropped fills the kept results beside a Register that takes long.
//
// Shows R9.12.
func TestRegisterUnderWayIsNeverDropped(t *testing.T) {
	p := newRegistrationPair(t)
	for id := uint32(1); id <= 40; id++ {
		m := relay
		m.RequestID = id
		p.send(&m)
		if got := len(p.g.only().registration.kept); got > maxRegisters {
			t.Fatalf("%d results", got)
		}
	}
	if len(p.took) != 1 || p.took[0].ID != 1 {
		t.Fatalf("%d requests", len(p.took))
	}
	p.c.session.registration = &registration{parts: parts.Assembler{Limit: parts.MaxRegister}, id: 1, message: []byte{0}}
	p.finish(1, wire.CodeOK)
	p.want("1 ok")
}

// TestUnaskedResults sends one before the client has registered, and one while a Register waits.
//
// Shows R9.4, R9.13.
func TestUnaskedResults(t *testing.T) {
	p := newRegistrationPair(t)
	unasked := (&wire.RegisterResult{Code: wire.CodeBandwidthUsedUp}).AppendCBOR(nil)
	p.g.only().SendUnasked(unasked, &p.g.out)
	p.carry()
	p.want("0 bandwidth used up")
	p.c.session.Register(p.now, &relay, &p.c.out)
	p.g.only().SendUnasked(unasked, &p.g.out)
	p.carry()
	p.want("0 bandwidth used up")
	p.finish(1, wire.CodeOK)
	p.want("1 ok")
	p.g.only().sendResult(1, unasked, &p.g.out) // of no Register that waits
	p.carry()
	p.want()
	if p.c.drops[ErrStale.Error()] != 1 {
		t.Errorf("drops %v", p.c.drops)
	}
}

// TestRegisterInParts sends the longest Register and the longest result.
//
// Shows R1.13, R9.1.
func TestRegisterInParts(t *testing.T) {
	p := newRegistrationPair(t)
	long := relay
	long.TicketType, long.Credential = wire.TicketUnknown, bytes.Repeat([]byte{1}, wire.MaxCredential)
	if _, err := p.c.session.Register(p.now, &long, &p.c.out); err != nil {
		t.Fatal(err)
	}
	if got := len(p.c.out.Packets); got != wire.MaxParts {
		t.Errorf("%d parts", got)
	}
	p.carry()
	if len(p.took) != 1 {
		t.Fatalf("%d requests; drops %v", len(p.took), p.g.drops)
	}
	if m, err := wire.ParseRegister(p.took[0].Message); err != nil || len(m.Credential) != wire.MaxCredential {
		t.Errorf("%d bytes, %v", len(m.Credential), err)
	}
	result := wire.RegisterResult{Code: wire.CodeTicketNeeded, Error: bytes.Repeat([]byte("e"), wire.MaxDetail),
		Peer: &wire.WireGuardPeer{Endpoint: "host.example:51820"}}
	for range wire.MaxTickets {
		result.Tickets = append(result.Tickets, wire.TicketOffer{Type: wire.TicketBlindRSA2048,
			Issuer: strings.Repeat("abcdefgh.", 28) + "ab", Bytes: 1 << 62, Seconds: 1 << 62})
	}
	p.g.only().FinishRegister(1, result.AppendCBOR(nil), &p.g.out)
	p.carry()
	p.want("1 ticket needed")
	long.WGPublicKey, long.WGProof, long.ClientID = make([]byte, 32), make([]byte, 16), make([]byte, 32)
	if _, err := p.c.session.Register(p.now, &long, &p.c.out); err != ErrRegisterLong {
		t.Errorf("too long: %v", err)
	}
}

// TestMalformedRegister answers one without a request to the caller.
//
// Shows R9.2.
func TestMalformedRegister(t *testing.T) {
	p := newRegistrationPair(t)
	p.c.session.registration = &registration{parts: parts.Assembler{Limit: parts.MaxRegister}, id: 1, message: []byte{0}}
	p.c.session.sendParts(wire.TypeRegister, []byte{1, 0, 0, 0, 0xA0}, &p.c.out)
	p.carry()
	p.want("1 bad request")
	for _, ignored := range [][]byte{{0, 0, 0, 0, 0xA0}, {1, 0, 0}} {
		p.c.session.sendParts(wire.TypeRegister, ignored, &p.c.out)
		p.carry()
	}
	p.want()
	if len(p.took) != 0 || p.g.drops[wire.ErrRegisterField.Error()] != 1 || p.g.drops[wire.ErrRequestID.Error()] != 1 || p.g.drops[wire.ErrShort.Error()] != 1 {
		t.Errorf("%d requests; drops %v", len(p.took), p.g.drops)
	}
}

// TestNoRegisterWithoutFlag registers in a session whose gateway does not answer.
//
// Shows R9.10.
func TestNoRegisterWithoutFlag(t *testing.T) {
	c, _ := established(t)
	if _, err := c.session.Register(epoch, &relay, &c.out); err != ErrNoRegistration || len(c.take()) != 0 {
		t.Errorf("%v", err)
	}
}

// TestRegisterEnds cancels a Register and closes a session with one.
func TestRegisterEnds(t *testing.T) {
	p := newRegistrationPair(t)
	p.c.session.Register(p.now, &relay, &p.c.out)
	p.carry()
	p.c.session.CancelRegister()
	p.finish(1, wire.CodeOK)
	p.want()
	p.c.session.Register(p.now, &relay, &p.c.out)
	p.carry()
	p.g.only().Close(wire.CloseDone, "", &p.g.out)
	s := p.c.session
	p.carry()
	if s.Phase() != Ended || !s.Deadline().IsZero() {
		t.Errorf("phase %v, deadline %v", s.Phase(), s.Deadline())
	}
	if _, err := s.Register(p.now, &relay, &p.c.out); err != ErrClosed {
		t.Error(err)
	}
}

// TestRegisterSimulation registers again and again over a network that loses, repeats, reorders and damages
// packets, with rekeys and handovers in between. A Register is carried out once, again only after a handover
// while it was under way, and its result arrives.
//
// Shows R9.3, R9.11, R9.12.
func TestRegisterSimulation(t *testing.T) {
	eachSeed(t, runs(40, 10), func(t *testing.T, seed uint64) {
		network := faults{loss: 0.2, duplicate: 0.2, corrupt: 0.02, delay: 20 * time.Millisecond, jitter: 300 * time.Millisecond}
		w := newWorld(t, seed, network, network, func(g *GatewayConfig, _ *ClientConfig) { g.Session.Terms.Flags = wire.AckRegisters })
		done, underWay := map[uint32]int{}, map[uint32]bool{}
		w.gateway.registers = func(s *Session, r *RegisterRequest) {
			done[r.ID]++
			underWay[r.ID] = true
			w.after(time.Duration(w.rng.IntN(1500))*time.Millisecond, func() {
				delete(underWay, r.ID)
				// That of a session which a successor has continued sends nothing.
				s.FinishRegister(r.ID, (&wire.RegisterResult{Remaining: uint64(r.ID)}).AppendCBOR(nil), &w.gateway.out)
			})
		}
		w.established()
		again := map[uint32]bool{} // ids under way at a handover
		for n := range 25 {
			switch w.rng.IntN(4) {
			case 0:
				w.client.session.Rekey(w.now, &w.client.out)
			case 1:
				w.after(time.Duration(w.rng.IntN(1000))*time.Millisecond, func() {
					for id := range underWay {
						again[id] = true
					}
					w.handOver()
				})
			}
			w.client.events = nil
			id, err := w.client.session.Register(w.now, &relay, &w.client.out)
			if err != nil {
				t.Fatal(err)
			}
			var result *wire.RegisterResult
			answered := func() bool {
				for _, e := range w.client.events {
					if e.Kind == Registered {
						result = e.Result
					}
				}
				return result != nil
			}
			if w.rng.IntN(5) == 0 { // gives up soon, perhaps
				w.run(time.Duration(w.rng.IntN(2000))*time.Millisecond, answered)
				w.client.session.CancelRegister()
				continue
			}
			if !w.run(5*time.Minute, answered) {
				t.Fatalf("seed %d: Register %d has no result; gateway %v, client %v", seed, id, w.gateway.drops, w.client.drops)
			}
			busy := result.Code == wire.CodeBusy && n > 0
			if result.RequestID != id || !busy && (!result.OK() || result.Remaining != uint64(id) || done[id] == 0) || busy && done[id] > 0 {
				t.Fatalf("seed %d: Register %d has the result %+v", seed, id, result)
			}
		}
		for id, times := range done {
			if times > 1 && !again[id] {
				t.Errorf("seed %d: Register %d was carried out %d times", seed, id, times)
			}
		}
	})
}
