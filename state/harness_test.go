package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/kem"
	"lewes/crypto/seal"
	"lewes/state/path"
	"lewes/state/wire"
)

// epoch is when simulated time begins.
var epoch = time.Unix(1_800_000_000, 0)

// seeded is randomness that a seed repeats.
func seeded(seed uint64) io.Reader {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	return rand.NewChaCha8(key)
}

func testIdentity(seed byte) *identity.PrivateKey {
	return identity.FromSeed(&[32]byte{seed})
}

func addr(s string) path.Path {
	return path.Path{Peer: netip.MustParseAddrPort(s)}
}

var (
	clientAt  = addr("192.0.2.1:1111")
	gatewayAt = addr("198.51.100.1:51264")
)

// gatewayEnd is a gateway with nothing above its sessions: it keeps the data that
// came and routes packets as a shard does.
type gatewayEnd struct {
	t          testing.TB
	responders *ResponderTable
	sessions   *Sessions
	out        Output
	data       []string // contents of EncryptedData
	closed     []error
	drops      map[string]int
	nextIndex  uint32
	registers  func(*Session, *RegisterRequest) // gets new Registers
}

func gatewayConfig(t testing.TB, seed uint64) *GatewayConfig {
	t.Helper()
	rand := seeded(seed)
	kems, err := NewKEMKeys(epoch, []kem.ID{kem.MLKEM768, kem.XWing}, rand)
	if err != nil {
		t.Fatal(err)
	}
	return &GatewayConfig{
		Identity: testIdentity(1),
		KEMs:     kems,
		Suites:   seal.ChaCha20Poly1305 | seal.AES256GCM,
		Session: SessionConfig{
			Rand:  rand,
			Terms: Terms{IdleTTL: 24 * time.Hour, RekeyAfter: 15 * time.Minute, MaxDatagram: wire.MaxUDPPacket},
		},
	}
}

func newGatewayEnd(t testing.TB, config *GatewayConfig) *gatewayEnd {
	t.Helper()
	g := &gatewayEnd{t: t, sessions: NewSessions(), drops: map[string]int{}, nextIndex: 0x8000_0000}
	config.Holds = func(index uint32) bool { return g.sessions.Find(index) != nil }
	config.Session.NewIndex = func() uint32 { g.nextIndex++; return g.nextIndex }
	var err error
	if g.responders, err = NewResponderTable(epoch, config); err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *gatewayEnd) handle(now time.Time, packet []byte, from path.Path) {
	h, err := wire.ParseHeader(packet)
	if err != nil {
		g.drop(err)
		return
	}
	switch h.Level {
	case wire.LevelClear:
		if !g.responders.Verify(packet) {
			g.drop(ErrMAC1)
			return
		}
		g.drop(g.responders.HandleClear(now, h, packet, from, &g.out))
	case wire.LevelHandshake:
		s, early, err := g.responders.HandleHandshake3(now, h, packet, from, &g.out)
		g.drop(err)
		if s != nil {
			g.sessions.Add(s)
			for _, p := range early {
				g.handle(now, p.Data, p.Path)
			}
		}
	case wire.LevelTransport:
		generation := g.sessions.Find(h.ReceiverIdx)
		if generation == nil {
			g.drop(g.responders.BufferEarly(h, packet, from))
			return
		}
		t, content, err := generation.OpenParsed(now, h, packet, from, &g.out)
		if err != nil {
			g.drop(err)
		} else if t == wire.TypeEncryptedData {
			g.data = append(g.data, string(content))
		} else if t == wire.TypeRegister {
			request, err := generation.Session().HandleRegister(now, generation, content, from, &g.out)
			if g.drop(err); request != nil {
				g.registers(generation.Session(), request)
			}
		} else {
			g.drop(generation.Session().Control(now, generation, t, content, from, &g.out))
		}
		g.settle()
		g.sessions.Touch(generation.Session())
	}
}

// rejectShutdown handles a clear packet while the gateway shuts down.
func (g *gatewayEnd) rejectShutdown(packet []byte) {
	if g.responders.Verify(packet) {
		g.drop(g.responders.RejectShutdown(epoch, headerOf(packet), packet, clientAt, &g.out))
	}
}

func (g *gatewayEnd) drop(err error) {
	if err != nil {
		g.drops[err.Error()]++
	}
}

// settle follows the events that have come up.
func (g *gatewayEnd) settle() {
	for _, e := range g.out.Events {
		g.sessions.Apply(e)
		if e.Kind == Closed {
			g.closed = append(g.closed, e.Reason)
		}
	}
	g.out.Events = g.out.Events[:0]
}

func (g *gatewayEnd) tick(now time.Time) {
	for g.responders.TickOne(now) {
	}
	for s := g.sessions.Due(now); s != nil; s = g.sessions.Due(now) {
		s.Tick(now, &g.out)
		g.settle()
		g.sessions.Touch(s)
	}
}

func (g *gatewayEnd) next() time.Time { return earliest(g.responders.Next(), g.sessions.Next()) }

func (g *gatewayEnd) take() []Packet {
	g.settle()
	p := append([]Packet(nil), g.out.Packets...)
	g.out.Reset()
	return p
}

// clientEnd is a client with nothing above its session.
type clientEnd struct {
	t        testing.TB
	client   *Client
	session  *Session
	byIndex  map[uint32]*KeySet
	out      Output
	data     []string
	events   []Event
	drops    map[string]int
	confirms int
}

func clientConfig(seed uint64) ClientConfig {
	return ClientConfig{
		Gateway:  testIdentity(1).Public(),
		Identity: testIdentity(2),
		KEM:      kem.MLKEM768,
		Suites:   seal.ChaCha20Poly1305 | seal.AES256GCM,
		Rand:     seeded(seed),
		Path:     gatewayAt,
	}
}

func newClientEnd(t testing.TB, now time.Time, config ClientConfig) *clientEnd {
	t.Helper()
	c := &clientEnd{t: t, drops: map[string]int{}, byIndex: map[uint32]*KeySet{}}
	var err error
	if c.client, err = NewClient(now, config, &c.out); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *clientEnd) handle(now time.Time, packet []byte, from path.Path) {
	h, err := wire.ParseHeader(packet)
	if err != nil {
		c.drop(err)
		return
	}
	if c.session == nil || h.Level != wire.LevelTransport && !c.session.Confirmed() {
		c.drop(c.client.Handle(now, packet, &c.out))
		c.adopt()
		c.settle()
		return
	}
	generation := c.byIndex[h.ReceiverIdx]
	if h.Level != wire.LevelTransport || generation == nil {
		c.drop(ErrStale)
		return
	}
	t, content, err := generation.OpenParsed(now, h, packet, from, &c.out)
	if err != nil {
		c.drop(err)
	} else if t == wire.TypeEncryptedData {
		c.data = append(c.data, string(content))
	} else {
		c.drop(c.session.Control(now, generation, t, content, from, &c.out))
	}
	c.settle()
}

func (c *clientEnd) adopt() {
	if c.session != nil {
		return
	}
	if c.session = c.client.Session(); c.session != nil {
		c.byIndex[c.session.Current().Index()] = c.session.Current()
	}
}

func (c *clientEnd) drop(err error) {
	if err != nil {
		c.drops[err.Error()]++
	}
}

func (c *clientEnd) settle() {
	for _, e := range c.out.Events {
		switch e.Kind {
		case IndexAdded:
			c.byIndex[e.Index] = e.KeySet
		case IndexRemoved:
			if c.byIndex[e.Index] == e.KeySet {
				delete(c.byIndex, e.Index)
			}
		case Confirmed:
			c.confirms++
		}
		c.events = append(c.events, e)
	}
	c.out.Events = c.out.Events[:0]
}

func (c *clientEnd) tick(now time.Time) {
	if c.session == nil {
		c.client.Tick(now, &c.out)
		return
	}
	c.session.Tick(now, &c.out)
	c.settle()
}

func (c *clientEnd) next() time.Time {
	if c.session == nil {
		return c.client.Deadline()
	}
	return c.session.Deadline()
}

func (c *clientEnd) take() []Packet {
	c.settle()
	p := append([]Packet(nil), c.out.Packets...)
	c.out.Reset()
	return p
}

// sendData sends one datagram of a flow from either end.
func sendData(t testing.TB, s *Session, out *Output, payload string) {
	t.Helper()
	m := wire.EncryptedData{FlowID: 1, Payload: []byte(payload)}
	if err := s.Send(wire.TypeEncryptedData, &m, out); err != nil {
		t.Fatalf("sending %q: %v", payload, err)
	}
}

// payloads strips the flow header off what sendData sent.
func payloads(contents []string) []string {
	var out []string
	for _, c := range contents {
		out = append(out, c[3:])
	}
	return out
}

// converse carries packets between the two, at once and without loss, until
// neither has any.
func converse(now time.Time, c *clientEnd, g *gatewayEnd) {
	for {
		fromClient, fromGateway := c.take(), g.take()
		if len(fromClient)+len(fromGateway) == 0 {
			return
		}
		for _, p := range fromClient {
			g.handle(now, p.Data, clientAt)
		}
		for _, p := range fromGateway {
			if p.Path == clientAt {
				c.handle(now, p.Data, gatewayAt)
			}
		}
	}
}

// established returns two ends with a session between them.
func established(t testing.TB) (*clientEnd, *gatewayEnd) {
	t.Helper()
	g := newGatewayEnd(t, gatewayConfig(t, 1))
	c := newClientEnd(t, epoch, clientConfig(2))
	converse(epoch, c, g)
	if c.session == nil || g.sessions.Len() != 1 {
		t.Fatalf("no session: client %v, gateway %v", c.drops, g.drops)
	}
	return c, g
}

func (g *gatewayEnd) only() *Session {
	var s *Session
	g.sessions.All(func(x *Session) { s = x })
	return s
}

// checkExchange proves that data passes both ways.
func checkExchange(t testing.TB, now time.Time, c *clientEnd, g *gatewayEnd) {
	t.Helper()
	c.data, g.data = nil, nil
	sendData(t, c.session, &c.out, "up")
	sendData(t, g.only(), &g.out, "down")
	converse(now, c, g)
	if fmt.Sprint(payloads(g.data), payloads(c.data)) != "[up] [down]" {
		t.Fatalf("exchange: gateway got %q, client got %q; drops %v %v", g.data, c.data, g.drops, c.drops)
	}
}

func TestHandshake(t *testing.T) {
	c, g := established(t)
	s := g.only()
	if s.Peer() != testIdentity(2).Public() || c.session.Peer() != testIdentity(1).Public() {
		t.Error("the ends do not know each other's identity")
	}
	if c.session.Handle() != s.Handle() || c.session.Exporter() != s.Exporter() {
		t.Error("handle or exporter differ")
	}
	if c.session.Terms() != s.Terms() || c.confirms != 1 {
		t.Errorf("terms: client %+v, gateway %+v, %d confirmations", c.session.Terms(), s.Terms(), c.confirms)
	}
	checkExchange(t, epoch, c, g)
	if len(c.drops)+len(g.drops) != 0 {
		t.Errorf("drops: client %v, gateway %v", c.drops, g.drops)
	}
}

func TestSubsession(t *testing.T) {
	c, g := established(t)
	now := epoch
	for want := uint32(1); want <= 5; want++ {
		now = now.Add(time.Minute)
		c.session.Rekey(now, &c.out)
		converse(now, c, g)
		s := g.only()
		if c.session.Current().Number() != want || s.Current().Number() != want {
			t.Fatalf("generation %d, %d; want %d (drops %v %v)", c.session.Current().Number(), s.Current().Number(), want, c.drops, g.drops)
		}
		if c.session.rekey.seed != s.rekey.seed {
			t.Fatal("seeds differ")
		}
		checkExchange(t, now, c, g)
	}
}

func TestRejectedIndex(t *testing.T) {
	c, g := established(t)
	c.session.Rekey(epoch, &c.out)
	// KK1 there, KK2 back, Ready lost: the index is refused on its way.
	for _, p := range c.take() {
		g.handle(epoch, p.Data, clientAt)
	}
	for _, p := range g.take() {
		c.handle(epoch, p.Data, gatewayAt)
	}
	c.take()
	refused := c.session.rekey.initiator.child.index
	if !c.session.RejectIndex(epoch, &c.out) {
		t.Fatal("nothing to refuse")
	}
	converse(epoch, c, g)
	if got := c.session.Current(); got.number != 1 || got.index == refused {
		t.Fatalf("generation %d with index %#x (refused %#x)", got.number, got.index, refused)
	}
	checkExchange(t, epoch, c, g)
}

func TestCloseEndsBothEnds(t *testing.T) {
	c, g := established(t)
	g.only().Close(wire.CloseShuttingDown, "maintenance", &g.out)
	converse(epoch, c, g)
	last := c.events[len(c.events)-1]
	var why *PeerClosedError
	if last.Kind != Closed || !errors.As(last.Reason, &why) || why.Reason != wire.CloseShuttingDown || why.Detail != "maintenance" {
		t.Errorf("last event %+v", last)
	}
	if g.sessions.Find(c.session.Current().Index()) != nil {
		t.Error("the gateway's index still names a session")
	}
}

// headerOf returns the header of a packet that has one, or the zero Header.
func headerOf(packet []byte) wire.Header {
	h, _ := wire.ParseHeader(packet)
	return h
}

func (r Role) String() string {
	if r == RoleGateway {
		return "gateway"
	}
	return "client"
}
