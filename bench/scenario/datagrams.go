//go:build linux

package scenario

import (
	"context"
	"fmt"

	"lewes/bench/load"
	"lewes/bench/report"
	"lewes/crypto/seal"
)

const (
	clients       = 16 // of the scenarios exit and shards
	handshakeNote = "to create the sessions quickly, handshakes are not limited and the client knows the gateway's KEM key after the first one"
)

// datagrams returns a group of rows per datagram.
func datagrams(title string, notes ...string) report.Group {
	return report.Group{Title: title, Unit: "datagram", Payload: payloadSize, Notes: notes}
}

// loops starts a loop for each AEAD.
func (e *env) loops(ctx context.Context, o options, aeads ...seal.Suite) {
	for _, o.suite = range append([]seal.Suite{0}, aeads...) {
		e.add(e.loop(ctx, o))
	}
}

// directions are the ways of datagrams.
var directions = []struct {
	back        bool
	name, title string
}{{false, "out", "client → gateway → target"}, {true, "back", "target → gateway → client"}}

// bulk measures one session with one flow, in one of the directions.
func bulk(direction int) func(context.Context, *env) error {
	return func(ctx context.Context, e *env) error {
		way := directions[direction]
		e.loops(ctx, options{back: way.back}, suites()...)
		for _, suite := range suites() {
			e.gateway(ctx, options{back: way.back, suite: suite})
		}
		e.add(e.wireguard(ctx, way.back, false))
		e.add(e.wireguard(ctx, way.back, true))
		e.add(e.masque(ctx, way.back))
		return e.compare(ctx, datagrams("Bulk, "+way.title,
			"target: a gateway costs at most 1.35 × loop+AEAD; wireguard-go with single datagrams costs at least 8 times as much as a gateway, masque-go 12 times"))
	}
}

func sizes(ctx context.Context, e *env) error {
	for _, size := range []int{64, 256, 512, 1024, 1200, 1400} {
		e.loops(ctx, options{payload: size}, best())
		e.gateway(ctx, options{suite: best(), payload: size})
		g := datagrams(fmt.Sprintf("Bulk out, payload of %d bytes", size))
		g.Payload = size
		if err := e.compare(ctx, g); err != nil {
			return err
		}
		e.stop()
	}
	return nil
}

func sparse(ctx context.Context, e *env) error {
	sessions := 10_000
	if e.settings.Quick {
		sessions = 1_000
	}
	e.loops(ctx, options{single: true}, suites()...)
	e.add(e.loop(ctx, options{suite: best(), single: true, sockets: sessions}))
	for _, suite := range suites() {
		e.gateway(ctx, options{suite: suite, sessions: sessions, single: true, train: 1})
	}
	return e.compare(ctx, datagrams("Sparse, "+count(sessions, "session")+" in turn with one datagram each",
		"target: a gateway costs at most 1.3 × loop+AEAD",
		"each datagram arrives alone, and the gateway sends each from a socket of its own; the loops receive and send the same datagrams one by one, on two sockets or on as many connected sockets as there are sessions (× sockets)",
		handshakeNote))
}

func manyFlows(ctx context.Context, e *env) error {
	sessions, flows := 40, 250
	if e.settings.Quick {
		sessions = 4
	}
	e.loops(ctx, options{single: true}, best())
	e.add(e.loop(ctx, options{suite: best(), single: true, sockets: sessions * flows}))
	for _, way := range directions {
		e.gateway(ctx, options{back: way.back, suite: best(), sessions: sessions, flows: flows, train: 1, first: 50_000, name: way.name})
	}
	return e.compare(ctx, datagrams("Many flows, "+count(sessions, "session")+" with "+count(flows, "flow")+" each and one datagram to each flow in turn",
		"the gateway receives trains of several sessions and sends single datagrams, each from its flow's socket; the loops receive and send single datagrams"))
}

// chained measures an entry and an exit with clients that send 16 datagrams at a time.
func chained(ctx context.Context, e *env) error {
	const train = 16
	// The loops relay as much as the entry: the inner packets.
	e.loops(ctx, options{payload: payloadSize + load.Overhead, train: train}, best())
	for _, shards := range []int{1, 2} {
		for _, role := range []string{"entry", "exit"} {
			e.gateway(ctx, options{suite: best(), shards: shards, sockets: clients, train: train, chain: role, name: count(shards, "shard")})
		}
	}
	return e.compare(ctx, datagrams("Through an entry to an exit, "+count(clients, "client"),
		"target: an entry costs at most 1.5 × loop+AEAD",
		"the loops relay payloads of the size of an inner packet, in trains of the same length"))
}

// overTCP measures one session whose packets use a connection each, beside UDP without trains.
func overTCP(ctx context.Context, e *env) error {
	for _, way := range directions {
		o := options{back: way.back, suite: best(), single: true, train: 1, name: "UDP"}
		e.gateway(ctx, o)
		o.tcp, o.first, o.name = true, 4_000, "TCP"
		e.gateway(ctx, o)
		g := datagrams("Over TCP, "+way.title,
			"target: at least 5000 packets per second over TCP",
			"over TCP each packet from the client uses a connection of its own, at most 48 at a time; Polls fetch the packets to the client, one after the other, each with all that are queued")
		g.Variant = way.name
		if err := e.compare(ctx, g); err != nil {
			return err
		}
		e.stop()
	}
	return nil
}

func shards(ctx context.Context, e *env) error {
	for _, n := range []int{1, 2} {
		e.gateway(ctx, options{suite: best(), shards: n, sessions: clients, sockets: clients, train: 32, name: count(n, "shard")})
	}
	return e.compare(ctx, datagrams("One shard and two, "+count(clients, "client"),
		"target: two shards have at least 1.8 times the max/s of one, if load and sink leave the cores free"))
}

const (
	// idleRate is low enough that each datagram wakes an idle relay.
	idleRate = 2000
	// halfLoad is the fraction of the highest rate at which a subject counts as half loaded.
	halfLoad = 0.5
)

func delay(ctx context.Context, e *env) error {
	e.add(e.direct(ctx))
	e.loops(ctx, options{}, best())
	e.gateway(ctx, options{suite: best()})
	e.add(e.wireguard(ctx, false, false))
	e.add(e.masque(ctx, false))

	trains := make(map[*topology]int)
	for _, t := range e.topologies {
		trains[t], t.train = t.train, 1
	}
	e.rounds(ctx, "idle", 1, func(*topology) float64 { return idleRate })
	g := datagrams("Delay, idle", "target: a gateway adds at most 60 µs to p50 and 200 µs to p99 without a relay",
		fmt.Sprintf("%d datagrams per second, each by itself: every process sleeps when one arrives", idleRate))
	g.Variant = "idle"
	if err := e.addGroup(ctx, g); err != nil {
		return err
	}
	for _, t := range e.topologies {
		t.train, t.row.Samples = trains[t], nil
	}
	e.each(ctx, "searching the highest rate", func(t *topology) error { return e.search(ctx, t) })
	e.rounds(ctx, "half loaded", 0, func(t *topology) float64 { return halfLoad * t.row.Median(report.Max) })
	g = datagrams("Delay, half loaded", "each at half of its own highest rate; the delay is that of the first datagram of a train, from before it is sealed")
	g.Variant = "half-loaded"
	return e.addGroup(ctx, g)
}
