//go:build linux

package load

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"lewes/bench/measure"
	"lewes/bench/rawudp"
	"lewes/bench/sink"
	"lewes/bench/worker"
	"lewes/crypto/identity"
	"lewes/crypto/seal"
	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
	"lewes/transport/tcp"
	"lewes/transport/udp"
)

// Params start a load as a worker.
type Params struct {
	To netip.AddrPort `json:"to"` // a gateway, a loop, or the sink itself
	// Single sends each datagram in a system call of its own, without GSO.
	Single bool `json:"single"`
	// Key selects the load for a loop that opens packets: both ends have the key.
	Key *Key `json:"key,omitempty"`
	// Gateway selects the load with sessions. If Exit is set, it is reached through Gateway.
	Gateway *identity.PublicKey `json:"gateway,omitempty"`
	Exit    *identity.PublicKey `json:"exit,omitempty"`
	Suites  seal.Suite          `json:"suites,omitempty"` // of sessions; 0: all that the CPU supports well
	// Sockets is the number of sockets, each with sessions of its own; 0 means 1.
	Sockets int `json:"sockets,omitempty"`
	// TCP means that To is a gateway's TCP port.
	TCP bool `json:"tcp,omitempty"`
}

// Key is shared by a load and a loop, one key for each direction.
type Key struct {
	Suite seal.Suite         `json:"suite"`
	Out   [seal.KeySize]byte `json:"out"` // from the load
	Back  [seal.KeySize]byte `json:"back"`
}

// NewKey returns a random key.
func NewKey(s seal.Suite) *Key {
	k := &Key{Suite: s}
	_, _ = rand.Read(k.Out[:]) // never fails
	_, _ = rand.Read(k.Back[:])
	return k
}

// Unseal returns the function that opens packets sealed with Back.
func (k *Key) Unseal() Unseal {
	key := seal.NewKey(k.Suite, &k.Back)
	return func(packet []byte) []byte {
		body, err := key.Open(packet)
		if err != nil {
			return nil
		}
		return PayloadIn(body)
	}
}

// meter counts packets of the expected size.
type meter struct {
	sink.Counter
	size atomic.Int64
}

// expects reports whether a packet or train has the expected size. Then its first packet is to be
// opened and passed to add.
func (m *meter) expects(p *transport.Packet) bool {
	size := len(p.Data)
	if p.Segment > 0 && p.Segment < size {
		size = p.Segment
	}
	return int64(size) == m.size.Load()
}

// add counts a packet or train whose first packet has a payload, nil if it is not authentic.
func (m *meter) add(p *transport.Packet, payload []byte) {
	m.Add(payload, p.Count(), len(p.Data), measure.Now())
}

// Role is a load as a worker. Its calls are those of Calls, and with sessions "connect" (a
// ConnectPlan), "make" (a MakePlan) and "renew" (a duration).
var Role = worker.Start(start)

func start(_ context.Context, p Params) (*worker.Service, error) {
	if p.Gateway == nil {
		conn, err := dial(&p)
		if err != nil {
			return nil, err
		}
		var unseal Unseal
		var flow Flow = Plain{}
		if p.Key != nil {
			unseal, flow = p.Key.Unseal(), NewSealed(p.Key.Suite, &p.Key.Out)
		}
		l := New(conn, unseal, flow)
		return &worker.Service{Result: worker.None{}, Calls: Calls(l), Close: l.Close}, nil
	}
	c, err := newClients(&p)
	if err != nil {
		return nil, err
	}
	calls := Calls(&c.Load)
	calls["connect"] = worker.Method(c.connect)
	calls["make"] = worker.Method(func(ctx context.Context, plan MakePlan) (Made, error) { return spread(ctx, c.engines, plan) })
	calls["renew"] = worker.Method(func(ctx context.Context, d time.Duration) (Made, error) { return c.engines[0].renewSessions(ctx, d) })
	return &worker.Service{Result: worker.None{}, Calls: calls, Close: c.Close}, nil
}

// receiveBuffer keeps incoming datagrams while other processes run.
const receiveBuffer = 32 << 20

func dial(p *Params) (transport.Conn, error) {
	if p.TCP {
		return tcp.Dial(p.To, tcp.Options{})
	}
	return udp.Dial(p.To, udp.Options{NoGSO: p.Single, ReceiveBuffer: receiveBuffer, SendBuffer: rawudp.DefaultBuffer})
}

// clients is a Load with sessions.
type clients struct {
	Load
	params   *Params
	identity *identity.PrivateKey
	engines  []*engine // one per socket
	inner    []*engine // sessions with the exit, one for each of engines
}

func newClients(p *Params) (*clients, error) {
	id, err := identity.Generate(rand.Reader)
	if err != nil {
		return nil, err
	}
	if p.Suites == 0 {
		p.Suites = seal.Offer()
	}
	to := path.NewUDP(p.To, netip.Addr{}, 0)
	if p.TCP {
		to = path.NewTCP(p.To, netip.Addr{}, 0)
	}
	c := &clients{params: p, identity: id}
	c.meter = new(meter)
	for range max(p.Sockets, 1) {
		conn, err := dial(p)
		if err != nil {
			c.Close()
			return nil, err
		}
		e := newEngine(conn, *p.Gateway, id, p.Suites, c.meter, to)
		c.engines = append(c.engines, e)
		c.closes = append(c.closes, e.close)
	}
	return c, nil
}

// ConnectPlan describes the sessions to create, and the number of flows of each.
type ConnectPlan struct {
	Sessions int  `json:"sessions"`
	Flows    int  `json:"flows"`
	Known    bool `json:"known"` // as in MakePlan
}

// connect creates sessions and their flows. The flows are ordered so that every session sends
// once before the first one sends on its second flow.
func (c *clients) connect(ctx context.Context, plan ConnectPlan) (made Made, err error) {
	if c.params.Exit != nil {
		plan.Sessions = len(c.engines)
	}
	if made, err = spread(ctx, c.engines, MakePlan{Sessions: plan.Sessions, Known: plan.Known}); err != nil {
		return made, err
	}
	if c.params.Exit != nil {
		if err := c.connectExit(ctx); err != nil {
			return made, err
		}
	}
	for flow := range max(plan.Flows, 1) {
		for i, e := range c.engines {
			c.addFlows(i, e, uint16(flow+1))
		}
	}
	return made, nil
}

func (c *clients) addFlows(socket int, e *engine, id uint16) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.kept {
		if conn, ok := e.conn.(*tcp.Conn); ok && id == 1 {
			poll(conn, s)
		}
		flow := sessionFlow{s, id}
		if c.params.Exit == nil {
			c.flows = append(c.flows, boundFlow{flow, e.conn})
			continue
		}
		inner := c.inner[socket]
		inner.mu.Lock()
		flow.session = inner.kept[0]
		inner.mu.Unlock()
		c.flows = append(c.flows, boundFlow{chainedFlow{entry: s, exit: *c.params.Exit, inner: flow}, e.conn})
	}
}

// connectExit creates a session with the exit through each session with the entry.
func (c *clients) connectExit(ctx context.Context) error {
	for _, e := range c.engines {
		inner := newEngine(newChain(e, *c.params.Exit), *c.params.Exit, c.identity, c.params.Suites, c.meter, path.NewUDP(c.params.To, netip.Addr{}, 0))
		c.inner = append(c.inner, inner)
		c.closes = append(c.closes, inner.close)
	}
	if _, err := spread(ctx, c.inner, MakePlan{Sessions: len(c.inner)}); err != nil {
		return fmt.Errorf("through the entry: %w", err)
	}
	return nil
}

// spread creates sessions with one engine after the other. The delays are those of the last.
func spread(ctx context.Context, engines []*engine, plan MakePlan) (sum Made, err error) {
	for i, e := range engines {
		share := plan
		share.Sessions = (plan.Sessions*(i+1))/len(engines) - plan.Sessions*i/len(engines)
		if plan.Sessions > 0 && share.Sessions == 0 {
			continue
		}
		one, err := e.makeSessions(ctx, share)
		sum.Number += one.Number
		sum.Took += one.Took
		sum.Delays = one.Delays
		if err != nil {
			return sum, err
		}
	}
	return sum, nil
}

const (
	// pollWait is how long a Poll asks the gateway to wait, pollRetry the pause after one that
	// failed.
	pollWait  = 5 * time.Second
	pollRetry = 10 * time.Millisecond
)

// poll keeps one Poll of the session with the gateway until the connection is closed.
func poll(conn *tcp.Conn, s *state.Session) {
	m := wire.Poll{WaitMillis: uint16(pollWait.Milliseconds())}
	packet := wire.Finish(m.Append(wire.Begin(nil, 0, wire.LevelTransport, 0, wire.TypePoll)))
	if s.Sender().Seal(packet) != nil {
		return // the session has ended
	}
	_ = conn.Send(packet, pollWait, func(_ int, err error) { // fails after Close
		if err != nil {
			time.Sleep(pollRetry)
		}
		poll(conn, s)
	})
}
