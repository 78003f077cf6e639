//go:build linux

package load

import (
	"crypto/rand"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/kem"
	"lewes/crypto/seal"
	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
)

// tickInterval is how often an engine handles its timers.
const tickInterval = 10 * time.Millisecond

// engine is the clients of one socket: it creates sessions, keeps them alive, and passes incoming
// datagrams to a meter.
type engine struct {
	conn   transport.Conn
	config state.ClientConfig // of every client, without the KEM key
	meter  *meter
	// forwarded receives the packets inside ForwardPackets; may be nil.
	forwarded func(inner []byte)
	ended     chan struct{}

	mu       sync.Mutex
	out      state.Output
	packets  []transport.Packet
	attempts map[uint32]*attempt // by the index of their packets
	sessions *state.Sessions
	kept     []*state.Session // in the order of their confirmation
	knownKEM []byte

	making *making
}

// attempt is a handshake in progress.
type attempt struct {
	client  *state.Client
	began   time.Time
	indexes []uint32
	session *state.Session // between its creation and its confirmation
}

// newEngine starts the engine of a socket.
func newEngine(conn transport.Conn, gateway identity.PublicKey, client *identity.PrivateKey, suites seal.Suite, m *meter, to path.Path) *engine {
	e := &engine{
		conn:  conn,
		meter: m,
		config: state.ClientConfig{
			Gateway:  gateway,
			Identity: client,
			KEM:      kem.MLKEM768,
			Suites:   suites,
			Rand:     rand.Reader,
			Path:     to,
			Session:  state.SessionConfig{Stream: to.Transport == path.TCP},
		},
		ended:    make(chan struct{}),
		attempts: make(map[uint32]*attempt),
		sessions: state.NewSessions(),
	}
	go e.run()
	return e
}

// close ends the engine.
func (e *engine) close() {
	_ = e.conn.Close()
	<-e.ended
}

func (e *engine) run() {
	defer close(e.ended)
	batch := make([]transport.Packet, 32)
	var armed, ticked time.Time
	for {
		now := time.Now()
		if now.Sub(armed) > tickInterval/2 {
			_ = e.conn.SetReadDeadline(now.Add(tickInterval)) // fails when closed, as ReadBatch does
			armed = now
		}
		n, err := e.conn.ReadBatch(batch)
		now = time.Now()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			time.Sleep(time.Millisecond) // ICMP errors while the gateway starts
		}
		due := now.Sub(ticked) >= tickInterval
		if due {
			ticked = now
		}
		e.handleBatch(now, batch[:n], due)
	}
}

func (e *engine) handleBatch(now time.Time, batch []transport.Packet, due bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range batch {
		p := &batch[i]
		expected := e.meter.expects(p)
		for packet := range p.Segments() {
			if expected {
				e.handlePacket(now, packet, p)
				break
			}
			e.handlePacket(now, packet, nil)
		}
	}
	if due {
		e.tick(now)
	}
	e.refill(now)
	e.flush()
}

// handlePacket handles a packet. p is the packet or train to count, if it has the expected size.
func (e *engine) handlePacket(now time.Time, packet []byte, p *transport.Packet) {
	index, ok := wire.ReceiverIdx(packet)
	if !ok {
		return
	}
	// A packet in clear belongs to a handshake, even if a session has the same index.
	h, err := wire.ParseHeader(packet)
	if g := e.sessions.Find(index); g != nil && (err != nil || h.Level != wire.LevelClear) {
		e.handleTransport(now, g, packet, p)
		return
	}
	if a := e.attempts[index]; a != nil && a.session == nil {
		_ = a.client.Handle(now, packet, &e.out) // an error means that it was ignored
		e.follow(now, a)
	}
}

// handleTransport handles a packet of a session.
func (e *engine) handleTransport(now time.Time, g *state.KeySet, packet []byte, p *transport.Packet) {
	s := g.Session()
	t, body, err := g.Open(now, packet, path.Path{}, &e.out)
	var payload []byte
	switch {
	case err != nil:
	case t == wire.TypeEncryptedData:
		if d, err := wire.ParseEncryptedData(body); err == nil {
			payload = d.Payload
		}
	case t == wire.TypeForwardPacket:
		if m, err := wire.ParseForwardPacket(body); err == nil && e.forwarded != nil {
			e.forwarded(m.Inner)
		}
	case t == wire.TypeFlowClosed:
	default:
		_ = s.Control(now, g, t, body, path.Path{}, &e.out) // an error means that it was ignored
	}
	if p != nil {
		e.meter.add(p, payload)
	}
	e.settle(now, s)
}

// settle applies the events of a session.
func (e *engine) settle(now time.Time, s *state.Session) {
	for i := 0; i < len(e.out.Events); i++ {
		event := e.out.Events[i]
		e.sessions.Apply(event)
		switch event.Kind {
		case state.Confirmed:
			e.confirmed(now, event.Session)
		case state.Rekeyed:
			e.rekeyed(now, event.Session)
		case state.Closed:
			if a := e.attempts[event.Session.Current().Index()]; a != nil && a.session == event.Session {
				e.fail(a, event.Reason)
			}
		}
	}
	clear(e.out.Events)
	e.out.Events = e.out.Events[:0]
	if s.User != forgotten {
		e.sessions.Touch(s)
	}
}

// fail ends a handshake.
func (e *engine) fail(a *attempt, err error) {
	e.drop(a)
	if m := e.making; m != nil {
		m.failed++
		m.err = err
	}
}

// tick handles expired timers.
func (e *engine) tick(now time.Time) {
	for s := e.sessions.Due(now); s != nil; s = e.sessions.Due(now) {
		s.Tick(now, &e.out)
		e.settle(now, s)
	}
	for index, a := range e.attempts { // an attempt has several indexes
		if a.session != nil || a.indexes[0] != index {
			continue
		}
		if at := a.client.Deadline(); !at.IsZero() && !now.Before(at) {
			a.client.Tick(now, &e.out)
			e.follow(now, a)
		}
	}
}

// flush sends the packets of the state machines.
func (e *engine) flush() {
	if len(e.out.Packets) == 0 {
		return
	}
	e.packets = e.packets[:0]
	for _, p := range e.out.Packets {
		e.packets = append(e.packets, transport.Packet{Data: p.Data, Path: p.Path})
	}
	_, _ = e.conn.WriteBatch(e.packets) // lost packets are retransmitted
	clear(e.packets)
	e.out.Reset()
}

// begin starts a handshake.
func (e *engine) begin(now time.Time, known bool) error {
	config := e.config
	if known {
		config.KnownKEM = e.knownKEM
	}
	from := len(e.out.Packets)
	client, err := state.NewClient(now, config, &e.out)
	if err != nil {
		return err
	}
	a := &attempt{client: client, began: now}
	e.register(a, from)
	return nil
}

// register records the indexes of a client's new packets: the attempt's and the session's.
func (e *engine) register(a *attempt, from int) {
	for _, p := range e.out.Packets[from:] {
		index, ok := wire.ReceiverIdx(p.Data)
		if ok && e.attempts[index] == nil && !slices.Contains(a.indexes, index) {
			e.attempts[index] = a
			a.indexes = append(a.indexes, index)
		}
	}
}

// follow handles the result of a call of an attempt's client.
func (e *engine) follow(now time.Time, a *attempt) {
	e.register(a, 0)
	if s := a.client.Session(); s != nil {
		if key, byKKT := a.client.KEMKey(); byKKT && e.knownKEM == nil {
			e.knownKEM = key
		}
		a.session = s
		e.sessions.Add(s)
		e.settle(now, s)
		return
	}
	if err := a.client.Err(); err != nil {
		e.fail(a, err)
	}
}

func (e *engine) drop(a *attempt) {
	for _, index := range a.indexes {
		if e.attempts[index] == a {
			delete(e.attempts, index)
		}
	}
}

// forgotten marks a session that the engine has dropped.
var forgotten any = new(struct{ _ byte })

// forget drops a session, which the gateway keeps.
func (e *engine) forget(s *state.Session) {
	s.User = forgotten
	e.sessions.Apply(state.Event{Kind: state.IndexRemoved, Session: s, KeySet: s.Current(), Index: s.Current().Index()})
	e.sessions.Apply(state.Event{Kind: state.Closed, Session: s})
}
