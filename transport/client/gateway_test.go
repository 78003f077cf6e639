package client_test

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"lewes/crypto/cookie"
	"lewes/crypto/identity"
	"lewes/crypto/kem"
	"lewes/crypto/seal"
	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
	"lewes/transport/uri"
)

// gateway is a scripted gateway, for tests under testing/synctest: the protocol's responder
// over an in-memory network, without routing. It echoes datagrams, unless answer returns
// something else, forwards to the gateways in its directory, and records what arrives.
// Tests with real sockets use router/gatewaytest.
type gateway struct {
	t        reporter
	identity *identity.PrivateKey
	at       netip.AddrPort
	conn     transport.Conn
	streams  streams                             // nil: it does not listen on TCP
	dial     func(netip.AddrPort) transport.Conn // to the next gateway

	mu        sync.Mutex
	config    *state.GatewayConfig
	hands     *state.ResponderTable
	sessions  *state.Sessions
	out       state.Output
	flows     map[flowKey]wire.Target
	directory map[identity.PublicKey]netip.AddrPort
	next      map[netip.AddrPort]transport.Conn
	claims    map[uint32]claim
	seen      []arrival
	told      []wire.FlowClosed // by clients
	hellos    int
	pings     int
	oneFlight int // hellos with the id of a KEM key
	// answer returns the answers to a datagram, or the reason why the flow is
	// closed. nil echoes.
	answer func(a arrival) ([][]byte, wire.FlowReason)
	// register answers a Register, or leaves it under way by nil. It is called once for each.
	register func(s *state.Session, m *wire.Register) *wire.RegisterResult
	// taken reports whether an inner index belongs to another session.
	taken func(index uint32) bool
	tcp   downstream
	done  sync.WaitGroup
}

// reporter is the part of testing.TB that a gateway needs.
type reporter interface {
	Helper()
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

type flowKey struct {
	session *state.Session
	id      uint16
}

type claim struct {
	session *state.Session
	id      uint16
}

// arrival is a received datagram of a flow.
type arrival struct {
	session *state.Session
	id      uint16
	named   bool // with its target
	target  wire.Target
	payload string
	size    int // of the packet
}

var terms = state.Terms{IdleTTL: 24 * time.Hour, RekeyAfter: time.Hour, MaxDatagram: wire.MaxUDPPacket}

// newGateway starts a gateway on conn, which it closes at the end of the test.
func newGateway(t reporter, key byte, conn transport.Conn, dial func(netip.AddrPort) transport.Conn) *gateway {
	t.Helper()
	g := &gateway{
		t:         t,
		identity:  identity.FromSeed(&[32]byte{key}),
		at:        conn.LocalAddr().(*net.UDPAddr).AddrPort(),
		conn:      conn,
		dial:      dial,
		directory: make(map[identity.PublicKey]netip.AddrPort),
		next:      make(map[netip.AddrPort]transport.Conn),
	}
	g.restart()
	g.done.Go(func() { g.serve(conn, g.packet) })
	return g
}

// stop stops the gateway without closing its sessions.
func (g *gateway) stop() {
	_ = g.conn.Close()
	g.mu.Lock()
	if g.streams != nil {
		_ = g.streams.Close()
	}
	for _, c := range g.next {
		_ = c.Close()
	}
	g.mu.Unlock()
	g.done.Wait()
}

// restart drops all sessions, flows and KEM keys, like a new process.
func (g *gateway) restart() {
	g.mu.Lock()
	defer g.mu.Unlock()
	kems, err := state.NewKEMKeys(time.Now(), []kem.ID{kem.MLKEM768, kem.XWing}, rand.Reader)
	if err != nil {
		g.t.Fatal(err)
	}
	g.sessions = state.NewSessions()
	config := &state.GatewayConfig{
		Identity: g.identity,
		KEMs:     kems,
		Suites:   seal.Offer(),
		Session:  state.SessionConfig{Rand: rand.Reader, Terms: terms, NewIndex: newIndex},
	}
	if g.config != nil {
		config.Admit = g.config.Admit
		config.Session.Terms = g.config.Session.Terms
		config.Trusted, config.TrustedRate = g.config.Trusted, g.config.TrustedRate
	}
	config.Holds = func(index uint32) bool { return g.sessions.Find(index) != nil }
	g.config = config
	g.flows = make(map[flowKey]wire.Target)
	g.tcp = downstream{}
	g.claims = make(map[uint32]claim)
	if g.hands, err = state.NewResponderTable(time.Now(), config); err != nil {
		g.t.Fatal(err)
	}
}

func newIndex() uint32 {
	var b [4]byte
	_, _ = rand.Read(b[:])
	return binary.LittleEndian.Uint32(b[:]) | 1
}

// uri returns the gateway's URI.
func (g *gateway) uri() uri.Gateway {
	u := uri.Gateway{Identity: g.identity.Public(), Host: g.at.Addr().String(), Port: g.at.Port()}
	if g.streams != nil {
		u.TCPPort = uint16(g.streams.LocalAddr().(*net.TCPAddr).Port)
	}
	return u
}

// forwardsTo adds another gateway to the directory.
func (g *gateway) forwardsTo(next *gateway) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.directory[next.identity.Public()] = next.at
}

// with calls f with the lock held, and sends pending packets.
func (g *gateway) with(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
	g.settle()
}

func (g *gateway) serve(conn transport.Conn, handle func(time.Time, []byte, path.Path)) {
	batch := make([]transport.Packet, 16)
	for {
		n, err := conn.ReadBatch(batch)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		now := time.Now()
		g.mu.Lock()
		for i := range batch[:n] {
			for datagram := range batch[i].Segments() {
				handle(now, datagram, batch[i].Path)
			}
		}
		g.tick(now)
		g.settle()
		_ = g.conn.SetReadDeadline(g.due())
		g.mu.Unlock()
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, transport.ErrRefused) {
			g.t.Errorf("gateway: reading: %v", err)
		}
	}
}

func (g *gateway) due() time.Time {
	a, b := g.hands.Next(), g.sessions.Next()
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func (g *gateway) tick(now time.Time) {
	for g.hands.TickOne(now) {
	}
	for s := g.sessions.Due(now); s != nil; s = g.sessions.Due(now) {
		s.Tick(now, &g.out)
		g.follow()
		g.sessions.Touch(s)
	}
}

func (g *gateway) packet(now time.Time, p []byte, from path.Path) {
	h, err := wire.ParseHeader(p)
	if err != nil {
		return
	}
	switch h.Level {
	case wire.LevelClear:
		g.countHello(p)
		if g.hands.Verify(p) {
			_ = g.hands.HandleClear(now, h, p, from, &g.out)
		}
	case wire.LevelHandshake:
		s, early, _ := g.hands.HandleHandshake3(now, h, p, from, &g.out)
		if s != nil {
			g.sessions.Add(s)
			for _, e := range early {
				g.packet(now, e.Data, e.Path)
			}
		}
	case wire.LevelTransport:
		g.sealed(now, h, p, from)
	}
}

func (g *gateway) countHello(p []byte) {
	t, content, err := wire.ParseBody(wire.Body(p))
	if err != nil || t != wire.TypeClientHello {
		return
	}
	if hello, err := wire.ParseClientHello(content); err == nil {
		g.hellos++
		if hello.KEMKeyID != 0 {
			g.oneFlight++
		}
	}
}

func (g *gateway) sealed(now time.Time, h wire.Header, p []byte, from path.Path) {
	generation := g.sessions.Find(h.ReceiverIdx)
	if generation == nil {
		_ = g.hands.BufferEarly(h, p, from)
		return
	}
	s := generation.Session()
	t, content, err := generation.OpenParsed(now, h, p, from, &g.out)
	if err == nil {
		switch t {
		case wire.TypeEncryptedData:
			g.data(s, content, len(p))
		case wire.TypeForwardPacket:
			g.forward(s, content)
		case wire.TypePoll:
			if m, err := wire.ParsePoll(content); err == nil && from.Transport == path.TCP {
				g.tcp.wait = time.Duration(m.WaitMillis) * time.Millisecond
			}
		case wire.TypeFlowClosed:
			if m, err := wire.ParseFlowClosed(content); err == nil {
				g.told = append(g.told, m)
				delete(g.flows, flowKey{s, m.FlowID})
			}
		case wire.TypeRegister:
			g.handleRegister(now, generation, content, from)
		default:
			if t == wire.TypePing {
				g.pings++
			}
			_ = s.Control(now, generation, t, content, from, &g.out)
		}
	}
	g.follow()
	g.sessions.Touch(s)
}

func (g *gateway) handleRegister(now time.Time, k *state.KeySet, content []byte, from path.Path) {
	s := k.Session()
	request, err := s.HandleRegister(now, k, content, from, &g.out)
	if err != nil {
		g.t.Errorf("gateway: a part of a Register: %v", err)
	}
	if request == nil {
		return
	}
	m, err := wire.ParseRegister(request.Message)
	if err != nil {
		g.t.Errorf("gateway: a Register: %v", err)
	}
	if result := g.register(s, &m); result != nil {
		s.FinishRegister(request.ID, result.AppendCBOR(nil), &g.out)
	}
}

func (g *gateway) data(s *state.Session, content []byte, size int) {
	m, err := wire.ParseEncryptedData(content)
	if err != nil {
		g.t.Errorf("gateway: %v", err)
		return
	}
	key := flowKey{s, m.FlowID}
	target, open := g.flows[key]
	named := m.Flags&wire.FlagTarget != 0
	a := arrival{session: s, id: m.FlowID, named: named, target: target, payload: string(m.Payload), size: size}
	if named {
		a.target = m.Target
		a.target.Name = append([]byte(nil), m.Target.Name...)
	}
	g.seen = append(g.seen, a)
	switch {
	case !named && !open:
		g.closeFlow(s, m.FlowID, wire.FlowIdle, "")
		return
	case named && open && !target.Equal(&m.Target):
		g.closeFlow(s, m.FlowID, wire.FlowOtherTarget, "")
		return
	}
	g.flows[key] = a.target
	replies := [][]byte{m.Payload}
	if g.answer != nil {
		var reason wire.FlowReason
		if replies, reason = g.answer(a); reason != 0 {
			g.closeFlow(s, m.FlowID, reason, "as the test says")
			return
		}
	}
	for _, r := range replies {
		_ = s.Send(wire.TypeEncryptedData, &wire.EncryptedData{FlowID: m.FlowID, Payload: r}, &g.out)
	}
}

func (g *gateway) closeFlow(s *state.Session, id uint16, reason wire.FlowReason, detail string) {
	if reason != wire.FlowOtherTarget && reason != wire.FlowIndexCollision {
		delete(g.flows, flowKey{s, id})
	}
	_ = s.Send(wire.TypeFlowClosed, &wire.FlowClosed{FlowID: id, Reason: reason, Detail: wire.Detail(detail)}, &g.out)
}

// forward forwards an inner packet and registers its index.
func (g *gateway) forward(s *state.Session, content []byte) {
	m, err := wire.ParseForwardPacket(content)
	if err != nil {
		g.t.Errorf("entry: %v", err)
		return
	}
	key := flowKey{s, m.FlowID}
	if m.Flags&wire.FlagIdentity != 0 {
		to, known := g.directory[m.Identity]
		if !known {
			g.closeFlow(s, m.FlowID, wire.FlowPolicy, "not in the directory")
			return
		}
		g.flows[key] = wire.AddrTarget(to)
	}
	target, open := g.flows[key]
	if !open {
		g.closeFlow(s, m.FlowID, wire.FlowIdle, "")
		return
	}
	index, _, err := wire.ParseInner(m.Inner)
	if err != nil {
		g.t.Errorf("entry: inner packet: %v", err)
		return
	}
	if g.taken != nil && g.taken(index) {
		g.closeFlow(s, m.FlowID, wire.FlowIndexCollision, "")
		return
	}
	g.claims[index] = claim{s, m.FlowID}
	conn := g.next[target.AddrPort()]
	if conn == nil {
		conn = g.dial(target.AddrPort())
		g.next[target.AddrPort()] = conn
		g.done.Go(func() { g.serve(conn, g.back) })
	}
	_, _ = conn.WriteBatch([]transport.Packet{{Data: m.Inner}})
}

// back forwards a packet from the next gateway to the session that registered its index.
func (g *gateway) back(_ time.Time, p []byte, _ path.Path) {
	index, _ := wire.ReceiverIdx(p)
	if c, ok := g.claims[index]; ok {
		_ = c.session.Send(wire.TypeForwardPacket, &wire.ForwardPacket{FlowID: c.id, Inner: p}, &g.out)
	}
}

func (g *gateway) follow() {
	for _, e := range g.out.Events {
		g.sessions.Apply(e)
	}
	g.out.Events = g.out.Events[:0]
}

func (g *gateway) settle() {
	g.follow()
	var batch []transport.Packet
	for _, p := range g.out.Packets {
		if p.Path.Transport == path.TCP {
			g.tcp.waiting = append(g.tcp.waiting, p.Data)
			continue
		}
		batch = append(batch, transport.Packet{Data: p.Data, Path: p.Path})
	}
	g.out.Reset()
	if len(batch) > 0 {
		_, _ = g.conn.WriteBatch(batch)
	}
	g.drain()
}

// only returns the gateway's one session.
func (g *gateway) only() *state.Session {
	var found []*state.Session
	g.sessions.All(func(s *state.Session) { found = append(found, s) })
	if len(found) != 1 {
		g.t.Fatalf("the gateway has %d sessions, want one", len(found))
	}
	return found[0]
}

// arrivals returns the datagrams received since the last call.
func (g *gateway) arrivals() []arrival {
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.seen
	g.seen = nil
	return a
}

func macOf(g *gateway) *cookie.MAC1Key { return cookie.NewMAC1Key(g.identity.Public()) }

// forge builds a clear packet, which needs only the gateway's public key.
func forge(mac *cookie.MAC1Key, index uint32, t wire.Type, m interface{ Append([]byte) []byte }) []byte {
	p := wire.Finish(m.Append(wire.Begin(nil, index, wire.LevelClear, 0, t)))
	mac.Sum(p)
	return p
}

// wrongClock is a Conn to a gateway whose clock is wrong: it replaces each answer by a
// Reject.
type wrongClock struct {
	transport.Conn
	mac *cookie.MAC1Key
}

func (c *wrongClock) ReadBatch(p []transport.Packet) (int, error) {
	n, err := c.Conn.ReadBatch(p)
	if n > 0 {
		index, _ := wire.ReceiverIdx(p[0].Data)
		at := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)
		p[0].Data = forge(c.mac, index, wire.TypeReject, &wire.Reject{Code: wire.RejectClock, GatewaySeconds: uint64(at.Unix())})
		n = 1
	}
	return n, err
}
