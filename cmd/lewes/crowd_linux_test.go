package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"crypto/rand"

	"lewes/crypto/identity"
	"lewes/crypto/kem"
	"lewes/crypto/seal"
	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
	"lewes/transport/udp"
	"lewes/transport/uri"
)

// crowd is many sessions with one gateway, some with a flow to one echo, behind a
// few sockets. It opens every packet that comes.
type crowd struct {
	t       *testing.T
	engines []*crowdEngine
	window  int64 // datagrams under way at most; 0: no bound

	sent, got, twice, stray atomic.Int64
	longest                 atomic.Int64 // round trip, in nanoseconds
	closed                  atomic.Int64
	begun                   time.Time
}

// crowdEngine is the sessions of one socket.
type crowdEngine struct {
	crowd *crowd
	conn  *udp.Conn
	ended sync.WaitGroup
	stop  chan struct{}

	mu      sync.Mutex
	members []*crowdMember
	talkers []*crowdMember // the first of them, which have a flow
	byIndex map[uint32]*crowdMember
	out     state.Output
	next    int // member to send
}

type crowdMember struct {
	client  *state.Client
	session *state.Session
	live    map[uint32]*state.KeySet
	open    bool // its flow, if it is to have one: the echo has answered
	ended   bool
}

const crowdSockets = 4

// crowdPayload is a datagram's length; its first bytes say when it was sent.
const crowdPayload = 200

// newCrowd makes sessions with a gateway, all confirmed, and gives the first of them flows to a target.
func newCrowd(t *testing.T, gateway string, sessions, flows int, target netip.AddrPort) *crowd {
	t.Helper()
	g, err := uri.Parse(gateway)
	if err != nil {
		t.Fatal(err)
	}
	to := netip.MustParseAddrPort(g.Address())
	c := &crowd{t: t, begun: time.Now()}
	for range crowdSockets {
		conn, err := udp.Dial(to, udp.Options{SendWait: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		e := &crowdEngine{crowd: c, conn: conn, byIndex: make(map[uint32]*crowdMember), stop: make(chan struct{})}
		c.engines = append(c.engines, e)
		e.ended.Go(e.read)
		e.ended.Go(e.tick)
	}
	t.Cleanup(c.close)
	id, err := identity.Generate(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var known []byte
	for made := 0; made < sessions; {
		batch := min(64, sessions-made)
		if known == nil {
			batch = 1
		}
		for i := range batch {
			c.engines[(made+i)%crowdSockets].begin(g.Identity, id, to, known)
		}
		made += batch
		if !c.until(func(m *crowdMember) bool { return m.session != nil && m.session.Confirmed() }) {
			t.Fatalf("%d sessions are not made", made)
		}
		known, _ = c.engines[0].members[0].client.KEMKey()
	}
	for _, e := range c.engines {
		e.openFlows(target, (flows+crowdSockets-1)/crowdSockets)
	}
	if !c.until(func(m *crowdMember) bool { return m.open }) {
		t.Fatal("not every flow is answered")
	}
	return c
}

func (c *crowd) close() {
	for _, e := range c.engines {
		select {
		case <-e.stop:
			return
		default:
		}
		close(e.stop)
		_ = e.conn.Close()
	}
	for _, e := range c.engines {
		e.ended.Wait()
	}
}

// until waits for all members.
func (c *crowd) until(done func(*crowdMember) bool) bool {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if c.all(done) {
			return true
		}
	}
	return false
}

func (c *crowd) all(holds func(*crowdMember) bool) bool {
	for _, e := range c.engines {
		e.mu.Lock()
		for _, m := range e.members {
			if !holds(m) {
				e.mu.Unlock()
				return false
			}
		}
		e.mu.Unlock()
	}
	return true
}

func (e *crowdEngine) begin(gateway identity.PublicKey, id *identity.PrivateKey, to netip.AddrPort, known []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	client, err := state.NewClient(time.Now(), state.ClientConfig{
		Gateway: gateway, Identity: id, KEM: kem.MLKEM768, KnownKEM: known, Suites: seal.Offer(), Rand: rand.Reader, Path: path.Path{Peer: to},
	}, &e.out)
	if err != nil {
		e.crowd.t.Error(err)
		return
	}
	m := &crowdMember{client: client, live: make(map[uint32]*state.KeySet)}
	e.members = append(e.members, m)
	for _, p := range e.out.Packets { // the hello: its index is in its content
		e.byIndex[binary.LittleEndian.Uint32(p.Data[18:])] = m
	}
	e.flush()
}

func (e *crowdEngine) openFlows(target netip.AddrPort, flows int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.talkers = e.members[:min(flows, len(e.members))]
	for _, m := range e.members[len(e.talkers):] {
		m.open = true
	}
	for _, m := range e.talkers {
		e.send(m, &wire.EncryptedData{FlowID: 1, Flags: wire.FlagTarget, Target: wire.AddrTarget(target), Payload: make([]byte, crowdPayload)})
		if len(e.out.Packets) >= 32 {
			e.flush()
			time.Sleep(time.Millisecond)
		}
	}
	e.flush()
}

func (e *crowdEngine) send(m *crowdMember, d *wire.EncryptedData) {
	if m.session != nil && m.session.Send(wire.TypeEncryptedData, d, &e.out) != nil {
		m.ended = true
	}
}

// flush sends what is to go.
func (e *crowdEngine) flush() {
	var batch []transport.Packet
	for _, p := range e.out.Packets {
		batch = append(batch, transport.Packet{Data: p.Data})
	}
	if len(batch) > 0 {
		_, _ = e.conn.WriteBatch(batch) // what is not taken is lost, and counts so
	}
	e.out.Reset()
}

func (e *crowdEngine) read() {
	batch := make([]transport.Packet, 32)
	for {
		n, err := e.conn.ReadBatch(batch)
		select {
		case <-e.stop:
			return
		default:
		}
		if err != nil {
			time.Sleep(time.Millisecond) // while no gateway is there
			continue
		}
		e.mu.Lock()
		for i := range batch[:n] {
			for packet := range batch[i].Segments() {
				e.handle(time.Now(), packet)
			}
		}
		e.flush()
		e.mu.Unlock()
	}
}

func (e *crowdEngine) handle(now time.Time, packet []byte) {
	h, err := wire.ParseHeader(packet)
	if err != nil {
		return
	}
	m := e.byIndex[h.ReceiverIdx]
	switch {
	case m == nil:
		e.crowd.stray.Add(1)
	case m.session == nil:
		_ = m.client.Handle(now, packet, &e.out)
		if m.session = m.client.Session(); m.session != nil {
			index := m.session.Current().Index()
			m.live[index], e.byIndex[index] = m.session.Current(), m
		}
	case h.Level == wire.LevelTransport:
		e.opened(now, m, m.live[h.ReceiverIdx], packet)
	}
}

func (e *crowdEngine) opened(now time.Time, m *crowdMember, g *state.KeySet, packet []byte) {
	c := e.crowd
	if g == nil {
		c.stray.Add(1)
		return
	}
	t, content, err := g.Open(now, packet, path.Path{}, &e.out)
	switch {
	case state.IsReplay(err):
		c.twice.Add(1)
	case err != nil:
		c.stray.Add(1)
	case t != wire.TypeEncryptedData:
		_ = m.session.Control(now, g, t, content, path.Path{}, &e.out)
	case !m.open:
		m.open = true
	default:
		c.echoed(now, content[wire.FlowHeaderSize:])
	}
	e.settle(m)
}

func (c *crowd) echoed(now time.Time, payload []byte) {
	c.got.Add(1)
	took := int64(now.Sub(c.begun)) - int64(binary.LittleEndian.Uint64(payload))
	for {
		last := c.longest.Load()
		if took <= last || c.longest.CompareAndSwap(last, took) {
			return
		}
	}
}

func (e *crowdEngine) settle(m *crowdMember) {
	for _, event := range e.out.Events {
		switch event.Kind {
		case state.IndexAdded:
			m.live[event.Index] = event.KeySet
			e.byIndex[event.Index] = m
		case state.IndexRemoved:
			delete(m.live, event.Index)
			delete(e.byIndex, event.Index)
		case state.Closed:
			m.ended = true
			e.crowd.closed.Add(1)
		}
	}
	clear(e.out.Events)
	e.out.Events = e.out.Events[:0]
}

// tick lets sessions repeat what is due.
func (e *crowdEngine) tick() {
	for {
		select {
		case <-e.stop:
			return
		case <-time.After(20 * time.Millisecond):
		}
		e.mu.Lock()
		now := time.Now()
		for _, m := range e.members {
			if m.session == nil {
				m.client.Tick(now, &e.out)
			} else if at := m.session.Deadline(); !m.ended && !at.IsZero() && !now.Before(at) {
				m.session.Tick(now, &e.out)
				e.settle(m)
			}
		}
		e.flush()
		e.mu.Unlock()
	}
}

// sendSome sends n datagrams, one a member in turn.
func (e *crowdEngine) sendSome(n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for range n {
		m := e.talkers[e.next%len(e.talkers)]
		e.next++
		payload := make([]byte, crowdPayload)
		binary.LittleEndian.PutUint64(payload, uint64(time.Since(e.crowd.begun)))
		e.send(m, &wire.EncryptedData{FlowID: 1, Payload: payload})
	}
	e.crowd.sent.Add(int64(n))
	e.flush()
}

// rekey makes every session come to new keys.
func (c *crowd) rekey() {
	for _, e := range c.engines {
		e.mu.Lock()
		for _, m := range e.members {
			m.session.Rekey(time.Now(), &e.out)
			e.settle(m)
		}
		e.flush()
		e.mu.Unlock()
	}
}

// awaitEchoes waits until n further datagrams have come back.
func (c *crowd) awaitEchoes(n int64) {
	want := c.got.Load() + n
	for end := time.Now().Add(patience); c.got.Load() < want; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			c.t.Fatalf("%d of %d datagrams came back within %v", c.got.Load(), want, patience)
		}
	}
}

// pace sends rate datagrams a second over all sessions, with at most window of them under way,
// until stop is called. stop waits for the last echoes and returns the numbers of datagrams sent
// and lost, and the longest round trip.
func (c *crowd) pace(rate int) (stop func() (sent, lost int64, longest time.Duration)) {
	c.sent.Store(0)
	c.got.Store(0)
	c.longest.Store(0)
	done := make(chan struct{})
	var senders sync.WaitGroup
	for _, e := range c.engines {
		senders.Go(func() {
			began, sent := time.Now(), 0
			for {
				select {
				case <-done:
					return
				case <-time.After(time.Millisecond):
				}
				due := int(time.Since(began).Seconds()*float64(rate))/len(c.engines) - sent
				due = min(due, 256) // a delayed sender does not catch up at once
				if c.window > 0 {
					due = min(due, int(c.window-(c.sent.Load()-c.got.Load()))/len(c.engines))
				}
				if due > 0 {
					e.sendSome(due)
					sent += due
				}
			}
		})
	}
	return func() (int64, int64, time.Duration) {
		close(done)
		senders.Wait()
		for end := time.Now().Add(patience / 2); c.got.Load() < c.sent.Load() && time.Now().Before(end); {
			time.Sleep(5 * time.Millisecond)
		}
		return c.sent.Load(), c.sent.Load() - c.got.Load(), time.Duration(c.longest.Load())
	}
}

// capacity returns how many round trips a second there are when each socket keeps
// some datagrams under way all the time.
func (c *crowd) capacity(d time.Duration) int {
	c.sent.Store(0)
	c.got.Store(0)
	for end := time.Now().Add(d); time.Now().Before(end); {
		if room := 512 - (c.sent.Load() - c.got.Load()); room >= 64 {
			for _, e := range c.engines {
				e.sendSome(16)
			}
			continue
		}
		time.Sleep(50 * time.Microsecond)
	}
	return int(float64(c.got.Load()) / d.Seconds())
}

// crowdEcho is a target that keeps up with a crowd.
func crowdEcho(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := udp.Listen(t.Context(), udp.Config{Addrs: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, Options: udp.Options{NoGRO: true}})
	if err != nil {
		t.Fatal(err)
	}
	conn := l.Groups[0].Conns[0]
	var ended sync.WaitGroup
	ended.Go(func() {
		batch := make([]transport.Packet, 32)
		for {
			n, err := conn.ReadBatch(batch)
			if err != nil {
				return
			}
			_, _ = conn.WriteBatch(batch[:n]) // loss is for the crowd to see
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		ended.Wait()
	})
	return l.Groups[0].Addr
}

// crowdConfig lets a gateway take a crowd in.
func crowdConfig(echo netip.AddrPort) string {
	return fmt.Sprintf("[access]\nmode = \"open\"\n[handshake]\nrate = 1000000\nburst = 1000000\ntries_per_second = 1000000\n"+
		"[egress]\nallow = [\"127.0.0.1:%d\"]\n", echo.Port())
}

// copyOfProgram returns a copy of the program that a test may replace.
func copyOfProgram(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "lewes")
	content, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, content, 0o700); err != nil {
		t.Fatal(err)
	}
	return file
}
