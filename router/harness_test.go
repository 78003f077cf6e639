package router

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/kem"
	"lewes/crypto/seal"
	"lewes/router/account"
	"lewes/router/policy"
	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
	"lewes/transport/udp"
)

var (
	epoch     = time.Unix(1_800_000_000, 0)
	clientAt  = path.Path{Peer: netip.MustParseAddrPort("192.0.2.1:1111")}
	target    = netip.MustParseAddrPort("198.51.100.7:53")
	gatewayID = testIdentity(1)
)

func testIdentity(seed byte) *identity.PrivateKey { return identity.FromSeed(&[32]byte{seed}) }

func seeded(seed uint64) io.Reader {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	return &lockedReader{r: rand.NewChaCha8(key)}
}

type lockedReader struct {
	mu sync.Mutex
	r  io.Reader
}

func (l *lockedReader) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.Read(p)
}

// memConn is a Conn in memory: it records written packets, and reads return packets from fed.
type memConn struct {
	mu     sync.Mutex
	sent   []transport.Packet
	drop   bool // count only
	count  int
	remote netip.AddrPort
	fed    chan []transport.Packet
	closed chan struct{}
	once   sync.Once
}

func newMemConn() *memConn {
	return &memConn{fed: make(chan []transport.Packet), closed: make(chan struct{})}
}

func (m *memConn) ReadBatch(p []transport.Packet) (int, error) {
	select {
	case batch := <-m.fed:
		return copy(p, batch), nil
	case <-m.closed:
		return 0, net.ErrClosed
	}
}

func (m *memConn) WriteBatch(p []transport.Packet) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count += len(p)
	if !m.drop {
		for _, x := range p {
			x.Data = bytes.Clone(x.Data)
			m.sent = append(m.sent, x)
		}
	}
	return len(p), nil
}

func (m *memConn) take() []transport.Packet {
	m.mu.Lock()
	defer m.mu.Unlock()
	sent := m.sent
	m.sent = nil
	return sent
}

// waitFor returns the written packets once there are n, or fails.
func (m *memConn) waitFor(t testing.TB, n int) []transport.Packet {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		m.mu.Lock()
		ready := len(m.sent) >= n
		m.mu.Unlock()
		if ready {
			return m.take()
		}
	}
	t.Fatalf("%d packets did not arrive within 20 s", n)
	return nil
}

func (m *memConn) SetReadDeadline(time.Time) error { return os.ErrInvalid }
func (m *memConn) RemoteAddrPort() netip.AddrPort  { return m.remote }
func (m *memConn) LocalAddr() net.Addr             { return &net.UDPAddr{} }
func (m *memConn) Close() error                    { m.once.Do(func() { close(m.closed) }); return nil }

// memEgress dials memConns and records them by target.
type memEgress struct {
	mu    sync.Mutex
	conns map[netip.AddrPort]*memConn
	fail  error
	// failAt is an address that nothing leads to.
	failAt netip.Addr
}

func (e *memEgress) Dial(target netip.AddrPort, _ account.Key) (transport.Conn, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fail != nil {
		return nil, e.fail
	}
	if target.Addr() == e.failAt {
		return nil, transport.ErrUnreachable
	}
	c := newMemConn()
	c.remote = target
	e.conns[target] = c
	return c, nil
}

func (e *memEgress) at(target netip.AddrPort) *memConn {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.conns[target]
}

// memResolver resolves a few names.
type memResolver map[string][]netip.Addr

func (r memResolver) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if addrs, ok := r[host]; ok {
		return addrs, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// rig is a shard without sockets, with a virtual clock.
type rig struct {
	t      testing.TB
	shard  *Shard
	whole  *Gateway // that the shard is of; it has no sockets
	egress *memEgress
	socket *memConn // towards clients
	mu     sync.Mutex
	time   time.Time
	clock  func() time.Time // nil: time stands still until advance
}

func newRig(t testing.TB, change func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, egress: &memEgress{conns: map[netip.AddrPort]*memConn{}}, socket: newMemConn(), time: epoch}
	config := Config{
		Identity: gatewayID,
		KEMs:     []kem.ID{kem.MLKEM768},
		Policy:   policy.New(policy.Config{}),
		Egress:   r.egress,
		Resolver: memResolver{
			"dns.example":     {target.Addr()},
			"private.example": {netip.MustParseAddr("10.1.2.3")},
			"both.example":    {netip.MustParseAddr("127.0.0.1"), target.Addr()},
		},
		Rand:   seeded(7),
		Shards: 1,
		Clock:  r.now,
		Terms:  state.Terms{IdleTTL: 24 * time.Hour, RekeyAfter: 15 * time.Minute, MaxDatagram: wire.MaxUDPPacket},
	}
	if change != nil {
		change(&config)
	}
	if err := config.fill(); err != nil {
		t.Fatal(err)
	}
	kems, err := state.NewKEMKeys(epoch, config.KEMs, config.Rand)
	if err != nil {
		t.Fatal(err)
	}
	g := &Gateway{config: config, kems: kems, log: config.Logger}
	g.limits.Store(config.Limits.withDefaults())
	r.whole = g
	g.accounts = g.newAccounts()
	g.meter = g.newMeter()
	if g.budgets, err = state.NewGatewayBudgets(epoch, g.handshakeConfig(), config.Shards); err != nil {
		t.Fatal(err)
	}
	r.shard, err = newShard(g, 0, udp.Steer{Shards: 1}, g.handshakeConfig(), oneSocket{r.socket})
	if err != nil {
		t.Fatal(err)
	}
	g.shards = []*Shard{r.shard}
	t.Cleanup(func() {
		r.shard.close()
		g.returnLoops.Wait()
	})
	return r
}

func (r *rig) now() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.clock != nil {
		return r.clock()
	}
	return r.time
}

func (r *rig) advance(d time.Duration) {
	r.mu.Lock()
	r.time = r.time.Add(d)
	r.mu.Unlock()
	r.shard.Tick()
}

// peer is a client of the rig.
type peer struct {
	r       *rig
	at      path.Path
	client  *state.Client
	session *state.Session
	child   *state.KeySet // of the latest rekey
	out     state.Output
	got     []message
}

type message struct {
	t       wire.Type
	content []byte
}

// connect establishes a session for a client identity and address.
func (r *rig) connect(identity byte, at path.Path) *peer {
	r.t.Helper()
	p := r.begin(identity, at)
	p.run()
	if p.session == nil {
		r.t.Fatal("no session")
	}
	return p
}

// begin starts a handshake, whose first packets are in the peer's output.
func (r *rig) begin(identity byte, at path.Path) *peer {
	r.t.Helper()
	p := &peer{r: r, at: at}
	addr := at.Peer.Addr().As16()
	var err error
	p.client, err = state.NewClient(r.now(), state.ClientConfig{
		Gateway:  gatewayID.Public(),
		Identity: testIdentity(identity),
		KEM:      kem.MLKEM768,
		Suites:   seal.Offer(),
		Rand:     seeded(uint64(identity)<<48 + uint64(binary.BigEndian.Uint32(addr[12:]))<<16 + uint64(at.Peer.Port())),
		Path:     path.Path{Peer: netip.MustParseAddrPort("198.51.100.1:51264")},
	}, &p.out)
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

// run exchanges packets between the peer and the shard until there are none.
func (p *peer) run() {
	for len(p.out.Packets) > 0 {
		p.exchange()
	}
}

// exchange sends the peer's packets and handles the answers.
func (p *peer) exchange() {
	p.r.shard.Receive(p.r.now(), p.packets(), nil)
	for _, x := range p.r.socket.take() {
		if x.Path == p.at {
			p.handle(x.Data)
		}
	}
}

// packets takes the packets that the peer has to send.
func (p *peer) packets() (batch []transport.Packet) {
	for _, x := range p.out.Packets {
		batch = append(batch, transport.Packet{Data: x.Data, Path: p.at})
	}
	p.out.Reset()
	return batch
}

func (p *peer) handle(packet []byte) {
	if p.session == nil {
		_ = p.client.Handle(p.r.now(), packet, &p.out)
		p.session = p.client.Session()
		return
	}
	g := p.session.Current()
	if h, err := wire.ParseHeader(packet); err == nil && p.child != nil && h.ReceiverIdx == p.child.Index() {
		g = p.child
	}
	t, content, err := g.Open(p.r.now(), packet, path.Path{}, &p.out)
	if err != nil {
		p.got = append(p.got, message{0xffff, []byte(err.Error())})
		return
	}
	p.got = append(p.got, message{t, bytes.Clone(content)})
	if t != wire.TypeEncryptedData && t != wire.TypeForwardPacket && t != wire.TypeFlowClosed {
		_ = p.session.Control(p.r.now(), g, t, content, path.Path{}, &p.out)
	}
	for _, e := range p.out.Events {
		if e.Kind == state.IndexAdded {
			p.child = e.KeySet
		}
	}
	p.out.Events = p.out.Events[:0]
}

// send sends one message and exchanges the resulting packets.
func (p *peer) send(t wire.Type, m interface{ Append([]byte) []byte }) {
	p.r.t.Helper()
	p.got = nil
	if err := p.session.Send(t, m, &p.out); err != nil {
		p.r.t.Fatal(err)
	}
	p.run()
}

func (p *peer) data(id uint16, to netip.AddrPort, payload string) {
	p.r.t.Helper()
	m := &wire.EncryptedData{FlowID: id, Payload: []byte(payload)}
	if to.IsValid() {
		m.Flags, m.Target = wire.FlagTarget, wire.AddrTarget(to)
	}
	p.send(wire.TypeEncryptedData, m)
}

func (p *peer) named(id uint16, name string, port uint16, payload string) {
	p.r.t.Helper()
	t, err := wire.NameTarget(name, port)
	if err != nil {
		p.r.t.Fatal(err)
	}
	p.send(wire.TypeEncryptedData, &wire.EncryptedData{FlowID: id, Flags: wire.FlagTarget, Target: t, Payload: []byte(payload)})
}

// closedWith returns the reasons of the latest FlowClosed messages.
func (p *peer) closedWith() string {
	s := ""
	for _, m := range p.got {
		if m.t == wire.TypeFlowClosed {
			c, err := wire.ParseFlowClosed(m.content)
			if err != nil {
				p.r.t.Fatal(err)
			}
			s += fmt.Sprintf("%d:%d ", c.FlowID, c.Reason)
		}
	}
	return s
}

// receive waits for packets from the shard to the peer and handles them. n counts those that have
// arrived since the peer's last packet: a lookup may end within its batch.
func (p *peer) receive(n int) {
	p.r.t.Helper()
	if n -= len(p.got); n <= 0 {
		return
	}
	for _, x := range p.r.socket.waitFor(p.r.t, n) {
		p.handle(x.Data)
	}
}

// serverSession returns the shard's end of the peer's session.
func (p *peer) serverSession() *state.Session {
	p.r.shard.mu.Lock()
	defer p.r.shard.mu.Unlock()
	return p.r.shard.st.sessions.Find(p.session.Current().Index()).Session()
}

// sendOne seals a datagram of flow 1 into the peer's output.
func sendOne(t testing.TB, p *peer) {
	if err := p.session.Send(wire.TypeEncryptedData, &wire.EncryptedData{FlowID: 1, Payload: []byte("x")}, &p.out); err != nil {
		t.Fatal(err)
	}
}
