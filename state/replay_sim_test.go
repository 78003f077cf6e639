package state

import (
	"testing"
	"time"

	"lewes/state/path"
)

// captured is every packet that two ends sent, in order.
type captured []sighting

// conversation runs a whole session through a network that loses nothing (what
// it lost would not be a replay later): handshake, data, Pings, a subsession, a
// move of the client. It returns all that an onlooker saw.
func conversation(w *world) (seen captured) {
	w.onlooker = func(s sighting) {
		s.packet = append([]byte(nil), s.packet...)
		seen = append(seen, s)
	}
	defer func() { w.onlooker = nil }()
	w.reached = func(path.Path) bool { return true } // the client keeps its old address for a while
	w.established()
	talk := func() {
		stop := w.traffic(5 * time.Millisecond)
		w.run(300*time.Millisecond, nil)
		stop()
		w.client.session.Ping(w.now, 64, &w.client.out)
		w.session().Ping(w.now, 64, &w.gateway.out)
		w.run(300*time.Millisecond, nil)
	}
	talk()
	w.client.session.Rekey(w.now, &w.client.out)
	talk()
	w.at = addr("192.0.2.77:7777")
	talk()
	w.checkSameKeys()
	w.checkTraffic()
	return seen
}

// reordering is a network that loses nothing.
var reordering = faults{duplicate: 0.1, delay: 10 * time.Millisecond, jitter: 30 * time.Millisecond}

// replay sends everything again, to both ends: as it was, from another address,
// and back to where it came from.
func (w *world) replay(seen captured) {
	for _, s := range seen {
		w.inject(s)
		back := s
		back.toClient, back.from, back.to = !s.toClient, s.to, s.from
		w.inject(back)
		if !s.toClient {
			s.from = addr("203.0.113.99:9999")
			w.inject(s)
		}
	}
	w.run(time.Millisecond, nil)
}

// TestReplaysChangeNothing sends every packet of a run again, to both ends, at
// times when handshake records still answer repetitions, when they are gone, and
// when the first generation is gone too.
//
// Shows R5.22, R5.33, R6.4, R6.7.
func TestReplaysChangeNothing(t *testing.T) {
	eachSeed(t, runs(8, 2), func(t *testing.T, seed uint64) {
		w := newWorld(t, seed, reordering, reordering, variety(seed))
		seen := conversation(w)
		for _, at := range []struct {
			name string
			time.Duration
		}{
			{"while the record lingers", 5 * time.Second},
			{"when the record is gone", 20 * time.Second},
			{"when the clock refuses the hello", 40 * time.Second},
			{"when the parent is gone", 80 * time.Second},
		} {
			w.run(epoch.Add(at.Duration).Sub(w.now), nil)
			data := len(w.client.data) + len(w.gateway.data)
			before := shoot(w.client, w.gateway)
			w.replay(seen)
			after := shoot(w.client, w.gateway)
			if len(w.client.data)+len(w.gateway.data) != data {
				t.Errorf("seed %d, %s: a replay brought data", seed, at.name)
			}
			if after.gateway.established != 1 || w.gateway.sessions.Len() != 1 {
				t.Errorf("seed %d, %s: a replay made a session", seed, at.name)
			}
			// The final Ack is sealed anew for a copy of Handshake 3, and what the
			// record has sent is counted.
			for _, g := range []*gatewayShot{&before.gateway, &after.gateway} {
				if g.records == 1 {
					g.session.current.sealed, g.record.out = 0, 0
				}
			}
			if before != after {
				t.Errorf("seed %d, %s: a replay changed %s", seed, at.name, difference(before, after))
			}
		}
		stop := w.traffic(5 * time.Millisecond)
		w.run(time.Second, nil)
		stop()
		w.run(time.Second, nil)
		w.checkTraffic()
	})
}

// TestReplayToAnotherProcess sends a whole session's packets to a gateway that
// knows nothing of it, with the same identity and KEM keys: one that was started
// anew. It answers, with another nonce in its Ack, and no session stands.
//
// Shows R4.14, R5.10, R5.25.
func TestReplayToAnotherProcess(t *testing.T) {
	first := newWorld(t, 1, reordering, reordering)
	seen := conversation(first)
	g := newWorld(t, 2, reordering, reordering).gateway
	for range 2 {
		for _, s := range seen {
			g.handle(epoch, s.packet, s.from)
		}
	}
	if g.responders.Stats.Opened == 0 {
		t.Fatalf("the copies of Handshake 1 did not open; drops %v", g.drops)
	}
	if g.sessions.Len() != 0 || len(g.data) != 0 || g.responders.Stats.Established != 0 {
		t.Errorf("%d sessions, %d datagrams after a replay", g.sessions.Len(), len(g.data))
	}
}

// TestReplayAfterClose sends a session's packets again once it is closed and its
// index free: the hello is younger than the tolerance, so a record is made, and
// nothing more.
//
// Shows R5.10, R5.25.
func TestReplayAfterClose(t *testing.T) {
	w := newWorld(t, 3, reordering, reordering)
	seen := conversation(w)
	w.session().Close(0, "", &w.gateway.out)
	w.run(12*time.Second, nil)
	if w.gateway.sessions.Len() != 0 || w.gateway.responders.Len() != 0 {
		t.Fatalf("%d sessions and %d records are left", w.gateway.sessions.Len(), w.gateway.responders.Len())
	}
	data := len(w.gateway.data) + len(w.client.data)
	w.replay(seen)
	if w.gateway.responders.Stats.Established != 1 || w.gateway.sessions.Len() != 0 || len(w.gateway.data)+len(w.client.data) != data {
		t.Error("a replay after the end made a session or brought data")
	}
}
