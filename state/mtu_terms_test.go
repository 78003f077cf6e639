package state

import (
	"testing"
	"time"
)

// A client's search never sends more than the gateway says that it takes, and does
// not begin before the gateway has said it.
//
// Shows R10.4.
func TestSearchKeepsToTheTerms(t *testing.T) {
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
