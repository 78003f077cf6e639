package costs

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"time"

	"lewes/crypto/identity"
	"lewes/state/parts"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
)

const (
	// dataSize is the payload of a datagram, in bytes.
	dataSize = 1200
	// dataFlow is the flow of datagrams, and forwardFlow that of packets for the exit.
	dataFlow    = 1
	forwardFlow = 2
	firstFlow   = 10 // of the flows that a kind opens
)

// none is the maker of a kind whose senders the gateway has refused.
func none() (transport.Packet, bool) { return transport.Packet{}, false }

// always is a maker that needs nothing before its packet.
func always(next func() transport.Packet) maker {
	return func() (transport.Packet, bool) { return next(), true }
}

// What strangers send.

func junk(e *Env) maker {
	p := e.random(wire.MinHelloDatagram)
	p[wire.HeaderSize-1] = 0xff // the reserved level
	return always(func() transport.Packet { return transport.Packet{Data: bytes.Clone(p), Path: e.source()} })
}

func wrongMAC1(e *Env) maker {
	return always(func() transport.Packet {
		p := e.attempt(e.source()).packet()
		p.Data[len(p.Data)-1] ^= 1
		return p
	})
}

func otherVersion(e *Env) maker {
	return always(func() transport.Packet {
		p := e.attempt(e.source()).packet()
		p.Data[wire.HeaderSize] = wire.Version + 1
		e.mac.Sum(p.Data)
		return p
	})
}

func newHello(e *Env) maker {
	return always(func() transport.Packet { return e.attempt(e.source()).packet() })
}

func trustedHello(e *Env) maker {
	port := uint16(1024)
	return always(func() transport.Packet {
		port++
		return e.attempt(path.Path{Peer: netip.AddrPortFrom(e.Trusted, max(port, 1024))}).packet()
	})
}

func tcpHello(e *Env) maker {
	conn := uint64(0)
	return always(func() transport.Packet {
		conn++
		return e.attempt(path.NewTCP(e.source().Peer, netip.Addr{}, conn)).packet()
	})
}

// begun returns handshakes with a record, which alternate.
func begun(e *Env) func() *attempt {
	var all []*attempt
	for range e.Clients {
		if a := e.attempt(e.source()); a.begin() {
			all = append(all, a)
		}
	}
	return alternate(all)
}

// alternate returns one after the other, nil if there are none.
func alternate[T any](all []*T) func() *T {
	n := 0
	return func() *T {
		if len(all) == 0 {
			return nil
		}
		n++
		return all[n%len(all)]
	}
}

func repeatedHello(e *Env) maker {
	next := begun(e)
	return func() (transport.Packet, bool) {
		a := next()
		if a == nil {
			return none()
		}
		return a.packet(), true
	}
}

// busyHello sends more hellos from one source than its budget has.
func busyHello(e *Env) maker {
	at := e.source()
	for range 40 {
		e.exchange(e.attempt(at).packet())
	}
	return always(func() transport.Packet {
		e.exchange(e.attempt(at).packet(), e.attempt(at).packet())
		return e.attempt(at).packet()
	})
}

// cookieHello sends hellos from one source until one gets a cookie.
func cookieHello(e *Env) maker {
	return func() (transport.Packet, bool) {
		at := e.source()
		for range 50 {
			a := e.attempt(at)
			t, content := answer(at, e.exchange(a.packet()))
			if busy, err := wire.ParseBusy(content); t == wire.TypeBusy && err == nil && busy.HasCookie {
				a.hello.HasCookie, a.hello.Cookie = true, busy.Cookie
				return a.packet(), true
			}
		}
		return none()
	}
}

// doubtingHello sends hellos of other sources that name the sessions of some clients.
func doubtingHello(e *Env) maker {
	var all []*client
	n := 0
	return func() (transport.Packet, bool) {
		if len(all) < min(e.Clients, 16) {
			if c := e.client(); c != nil {
				all = append(all, c)
			}
		}
		if len(all) == 0 {
			return none()
		}
		n++
		a := e.attempt(e.source())
		a.hello.Doubted = all[n%len(all)].session.Current().Index()
		return a.packet(), true
	}
}

// kktRequest requests the KEM key after a hello, or requests it again.
func kktRequest(again bool) func(*Env) maker {
	return func(e *Env) maker {
		return func() (transport.Packet, bool) {
			c, request := e.begin(nil, 1)
			if request == nil {
				return none()
			}
			if again {
				e.exchange(transport.Packet{Data: bytes.Clone(request[0].Data), Path: c.at})
			}
			return request[0], true
		}
	}
}

// looseParts sends parts of one message of Handshake 1, no combination of which has its hash.
func looseParts(count uint8) func(*Env) maker {
	return func(e *Env) maker {
		next, n := begun(e), 0
		return func() (transport.Packet, bool) {
			a := next()
			if a == nil {
				return none()
			}
			n++
			index := uint8(n/max(1, e.Clients)) % count
			return a.part(wire.Part{Index: index, Count: count, MessageID: [4]byte{9}, Data: e.random(1000)}), true
		}
	}
}

// The forms of a Handshake 1 that fails.
const (
	otherEphemeral = iota
	wrongTag
	wrongCiphertext
)

func handshake1(form int) func(*Env) maker {
	return func(e *Env) maker {
		next := begun(e)
		return func() (transport.Packet, bool) {
			a := next()
			if a == nil {
				return none()
			}
			var message []transport.Packet
			if form == otherEphemeral {
				message = a.split(e.random(1313))
			} else {
				message = a.forge(form == wrongCiphertext)
			}
			e.exchange(message[0])
			return message[1], true
		}
	}
}

// begin returns a client that the gateway has a record of, with the last packets of its first flight,
// which it has not sent.
func (e *Env) begin(known []byte, last int) (c *client, rest []transport.Packet) {
	c = e.dial(e.source(), known)
	for range 3 { // with a cookie if the gateway requires one
		flight := c.take()
		hellos := len(flight) - last
		if hellos < 1 {
			break
		}
		if t, _ := answer(c.at, e.exchange(flight[:hellos]...)); t == wire.TypeAck {
			return c, flight[hellos:]
		}
	}
	return c, nil
}

// halfway returns a client that the gateway has a record of, with the parts of its Handshake 1.
func halfway(e *Env) (c *client, message []transport.Packet) { return e.begin(e.kemKey(), 2) }

func goodHandshake1(again bool) func(*Env) maker {
	return func(e *Env) maker {
		return func() (transport.Packet, bool) {
			_, message := halfway(e)
			if message == nil {
				return none()
			}
			if again {
				e.exchange(copies(message)...)
			}
			e.exchange(message[0])
			return message[1], true
		}
	}
}

// copies returns copies of packets: the gateway opens packets in place.
func copies(packets []transport.Packet) (all []transport.Packet) {
	for _, p := range packets {
		p.Data = bytes.Clone(p.Data)
		all = append(all, p)
	}
	return all
}

// last returns a client with a session that the gateway does not have yet, and its Handshake 3.
func last(e *Env) (c *client, handshake3 transport.Packet, ok bool) {
	c, message := halfway(e)
	if message == nil {
		return nil, handshake3, false
	}
	e.exchange(message...)
	if c.session == nil || len(c.out.Packets) == 0 {
		return nil, handshake3, false
	}
	return c, c.take()[0], true
}

// The forms of a Handshake 3.
const (
	goodHandshake = iota
	repeatedHandshake
	forgedHandshake
)

func handshake3(form int) func(*Env) maker {
	return func(e *Env) maker {
		return func() (transport.Packet, bool) {
			_, p, ok := last(e)
			if !ok {
				return none()
			}
			switch form {
			case repeatedHandshake:
				e.exchange(copies([]transport.Packet{p})...)
			case forgedHandshake:
				p.Data[len(p.Data)-1] ^= 1
			}
			return p, true
		}
	}
}

func earlyData(e *Env) maker {
	return func() (transport.Packet, bool) {
		c, _, ok := last(e)
		if !ok {
			return none()
		}
		return c.data(dataFlow, nil, dataSize), true
	}
}

// sealedNoise returns a packet of the transport level that does not open.
func (e *Env) sealedNoise(index uint32) []byte {
	p := e.random(wire.MinHelloDatagram)
	binary.LittleEndian.PutUint32(p, index)
	binary.LittleEndian.PutUint64(p[4:], wire.Counter(wire.LevelTransport, 1<<20+uint64(p[20])))
	return p
}

func unknownIndex(e *Env) maker {
	return always(func() transport.Packet {
		return transport.Packet{Data: e.sealedNoise(binary.LittleEndian.Uint32(e.random(4)) | 1), Path: e.source()}
	})
}

func forgedData(e *Env) maker {
	return each(e, func(c *client) transport.Packet {
		return transport.Packet{Data: e.sealedNoise(c.session.Current().Index()), Path: c.at}
	})
}

// replayedData sends a data packet again.
func replayedData(e *Env) maker {
	seen := make(map[*client]transport.Packet)
	return withFlow(e, func(c *client) transport.Packet {
		if seen[c].Data == nil {
			seen[c] = c.data(dataFlow, nil, dataSize)
			e.exchange(copies([]transport.Packet{seen[c]})...)
		}
		return copies([]transport.Packet{seen[c]})[0]
	})
}

// What clients send.

// each returns a maker of packets of clients with a session, which alternate.
func each(e *Env, packet func(*client) transport.Packet) maker {
	var all []*client
	for range e.Clients {
		if c := e.client(); c != nil {
			all = append(all, c)
		}
	}
	next := alternate(all)
	return func() (transport.Packet, bool) {
		c := next()
		if c == nil {
			return none()
		}
		if !c.session.Confirmed() {
			return none() // its Ack is on the way
		}
		p := packet(c)
		return p, p.Data != nil
	}
}

// withFlow is each for clients with an open flow.
func withFlow(e *Env, packet func(*client) transport.Packet) maker {
	open := make(map[*client]bool)
	target := wire.AddrTarget(e.Target)
	return each(e, func(c *client) transport.Packet {
		if !open[c] {
			open[c] = true
			e.exchange(c.data(dataFlow, &target, dataSize))
		}
		return packet(c)
	})
}

func data(e *Env) maker {
	return withFlow(e, func(c *client) transport.Packet { return c.data(dataFlow, nil, dataSize) })
}

func roamingData(e *Env) maker {
	return withFlow(e, func(c *client) transport.Packet {
		p := c.data(dataFlow, nil, dataSize)
		p.Path = e.source()
		return p
	})
}

// flowIDs returns the next flow id of a client.
func flowIDs() func(*client) uint16 {
	ids := make(map[*client]uint16)
	return func(c *client) uint16 {
		ids[c] = max(firstFlow, ids[c]+1)
		return ids[c]
	}
}

func unknownFlow(e *Env) maker {
	id := flowIDs()
	return each(e, func(c *client) transport.Packet { return c.data(id(c), nil, dataSize) })
}

// open returns a maker of data packets that open a flow each. The client closes each before the
// next one, if it is to stay below the bounds.
func open(e *Env, target wire.Target, closing bool) maker {
	id := flowIDs()
	return each(e, func(c *client) transport.Packet {
		n := id(c)
		if closing {
			e.exchange(c.seal(wire.TypeFlowClosed, &wire.FlowClosed{FlowID: max(firstFlow, n-1)}))
		}
		return c.data(n, &target, dataSize)
	})
}

func openFlow(e *Env) maker   { return open(e, wire.AddrTarget(e.Open), true) }
func deniedFlow(e *Env) maker { return open(e, wire.AddrTarget(e.Denied), false) }

func lookUp(e *Env) maker {
	target, err := wire.NameTarget(e.Host, e.Target.Port())
	if err != nil {
		panic("costs: the host: " + err.Error())
	}
	return open(e, target, true)
}

func tooManyFlows(e *Env) maker {
	const enough = 300
	target := wire.AddrTarget(e.Target)
	full := make(map[*client]bool)
	id := flowIDs()
	return each(e, func(c *client) transport.Packet {
		for i := 0; !full[c] && i < enough; i++ {
			e.exchange(c.data(id(c), &target, 1))
		}
		full[c] = true
		return c.data(id(c), &target, dataSize)
	})
}

func closeFlow(e *Env) maker {
	target := wire.AddrTarget(e.Open)
	return each(e, func(c *client) transport.Packet {
		e.exchange(c.data(firstFlow, &target, dataSize))
		return c.seal(wire.TypeFlowClosed, &wire.FlowClosed{FlowID: firstFlow})
	})
}

// innerPacket returns a packet for the exit: a hello, or a sealed one.
func innerPacket(index uint32, hello bool) []byte {
	if hello {
		m := wire.ClientHello{Attempt: index}
		return wire.Finish(wire.Pad(m.Append(wire.Begin(nil, 0, wire.LevelClear, 0, wire.TypeClientHello)), 0, wire.MinHelloDatagram))
	}
	return wire.Finish(append(wire.Begin(nil, index, wire.LevelTransport, 1, wire.TypePing), make([]byte, dataSize)...))
}

// forwarding returns a ForwardPacket; to opens the flow.
func (c *client) forwarding(to *identity.PublicKey, inner []byte) transport.Packet {
	m := &wire.ForwardPacket{FlowID: forwardFlow, Inner: inner}
	if to != nil {
		m.Flags, m.Identity = wire.FlagIdentity, *to
	}
	return c.seal(wire.TypeForwardPacket, m)
}

// withForward is each for clients with an open flow to the exit and one inner index.
func withForward(e *Env, packet func(c *client, index uint32) transport.Packet) maker {
	indexes := make(map[*client]uint32)
	return each(e, func(c *client) transport.Packet {
		if indexes[c] == 0 {
			indexes[c] = uint32(len(indexes) + 1)
			e.exchange(c.forwarding(&e.Exit, innerPacket(indexes[c], false)))
		}
		return packet(c, indexes[c])
	})
}

func forward(e *Env) maker {
	return withForward(e, func(c *client, index uint32) transport.Packet {
		return c.forwarding(nil, innerPacket(index, false))
	})
}

func innerHello(e *Env) maker {
	return withForward(e, func(c *client, index uint32) transport.Packet {
		return c.forwarding(nil, innerPacket(index, true))
	})
}

// claim binds another index each time, after the flow to the exit was closed.
func claim(e *Env) maker {
	index := uint32(1 << 20)
	return each(e, func(c *client) transport.Packet {
		index++
		e.exchange(c.seal(wire.TypeFlowClosed, &wire.FlowClosed{FlowID: forwardFlow}))
		return c.forwarding(&e.Exit, innerPacket(index, false))
	})
}

func unknownGateway(e *Env) maker {
	other := identity.PublicKey(e.random(32))
	return each(e, func(c *client) transport.Packet { return c.forwarding(&other, innerPacket(1, false)) })
}

// kk1 returns packets with the parts of a message in place of KK1.
func (c *client) kk1(message []byte) (packets []transport.Packet) {
	for _, p := range parts.Split(message, parts.MaxData) {
		packets = append(packets, c.seal(wire.TypeSubsessionKK1, &p))
	}
	return packets
}

func looseKK1(e *Env) maker {
	n := uint8(0)
	return each(e, func(c *client) transport.Packet {
		n++
		return c.seal(wire.TypeSubsessionKK1, &wire.Part{Index: n / 32 % 2, Count: 2, MessageID: [4]byte{9}, Data: e.random(618)})
	})
}

func badKK1(e *Env) maker {
	return each(e, func(c *client) transport.Packet {
		m := wire.SubsessionKK1{Generation: 1, Noise: e.random(wire.SubsessionKK1Size - 4)}
		packets := c.kk1(m.Append(nil))
		e.exchange(packets[0])
		return packets[1]
	})
}

// renew returns the parts of the client's KK1, the same ones while its subsession is in progress.
func (c *client) renew() []transport.Packet {
	c.session.Rekey(c.e.Now(), &c.out)
	if len(c.out.Packets) == 0 {
		c.asked = latest(c.e.Now(), c.asked.Add(100*time.Millisecond)) // a client follows no more requests
		_ = c.session.Control(c.asked, c.session.Current(), wire.TypeSubsessionRequest, nil, path.Path{}, &c.out)
	}
	return c.take()
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func goodKK1(e *Env) maker {
	return each(e, func(c *client) transport.Packet {
		packets := c.renew()
		if len(packets) < 2 {
			return transport.Packet{} // a subsession waits for its Ack
		}
		e.exchange(packets[0])
		return packets[1]
	})
}

// repeatedKK1 sends the KK1 of clients that ignore the answer.
func repeatedKK1(e *Env) maker {
	return each(e, func(c *client) transport.Packet {
		delete(e.clients, c.at)
		packets := c.renew()
		if len(packets) < 2 {
			return transport.Packet{}
		}
		e.Exchange(packets[0])
		return packets[1]
	})
}

func ready(e *Env) maker {
	renewed := make(map[*client]bool)
	return each(e, func(c *client) transport.Packet {
		if !renewed[c] {
			renewed[c] = true
			c.session.Rekey(e.Now(), &c.out)
			c.run()
		}
		return c.seal(wire.TypeSubsessionReady, &wire.SubsessionReady{Generation: 1})
	})
}

// abort refuses every index that the gateway proposes.
func abort(e *Env) maker {
	asked := make(map[*client]bool)
	return each(e, func(c *client) transport.Packet {
		if !asked[c] {
			asked[c], c.silent = true, true
			c.session.Rekey(e.Now(), &c.out)
			c.step()
		}
		c.out.Packets = nil // Ready, which would end the subsession
		c.session.RejectIndex(e.Now(), &c.out)
		if len(c.out.Packets) == 0 {
			return transport.Packet{}
		}
		return c.take()[0]
	})
}

func staleAbort(e *Env) maker {
	return each(e, func(c *client) transport.Packet {
		return c.seal(wire.TypeSubsessionAbort, &wire.SubsessionAbort{Generation: 9, NewReceiverIdx: 9})
	})
}

func ping(e *Env) maker {
	return each(e, func(c *client) transport.Packet { return c.seal(wire.TypePing, &wire.Ping{}) })
}

func pong(e *Env) maker {
	return each(e, func(c *client) transport.Packet { return c.seal(wire.TypePong, &wire.Pong{}) })
}

func poll(e *Env) maker {
	conn := uint64(0)
	return each(e, func(c *client) transport.Packet {
		conn++
		p := c.seal(wire.TypePoll, &wire.Poll{})
		p.Path = path.NewTCP(c.at.Peer, netip.Addr{}, conn)
		return p
	})
}

// register makes Registers with a credential, which a gateway whose workers are all busy answers by itself.
func register(e *Env) maker {
	id := uint32(0)
	return each(e, func(c *client) transport.Packet {
		id++
		return c.register(id)
	})
}

func repeatedRegister(e *Env) maker {
	first := make(map[*client]bool)
	return each(e, func(c *client) transport.Packet {
		if !first[c] {
			first[c] = true
			e.exchange(c.register(1))
		}
		return c.register(1)
	})
}

func (c *client) register(id uint32) transport.Packet {
	m := wire.Register{RequestID: id, Mode: wire.ModeRelay, TicketType: wire.TicketBlindRSA2048, Credential: make([]byte, 354)}
	return c.seal(wire.TypeRegister, &parts.Split(m.Append(nil), parts.MaxData)[0])
}

func misplaced(e *Env) maker {
	return each(e, func(c *client) transport.Packet { return c.seal(wire.TypeSubsessionRequest, &wire.Empty{}) })
}

func closeSession(e *Env) maker {
	return func() (transport.Packet, bool) {
		c := e.client()
		if c == nil {
			return none()
		}
		return c.seal(wire.TypeClose, &wire.Close{}), true
	}
}
