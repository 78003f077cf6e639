package state

import (
	"testing"
	"time"
)

const keepaliveInterval = 25 * time.Second

// keptAlive returns two ends whose client keeps its session alive.
func keptAlive(t *testing.T) (*clientEnd, *gatewayEnd) {
	g := newGatewayEnd(t, gatewayConfig(t, 1))
	config := clientConfig(2)
	config.Session.Keepalive = keepaliveInterval
	c := newClientEnd(t, epoch, config)
	converse(epoch, c, g)
	if c.session == nil {
		t.Fatal("no session")
	}
	return c, g
}

// runKeepalive ticks the client for a while. deliver says whether packets pass. It returns
// when packets were sent, and when the session was found silent.
func runKeepalive(c *clientEnd, g *gatewayEnd, from, to time.Duration, deliver bool) (sent, silent []time.Duration) {
	for at := from; at < to; at += 50 * time.Millisecond {
		now := epoch.Add(at)
		c.events = nil
		c.tick(now)
		packets := c.take()
		for _, e := range c.events {
			if e.Kind == PeerUnresponsive {
				silent = append(silent, at)
			}
		}
		if len(packets) > 0 {
			sent = append(sent, at)
		}
		if !deliver {
			continue
		}
		for _, p := range packets {
			g.handle(now, p.Data, clientAt)
		}
		converse(now, c, g)
	}
	return sent, silent
}

func TestKeepalivePingsEachInterval(t *testing.T) {
	c, g := keptAlive(t)
	runKeepalive(c, g, 0, 2*keepaliveInterval+time.Second, true)
	sent, silent := runKeepalive(c, g, 2*keepaliveInterval+time.Second, 6*keepaliveInterval+time.Second, true)
	if len(sent) != 4 || len(silent) != 0 {
		t.Errorf("Pings at %v, silent at %v; want one Ping each %s", sent, silent, keepaliveInterval)
	}
}

// A session that its user does not use finds out as well that nobody answers.
func TestKeepaliveDoubtsAnIdleSession(t *testing.T) {
	c, g := keptAlive(t)
	runKeepalive(c, g, 0, 3*keepaliveInterval+time.Second, true)
	_, silent := runKeepalive(c, g, 3*keepaliveInterval+time.Second, 6*keepaliveInterval, false)
	if len(silent) == 0 || silent[0] > 5*keepaliveInterval+time.Second {
		t.Errorf("found silent at %v, want within two intervals of %s", silent, keepaliveInterval)
	}
}
