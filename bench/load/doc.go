// Package load is the client side of every scenario: it creates sessions, sends datagrams on them
// at a set rate, and counts datagrams that come back.
//
// It uses as little CPU time as possible, because on a small machine it competes with the gateway.
// Its sessions are those of package state, without the rest of a client (engine); packets are
// sealed next to each other into one buffer and leave as GSO trains; of incoming trains only the
// first packet is opened.
//
// All scenarios have in common that a Flow turns payloads into packets: of a session, of a session
// through an entry, of the loop that opens packets but has no sessions, or none at all.
//
//	l := load.New(conn, nil, load.Plain{})
//	err = l.Open(ctx, target)    // sends the datagram that opens each flow
//	sent, err := l.Send(ctx, measure.Plan{Run: 1, Rate: 500_000, For: time.Second, Size: 1200, Train: 52})
package load
