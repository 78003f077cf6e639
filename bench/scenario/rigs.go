package scenario

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"lewes/bench/gateway"
	"lewes/bench/load"
	"lewes/bench/rawudp"
	"lewes/bench/relay"
	"lewes/bench/report"
	"lewes/bench/sink"
	"lewes/bench/worker"
	"lewes/crypto/seal"
)

// payloadSize is what scenarios send that are not about sizes.
const payloadSize = 1200

// way is which way datagrams go.
type way struct{ out, back bool }

var (
	outward   = way{out: true}
	backward  = way{back: true}
	bothWays  = way{out: true, back: true}
	localhost = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)
)

// suites are the AEADs that this machine is measured with.
func suites() []seal.Suite {
	if seal.Offer()&seal.AES256GCM != 0 {
		return []seal.Suite{seal.ChaCha20Poly1305, seal.AES256GCM}
	}
	return []seal.Suite{seal.ChaCha20Poly1305}
}

// best is the AEAD that a gateway on this machine chooses.
func best() seal.Suite { return suites()[len(suites())-1] }

// rigWith starts a sink and returns a rig that has only that.
func (c *crew) rigWith(ctx context.Context, row report.Row, w way) (*rig, netip.AddrPort, error) {
	r := &rig{row: row, out: w.out, back: w.back, payload: payloadSize, train: rawudp.MaxSegments, first: 300_000}
	var at netip.AddrPort
	var err error
	r.sink, err = c.start(ctx, roleSink, sink.Params{At: localhost}, &at, worker.Where{})
	return r, at, err
}

// open opens the flows of a rig.
func (c *crew) open(ctx context.Context, r *rig, target netip.AddrPort, flows int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	there := 0
	for range 10 {
		if err := r.load.Call(ctx, "open", target, nil); err != nil {
			return err
		}
		for range 20 {
			if err := r.sink.Call(ctx, "sources", worker.None{}, &there); err != nil {
				return err
			}
			if there >= flows {
				return nil
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	return fmt.Errorf("%d of %d flows could be opened", there, flows)
}

// loopOptions say which loop.
type loopOptions struct {
	suite   seal.Suite // 0: none
	apart   bool
	batched bool // on the gateway's sockets
	payload int  // 0 means payloadSize
}

// loop starts a rig with the loop that does nothing but relay.
func (c *crew) loop(ctx context.Context, w way, o loopOptions) (*rig, error) {
	row := report.Row{Subject: "loop", Kind: report.Loop}
	if o.batched {
		row = report.Row{Subject: "gateway's sockets", Kind: report.Sockets}
	}
	var key *load.Key
	if o.suite != 0 {
		key = load.NewKey(o.suite)
		row.AEAD = o.suite.String()
		row.Subject += ", " + row.AEAD
	} else {
		row.Subject += ", plain"
	}
	r, at, err := c.rigWith(ctx, row, w)
	if err != nil {
		return nil, err
	}
	if r.apart = o.apart; o.apart {
		r.first = 100_000
	}
	if o.payload > 0 {
		r.payload = o.payload
	}
	var near netip.AddrPort
	if r.subject, err = c.start(ctx, roleRelay, relay.Params{Sink: at, Key: key, Apart: o.apart, Batched: o.batched}, &near, worker.Where{}); err != nil {
		return nil, err
	}
	if r.load, err = c.start(ctx, roleLoad, load.Params{To: near, Apart: o.apart, Key: key}, nil, worker.Where{}); err != nil {
		return nil, err
	}
	return r, c.open(ctx, r, at, 1)
}

// gatewayOptions say what goes through a gateway.
type gatewayOptions struct {
	suite    seal.Suite
	shards   int // 0 means 1
	sessions int // 0 means 1
	flows    int // of each session; 0 means 1
	sockets  int // of the load; 0 means 1
	apart    bool
	train    int // 0 means as long as may be
	payload  int // 0 means payloadSize
	tcp      bool
}

// gateway starts a rig with a gateway.
func (c *crew) gateway(ctx context.Context, w way, o gatewayOptions) (*rig, error) {
	row := report.Row{Subject: "gateway, " + o.suite.String(), Kind: report.Gateway, AEAD: o.suite.String()}
	r, target, err := c.rigWith(ctx, row, w)
	if err != nil {
		return nil, err
	}
	r.gateway = true
	if r.apart = o.apart; o.apart {
		r.first = 50_000
	}
	if o.train > 0 {
		r.train = o.train
	}
	if o.payload > 0 {
		r.payload = o.payload
	}
	var at gateway.At
	if r.subject, err = c.start(ctx, roleGateway, gateway.Params{Suites: o.suite, Shards: max(o.shards, 1), TCP: o.tcp}, &at, worker.Where{}); err != nil {
		return nil, err
	}
	params := load.Params{To: at.Addr, Apart: o.apart, Gateway: &at.Identity, Sockets: o.sockets, TCP: o.tcp}
	if o.tcp {
		params.To, r.first = at.TCP, 4_000
	}
	if r.load, err = c.start(ctx, roleLoad, params, nil, worker.Where{}); err != nil {
		return nil, err
	}
	plan := load.ConnectPlan{Sessions: max(o.sessions, 1), Flows: max(o.flows, 1), Known: true}
	if err := c.connect(ctx, r, plan); err != nil {
		return nil, err
	}
	return r, c.open(ctx, r, target, plan.Sessions*plan.Flows)
}

// connect makes a load's sessions.
func (c *crew) connect(ctx context.Context, r *rig, plan load.ConnectPlan) error {
	if plan.Sessions > 100 {
		c.bench.say("making %d sessions: %s", plan.Sessions, r.row.Subject)
	}
	ctx, cancel := context.WithTimeout(ctx, patience+time.Duration(plan.Sessions)*20*time.Millisecond)
	defer cancel()
	return r.load.Call(ctx, "connect", plan, nil)
}

// entry starts a rig with an entry gateway and an exit behind it. The subject is the
// entry, or the exit.
func (c *crew) entry(ctx context.Context, o gatewayOptions, exitIsSubject bool) (*rig, error) {
	where := "entry"
	if exitIsSubject {
		where = "exit"
	}
	row := report.Row{
		Subject: fmt.Sprintf("gateway as %s, %s, %s", where, count(o.shards, "shard"), o.suite),
		Kind:    report.Gateway,
		AEAD:    o.suite.String(),
	}
	r, target, err := c.rigWith(ctx, row, outward)
	if err != nil {
		return nil, err
	}
	if o.train > 0 {
		r.train = o.train
	}
	var exitAt, entryAt gateway.At
	exit, err := c.start(ctx, roleGateway, gateway.Params{Suites: o.suite, Shards: o.shards}, &exitAt, worker.Where{})
	if err != nil {
		return nil, err
	}
	entry, err := c.start(ctx, roleGateway, gateway.Params{Suites: o.suite, Shards: o.shards, Next: &exitAt}, &entryAt, worker.Where{})
	if err != nil {
		return nil, err
	}
	r.gateway = true
	r.subject, r.rest = entry, []*worker.Process{exit}
	if exitIsSubject {
		r.subject, r.rest = exit, []*worker.Process{entry}
	}
	params := load.Params{To: entryAt.Addr, Gateway: &entryAt.Identity, Exit: &exitAt.Identity, Sockets: o.sessions}
	if r.load, err = c.start(ctx, roleLoad, params, nil, worker.Where{}); err != nil {
		return nil, err
	}
	if err := c.connect(ctx, r, load.ConnectPlan{}); err != nil {
		return nil, err
	}
	return r, c.open(ctx, r, target, o.sessions)
}

// direct starts a rig with nothing between load and sink.
func (c *crew) direct(ctx context.Context) (*rig, error) {
	r, at, err := c.rigWith(ctx, report.Row{Subject: "nothing between", Kind: report.Direct}, outward)
	if err != nil {
		return nil, err
	}
	r.load, err = c.start(ctx, roleLoad, load.Params{To: at}, nil, worker.Where{})
	return r, err
}

// gather collects rigs; those that cannot be started are left out.
type gather struct {
	ctx  context.Context
	crew *crew
	rigs []*rig
}

func (c *crew) gather(ctx context.Context) *gather { return &gather{ctx: ctx, crew: c} }

// add takes a rig, or the reason for which there is none.
func (g *gather) add(what string) func(*rig, error) *rig {
	return func(r *rig, err error) *rig {
		switch {
		case g.ctx.Err() != nil:
			return nil
		case err != nil:
			g.crew.bench.leaveOut(g.crew.bench.doing+", "+what, err)
			return nil
		}
		g.rigs = append(g.rigs, r)
		return r
	}
}

// count prints a number of things.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
