// Package client speaks the Lewes Protocol from the user's side: a program that
// imports it sends and receives datagrams through a gateway, or through several.
//
//	gateway, err := uri.Parse("lewes://9qA…@gw.example.com")
//	…
//	session, err := client.Dial(ctx, client.Config{Gateway: gateway, Identity: key})
//	if err != nil {
//		return err // a sentence for the user
//	}
//	defer session.Close()
//
//	conn, err := session.DialContext(ctx, "udp", "example.com:53")
//
// What DialContext returns behaves as a connected UDP socket does, what
// ListenPacket returns as one that is not: programs and libraries that take a
// net.Conn or a net.PacketConn run over a session without knowing. A host name
// goes to the gateway as it is and is resolved there, so nothing about a target
// is looked up on this machine.
//
// # Flows
//
// Each target is a flow (section 8 of PROTOCOL.md), at most MaxFlows of them a
// session. A flow has a limit of bytes a datagram: a Write beyond it returns a
// *SizeError that names the limit. It changes only where the gateway or the path
// turns out to take less, or the path more again.
// What a gateway refuses comes back as a *FlowError. Datagrams get lost here as
// they do everywhere: no call waits for another end.
//
// # Staying connected
//
// A session outlives what carries it. It renews its keys, finds out when the
// gateway has forgotten it, makes a new handshake beside the old session or after
// its end, and sends its flows' targets again. The application sees loss and, if
// it wants, Events. Config.NoReconnect ends a session instead.
//
// # UDP, TCP, and ways between them
//
// Config.Transport says what may carry packets to the first gateway: by default UDP,
// and TCP where that does not pass (section 10 of PROTOCOL.md). Dial begins TCP beside
// UDP after 2.5 s and takes what stands first. A session whose packets have no answer
// any more asks the gateway from a new local port, then over TCP, and goes on by
// whichever way answers; on TCP it tries UDP again and again, at most every half
// minute. None of that makes another session: flows, keys and what Info calls Handle
// stay. Event PathChanged, Info.Transport and Info.TransportReason say what happened
// and why.
//
// What is decided stands in policy.go, without clock or socket. A way is a Conn, with a
// goroutine that reads it; ways on trial are asked by Pings of the session, and the
// first on which an authentic packet comes is the one that writers use from then on.
// On TCP a Poll waits at the gateway, so that packets come.
//
// Config.Keepalive is the longest that a session stays quiet. Where a NAT forgets
// sooner, the gateway sees the session come from another port after a silence, and
// Pings it there; the client takes that for the sign that it is, and stays quiet for
// less (keepalive.go).
//
// # Through other gateways
//
// With Config.Via the session runs inside a session with an entry gateway, which
// sees who the client is but not where its datagrams go; the gateway itself sees
// where they go and the entry's address. Every entry costs 69 bytes of each packet.
//
// # Goroutines
//
// Everything exported is safe for concurrent use. A session has one goroutine that
// reads, one for each further way while another is looked for, and one that waits for
// trouble. Writers seal and send in their own
// goroutine without a lock in common, and neither Read nor Write allocates once
// pools are warm.
package client
