package scenario

import (
	"context"

	"lewes/bench/report"
	"lewes/crypto/seal"
)

func bulkOut(ctx context.Context, c *crew) error {
	return c.bulk(ctx, outward, "Bulk, client → gateway → target", true)
}

func bulkBack(ctx context.Context, c *crew) error {
	return c.bulk(ctx, backward, "Bulk, target → gateway → client", true)
}

// bulkBoth is without peers: what they cost is known from each way.
func bulkBoth(ctx context.Context, c *crew) error {
	return c.bulk(ctx, bothWays, "Bulk, both ways at once", false)
}

// bulk is one session with one flow.
func (c *crew) bulk(ctx context.Context, w way, title string, withPeers bool) error {
	g := c.gather(ctx)
	for _, suite := range append([]seal.Suite{0}, suites()...) {
		g.add("the loop")(c.loop(ctx, w, loopOptions{suite: suite}))
	}
	g.add("the loop on the gateway's sockets")(c.loop(ctx, w, loopOptions{suite: best(), batched: true}))
	for _, suite := range suites() {
		g.add("gateway")(c.gateway(ctx, w, gatewayOptions{suite: suite}))
	}
	if withPeers {
		g.add(wireGuard)(c.wireguard(ctx, w, false))
		g.add(singly)(c.wireguard(ctx, w, true))
		g.add("masque-go")(c.masque(ctx, w))
	}
	return c.bench.contest(ctx, report.Group{Scenario: c.bench.doing, Title: title, Unit: "datagram", Payload: payloadSize}, g.rigs)
}

func sizes(ctx context.Context, c *crew) error {
	for _, size := range []int{64, 256, 512, 1024, 1200, 1400} {
		g := c.gather(ctx)
		g.add("the loop")(c.loop(ctx, outward, loopOptions{payload: size}))
		g.add("the loop")(c.loop(ctx, outward, loopOptions{suite: best(), payload: size}))
		g.add("gateway")(c.gateway(ctx, outward, gatewayOptions{suite: best(), payload: size}))
		group := report.Group{Scenario: c.bench.doing, Title: "Bulk out, payloads of " + count(size, "byte"), Unit: "datagram", Payload: size}
		if err := c.bench.contest(ctx, group, g.rigs); err != nil {
			return err
		}
		c.stop()
	}
	return nil
}

func sparse(ctx context.Context, c *crew) error {
	sessions := 10_000
	if c.bench.settings.Quick {
		sessions = 1_000
	}
	g := c.gather(ctx)
	for _, suite := range append([]seal.Suite{0}, suites()...) {
		g.add("the loop")(c.loop(ctx, outward, loopOptions{suite: suite, apart: true}))
	}
	g.add("the loop on the gateway's sockets")(c.loop(ctx, outward, loopOptions{suite: best(), apart: true, batched: true}))
	for _, suite := range suites() {
		g.add("gateway")(c.gateway(ctx, outward, gatewayOptions{suite: suite, sessions: sessions, apart: true, train: 1}))
	}
	return c.bench.contest(ctx, report.Group{
		Scenario: c.bench.doing,
		Title:    "Sparse, " + count(sessions, "session") + " in turn, a datagram each",
		Unit:     "datagram",
		Payload:  payloadSize,
		Notes: []string{
			"nothing coalesces: each datagram comes by itself, and the gateway sends each from a socket of its own; the loops receive and send the same datagrams one by one, on two sockets",
			handshakeNote,
		},
	}, g.rigs)
}

// handshakeNote says how many sessions come to be in a short time.
const handshakeNote = "to make that many sessions quickly, the gateway's budget of handshakes a source is raised, and the client knows the gateway's KEM key after its first handshake"

func manyFlows(ctx context.Context, c *crew) error {
	sessions, flows := 40, 250
	if c.bench.settings.Quick {
		sessions = 4
	}
	g := c.gather(ctx)
	for _, suite := range []seal.Suite{0, best()} {
		g.add("the loop")(c.loop(ctx, outward, loopOptions{suite: suite, apart: true}))
	}
	for _, w := range []way{outward, backward} {
		r := g.add("gateway")(c.gateway(ctx, w, gatewayOptions{suite: best(), sessions: sessions, flows: flows, train: 1}))
		if r == nil {
			continue
		}
		r.first = 50_000
		if w.back {
			r.row.Subject += ", back"
		} else {
			r.row.Subject += ", out"
		}
	}
	return c.bench.contest(ctx, report.Group{
		Scenario: c.bench.doing,
		Title:    "Many flows, " + count(sessions, "session") + " with " + count(flows, "flow") + " each, a datagram to each flow in turn",
		Unit:     "datagram",
		Payload:  payloadSize,
		Notes:    []string{"datagrams come to the gateway in trains of several sessions and leave it one by one, each from its flow's socket; the loops receive and send them one by one"},
	}, g.rigs)
}

// forwardSessions is how many clients go through the entry.
const forwardSessions = 16

func forwarding(ctx context.Context, c *crew) error {
	g := c.gather(ctx)
	// The loop moves what the entry moves: it opens the outer packet and sends the inner.
	inner := payloadSize + innerOverhead
	for _, suite := range []seal.Suite{0, best()} {
		if r := g.add("the loop")(c.loop(ctx, outward, loopOptions{suite: suite, payload: inner})); r != nil {
			r.train = forwardTrain
		}
	}
	for _, shards := range []int{1, 2} {
		o := gatewayOptions{suite: best(), shards: shards, sessions: forwardSessions, train: forwardTrain}
		g.add("entry")(c.entry(ctx, o, false))
		g.add("exit")(c.entry(ctx, o, true))
	}
	return c.bench.contest(ctx, report.Group{
		Scenario: c.bench.doing,
		Title:    "Through an entry to an exit, " + count(forwardSessions, "client"),
		Unit:     "datagram",
		Payload:  payloadSize,
		Notes:    []string{"the loops relay payloads of the size of an inner packet, in trains of as many"},
	}, g.rigs)
}

// forwardTrain is how many datagrams each client sends at once.
const forwardTrain = 16

// tcpSubject is the gateway that is reached over TCP.
const tcpSubject = "gateway over TCP"

// overTCP is one session whose packets each come on a connection of their own, out
// and back by Polls, beside the same over UDP without trains.
func overTCP(ctx context.Context, c *crew) error {
	for _, w := range []struct {
		way   way
		title string
	}{{outward, "Over TCP, client → gateway → target"}, {backward, "Over TCP, target → gateway → client"}} {
		g := c.gather(ctx)
		for _, tcp := range []bool{false, true} {
			r := g.add("gateway")(c.gateway(ctx, w.way, gatewayOptions{suite: best(), apart: true, train: 1, tcp: tcp}))
			if r == nil {
				continue
			}
			r.row.Subject = "gateway over UDP"
			if tcp {
				r.row.Subject = tcpSubject
			}
		}
		group := report.Group{
			Scenario: c.bench.doing,
			Title:    w.title,
			Unit:     "datagram",
			Payload:  payloadSize,
			Notes:    []string{"over TCP each packet goes up on a connection of its own, at most 48 at a time; what comes back is fetched by Polls, one after the other, and each brings what has gathered"},
		}
		if err := c.bench.contest(ctx, group, g.rigs); err != nil {
			return err
		}
		c.stop()
	}
	return nil
}

func shards(ctx context.Context, c *crew) error {
	g := c.gather(ctx)
	for _, n := range []int{1, 2} {
		r := g.add("gateway")(c.gateway(ctx, outward, gatewayOptions{suite: best(), shards: n, sessions: 16, sockets: 16, train: 32}))
		if r != nil {
			r.row.Subject = "gateway, " + count(n, "shard")
		}
	}
	return c.bench.contest(ctx, report.Group{
		Scenario: c.bench.doing,
		Title:    "One shard and two, 16 clients",
		Unit:     "datagram",
		Payload:  payloadSize,
	}, g.rigs)
}
