package load

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"

	"lewes/bench/pace"
	"lewes/bench/rawudp"
	"lewes/bench/sink"
	"lewes/bench/worker"
	"lewes/crypto/identity"
	"lewes/crypto/seal"
	"lewes/state/path"
	"lewes/transport"
	"lewes/transport/tcp"
	"lewes/transport/udp"
)

// Params start a load as a worker.
type Params struct {
	To netip.AddrPort `json:"to"` // a gateway, a baseline, or the sink itself
	// Apart sends each datagram by itself, so that nothing coalesces on its way.
	Apart bool `json:"apart"`
	// Key makes it a load for the baseline that opens packets: both ends have it.
	Key *Key `json:"key,omitempty"`
	// Gateway makes it a load of sessions. Exit, if it is set, is reached through
	// Gateway.
	Gateway *identity.PublicKey `json:"gateway,omitempty"`
	Exit    *identity.PublicKey `json:"exit,omitempty"`
	// Sockets is how many sockets the sessions are spread over, as if they were
	// clients of their own; 0 means 1.
	Sockets int `json:"sockets,omitempty"`
	// TCP says that To is a gateway's TCP port.
	TCP bool `json:"tcp,omitempty"`
}

// Key is what two ends without a session agree on: a key for each direction.
type Key struct {
	Suite seal.Suite         `json:"suite"`
	Out   [seal.KeySize]byte `json:"out"` // from the load
	Back  [seal.KeySize]byte `json:"back"`
}

// NewKey draws a Key.
func NewKey(s seal.Suite) *Key {
	k := &Key{Suite: s}
	_, _ = rand.Read(k.Out[:]) // never fails
	_, _ = rand.Read(k.Back[:])
	return k
}

// unsealBack opens packets from the other end.
func (k *Key) unsealBack() Unseal {
	key := seal.NewKey(k.Suite, &k.Back)
	return func(packet []byte) []byte {
		body, err := key.Open(packet)
		if err != nil {
			return nil
		}
		return PayloadIn(body)
	}
}

// ConnectPlan says what sessions to make, and how many flows each is to have.
type ConnectPlan struct {
	Sessions int  `json:"sessions"`
	Flows    int  `json:"flows"`
	Known    bool `json:"known"`
}

// CountPlan says what to count.
type CountPlan struct {
	Run  uint32 `json:"run"`
	Size int    `json:"size"`
}

// Role is a load as a worker. The calls are those of Calls, and with sessions
// "connect" (a ConnectPlan), "make" (a MakePlan) and "renew" (a RenewPlan).
var Role = worker.Start(start)

func start(_ context.Context, p Params) (*worker.Service, error) {
	if p.Gateway == nil {
		return startWithoutSessions(&p)
	}
	clients, err := newClients(&p)
	if err != nil {
		return nil, err
	}
	calls := Calls(&clients.Load)
	calls["connect"] = worker.Method(clients.connect)
	calls["make"] = worker.Method(clients.make)
	calls["renew"] = worker.Method(clients.renew)
	return &worker.Service{Result: worker.None{}, Calls: calls, Close: clients.Close}, nil
}

// Calls are what every load can be asked: "open" (a target), "send" (a Plan), "expect" (a CountPlan)
// and "count".
func Calls(l *Load) map[string]worker.Handler {
	return map[string]worker.Handler{
		"open": worker.Method(func(ctx context.Context, target netip.AddrPort) (worker.None, error) {
			return worker.None{}, l.Open(ctx, target)
		}),
		"send": worker.Method(func(ctx context.Context, p Plan) (pace.Result, error) { return l.Send(ctx, p) }),
		"expect": worker.Method(func(_ context.Context, p CountPlan) (worker.None, error) {
			l.Expect(p.Run, p.Size)
			return worker.None{}, nil
		}),
		"count": worker.Method(func(context.Context, worker.None) (sink.Count, error) { return l.Count(), nil }),
	}
}

// receiveBuffer lets what comes back wait while others have the processor.
const receiveBuffer = 32 << 20

func dial(p *Params) (transport.Conn, error) {
	if p.TCP {
		return tcp.Dial(p.To, tcp.Options{})
	}
	return udp.Dial(p.To, udp.Options{NoGSO: p.Apart, ReceiveBuffer: receiveBuffer, SendBuffer: rawudp.DefaultBuffer})
}

// startWithoutSessions starts a load for a baseline or a peer.
func startWithoutSessions(p *Params) (*worker.Service, error) {
	conn, err := dial(p)
	if err != nil {
		return nil, err
	}
	var unseal Unseal
	var lane Lane = Plain{}
	if p.Key != nil {
		unseal, lane = p.Key.unsealBack(), NewSealed(p.Key.Suite, &p.Key.Out)
	}
	l := New(conn, unseal, lane)
	return &worker.Service{Result: worker.None{}, Calls: Calls(l), Close: l.Close}, nil
}

// path is the way to the gateway.
func (p *Params) path() path.Path {
	if p.TCP {
		return path.NewTCP(p.To, netip.Addr{}, 0)
	}
	return path.NewUDP(p.To, netip.Addr{}, 0)
}

// clients is a Load of sessions.
type clients struct {
	Load
	params   *Params
	identity *identity.PrivateKey
	engines  []*engine // one a socket
	inner    []*engine // with the exit, one each of engines
}

func newClients(p *Params) (*clients, error) {
	id, err := identity.Generate(rand.Reader)
	if err != nil {
		return nil, err
	}
	c := &clients{params: p, identity: id}
	c.meter = new(Meter)
	for range max(p.Sockets, 1) {
		conn, err := dial(p)
		if err != nil {
			c.Close()
			return nil, err
		}
		e, err := newEngine(conn, *p.Gateway, id, seal.Offer(), c.meter, p.path())
		if err != nil {
			_ = conn.Close()
			c.Close()
			return nil, err
		}
		c.engines = append(c.engines, e)
		c.closes = append(c.closes, e.close)
	}
	return c, nil
}

// connect makes sessions and a lane for each of their flows. The lanes of one session's
// flows are not beside each other: every session has its turn before the first has
// its second.
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
			c.addLanes(i, e, uint16(flow+1))
		}
	}
	return made, nil
}

func (c *clients) addLanes(socket int, e *engine, flow uint16) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.kept {
		if conn, ok := e.conn.(*tcp.Conn); ok && flow == 1 {
			poll(conn, s)
		}
		lane := flowLane{s, flow}
		if c.params.Exit == nil {
			c.lanes = append(c.lanes, placed{lane, e.conn})
			continue
		}
		inner := c.inner[socket]
		inner.mu.Lock()
		lane.session = inner.kept[0]
		inner.mu.Unlock()
		c.lanes = append(c.lanes, placed{forwardLane{entry: s, exit: *c.params.Exit, inner: lane}, e.conn})
	}
}

// connectExit makes a session with the exit through each session with the entry.
func (c *clients) connectExit(ctx context.Context) error {
	for _, e := range c.engines {
		h := newHop(e, *c.params.Exit)
		inner, err := newEngine(h, *c.params.Exit, c.identity, seal.Offer(), c.meter, path.NewUDP(c.params.To, netip.Addr{}, 0))
		if err != nil {
			return err
		}
		c.inner = append(c.inner, inner)
		c.closes = append(c.closes, inner.close)
	}
	if _, err := spread(ctx, c.inner, MakePlan{Sessions: len(c.inner)}); err != nil {
		return fmt.Errorf("through the entry: %w", err)
	}
	return nil
}

// make makes sessions that are not used for anything.
func (c *clients) make(ctx context.Context, plan MakePlan) (Made, error) {
	return spread(ctx, c.engines, plan)
}

// renew renews the keys of all sessions over and over.
func (c *clients) renew(ctx context.Context, plan RenewPlan) (Renewed, error) {
	if len(c.engines) != 1 {
		return Renewed{}, errors.New("load: keys are renewed on one socket only")
	}
	return c.engines[0].renewSessions(ctx, plan)
}

// spread makes sessions over engines, one engine after the other. The delays are those of
// the last.
func spread(ctx context.Context, engines []*engine, plan MakePlan) (sum Made, err error) {
	for i, e := range engines {
		share := plan
		share.Sessions = (plan.Sessions*(i+1))/len(engines) - plan.Sessions*i/len(engines)
		if plan.Sessions > 0 && share.Sessions == 0 {
			continue
		}
		one, err := e.makeSessions(ctx, share)
		sum.Sessions += one.Sessions
		sum.Failed += one.Failed
		sum.Took += one.Took
		sum.Delays = one.Delays
		if err != nil {
			return sum, err
		}
	}
	return sum, nil
}
