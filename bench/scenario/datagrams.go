//go:build linux

package scenario

import (
	"context"
	"fmt"

	"lewes/bench/load"
	"lewes/bench/report"
	"lewes/crypto/seal"
)

func bulkOut(ctx context.Context, e *env) error {
	return e.bulk(ctx, false, "Bulk, client → gateway → target")
}

func bulkBack(ctx context.Context, e *env) error {
	return e.bulk(ctx, true, "Bulk, target → gateway → client")
}

// bulk measures one session with one flow.
func (e *env) bulk(ctx context.Context, back bool, title string) error {
	for _, suite := range append([]seal.Suite{0}, suites()...) {
		e.add(e.loop(ctx, options{back: back, suite: suite}))
	}
	for _, suite := range suites() {
		e.gateway(ctx, options{back: back, suite: suite})
	}
	e.add(e.wireguard(ctx, back, false))
	e.add(e.wireguard(ctx, back, true))
	e.add(e.masque(ctx, back))
	return e.compare(ctx, report.Group{Title: title, Unit: "datagram", Payload: payloadSize, Notes: []string{
		"target: a gateway costs at most 1.35 × loop+AEAD; wireguard-go with single datagrams costs at least 8 times as much as a gateway, masque-go 12 times",
	}})
}

func sizes(ctx context.Context, e *env) error {
	for _, size := range []int{64, 256, 512, 1024, 1200, 1400} {
		for _, suite := range []seal.Suite{0, best()} {
			e.add(e.loop(ctx, options{suite: suite, payload: size}))
		}
		e.gateway(ctx, options{suite: best(), payload: size})
		if err := e.compare(ctx, report.Group{Title: fmt.Sprintf("Bulk out, payload of %d bytes", size), Unit: "datagram", Payload: size}); err != nil {
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
	single := options{single: true}
	for _, suite := range append([]seal.Suite{0}, suites()...) {
		single.suite = suite
		e.add(e.loop(ctx, single))
	}
	single.sockets = sessions
	e.add(e.loop(ctx, single))
	for _, suite := range suites() {
		e.gateway(ctx, options{suite: suite, sessions: sessions, single: true, train: 1})
	}
	return e.compare(ctx, report.Group{
		Title:   "Sparse, " + count(sessions, "session") + " in turn with one datagram each",
		Unit:    "datagram",
		Payload: payloadSize,
		Notes: []string{
			"target: a gateway costs at most 1.3 × loop+AEAD",
			"each datagram arrives alone, and the gateway sends each from a socket of its own; the loops receive and send the same datagrams one by one, on two sockets or on as many connected sockets as there are sessions (× sockets)",
			handshakeNote,
		},
	})
}

const handshakeNote = "to create the sessions quickly, handshakes are not limited and the client knows the gateway's KEM key after the first one"

func manyFlows(ctx context.Context, e *env) error {
	sessions, flows := 40, 250
	if e.settings.Quick {
		sessions = 4
	}
	for _, suite := range []seal.Suite{0, best()} {
		e.add(e.loop(ctx, options{suite: suite, single: true}))
	}
	e.add(e.loop(ctx, options{suite: best(), single: true, sockets: sessions * flows}))
	for _, back := range []bool{false, true} {
		for _, t := range e.gateway(ctx, options{back: back, suite: best(), sessions: sessions, flows: flows, train: 1}) {
			t.first = 50_000
			if t.row.Subject += ", out"; back {
				t.row.Subject = t.row.Subject[:len(t.row.Subject)-len("out")] + "back"
			}
		}
	}
	return e.compare(ctx, report.Group{
		Title:   "Many flows, " + count(sessions, "session") + " with " + count(flows, "flow") + " each and one datagram to each flow in turn",
		Unit:    "datagram",
		Payload: payloadSize,
		Notes:   []string{"the gateway receives trains of several sessions and sends single datagrams, each from its flow's socket; the loops receive and send single datagrams"},
	})
}

// chained measures an entry and an exit with 16 clients that send 16 datagrams at a time.
func chained(ctx context.Context, e *env) error {
	const clients, train = 16, 16
	for _, suite := range []seal.Suite{0, best()} {
		// The loop relays as much as the entry: the inner packets.
		e.add(e.loop(ctx, options{suite: suite, payload: payloadSize + load.Overhead, train: train}))
	}
	for _, shards := range []int{1, 2} {
		o := options{suite: best(), shards: shards, sessions: clients, train: train}
		e.chain(ctx, o, false)
		e.chain(ctx, o, true)
	}
	return e.compare(ctx, report.Group{
		Title:   "Through an entry to an exit, " + count(clients, "client"),
		Unit:    "datagram",
		Payload: payloadSize,
		Notes:   []string{"target: an entry costs at most 1.5 × loop+AEAD", "the loops relay payloads of the size of an inner packet, in trains of the same length"},
	})
}

// overTCP measures one session whose packets use a connection each, beside UDP without trains.
func overTCP(ctx context.Context, e *env) error {
	for _, back := range []bool{false, true} {
		variant, title := "out", "Over TCP, client → gateway → target"
		if back {
			variant, title = "back", "Over TCP, target → gateway → client"
		}
		for _, tcp := range []bool{false, true} {
			for _, t := range e.gateway(ctx, options{back: back, suite: best(), single: true, train: 1, tcp: tcp}) {
				if t.row.Subject += ", UDP"; tcp {
					t.row.Subject = t.row.Subject[:len(t.row.Subject)-len("UDP")] + "TCP"
				}
			}
		}
		if err := e.compare(ctx, report.Group{
			Variant: variant,
			Title:   title,
			Unit:    "datagram",
			Payload: payloadSize,
			Notes: []string{
				"target: at least 5000 packets per second over TCP",
				"over TCP each packet from the client uses a connection of its own, at most 48 at a time; Polls fetch the packets to the client, one after the other, each with all that are queued",
			},
		}); err != nil {
			return err
		}
		e.stop()
	}
	return nil
}

func shards(ctx context.Context, e *env) error {
	for _, n := range []int{1, 2} {
		for _, t := range e.gateway(ctx, options{suite: best(), shards: n, sessions: 16, sockets: 16, train: 32}) {
			t.row.Subject += ", " + count(n, "shard")
		}
	}
	return e.compare(ctx, report.Group{
		Title:   "One shard and two, 16 clients",
		Unit:    "datagram",
		Payload: payloadSize,
		Notes:   []string{"target: two shards have at least 1.8 times the max/s of one, if load and sink leave the cores free"},
	})
}

const (
	// idleRate is low enough that each datagram wakes an idle relay.
	idleRate = 2000
	// halfLoad is the fraction of the highest rate at which a subject counts as half loaded.
	halfLoad = 0.5
)

func delay(ctx context.Context, e *env) error {
	e.add(e.direct(ctx))
	for _, suite := range []seal.Suite{0, best()} {
		e.add(e.loop(ctx, options{suite: suite}))
	}
	e.gateway(ctx, options{suite: best()})
	e.add(e.wireguard(ctx, false, false))
	e.add(e.masque(ctx, false))

	trains := make(map[*topology]int)
	for _, t := range e.topologies {
		trains[t], t.train = t.train, 1
	}
	e.rounds(ctx, "idle", 1, func(*topology) float64 { return idleRate })
	if err := e.addGroup(ctx, report.Group{
		Variant: "idle",
		Title:   "Delay, idle",
		Unit:    "datagram",
		Payload: payloadSize,
		Notes: []string{
			"target: a gateway adds at most 60 µs to p50 and 200 µs to p99 without a relay",
			fmt.Sprintf("%d datagrams per second, each by itself: every process sleeps when one arrives", idleRate),
		},
	}); err != nil {
		return err
	}
	for _, t := range e.topologies {
		t.train, t.row.Samples = trains[t], nil
	}
	e.each(ctx, "searching the highest rate", func(t *topology) error { return e.search(ctx, t) })
	e.rounds(ctx, "half loaded", 0, func(t *topology) float64 { return halfLoad * t.row.Median(report.Max) })
	return e.addGroup(ctx, report.Group{
		Variant: "half-loaded",
		Title:   "Delay, half loaded",
		Unit:    "datagram",
		Payload: payloadSize,
		Notes:   []string{"each at half of its own highest rate; the delay is that of the first datagram of a train, from before it is sealed"},
	})
}
