package state

import (
	"testing"
	"time"
)

// runNarrow runs both ends for d over a path that drops packets of more than
// limit bytes, with a one-way delay of 10 ms.
func runNarrow(c *clientEnd, g *gatewayEnd, now time.Time, d time.Duration, limit *int) time.Time {
	type flight struct {
		at   time.Time
		up   bool
		data []byte
	}
	var air []flight
	for end := now.Add(d); now.Before(end); now = now.Add(5 * time.Millisecond) {
		for len(air) > 0 && !now.Before(air[0].at) {
			f := air[0]
			air = air[1:]
			if len(f.data) > *limit {
				continue
			}
			if f.up {
				g.handle(now, f.data, clientAt)
			} else {
				c.handle(now, f.data, gatewayAt)
			}
		}
		c.tick(now)
		g.tick(now)
		for _, p := range c.take() {
			air = append(air, flight{now.Add(10 * time.Millisecond), true, p.Data})
		}
		for _, p := range g.take() {
			air = append(air, flight{now.Add(10 * time.Millisecond), false, p.Data})
		}
	}
	return now
}

// Shows R6.15.
func TestMTUProbesFindLimit(t *testing.T) {
	for _, limit := range []int{1500, 1452, 1451, 1400, 1372, 1333, 1280, 1232} {
		c, g := established(t)
		c.session.ProbeMTU(epoch, 1452, &c.out)
		if got := c.session.MaxPacket(); got != 1452 {
			t.Errorf("before anything is known: %d, want 1452", got)
		}
		now := runNarrow(c, g, epoch, 30*time.Second, &limit)
		got := c.session.MaxPacket()
		if got > limit || got < basePacket {
			t.Errorf("path of %d: %d is believed to fit", limit, got)
		}
		for _, size := range packetSizes {
			if size <= min(limit, 1452) && size > got {
				t.Errorf("path of %d: %d is believed to fit, and %d does", limit, got, size)
			}
		}
		checkExchange(t, now, c, g)
	}
}

// Shows R6.16.
func TestMTUProbesFollowPathChange(t *testing.T) {
	c, g := established(t)
	limit := 1500
	c.session.ProbeMTU(epoch, 1452, &c.out)
	now := runNarrow(c, g, epoch, time.Second, &limit)
	if got := c.session.MaxPacket(); got != 1452 {
		t.Fatalf("%d, want 1452", got)
	}
	limit = 1300
	traffic := func(d time.Duration) {
		for end := now.Add(d); now.Before(end); {
			sendData(t, c.session, &c.out, "x")
			now = runNarrow(c, g, now, time.Second, &limit)
		}
	}
	traffic(40 * time.Second)
	if got := c.session.MaxPacket(); got != 1280 {
		t.Errorf("after the path narrowed to 1300: %d, want 1280", got)
	}
	limit = 1500
	traffic(11 * time.Minute)
	if got := c.session.MaxPacket(); got != 1452 {
		t.Errorf("ten minutes after it widened: %d, want 1452", got)
	}
}

// A path that comes to take less swallows what an application sends, if that is large, so that
// nothing comes back and a liveness check starts. It is detected then, and not by the next
// look.
func TestLivenessCheckReprobesMTU(t *testing.T) {
	c, g := established(t)
	limit := 1500
	c.session.ProbeMTU(epoch, 1452, &c.out)
	now := runNarrow(c, g, epoch, time.Second, &limit)
	limit = 1300
	c.session.CheckLiveness(now, &c.out)
	runNarrow(c, g, now, 5*time.Second, &limit)
	if got := c.session.MaxPacket(); got != 1280 {
		t.Errorf("after a liveness check on a path that narrowed to 1300: %d, want 1280", got)
	}
	for _, e := range c.out.Events {
		if e.Kind == PeerUnresponsive {
			t.Error("the peer is reported as unresponsive")
		}
	}
}

func TestTooLargeLowersMTU(t *testing.T) {
	c, g := established(t)
	limit := 1400
	c.session.ProbeMTU(epoch, 1452, &c.out)
	c.session.TooLarge(epoch, 1452, &c.out)
	if got := c.session.MaxPacket(); got != basePacket {
		t.Errorf("after a refusal: %d, want %d until more is known", got, basePacket)
	}
	runNarrow(c, g, epoch, 10*time.Second, &limit)
	if got := c.session.MaxPacket(); got != 1392 {
		t.Errorf("%d, want 1392", got)
	}
}

func TestUnresponsivePathKeepsMTU(t *testing.T) {
	c, g := established(t)
	limit := 0
	c.session.ProbeMTU(epoch, 1452, &c.out)
	runNarrow(c, g, epoch, 20*time.Second, &limit)
	if got := c.session.MaxPacket(); got != 1452 {
		t.Errorf("%d, want 1452", got)
	}
}

func TestGatewayProbesMTUForLargePackets(t *testing.T) {
	config := gatewayConfig(t, 1)
	config.Session.MaxPacket = 1452
	g := newGatewayEnd(t, config)
	c := newClientEnd(t, epoch, clientConfig(2))
	converse(epoch, c, g)
	s := g.only()
	checkExchange(t, epoch, c, g)
	if s.mtu.prober != nil {
		t.Error("a search without large packets")
	}
	if !s.Fits(1452) {
		t.Error("the largest is not believed to fit at first")
	}
	limit := 1300
	sendData(t, c.session, &c.out, "x")
	runNarrow(c, g, epoch, 10*time.Second, &limit)
	if s.Fits(1281) || !s.Fits(1280) {
		t.Errorf("the gateway believes that %d fits a path of 1300", s.MaxPacket())
	}
}

// A client's probes never exceed the gateway's terms, and do
// not start before the terms are known.
//
// Shows R10.4.
func TestMTUProbesRespectTerms(t *testing.T) {
	config := gatewayConfig(t, 1)
	config.Session.Terms.MaxDatagram = 1300
	g := newGatewayEnd(t, config)
	cc := clientConfig(2)
	cc.Session.MaxPacket = 1452
	c := newClientEnd(t, epoch, cc)
	largest := 0
	for range 100 {
		for _, p := range c.take() {
			largest = max(largest, len(p.Data))
			g.handle(epoch, p.Data, clientAt)
		}
		for _, p := range g.take() {
			c.handle(epoch, p.Data, gatewayAt)
			if c.session != nil {
				c.session.Fits(1300) // asked as soon as there is a session
			}
		}
	}
	if c.session == nil || c.session.Terms().MaxDatagram != 1300 {
		t.Fatal("no session")
	}
	sendData(t, g.only(), &g.out, "down")
	runWide(c, g, &largest)
	if largest != 1300 || c.session.MaxPacket() != 1300 {
		t.Errorf("the largest packet had %d bytes, %d are believed to fit; want %d", largest, c.session.MaxPacket(), 1300)
	}
	if !c.session.Fits(1300) || c.session.Fits(1301) {
		t.Error("the limit is another")
	}
}

// runWide runs both ends for half a minute and notes the client's largest packet.
func runWide(c *clientEnd, g *gatewayEnd, largest *int) {
	for now := epoch; now.Before(epoch.Add(30 * time.Second)); now = now.Add(10 * time.Millisecond) {
		c.tick(now)
		for _, p := range c.take() {
			*largest = max(*largest, len(p.Data))
			g.handle(now, p.Data, clientAt)
		}
		for _, p := range g.take() {
			c.handle(now, p.Data, gatewayAt)
		}
	}
}
