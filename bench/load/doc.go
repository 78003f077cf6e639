// Package load is the near end of every bench: it makes sessions, seals datagrams on
// them and sends them at a set rate, and counts what comes back.
//
// It costs as little as it can, because on a small machine its CPU time is taken from
// what is measured. Sessions are those of package state, driven here without the rest of a client
// (Engine); packets are sealed beside each other into one buffer and leave as trains
// (Sender); of what comes back only the first packet of each train is opened, the
// rest are counted (Meter). All that the ends of a bench have in common is a Lane: a
// way to turn a payload into a packet. There is one for sessions, one for sessions
// through an entry gateway, one for the baseline that opens packets and knows of no
// session, and one for payloads as they are.
//
//	l, err := load.New(conn, load.Plain{})
//	err = l.Open(target)         // each lane sends a datagram that opens its flow
//	result, err := l.Send(ctx, load.Plan{Run: 1, Rate: 500_000, For: time.Second, Size: 1200, Train: 52})
package load
