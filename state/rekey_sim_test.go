package state

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// rekeys is how a session comes to new keys in a test.
type rekeys struct {
	name string
	tune func(*GatewayConfig, *ClientConfig)
	ask  time.Duration // the gateway asks this often; 0: never
	// refuse is how often the index of a child is taken on its way to the
	// gateway, in percent.
	refuse int
	// handOver is how often another process takes the gateway's place; 0: never.
	handOver time.Duration
}

// traffic sends numbered datagrams both ways, one on average each gap, until stop
// is called.
func (w *world) traffic(gap time.Duration) (stop func()) {
	stopped := false
	var tick func()
	tick = func() {
		if stopped {
			return
		}
		w.numbered++
		if w.rng.IntN(2) == 0 {
			w.sendData(false, fmt.Sprint("up ", w.numbered))
		} else {
			w.sendData(true, fmt.Sprint("down ", w.numbered))
		}
		w.after(time.Duration(w.rng.Int64N(int64(2*gap))), tick)
	}
	tick()
	return func() { stopped = true }
}

// checkTraffic shows that all data arrived that the network did not lose.
func (w *world) checkTraffic() {
	w.t.Helper()
	w.checkData("upstream", w.gateway.data, func(s string) bool { return strings.HasPrefix(s, "up") })
	w.checkData("downstream", w.client.data, func(s string) bool { return strings.HasPrefix(s, "down") })
}

// checkSameKeys shows that the two ends have come to the same generation.
func (w *world) checkSameKeys() {
	w.t.Helper()
	c, g := w.client.session, w.session()
	if c.keys.current.number != g.keys.current.number || c.keys.current.index != g.keys.current.index {
		w.t.Fatalf("seed %d: the client is at generation %d (%#x), the gateway at %d (%#x)",
			w.seed, c.keys.current.number, c.keys.current.index, g.keys.current.number, g.keys.current.index)
	}
	if c.rekey.seed != g.rekey.seed || c.keys.current.binding != g.keys.current.binding || c.exporter != g.exporter {
		w.t.Errorf("seed %d: seed, binding or exporter of generation %d differ", w.seed, c.keys.current.number)
	}
	send, _ := fingerprintOf(c.keys.current.sender.key)
	receive, _ := fingerprintOf(g.keys.current.receive)
	back, _ := fingerprintOf(g.keys.current.sender.key)
	forth, _ := fingerprintOf(c.keys.current.receive)
	if send != receive || back != forth || send == back {
		w.t.Errorf("seed %d: the keys of generation %d do not fit each other", w.seed, c.keys.current.number)
	}
}

// TestRekeysUnderTraffic takes sessions through a thousand subsessions while data
// goes both ways through a network that loses 10 %, reorders, repeats and
// damages. No datagram is lost that the network let through, and no session is
// stranded.
//
// Shows R6.1, R6.2, R7.3, R7.5, R7.10, R7.12, R7.22.
func TestRekeysUnderTraffic(t *testing.T) {
	generations := uint32(250)
	if testing.Short() {
		generations = 40
	}
	for _, r := range []rekeys{
		{name: "time", tune: func(g *GatewayConfig, _ *ClientConfig) {
			g.Session.Terms.RekeyAfter = 2 * time.Second
		}},
		{name: "the client's packets", tune: func(_ *GatewayConfig, c *ClientConfig) {
			c.Session.RekeyPackets = 90
		}},
		{name: "the gateway's packets", tune: func(g *GatewayConfig, _ *ClientConfig) {
			g.Session.RekeyPackets = 90
		}},
		{name: "request", ask: 2 * time.Second},
		{name: "a successor each second", handOver: time.Second, tune: func(g *GatewayConfig, _ *ClientConfig) {
			g.Session.Terms.RekeyAfter = time.Second
		}},
		{name: "refused indexes", refuse: 40, tune: func(g *GatewayConfig, c *ClientConfig) {
			g.Session.Terms.RekeyAfter = 3 * time.Second
			c.Session.RekeyPackets = 150
		}},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			rekeyUnderTraffic(t, &r, max(1, *simSeed), generations)
		})
	}
}

func rekeyUnderTraffic(t *testing.T, r *rekeys, seed uint64, generations uint32) {
	tune := r.tune
	if tune == nil {
		tune = func(*GatewayConfig, *ClientConfig) {}
	}
	w := newWorld(t, seed, lossy(0.10), lossy(0.10), tune)
	w.established()
	exporter := w.session().Exporter()
	stop := w.traffic(15 * time.Millisecond)
	if r.ask > 0 {
		var ask func()
		ask = func() {
			w.session().RequestRekey(w.now, &w.gateway.out)
			w.after(r.ask, ask)
		}
		ask()
	}
	if r.refuse > 0 {
		refuseIndexes(w, r.refuse)
	}
	if r.handOver > 0 {
		var next func()
		next = func() {
			w.handOver()
			w.after(r.handOver/2+time.Duration(w.rng.Int64N(int64(r.handOver))), next)
		}
		w.after(r.handOver, next)
	}
	reached := w.run(time.Hour, func() bool {
		return w.session().keys.current.number >= generations && w.client.session.keys.current.number >= generations
	})
	if !reached {
		t.Fatalf("seed %d: stranded: client at generation %d (%v), gateway at %d (%v); drops %v %v", seed, w.client.session.keys.current.number,
			w.client.session.Phase(), w.session().keys.current.number, w.session().Phase(), w.client.drops, w.gateway.drops)
	}
	took := w.now.Sub(epoch)

	// The network heals, and what is under way comes to its end.
	w.up, w.down = faults{delay: 10 * time.Millisecond}, faults{delay: 10 * time.Millisecond}
	quiet := func() bool { return w.client.session.Phase() == Transport && w.session().Phase() == Transport }
	if !w.run(20*time.Second, quiet) {
		t.Errorf("seed %d: a subsession does not come to its end", seed)
	}
	w.checkSameKeys()
	stop()
	w.run(time.Second, nil)
	w.checkTraffic()
	if w.session().Exporter() != exporter || w.gateway.sessions.Len() != 1 || len(w.gateway.closed) != 0 {
		t.Errorf("seed %d: the session is another one than at first", seed)
	}
	t.Logf("%d generations in %v; up %+v, down %+v; arrived %d and %d", w.session().keys.current.number, took.Round(time.Second),
		w.tally[0], w.tally[1], len(w.gateway.data), len(w.client.data))
}

// refuseIndexes plays an entry gateway that has given some of the new indexes to
// other sessions: the client learns it a moment after it announced one.
func refuseIndexes(w *world, percent int) {
	decided := map[*KeySet]bool{}
	w.watch = func() {
		o := w.client.session.rekey.initiator
		if o == nil || o.child == nil || decided[o.child] {
			return
		}
		child := o.child
		decided[child] = true
		if w.rng.IntN(100) >= percent {
			return
		}
		w.after(time.Duration(w.rng.Int64N(int64(200*time.Millisecond))), func() {
			if o := w.client.session.rekey.initiator; o != nil && o.child == child {
				w.client.session.RejectIndex(w.now, &w.client.out)
			}
		})
	}
}
