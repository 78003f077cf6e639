// Package client sends and receives UDP datagrams through a Lewes gateway, or through
// a chain of them.
//
//	gateway, err := client.ParseGateway("lewes://9qA…@gw.example.com")
//	key, err := client.LoadKey("client-identity") // or client.GenerateKey()
//
//	session, err := client.Dial(ctx, client.Config{Gateway: gateway, Identity: key})
//	if err != nil {
//		return err
//	}
//	defer session.Close()
//
//	conn, err := session.DialContext(ctx, "udp", "example.com:53") // a connected UDP socket
//	socket, err := session.ListenPacket()                          // an unconnected one
//
// Both results are a net.PacketConn, the first a net.Conn as well, so that libraries run
// over a session unchanged:
//
//	resolver := net.Resolver{PreferGo: true, Dial: session.DialContext}
//	quicTransport := quic.Transport{Conn: socket}
//
// The gateway resolves host names; this machine looks up nothing about a target. This package is
// the only one to import: it has names of its own for identities, URIs, KEMs and reasons.
//
// # Flows
//
// Each target is a flow (section 8 of PROTOCOL.md). A session has at most MaxFlows. A
// Write that exceeds the largest datagram of a flow returns a *SizeError; a flow that the
// gateway refuses returns a *FlowError. As with any UDP socket, datagrams may be lost and
// no call waits for the other end.
//
// # Reconnecting
//
// A session renews its keys, notices when the gateway has lost its state, and makes a new handshake
// beside or after the old session; its flows open again by themselves. The application sees loss
// and, with Config.OnEvent, Events. Config.NoReconnect ends the session instead.
//
// # Registration
//
// A gateway may require a registration before it carries anything (section 9 of PROTOCOL.md). The session
// then registers by itself, in each new session again, and Event Registered reports the result; datagrams
// before it may be lost. Session.Register registers for another mode, spends a ticket, or asks for the
// balance; Config.NoRegister leaves all of it to the program.
//
// With Config.Tickets the session pays: it asks first, spends a ticket of the wallet if the gateway needs one, and
// another one before the account ends. A ticket that was sent once is never sent for another registration,
// so a lost answer or a crash costs none. Towards gateways with access=tickets in their URI the client
// has an identity of the wallet, a fresh one for each account, and Dial returns once the session is paid for.
//
//	tickets, err := client.OpenWallet("wallet")
//	session, err := client.Dial(ctx, client.Config{Gateway: gateway, Tickets: tickets})
//
// # Paths
//
// Config.Transport selects what carries packets to the first gateway: by default UDP, and
// TCP where UDP is blocked (section 10 of PROTOCOL.md). Dial starts TCP 2.5 s after UDP
// and keeps the first that succeeds. While it sends, the session asks twice a second whether
// the gateway answers; what arrives unasked proves nothing. When the active path stops
// answering, it probes a new local port, then TCP, and moves to the first that answers; on TCP
// it retries UDP at least every half minute. The session, its flows and its keys survive:
// Event PathChanged, Info.Transport and Info.TransportReason report the move.
//
// Config.Keepalive bounds how long a session is idle. Where a NAT drops its mapping
// sooner, the session detects it and sends keepalives more often.
//
// # Chains
//
// With Config.Via the session runs inside sessions with entry gateways: an entry sees the
// client but not its targets, the exit sees the targets and the entry's address. Each
// entry costs 69 bytes per packet.
//
// # Concurrency
//
// All exported methods are safe for concurrent use. A session has one goroutine per open
// path and one that supervises. Writers seal and send in their own goroutine without a
// shared lock; Read and Write don't allocate.
package client
