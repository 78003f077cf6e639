package world

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"lewes/bench/link"
	"lewes/bench/measure"
	"lewes/bench/worker"
)

// steady is what most tests send.
var steady = sending{Rate: 100, Size: 200}

// begun is a scene whose client is connected and sends.
func begun(s *scene, what sending) *scene {
	s.t.Helper()
	s.dial()
	s.send(what)
	s.awaitReceived(20)
	return s
}

// TestGatewayIsKilled: its sessions are gone with it, and it says so when it is back,
// however long that takes: while the client asks whether the gateway is there, while a
// handshake is under way, and between two.
func TestGatewayIsKilled(t *testing.T) {
	downs := []time.Duration{200 * time.Millisecond, 1500 * time.Millisecond, 3800 * time.Millisecond, 11 * time.Second}
	if *long {
		downs = append(downs, 45*time.Second, 2*time.Minute)
	}
	for _, down := range downs {
		t.Run(down.String(), func(t *testing.T) {
			t.Parallel()
			s := begun(newScene(t), steady)
			killed := measure.Now()
			s.gateway.kill()
			time.Sleep(down)
			ready := s.gateway.start()
			s.awaitReceived(50)
			a := s.stop()
			s.log(a, killed)
			figures.add(t, "kill -9, "+down.String()+" down: datagrams flow again after the gateway is ready", a.through(ready), time.Second)
		})
	}
}

// TestLinkIsDown: when it is up again, nothing has to be made anew.
func TestLinkIsDown(t *testing.T) {
	s := begun(newScene(t), steady)
	down := measure.Now()
	s.link.Both(link.Faults{Down: true})
	time.Sleep(scaled(time.Minute, 8*time.Second))
	up := measure.Now()
	s.link.Both(link.Faults{})
	s.awaitReceived(50)
	a := s.stop()
	s.log(a, down)
	figures.add(t, "link down: datagrams flow again after it is up", a.through(up), time.Second)
}

// TestNATForgets: each time the client has another address and port for the gateway.
func TestNATForgets(t *testing.T) {
	s := newScene(t)
	s.must(s.machine["gateway"].IP(t.Context(), "route", "add", "203.0.113.0/24", "dev", "link0"))
	s.link.Translate(natAddrs...)
	begun(s, steady)
	before := s.condition()
	from := measure.Now()
	const times = 3
	for range times {
		time.Sleep(scaled(10*time.Second, 3*time.Second))
		s.link.Rebind()
	}
	s.awaitReceived(50)
	to := measure.Now()
	a := s.stop()
	s.log(a, from)
	figures.add(t, "NAT rebinding: longest time without a datagram", a.gap(from, to), 2*time.Second)
	if n := s.condition().Stats.Reconnects - before.Stats.Reconnects; n != 0 {
		t.Errorf("the session was made anew %d times", n)
	}
	if sent, _, back := a.count(from, to-int64(linger)); sent-back > 10*times {
		t.Errorf("%d of %d datagrams were lost", sent-back, sent)
	}
}

// TestAddressChanges: the client loses its IPv4 address and has an IPv6 one.
func TestAddressChanges(t *testing.T) {
	s := begun(newScene(t), steady)
	from := measure.Now()
	t.Logf("from %s", s.condition().Local)
	s.must(s.machine["client"].IP(t.Context(), "addr", "del", clientAddrs[0].String(), "dev", "link0"))
	s.awaitReceived(50)
	a := s.stop()
	s.log(a, from)
	t.Logf("to %s", s.condition().Local)
	figures.add(t, "from IPv4 to IPv6: datagrams flow again", a.through(from), 5*time.Second)
}

// TestLossAndDelay: 30 % of what is sent either way is lost, the rest takes its time.
func TestLossAndDelay(t *testing.T) {
	const loss = 0.3
	s := newScene(t)
	s.link.Both(link.Faults{Loss: loss, Delay: 200 * time.Millisecond})
	var all sync.WaitGroup
	var took [6]time.Duration
	for i := range took { // at once, so that it is not one that was lucky
		c := s.newClient()
		if i == 0 {
			s.client = c
		}
		all.Go(func() {
			var d dialled
			if err := c.Call(t.Context(), "dial", worker.None{}, &d); err != nil {
				t.Error(err)
			}
			took[i] = time.Duration(d.Stood - d.Began)
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
	figures.add(t, fmt.Sprintf("30 %% loss, 200 ms delay: the longest of %d handshakes", len(took)), slices.Max(took[:]), 10*time.Second)
	from := measure.Now()
	s.send(steady)
	time.Sleep(scaled(time.Minute, 6*time.Second))
	to := measure.Now()
	a := s.stop()
	s.log(a, from)
	sent, there, back := a.count(from, to)
	for what, share := range map[string]float64{"there": float64(sent-there) / float64(sent), "back": float64(there-back) / float64(there)} {
		if share < loss/2 || share > loss*3/2 {
			t.Errorf("%.0f %% are lost on the way %s, the link loses %.0f %%", 100*share, what, 100*loss)
		}
	}
	if n := s.condition().Stats.Reconnects; n != 0 {
		t.Errorf("the session was made anew %d times", n)
	}
}

// TestEverythingTwisted: what comes twice, late, or with bits turned that no checksum
// finds, is delivered once and unchanged, or not at all.
func TestEverythingTwisted(t *testing.T) {
	s := begun(newScene(t), steady)
	from := measure.Now()
	s.link.Both(link.Faults{Duplicate: 0.3, Delay: 20 * time.Millisecond, Jitter: 20 * time.Millisecond, Reorder: 0.1, Corrupt: 0.1, Repair: true})
	time.Sleep(scaled(time.Minute, 4*time.Second))
	to := measure.Now()
	s.link.Both(link.Faults{})
	s.awaitReceived(20)
	a := s.stop() // which finds what came twice or was changed
	s.log(a, from)
	for _, d := range []link.Direction{link.A, link.B} {
		if c := s.link.Counts(d); c.Duplicated == 0 || c.Corrupted == 0 || c.Reordered == 0 {
			t.Errorf("the link did nothing: %+v", c)
		}
	}
	sent, there, back := a.count(from, to)
	for what, share := range map[string]float64{"there": float64(sent-there) / float64(sent), "back": float64(there-back) / float64(there)} {
		if share > 0.2 {
			t.Errorf("%.0f %% are lost on the way %s, and 10 %% were corrupted", 100*share, what)
		}
	}
}

// TestBlackHole: large packets vanish. The session finds out what passes, and says so.
func TestBlackHole(t *testing.T) {
	const mtu = 1320
	s := newScene(t)
	s.link.Both(link.Faults{MTU: mtu})
	s.dial()
	from := measure.Now()
	before := s.condition().MaxPayload
	s.send(sending{Rate: 100}) // always as large as the session says
	for end := time.Now().Add(patience); s.condition().MaxPacket > mtu-28; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after %v the session still takes what does not pass: %+v", patience, s.condition())
		}
	}
	known := measure.Now()
	s.awaitReceived(200)
	to := measure.Now()
	a := s.stop()
	s.log(a, from)
	c := s.condition()
	t.Logf("datagrams of %d bytes were said to fit, and then of %d; the path takes packets of %d over UDP", before, c.MaxPayload, mtu-28)
	figures.add(t, "black hole: the limit is known", time.Duration(known-from), 15*time.Second)
	if sent, _, back := a.count(known+int64(linger), to-int64(linger)); back < sent*95/100 {
		t.Errorf("%d of %d datagrams within the limit were lost", sent-back, sent)
	}
	if c.MaxPacket < 1232 {
		t.Errorf("the session found that packets of %d bytes pass, and larger ones do", c.MaxPacket)
	}
	if a.Refused > 100 {
		t.Errorf("%d datagrams were refused that were said to fit", a.Refused)
	}
}

// TestEntryIsKilled: the session inside the entry's goes on when the entry is back.
func TestEntryIsKilled(t *testing.T) {
	s := begun(newChain(t), steady)
	killed := measure.Now()
	s.gateway.kill()
	time.Sleep(scaled(10*time.Second, 3*time.Second))
	ready := s.gateway.start()
	s.awaitReceived(50)
	a := s.stop()
	s.log(a, killed)
	figures.add(t, "entry killed: datagrams flow again after it is ready", a.through(ready), 2*time.Second)
}
