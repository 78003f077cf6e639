package load

import (
	"crypto/rand"
	"errors"
	"fmt"
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

// tick is how often an engine looks at what is due when nothing comes.
const tick = 10 * time.Millisecond

// engine is the clients behind one socket: it makes sessions, keeps them alive, and hands
// what comes back to a Meter.
type engine struct {
	conn   transport.Conn
	config state.ClientConfig // of every client, but for the KEM key
	meter  *Meter
	// forwarded is given the packets inside of ForwardPackets; may be nil.
	forwarded func(inner []byte)
	ended     chan struct{}

	mu       sync.Mutex
	out      state.Output
	packets  []transport.Packet
	attempts map[uint32]*attempt // by receiver index
	sessions *state.Sessions
	kept     []*state.Session // in the order in which they were confirmed
	lost     int              // sessions that ended
	refused  string           // what the last FlowClosed said
	knownKEM []byte

	making *making
	renew  *renewing
}

// attempt is a handshake under way.
type attempt struct {
	client  *state.Client
	began   time.Time
	indexes []uint32
	session *state.Session // once there is one, until it is confirmed
}

// newEngine starts the engine of a socket. Its identity is the client's.
func newEngine(conn transport.Conn, gateway identity.PublicKey, client *identity.PrivateKey, suites seal.Suite, m *Meter, to path.Path) (*engine, error) {
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
	return e, nil
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
		if now.Sub(armed) > tick/2 {
			_ = e.conn.SetReadDeadline(now.Add(tick)) // fails when closed, which ReadBatch says as well
			armed = now
		}
		n, err := e.conn.ReadBatch(batch)
		now = time.Now()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			time.Sleep(time.Millisecond) // the gateway is not there, or not yet
		}
		due := now.Sub(ticked) >= tick
		if due {
			ticked = now
		}
		e.turn(now, batch[:n], due)
	}
}

// turn works through a batch.
func (e *engine) turn(now time.Time, batch []transport.Packet, due bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range batch {
		p := &batch[i]
		counted := e.meter.take(p)
		for datagram := range p.Segments() {
			e.packet(now, datagram, counted)
			if counted {
				break
			}
		}
	}
	if due {
		e.tick(now)
	}
	e.refill(now)
	e.flush()
}

// packet handles a packet; counted says that it is one that the meter has counted.
func (e *engine) packet(now time.Time, packet []byte, counted bool) {
	index, ok := wire.ReceiverIdx(packet)
	if !ok {
		return
	}
	// What is in clear is about a handshake, also where the index that it drew is that of
	// a session: the gateway says so by a Collision.
	h, err := wire.ParseHeader(packet)
	if g := e.sessions.Find(index); g != nil && (err != nil || h.Level != wire.LevelClear) {
		e.opened(now, g, packet, counted)
		return
	}
	if a := e.attempts[index]; a != nil && a.session == nil {
		_ = a.client.Handle(now, packet, &e.out) // of no use: dropped
		e.follow(now, a)
	}
}

// opened handles a packet of a session.
func (e *engine) opened(now time.Time, g *state.KeySet, packet []byte, counted bool) {
	s := g.Session()
	t, body, err := g.Open(now, packet, path.Path{}, &e.out)
	switch {
	case err != nil:
		if counted {
			e.meter.first(nil)
		}
	case t == wire.TypeEncryptedData:
		if d, err := wire.ParseEncryptedData(body); err == nil && counted {
			e.meter.first(d.Payload)
		}
	case t == wire.TypeForwardPacket:
		if m, err := wire.ParseForwardPacket(body); err == nil && e.forwarded != nil {
			e.forwarded(m.Inner)
		}
	case t == wire.TypeFlowClosed:
		if c, err := wire.ParseFlowClosed(body); err == nil {
			e.refused = fmt.Sprintf("%s (%s)", c.Reason, c.Detail)
		}
	default:
		_ = s.Control(now, g, t, body, path.Path{}, &e.out) // refused: dropped
	}
	e.settle(now, s)
}

// settle follows what happened to a session.
func (e *engine) settle(now time.Time, s *state.Session) {
	for i := 0; i < len(e.out.Events); i++ {
		event := e.out.Events[i]
		e.sessions.Apply(event)
		switch event.Kind {
		case state.Confirmed:
			e.confirmed(now, event.Session)
		case state.Rekeyed:
			e.renewed(now, event.Session)
		case state.Closed:
			e.closed(event)
		}
	}
	clear(e.out.Events)
	e.out.Events = e.out.Events[:0]
	if s.User != forgotten {
		e.sessions.Touch(s)
	}
}

// closed is called when a session has ended.
func (e *engine) closed(event state.Event) {
	a := e.attempts[event.Session.Current().Index()]
	if a == nil || a.session != event.Session {
		e.lost++
		return
	}
	e.drop(a)
	if m := e.making; m != nil {
		m.failed++
		m.err = event.Reason
	}
}

// tick does what is due.
func (e *engine) tick(now time.Time) {
	for s := e.sessions.Due(now); s != nil; s = e.sessions.Due(now) {
		s.Tick(now, &e.out)
		e.settle(now, s)
	}
	for _, a := range e.underWay() {
		if a.session != nil {
			continue
		}
		if at := a.client.Deadline(); !at.IsZero() && !now.Before(at) {
			a.client.Tick(now, &e.out)
			e.follow(now, a)
		}
	}
	if r := e.renew; r != nil && !now.Before(r.until) {
		e.endRenewing(now)
	}
}

// underWay returns the handshakes under way, each once.
func (e *engine) underWay() (all []*attempt) {
	for index, a := range e.attempts {
		if a.indexes[0] == index {
			all = append(all, a)
		}
	}
	return all
}

// flush sends what the state machines said.
func (e *engine) flush() {
	if len(e.out.Packets) == 0 {
		return
	}
	e.packets = e.packets[:0]
	for _, p := range e.out.Packets {
		e.packets = append(e.packets, transport.Packet{Data: p.Data, Path: p.Path})
	}
	_, _ = e.conn.WriteBatch(e.packets) // what is lost goes again
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

// register notes the indexes that a client's new packets bear.
func (e *engine) register(a *attempt, from int) {
	for _, p := range e.out.Packets[from:] {
		index, ok := wire.ReceiverIdx(p.Data)
		if ok && e.attempts[index] == nil && !slices.Contains(a.indexes, index) {
			e.attempts[index] = a
			a.indexes = append(a.indexes, index)
		}
	}
}

// follow looks at what came of a handshake after its client was called.
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
		e.drop(a)
		if m := e.making; m != nil {
			m.failed++
			m.err = err
		}
	}
}

func (e *engine) drop(a *attempt) {
	for _, index := range a.indexes {
		if e.attempts[index] == a {
			delete(e.attempts, index)
		}
	}
}

// forgotten marks a session that the engine has let go of.
var forgotten any = new(struct{ _ byte })

// forget lets go of a session without telling the gateway, for whom it stays
// established.
func (e *engine) forget(s *state.Session) {
	s.User = forgotten
	e.sessions.Apply(state.Event{Kind: state.IndexRemoved, Session: s, KeySet: s.Current(), Index: s.Current().Index()})
	e.sessions.Apply(state.Event{Kind: state.Closed, Session: s})
}
