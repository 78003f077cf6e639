package state

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"lewes/state/path"
	"lewes/state/wire"
)

// moved is an address that a client comes to have.
var (
	moved    = addr("203.0.113.7:7777")
	stranger = addr("198.51.100.66:666")
)

// pass delivers the client's packets to the gateway, as if from there.
func pass(now time.Time, c *clientEnd, g *gatewayEnd, from path.Path) (bytes int) {
	for _, p := range c.take() {
		g.handle(now, p.Data, from)
		bytes += len(p.Data)
	}
	return bytes
}

// sentTo counts what the gateway has to send, by address, and gives the client
// what goes to one of the addresses that it has.
func sentTo(now time.Time, c *clientEnd, g *gatewayEnd, has ...path.Path) map[path.Path]int {
	bytes := map[path.Path]int{}
	for _, p := range g.take() {
		bytes[p.Path] += len(p.Data)
		for _, at := range has {
			if p.Path == at {
				c.handle(now, p.Data, gatewayAt)
			}
		}
	}
	return bytes
}

// TestMigration takes a session through a real change of address, and through a NAT
// that only gives it another port: the gateway follows at the first packet and
// asks both addresses, and the Pong from the new one ends all doubt.
//
// Shows R6.7, R6.8, R6.10.
func TestMigration(t *testing.T) {
	for name, next := range map[string]path.Path{
		"another address": moved,
		"another port":    addr("192.0.2.1:1112"),
		"IPv6":            addr("[2001:db8::7]:7777"),
	} {
		t.Run(name, func(t *testing.T) {
			c, g := established(t)
			s := g.only()
			sendData(t, c.session, &c.out, "from the new address")
			pass(epoch, c, g, next)
			if s.Path() != next {
				t.Fatalf("after the first packet the path is %v", s.Path())
			}
			out := sentTo(epoch, c, g, next)
			if out[next] != wire.MinPingPacket || out[clientAt] != wire.MinPingPacket {
				t.Fatalf("the gateway sent %v bytes, not a Ping to each address", out)
			}
			if s.migration.active.state.Load().validated {
				t.Error("the new address counts as validated before it has answered")
			}
			pass(epoch, c, g, next)
			if !s.migration.active.state.Load().validated || s.Path() != next {
				t.Error("the Pong from the new address does not validate it")
			}
			end := epoch.Add(validationTimeout)
			g.tick(end)
			if s.Path() != next || s.migration.validation != nil {
				t.Errorf("after %v the path is %v, the trial %v", validationTimeout, s.Path(), s.migration.validation)
			}
			sendData(t, s, &g.out, "to the new address")
			sentTo(end, c, g, next)
			if len(payloads(c.data)) != 1 {
				t.Errorf("the client got %q", c.data)
			}
		})
	}
}

// TestNATRebindingUnderTraffic changes the client's address every few seconds, at once
// and for good each time, while data goes both ways; what is sent to the old
// address is lost, nothing else, and each time the gateway soon knows the new address for
// sure, though Pings and Pongs get lost too.
//
// Shows R6.7, R6.10, R7.22.
func TestNATRebindingUnderTraffic(t *testing.T) {
	eachSeed(t, runs(20, 4), func(t *testing.T, seed uint64) {
		network := faults{loss: 0.05, duplicate: 0.05, delay: 15 * time.Millisecond, jitter: 30 * time.Millisecond}
		w := newWorld(t, seed, network, network, func(g *GatewayConfig, _ *ClientConfig) {
			g.Session.Terms.RekeyAfter = 4 * time.Second
		})
		w.established()
		stop := w.traffic(10 * time.Millisecond)
		for n := range 10 {
			w.at = addr(fmt.Sprintf("192.0.2.%d:%d", 2+n%3, 2000+n))
			right := w.run(2500*time.Millisecond, func() bool { return w.session().Path() == w.at && w.session().migration.active.state.Load().validated })
			if !right {
				t.Errorf("seed %d: 2.5 s after move %d the gateway is at %v", seed, n, w.session().Path())
			}
			w.run(time.Duration(w.rng.Int64N(int64(4*time.Second))), nil)
			if w.session().Path() != w.at {
				t.Errorf("seed %d: after move %d the gateway went to %v", seed, n, w.session().Path())
			}
		}
		stop()
		w.run(5*time.Second, nil)
		w.checkSameKeys()
		w.checkData("upstream", w.gateway.data, func(s string) bool { return strings.HasPrefix(s, "up") })
		if down := w.tally[1]; down.unreachable > down.sent/5 {
			t.Errorf("seed %d: %d of %d packets went to where the client was no more", seed, down.unreachable, down.sent)
		}
	})
}

// TestLatePacketDoesNotMigrate delivers a packet from the old address after a newer
// one has come from the new.
//
// Shows R6.7.
func TestLatePacketDoesNotMigrate(t *testing.T) {
	c, g := established(t)
	s := g.only()
	sendData(t, c.session, &c.out, "late")
	late := c.take()
	sendData(t, c.session, &c.out, "newer")
	pass(epoch, c, g, moved)
	sentTo(epoch, c, g, moved)
	pass(epoch, c, g, moved)
	for _, p := range late {
		g.handle(epoch, p.Data, clientAt)
	}
	if s.Path() != moved || s.migration.validation == nil {
		t.Errorf("a late packet from the old address moved the session to %v", s.Path())
	}
	if got := payloads(g.data); len(got) != 2 {
		t.Errorf("the gateway has %q: the late packet's data counts all the same", got)
	}
	if out := sentTo(epoch, c, g); len(out) != 0 {
		t.Errorf("a late packet was answered: %v", out)
	}
	// The same from a generation that is demoted, however high its sequence.
	sendData(t, c.session, &c.out, "before the subsession")
	late = c.take()
	c.session.Rekey(epoch, &c.out)
	for range 4 {
		pass(epoch, c, g, moved)
		sentTo(epoch, c, g, moved)
	}
	if s.keys.current.number != 1 {
		t.Fatal("no subsession")
	}
	for _, p := range late {
		g.handle(epoch, p.Data, stranger)
	}
	if s.Path() != moved {
		t.Errorf("a packet of the parent moved the session to %v", s.Path())
	}
}

// TestUnvalidatedAddressIsLimited copies a client's packets to the gateway from an
// address that never answers, while the gateway has much to send: at most three
// times what came from there goes there, the rest to the address that is known. Three
// seconds later, and before, that one's Pong brings everything back to it.
//
// Shows R6.9, R6.11.
func TestUnvalidatedAddressIsLimited(t *testing.T) {
	for _, size := range []int{1, 50, 300, 1000} {
		c, g := established(t)
		s := g.only()
		in, out := 0, map[path.Path]int{}
		count := func() {
			for at, n := range sentTo(epoch, c, g) {
				out[at] += n
			}
			if out[stranger] > 3*in {
				t.Fatalf("%d bytes went to an address from which %d came", out[stranger], in)
			}
		}
		for n := range 10 {
			// A datagram, or a Ping, which asks for an answer of its own.
			if n%2 == 1 {
				sendData(t, c.session, &c.out, strings.Repeat("x", size))
			} else {
				c.session.Ping(epoch, wire.MinPingPacket, &c.out)
			}
			in += pass(epoch, c, g, stranger)
			count()
			for range 10 {
				to, ok := s.PathFor(size)
				if !ok {
					t.Fatal("a packet is dropped while an address is validated")
				}
				sendData(t, s, &g.out, strings.Repeat("y", size))
				out[to] += size // a datagram that another goroutine has sealed
				count()
			}
		}
		if s.Path() != stranger {
			t.Fatalf("the session is at %v", s.Path())
		}
		if total := out[stranger] + out[clientAt]; out[stranger] == 0 || total < 100*size {
			t.Errorf("bytes sent: %v; the rest was not sent to the known address", out)
		}
		for at := challengeRetry; at < validationTimeout; at += challengeRetry {
			g.tick(epoch.Add(at)) // the Pings go again
			count()
		}
		if s.Path() != stranger {
			t.Error("the trial ended early")
		}
		end := epoch.Add(validationTimeout)
		sentTo(end, c, g, clientAt) // the last Pings are answered late
		g.tick(end)
		c.session.Ping(end, wire.MinPingPacket, &c.out)
		pass(end, c, g, stranger)
		for range 3 {
			sentTo(end, c, g, clientAt)
			pass(end, c, g, clientAt)
		}
		if s.Path() != clientAt || s.migration.validation != nil || !s.migration.active.state.Load().validated {
			t.Errorf("after %v the session is at %v", validationTimeout, s.Path())
		}
	}
}

// TestUnansweredAddressesGetLittle has a client that left its address keep its session by packets
// from sources that answer no Ping, while its target sends much: after the first validation, what
// the gateway sends is three times what the client sent at most, wherever it goes. The first packet
// from an address that answers has the session there.
//
// Shows R6.11, R6.17.
func TestUnansweredAddressesGetLittle(t *testing.T) {
	for name, source := range map[string]func(round int) path.Path{
		"one address":      func(int) path.Path { return stranger },
		"many":             func(round int) path.Path { return addr(fmt.Sprintf("203.0.113.%d:7", round)) },
		"that and another": func(round int) path.Path { return []path.Path{clientAt, stranger}[round%2] },
	} {
		t.Run(name, func(t *testing.T) {
			c, g := established(t)
			s := g.only()
			now, in, out, dropped := epoch, 0, map[path.Path]int{}, 0
			flood := func() {
				for range 100 {
					if to, ok := s.PathFor(1100); ok {
						out[to] += 1100
					} else {
						dropped++
					}
				}
			}
			sendData(t, c.session, &c.out, "begin")
			in += pass(now, c, g, stranger)
			flood()
			if dropped > 0 || out[clientAt] < 99*1100 {
				t.Errorf("of 100 packets during the first validation %d were dropped", dropped)
			}
			for range 6 {
				now = now.Add(challengeRetry)
				g.tick(now)
			}
			g.take()
			clear(out)
			flood()
			if dropped != 100 {
				t.Errorf("after it %d were", dropped)
			}
			for round := range 240 { // an hour
				now = now.Add(15 * time.Second)
				sendData(t, c.session, &c.out, "go on")
				in += pass(now, c, g, source(round))
				for range 10 {
					flood()
					for to, n := range sentTo(now, c, g) {
						out[to] += n
					}
					now = now.Add(challengeRetry)
					g.tick(now)
				}
			}
			all := 0
			for _, n := range out {
				all += n
			}
			if all > 3*in {
				t.Errorf("%d bytes were sent for %d, %d of them to the address that was left", all, in, out[clientAt])
			}
			sendData(t, c.session, &c.out, "here")
			for range 3 {
				pass(now, c, g, moved)
				sentTo(now, c, g, moved)
			}
			if at := s.migration.active.state.Load(); at.path != moved || !at.validated {
				t.Errorf("in the end the session is at %v, validated %v", at.path, at.validated)
			}
			if to, ok := s.PathFor(100_000); !ok || to != moved {
				t.Errorf("packets go to %v, %v", to, ok)
			}
		})
	}
}

// TestUnansweredValidationContinues has both addresses silent for the time of a validation. Then the
// Pong of either, even to a Ping from before, validates its address; a packet from the previous
// address alone does not.
//
// Shows R6.11, R6.17.
func TestUnansweredValidationContinues(t *testing.T) {
	late := epoch.Add(2 * validationTimeout)
	for _, which := range []path.Path{moved, clientAt} {
		c, g := established(t)
		s := g.only()
		sendData(t, c.session, &c.out, "moving")
		pass(epoch, c, g, moved)
		delayed := g.take()
		g.tick(epoch.Add(validationTimeout))
		if at := s.migration.active.state.Load(); at.validated || at.path != moved || !s.migration.deadline().IsZero() {
			t.Fatalf("nobody answered, and the session is at %v, validated %v", at.path, at.validated)
		}
		sendData(t, c.session, &c.out, "from where it was")
		pass(late, c, g, clientAt)
		if at := s.migration.active.state.Load(); at.validated || at.path != clientAt {
			t.Fatalf("a packet from the previous address has the session at %v, validated %v", at.path, at.validated)
		}
		g.take()
		sendData(t, c.session, &c.out, "and from the new one")
		pass(late, c, g, moved)
		if which == clientAt {
			for _, p := range delayed {
				if p.Path == clientAt {
					c.handle(late, p.Data, gatewayAt)
				}
			}
			pass(late, c, g, clientAt)
		} else {
			sentTo(late, c, g, moved)
			pass(late, c, g, moved)
		}
		if at := s.migration.active.state.Load(); !at.validated || at.path != which {
			t.Errorf("after the Pong from %v the session is at %v, validated %v", which, at.path, at.validated)
		}
		g.tick(late.Add(validationTimeout))
		if s.migration.validation != nil || s.Path() != which {
			t.Errorf("in the end the session is at %v", s.Path())
		}
	}
}

// TestOnlyPongValidatesPath shows what does not validate an address: more packets, a
// Pong of other bytes, the right Pong from elsewhere, and packets that come to
// another address of the gateway's.
//
// Shows R6.10.
func TestOnlyPongValidatesPath(t *testing.T) {
	c, g := established(t)
	s := g.only()
	sendData(t, c.session, &c.out, "moving")
	pass(epoch, c, g, moved)
	token := s.migration.validation.tokens[challengeNew]
	pong := func(token [8]byte, from path.Path) {
		if err := c.session.Send(wire.TypePong, &wire.Pong{Data: token}, &c.out); err != nil {
			t.Fatal(err)
		}
		pass(epoch, c, g, from)
	}
	notYet := func(what string) {
		t.Helper()
		if at := s.migration.active.state.Load(); at.validated || !at.path.SamePeer(moved) || *at.fallback != clientAt {
			t.Fatalf("after %s: path %v, validated %v, fallback %v", what, at.path, at.validated, at.fallback)
		}
	}
	for range 20 {
		sendData(t, c.session, &c.out, "more")
	}
	pass(epoch, c, g, moved)
	notYet("more packets")
	pong([8]byte{1, 2, 3}, moved)
	notYet("a Pong of other bytes")
	elsewhere := moved
	elsewhere.Local, elsewhere.IfIndex = gatewayAt.Peer.Addr(), 2
	sendData(t, c.session, &c.out, "to another address of the gateway")
	pass(epoch, c, g, elsewhere)
	notYet("a packet to another of the gateway's addresses")
	for _, p := range g.take() {
		if p.Path.SamePeer(moved) && s.migration.active.state.Load().budget.Load() > 3*2000 {
			t.Errorf("the budget grew to %d", s.migration.active.state.Load().budget.Load())
		}
	}
	pong(token, elsewhere)
	if at := s.migration.active.state.Load(); !at.validated || !at.path.SamePeer(moved) {
		t.Errorf("the right Pong does not validate: %+v", at.path)
	}
}

// TestPongFromOtherAddressIsIgnored shows that the Pong of a new address, when it comes
// from a third one, proves neither.
//
// Shows R6.10.
func TestPongFromOtherAddressIsIgnored(t *testing.T) {
	c, g := established(t)
	s := g.only()
	sendData(t, c.session, &c.out, "moving")
	pass(epoch, c, g, moved)
	token := s.migration.validation.tokens[challengeNew]
	if err := c.session.Send(wire.TypePong, &wire.Pong{Data: token}, &c.out); err != nil {
		t.Fatal(err)
	}
	pass(epoch, c, g, stranger)
	if at := s.migration.active.state.Load(); at.validated {
		t.Errorf("%v is validated", at.path)
	}
}

// TestMigrationReverts shows that the newest packet from the address that
// was left moves the session back at once, and no Ping is needed.
//
// Shows R6.12.
func TestMigrationReverts(t *testing.T) {
	c, g := established(t)
	s := g.only()
	sendData(t, c.session, &c.out, "copied")
	pass(epoch, c, g, stranger)
	g.take()
	sendData(t, c.session, &c.out, "honest")
	pass(epoch, c, g, clientAt)
	if at := s.migration.active.state.Load(); at.path != clientAt || !at.validated {
		t.Errorf("the session is at %v, validated %v", at.path, at.validated)
	}
	if out := sentTo(epoch, c, g); len(out) != 0 {
		t.Errorf("the gateway asked again: %v", out)
	}
}

// TestTrialOfUDPOutlastsPacketsOverTCP shows that a client on TCP can try UDP while it sends over TCP:
// its Pong over UDP validates the address, and one over TCP returns the session there.
//
// Shows R6.12.
func TestTrialOfUDPOutlastsPacketsOverTCP(t *testing.T) {
	for _, answers := range []bool{true, false} {
		c, g := established(t)
		s := g.only()
		onTCP := path.NewTCP(clientAt.Peer, netip.Addr{}, 1)
		sendData(t, c.session, &c.out, "over TCP")
		pass(epoch, c, g, onTCP)
		now := epoch.Add(10 * time.Second)
		g.tick(now)
		g.take()
		c.take()
		c.session.Ping(now, wire.MinPingPacket, &c.out)
		pass(now, c, g, moved)
		for range 5 {
			sendData(t, c.session, &c.out, "still over TCP")
			pass(now, c, g, onTCP)
		}
		if at := s.migration.active.state.Load(); !at.path.SameSource(moved) || at.validated || at.fallback == nil {
			t.Fatalf("the trial ended: at %v, validated %v", at.path, at.validated)
		}
		from := onTCP
		if answers {
			from = moved
		}
		sentTo(now, c, g, from)
		pass(now, c, g, from)
		if at := s.migration.active.state.Load(); !at.path.SameSource(from) || !at.validated {
			t.Errorf("answered over UDP %v: at %v, validated %v", answers, at.path, at.validated)
		}
	}
}

// TestPreviousAddressCannotReclaim shows that once a new address has answered, the one
// before it is as any other: a packet from there has to prove it.
//
// Shows R6.10, R6.12.
func TestPreviousAddressCannotReclaim(t *testing.T) {
	c, g := established(t)
	s := g.only()
	sendData(t, c.session, &c.out, "moving")
	pass(epoch, c, g, moved)
	sentTo(epoch, c, g, moved) // the Ping to the old address is lost
	pass(epoch, c, g, moved)
	if !s.migration.active.state.Load().validated {
		t.Fatal("the move is not validated")
	}
	sendData(t, c.session, &c.out, "copied, from the old address")
	pass(epoch, c, g, clientAt)
	if at := s.migration.active.state.Load(); at.path == clientAt && at.validated {
		t.Error("the old address is believed without a Pong")
	}
	for range 3 {
		sentTo(epoch, c, g, moved)
		pass(epoch, c, g, moved)
	}
	if at := s.migration.active.state.Load(); at.path != moved || !at.validated {
		t.Errorf("the session is at %v, validated %v", at.path, at.validated)
	}
}

// TestClientDoesNotMigrate shows that a client sends to where its gateway is, wherever the
// gateway's packets come from.
//
// Shows R6.13.
func TestClientDoesNotMigrate(t *testing.T) {
	c, g := established(t)
	sendData(t, g.only(), &g.out, "from elsewhere")
	g.only().Ping(epoch, wire.MinPingPacket, &g.out)
	for _, p := range g.take() {
		c.handle(epoch, p.Data, stranger)
	}
	if len(c.data) != 1 {
		t.Fatalf("the client got %q", c.data)
	}
	sendData(t, c.session, &c.out, "x")
	for _, p := range c.take() {
		if p.Path != gatewayAt {
			t.Errorf("the client sends to %v", p.Path)
		}
	}
}

// TestMigrationToTCP shows that a packet over TCP moves a session without a question,
// since its connection has proved the address; that each packet there has a
// connection of its own; and that for three seconds the newest packet from the
// address left undoes it.
func TestMigrationToTCP(t *testing.T) {
	tcp := func(conn uint64) path.Path {
		return path.NewTCP(moved.Peer, gatewayAt.Peer.Addr(), conn)
	}
	c, g := established(t)
	s := g.only()
	for conn := range uint64(3) {
		sendData(t, c.session, &c.out, "by TCP")
		pass(epoch, c, g, tcp(conn))
		if at := s.migration.active.state.Load(); at.path != tcp(conn) || !at.validated {
			t.Fatalf("connection %d: the session is at %v, validated %v", conn, at.path, at.validated)
		}
	}
	sendData(t, c.session, &c.out, "by UDP again")
	pass(epoch, c, g, clientAt)
	if at := s.migration.active.state.Load(); at.path != clientAt || !at.validated {
		t.Errorf("the session is at %v, validated %v", at.path, at.validated)
	}
	checkExchange(t, epoch, c, g)
}

// TestLatePongFromElsewhere delivers the Pong of a new address late, and from a
// third one: it is not the newest packet, so it moves nothing, and it validates
// nothing either.
//
// Shows R6.7, R6.10.
func TestLatePongFromElsewhere(t *testing.T) {
	c, g := established(t)
	s := g.only()
	sendData(t, c.session, &c.out, "moving")
	pass(epoch, c, g, moved)
	if err := c.session.Send(wire.TypePong, &wire.Pong{Data: s.migration.validation.tokens[challengeNew]}, &c.out); err != nil {
		t.Fatal(err)
	}
	late := c.take()[0].Data
	sendData(t, c.session, &c.out, "newer")
	pass(epoch, c, g, moved)
	g.handle(epoch, late, stranger)
	if at := s.migration.active.state.Load(); at.validated || at.path != moved {
		t.Errorf("the session is at %v, validated %v", at.path, at.validated)
	}
	for range 3 { // the next Pong comes from the right place
		sentTo(epoch, c, g, moved)
		pass(epoch, c, g, moved)
	}
	if at := s.migration.active.state.Load(); !at.validated || at.path != moved {
		t.Errorf("in the end the session is at %v, validated %v", at.path, at.validated)
	}
}
