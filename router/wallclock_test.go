package router

import (
	"testing"
	"time"

	"go.uber.org/zap"
	"pgregory.net/rapid"

	"lewes/crypto/kem"
	"lewes/crypto/seal"
	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
)

// clocked is a rig with a settable system clock, which is read every second as in a gateway.
type clocked struct {
	*rig
	offset time.Duration // of the system's clock
}

func newClocked(t *testing.T) *clocked {
	c := &clocked{rig: newRig(t, nil)}
	c.whole.wall.looked = epoch
	return c
}

func (c *clocked) pass(d time.Duration) {
	for range d / clockInterval {
		c.advance(clockInterval)
		c.whole.wall.look(c.now(), c.now().Add(c.offset), zap.NewNop())
	}
}

// answer returns the type of the answer to a hello with a given timestamp.
func (c *clocked) answer(stamp time.Time, index uint32) wire.Type {
	c.t.Helper()
	got := c.sendHello(newTestHello(stamp, index))
	return got[len(got)-1]
}

// capture establishes a session for a client with a given clock, and returns the client's
// packets of the handshake.
func (c *clocked) capture(now time.Time, from path.Path) (packets [][]byte) {
	c.t.Helper()
	var out state.Output
	client, err := state.NewClient(now, state.ClientConfig{
		Gateway: gatewayID.Public(), Identity: testIdentity(9), KEM: kem.MLKEM768,
		Suites: seal.Offer(), Rand: seeded(9), Path: clientAt,
	}, &out)
	if err != nil {
		c.t.Fatal(err)
	}
	for client.Session() == nil {
		sent := append([]state.Packet(nil), out.Packets...)
		out.Reset()
		if len(sent) == 0 {
			c.t.Fatal("the handshake stands still")
		}
		for _, p := range sent {
			packets = append(packets, p.Data)
			for _, a := range c.receive(p.Data, from) {
				_ = client.Handle(now, a.Data, &out)
			}
		}
	}
	return packets
}

// TestClockStepEndsNoSession steps the system's clock forwards and backwards.
//
// Shows R4.33.
func TestClockStepEndsNoSession(t *testing.T) {
	for _, by := range []time.Duration{time.Hour, -time.Hour, 100 * 365 * 24 * time.Hour, -25 * 365 * 24 * time.Hour} {
		c := newClocked(t)
		p := c.connect(2, clientAt)
		p.data(1, target, "before")
		c.egress.at(target).take()
		c.offset = by
		for n := range 30 { // longer than it takes to be believed
			c.pass(5 * time.Second)
			p.data(1, target, "during")
			if got := len(c.egress.at(target).take()); got != 1 {
				t.Fatalf("by %v: %d datagrams passed after %d s", by, got, 5*(n+1))
			}
		}
		if s := c.shard.Stats(); s.Sessions != 1 || s.Flows != 1 {
			t.Errorf("by %v: %d sessions, %d flows", by, s.Sessions, s.Flows)
		}
		if n := c.whole.wall.jumps.Load(); n != 1 {
			t.Errorf("by %v: %d jumps were counted", by, n)
		}
	}
}

// TestClockStepAllowsNoReplay replays a recorded handshake after the system's clock was set back
// to the time of the recording.
//
// Shows R4.33.
func TestClockStepAllowsNoReplay(t *testing.T) {
	c := newClocked(t)
	kept := c.capture(c.now(), secondAt)
	c.pass(2 * time.Minute)
	established := c.shard.Stats().Handshakes
	c.offset = -2 * time.Minute
	for range 600 {
		for _, p := range kept {
			c.receive(p, secondAt)
		}
		c.pass(time.Second)
	}
	s := c.shard.Stats()
	if n := s.Handshakes.Rejects[wire.RejectClock]; n < 600 {
		t.Errorf("%d hellos were rejected for their time, want all", n)
	}
	if s.Records != 0 || s.Handshakes.Opened != established.Opened || s.Handshakes.Established != established.Established {
		t.Errorf("%d records; %+v, before %+v", s.Records, s.Handshakes, established)
	}
	if got := c.answer(c.now().Add(c.offset), 100); got != wire.TypeAck {
		t.Errorf("after ten minutes a client with the system's time gets %v", got)
	}
}

// TestCorrectionFollowsSystemClock checks that the correction ignores a step that is undone, and
// follows one that stays.
//
// Shows R4.33.
func TestCorrectionFollowsSystemClock(t *testing.T) {
	c := newClocked(t)
	c.offset = 50 * 365 * 24 * time.Hour
	c.pass(30 * time.Second)
	c.offset = 0
	c.pass(30 * time.Second)
	if got := c.answer(c.now(), 100); got != wire.TypeAck {
		t.Errorf("after a jump there and back a client gets %v", got)
	}
	c.offset = 20 * 365 * 24 * time.Hour // the machine did not know the time when it started
	right := func() time.Time { return c.now().Add(c.offset) }
	c.pass(time.Second)
	if got := c.answer(right(), 101); got != wire.TypeReject {
		t.Errorf("at once a client with the right time gets %v", got)
	}
	c.pass(clockSettle)
	if got := c.answer(right(), 102); got != wire.TypeAck {
		t.Errorf("once it has settled a client with the right time gets %v", got)
	}
	c.capture(right(), secondAt) // a whole handshake, which names the time twice
	packets := c.receive(hello(t, 1, c.now()), clientAt)
	if len(packets) != 1 {
		t.Fatalf("%d answers", len(packets))
	}
	_, content, err := wire.ParseBody(wire.Body(packets[0].Data))
	if err != nil {
		t.Fatal(err)
	}
	if r, err := wire.ParseReject(content); err != nil || r.GatewaySeconds != uint64(right().Unix()) {
		t.Errorf("it says that its time is %d, want %d (%v)", r.GatewaySeconds, right().Unix(), err)
	}
	c.offset -= 10 * time.Minute
	c.pass(clockSettle + 15*time.Minute)
	if got := c.answer(right().Add(30*time.Second), 103); got != wire.TypeReject {
		t.Errorf("three quarters of the way back a client 30 s ahead gets %v", got)
	}
	c.pass(5 * time.Minute)
	if got := c.answer(right().Add(-20*time.Second), 104); got != wire.TypeAck {
		t.Errorf("all the way back a client gets %v", got)
	}
}

// TestCorrectedTimeNeverRepeats checks that the corrected time only advances, in a successor
// too, and converges to a stable system clock.
func TestCorrectedTimeNeverRepeats(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &wallClock{looked: epoch}
		now, offset := epoch, time.Duration(0)
		last := w.corrected(now)
		for range rapid.IntRange(1, 20).Draw(t, "jumps") {
			offset = time.Duration(rapid.IntRange(-400, 400).Draw(t, "offset")) * time.Second
			for range rapid.IntRange(1, 200).Draw(t, "seconds") {
				now = now.Add(time.Second)
				w.look(now, now.Add(offset), zap.NewNop())
				if at := w.corrected(now); at.Before(last.Add(time.Second / 2)) {
					t.Fatalf("%v after %v", at.Sub(epoch), last.Sub(epoch))
				} else {
					last = at
				}
			}
			if rapid.Bool().Draw(t, "a successor") { // its clock starts at the system's time
				lead := w.lead(now, now.Add(offset))
				now, offset = now.Add(offset), 0
				w = &wallClock{looked: now}
				w.correction.Store(int64(lead))
				if at := w.corrected(now); at.Before(last) {
					t.Fatalf("a successor goes back from %v to %v", last.Sub(epoch), at.Sub(epoch))
				}
			}
		}
		for range 60 + 2*400*21 { // each jump, and its like before a successor, may have been backwards
			now = now.Add(time.Second)
			w.look(now, now.Add(offset), zap.NewNop())
		}
		if off := w.corrected(now).Sub(now.Add(offset)); off.Abs() > clockJump {
			t.Fatalf("it stays %v off", off)
		}
	})
}
