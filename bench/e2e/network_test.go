package e2e

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lewes/bench/e2e/link"
	"lewes/bench/e2e/network"
	"lewes/bench/measure"
	"lewes/bench/worker"
	"lewes/transport/client"
)

// steady is what most tests send.
var steady = sending{Rate: 100, Size: 200}

// The kinds of events of a client.
var (
	reconnecting = client.Reconnecting.String()
	reconnected  = client.Reconnected.String()
	pathChanged  = client.PathChanged.String()
	rekeyed      = client.Rekeyed.String()
)

// begun connects the client of a topology, and starts it sending.
func begun(s *topology, what sending) *topology {
	s.t.Helper()
	s.dial()
	s.send(what)
	s.awaitReceived(20)
	return s
}

// TestGatewayIsKilled: its sessions are gone with it, and the client has another when it is back,
// however long that takes: while the client asks whether the gateway is there, while a
// handshake is under way, and between two.
func TestGatewayIsKilled(t *testing.T) {
	t.Parallel()
	downs := []time.Duration{200 * time.Millisecond, 1500 * time.Millisecond, 3800 * time.Millisecond, 11 * time.Second}
	if *long {
		downs = append(downs, 45*time.Second, 2*time.Minute)
	}
	for _, down := range downs {
		t.Run(down.String(), func(t *testing.T) {
			t.Parallel()
			s := begun(newTopology(t), steady)
			killed := measure.Now()
			s.gateway.kill()
			time.Sleep(down)
			ready := s.gateway.start()
			s.awaitReceived(50)
			a := s.stop()
			s.log(a, killed)
			figures.add(t, "kill -9, "+down.String()+" down: datagrams flow again after the gateway is ready", a.through(ready), time.Second)
			s.saw(killed, reconnecting, reconnected)
		})
	}
}

// TestLinkIsDown: when it is up again, nothing has to be made anew.
func TestLinkIsDown(t *testing.T) {
	t.Parallel()
	s := begun(newTopology(t), steady)
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
	t.Parallel()
	s := newTopology(t)
	s.natted()
	begun(s, steady)
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
	s.sameSession()
}

// TestNATForgetsAQuietClient: one that only listens is found again by what it sends to
// keep the NAT's mapping.
func TestNATForgetsAQuietClient(t *testing.T) {
	t.Parallel()
	const keepalive = 3 * time.Second
	s := newTopology(t)
	s.natted()
	s.keepalive = keepalive
	s.client = s.newClient()
	s.dial()
	s.send(sending{Rate: 100, Size: 200})
	s.awaitReceived(1) // the target knows from where
	s.stop()
	s.ask(s.target, "push", 50, nil)
	s.awaitReceived(20)
	s.link.Rebind()
	rebound := time.Now()
	s.awaitReceived(20)
	figures.add(t, "NAT rebinding, client only listens, keepalive "+keepalive.String()+": datagrams flow again", time.Since(rebound), keepalive+2*time.Second)
	s.sameSession()
}

// TestAddressChanges: the client comes to another network. Its session goes along.
func TestAddressChanges(t *testing.T) {
	t.Parallel()
	const device = "link0"
	first := network.ClientAddrs[0].String()
	for what, change := range map[string]func(ip func(...string)){
		"from IPv4 to IPv6": func(ip func(...string)) {
			ip("addr", "del", first, "dev", device)
		},
		"to another IPv4 address": func(ip func(...string)) {
			ip("addr", "add", otherAddr.String(), "dev", device)
			ip("addr", "del", first, "dev", device)
			ip("addr", "add", otherAddr.String(), "dev", device) // it went with the first, if that was its primary
		},
		"without any network for 3 s": func(ip func(...string)) {
			ip("link", "set", device, "down")
			time.Sleep(3 * time.Second)
			ip("link", "set", device, "up")
			ip("addr", "add", network.ClientAddrs[1].String(), "dev", device, "nodad") // the kernel has taken it away
		},
		"without any network, then another IPv4 address": func(ip func(...string)) {
			ip("link", "set", device, "down")
			time.Sleep(scaled(time.Minute, 17*time.Second))
			ip("addr", "del", first, "dev", device)
			ip("addr", "add", otherAddr.String(), "dev", device)
			ip("link", "set", device, "up")
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := begun(newTopology(t), steady)
			from, local := measure.Now(), s.condition().Local
			change(func(args ...string) {
				// That an address is there already is no matter.
				if err := s.machine["client"].IP(t.Context(), args...); err != nil && !strings.Contains(err.Error(), "File exists") && !strings.Contains(err.Error(), "already assigned") {
					t.Fatal(err)
				}
			})
			changed := measure.Now()
			s.awaitReceived(50)
			a := s.stop()
			s.log(a, from)
			t.Logf("from %s to %s", local, s.condition().Local)
			figures.add(t, what+": datagrams flow again", a.through(changed), 5*time.Second)
			s.sameSession()
		})
	}
}

// TestOneWayIn: of all the ways to the gateway one works, and it is the last that is
// tried.
func TestOneWayIn(t *testing.T) {
	t.Parallel()
	s := newTopology(t)
	s.link.Both(link.Faults{Block: []link.Match{{IP: 4}, {Protocol: link.UDP}}})
	began := s.dial().Began
	s.send(steady)
	s.awaitReceived(50)
	a := s.stop()
	s.log(a, began)
	t.Logf("from %s", s.condition().Local)
	figures.add(t, "only TCP over IPv6 passes: first datagram through", a.through(began), fallback)
}

// TestLossAndDelay: 30 % of what is sent either way is lost, the rest takes its time.
func TestLossAndDelay(t *testing.T) {
	t.Parallel()
	const loss = 0.3
	s := newTopology(t)
	s.link.Both(link.Faults{Loss: loss, Delay: 200 * time.Millisecond})
	took := s.dialMany(6)
	figures.add(t, "30 % loss, 200 ms delay: handshake, median", took[len(took)/2], 10*time.Second)
	from := measure.Now()
	s.send(steady)
	time.Sleep(scaled(time.Minute, 6*time.Second))
	to := measure.Now()
	a := s.stop()
	s.log(a, from)
	if sent, _, back := a.count(from, to); back == 0 || back == sent {
		t.Errorf("%d of %d datagrams came back over a link that loses %.0f %%", back, sent, 100*loss)
	}
}

// dialMany makes n clients dial at once, and returns how long each took, in order. The
// client of the topology is one that has a session.
func (s *topology) dialMany(n int) (took []time.Duration) {
	s.t.Helper()
	var all sync.WaitGroup
	var mu sync.Mutex
	for range n {
		c := s.newClient()
		all.Go(func() {
			var d dialled
			err := c.Call(s.t.Context(), "dial", worker.None{}, &d)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				s.t.Log(err)
				return // one in thousands fails, and a program dials again
			}
			s.client = c
			took = append(took, time.Duration(d.Stood-d.Began))
		})
	}
	all.Wait()
	slices.Sort(took)
	if len(took) == 0 {
		s.t.Fatal("no handshake succeeded")
	}
	s.t.Logf("handshakes took %v", took)
	return took
}

// TestEverythingTwisted: what comes twice, late, or with bits turned that no checksum
// finds, is delivered once and unchanged, or not at all.
func TestEverythingTwisted(t *testing.T) {
	t.Parallel()
	s := begun(newTopology(t), steady)
	from := measure.Now()
	s.link.Both(link.Faults{Duplicate: 0.3, Delay: 20 * time.Millisecond, Jitter: 20 * time.Millisecond, Reorder: 0.1, Corrupt: 0.1, Repair: true})
	time.Sleep(scaled(time.Minute, 4*time.Second))
	to := measure.Now()
	s.link.Both(link.Faults{})
	s.awaitReceived(20)
	a := s.stop() // which finds what came twice or was changed
	s.log(a, from)
	s.sameSession()
	for _, d := range []link.Direction{link.A, link.B} {
		if c := s.link.Counts(d); c.Duplicated == 0 || c.Corrupted == 0 || c.Reordered == 0 {
			t.Errorf("the link did nothing: %+v", c)
		}
	}
	if _, _, back := a.count(from, to); back == 0 {
		t.Error("no datagram came back")
	}
}

// TestBlackHole: large packets vanish, and nobody says so. The session finds out what
// passes, also where it runs inside another, over a path that takes no more than IPv6
// asks of every path.
func TestBlackHole(t *testing.T) {
	t.Parallel()
	for what, row := range map[string]struct {
		topology func(*testing.T) *topology
		mtu      int
		least    int // packet of the session that has to fit
	}{
		"to the gateway":   {newTopology, 1320, 1232},
		"through an entry": {newChain, 1280, 1232 - 69},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := row.topology(t)
			s.link.Both(link.Faults{MTU: row.mtu})
			s.dial()
			from := measure.Now()
			before := s.condition()
			s.send(sending{Rate: 100}) // always as large as the session says
			s.awaitReceived(1)
			known := measure.Now()
			s.awaitReceived(200)
			a := s.stop()
			s.log(a, from)
			c := s.condition()
			t.Logf("datagrams of %d bytes were said to fit, and then of %d; the path takes packets of %d over UDP", before.MaxPayload, c.MaxPayload, row.mtu-28)
			figures.add(t, "black hole ("+what+"): the limit is known", time.Duration(known-from), 15*time.Second)
			if c.MaxPacket < row.least || c.MaxPacket >= before.MaxPacket {
				t.Errorf("packets of %d bytes are believed to fit, of %d before", c.MaxPacket, before.MaxPacket)
			}
		})
	}
}

// TestPathNarrows: large packets pass, and then no more. The client sends no others.
func TestPathNarrows(t *testing.T) {
	const mtu = 1320
	t.Parallel()
	s := begun(newTopology(t), sending{Rate: 100})
	s.awaitReceived(100)
	before := s.condition()
	from := measure.Now()
	s.link.Both(link.Faults{MTU: mtu})
	s.awaitReceived(100)
	a := s.stop()
	s.log(a, from)
	c := s.condition()
	t.Logf("datagrams of %d bytes were said to fit, and then of %d", before.MaxPayload, c.MaxPayload)
	figures.add(t, "path narrows: datagrams within the new limit flow", a.through(from), 15*time.Second)
	if before.MaxPacket < 1400 || c.MaxPacket > mtu-28 {
		t.Errorf("the path MTU was %d bytes before and %d after", before.MaxPacket, c.MaxPacket)
	}
}

// TestSmallestMTU: through an entry, over IPv6 alone, where the machine's own device takes no
// more than IPv6 asks of every one, and says so.
func TestSmallestMTU(t *testing.T) {
	t.Parallel()
	s := newChain(t)
	s.link.Both(link.Faults{Block: []link.Match{{IP: 4}}})
	for _, machine := range []string{"client", "gateway"} {
		s.must(s.machine[machine].IP(t.Context(), "link", "set", "link0", "mtu", "1280"))
	}
	began := s.dial().Began
	s.send(sending{Rate: 100})
	s.awaitReceived(100)
	a := s.stop()
	s.log(a, began)
	c := s.condition()
	t.Logf("datagrams of %d bytes fit", c.MaxPayload)
	if c.MaxPacket != 1280-40-8-69 { // IPv6, UDP, the entry's
		t.Errorf("packets of %d bytes are believed to fit", c.MaxPacket)
	}
}

// TestKeysAreRenewedInBadWeather: while packets are lost, late and repeated, and a NAT
// forgets, the session has new keys every few seconds, and stays.
func TestKeysAreRenewedInBadWeather(t *testing.T) {
	t.Parallel()
	s := emptyTopology(t, "client", "gateway", "target")
	s.natted()
	s.wire("gateway", "target", network.ExitToTarget)
	s.gateway = newServer(t, s.machine["gateway"], "[session]\nrekey_after = \"2s\"\n", s.clients)
	s.gateway.start()
	s.setUp()
	begun(s, steady)
	const loss = 0.2
	from := measure.Now()
	s.link.Both(link.Faults{Loss: loss, Delay: 40 * time.Millisecond, Jitter: 30 * time.Millisecond, Duplicate: 0.2, Corrupt: 0.02, Repair: true})
	for n := range 3 {
		s.link.Rebind()
		s.awaitEvents(from, rekeyed, n+1)
	}
	s.awaitReceived(10)
	a := s.stop()
	s.log(a, from)
	s.sameSession()
}

// TestLinkFlaps: it is down for a second, up for a second, and so on.
func TestLinkFlaps(t *testing.T) {
	t.Parallel()
	s := begun(newTopology(t), steady)
	from := measure.Now()
	const times = 4
	var slowest time.Duration
	var ups []int64
	for range times {
		s.link.Both(link.Faults{Down: true})
		time.Sleep(time.Second)
		ups = append(ups, measure.Now())
		s.link.Both(link.Faults{})
		s.awaitReceived(20)
	}
	a := s.stop()
	s.log(a, from)
	for _, up := range ups {
		slowest = max(slowest, a.through(up))
	}
	figures.add(t, "link flaps: longest until datagrams flow again", slowest, time.Second)
}

// TestChainIsKilled: the entry, under the session inside its own, or the exit behind it.
func TestChainIsKilled(t *testing.T) {
	t.Parallel()
	for what, of := range map[string]func(*topology) *server{
		"entry": func(s *topology) *server { return s.gateway },
		"exit":  func(s *topology) *server { return s.exit },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := begun(newChain(t), steady)
			killed := measure.Now()
			of(s).kill()
			time.Sleep(scaled(10*time.Second, 3*time.Second))
			ready := of(s).start()
			s.awaitReceived(50)
			a := s.stop()
			s.log(a, killed)
			if all := s.noticed(killed); len(all) == 0 || all[0].Kind != reconnecting || all[len(all)-1].Kind != reconnected {
				t.Errorf("the client's events were %v", all)
			}
			figures.add(t, what+" killed: datagrams flow again after it is ready", a.through(ready), 2*time.Second)
		})
	}
}
