//go:build linux

package scenario

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"time"

	"lewes/bench/load"
	"lewes/bench/rawudp"
	"lewes/bench/relay"
	"lewes/bench/report"
	"lewes/bench/sink"
	"lewes/bench/worker"
	"lewes/crypto/seal"
)

// topology is a load, a subject and a sink.
type topology struct {
	row     report.Row
	load    *worker.Process
	sink    *worker.Process
	subject process         // nil if there is no relay
	gateway *worker.Process // the subject, if it is a gateway in a worker
	others  []process       // further relays

	back    bool // from the target to the client
	payload int
	train   int
	single  bool
	first   float64 // rate to begin a search with, per second
	dropped bool    // failed, and takes no further part
}

var localhost = netip.AddrPortFrom(loopback.Addr().Next(), 0)

// payloadSize is the payload in all scenarios but sizes.
const payloadSize = 1200

// suites returns the AEADs to measure on this machine. The last one is a gateway's choice.
func suites() []seal.Suite {
	if seal.Offer()&seal.AES256GCM != 0 {
		return []seal.Suite{seal.ChaCha20Poly1305, seal.AES256GCM}
	}
	return []seal.Suite{seal.ChaCha20Poly1305}
}

func best() seal.Suite { return suites()[len(suites())-1] }

// open opens the flows of a topology.
func (e *env) open(ctx context.Context, t *topology, target netip.AddrPort, flows int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	count := 0
	for range 10 {
		if err := t.load.Call(ctx, "open", target, nil); err != nil {
			return err
		}
		for range 20 {
			if err := t.sink.Call(ctx, "sources", worker.None{}, &count); err != nil {
				return err
			}
			if count >= flows {
				return nil
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return fmt.Errorf("opened %d of %d flows", count, flows)
}

// options are the parameters of a topology.
type options struct {
	back     bool       // from the target to the client
	suite    seal.Suite // 0: none; a gateway always has one
	single   bool       // datagrams one by one, without GSO and GRO
	payload  int        // 0 means payloadSize
	train    int        // datagrams of a flow in turn; 0 means as many as possible
	first    float64    // rate to begin a search with; 0 means a usual one
	shards   int        // of a gateway; 0 means 1
	sessions int        // of a gateway; 0 means 1; with chain one per socket
	flows    int        // of each session; 0 means 1
	sockets  int        // of the load, or connected ones of a loop; 0 means 1
	tcp      bool
	chain    string // "entry" or "exit": the part of the subject in a chain of two gateways
	name     string // appended to that of a gateway
	binary   string // of a gateway; "" is the gateway of this tree
}

// newTopology starts the sink of a topology and returns its address.
func (e *env) newTopology(ctx context.Context, row report.Row, o options) (*topology, netip.AddrPort, error) {
	usual := 300_000.0
	if o.single {
		usual = 50_000
	}
	t := &topology{
		row:     row,
		back:    o.back,
		single:  o.single,
		payload: cmp.Or(o.payload, payloadSize),
		train:   cmp.Or(o.train, rawudp.MaxSegments),
		first:   cmp.Or(o.first, usual),
	}
	var at netip.AddrPort
	var err error
	t.sink, err = e.start(ctx, roleSink, sink.Params{At: localhost}, &at, worker.Where{})
	return t, at, err
}

// startLoad starts the load of a topology, creates its sessions, and opens its flows.
func (e *env) startLoad(ctx context.Context, t *topology, p load.Params, plan load.ConnectPlan, target netip.AddrPort) (err error) {
	if t.load, err = e.start(ctx, roleLoad, p, nil, worker.Where{}); err != nil {
		return err
	}
	if p.Gateway != nil {
		if plan.Sessions > 100 {
			e.progress("creating %d sessions: %s", plan.Sessions, t.row.Subject)
		}
		ctx, cancel := context.WithTimeout(ctx, patience+time.Duration(plan.Sessions)*20*time.Millisecond)
		defer cancel()
		if err := t.load.Call(ctx, "connect", plan, nil); err != nil {
			return err
		}
	}
	return e.open(ctx, t, target, plan.Sessions*plan.Flows)
}

// loop starts a loop.
func (e *env) loop(ctx context.Context, o options) (*topology, error) {
	row := report.Row{Subject: "loop", Kind: report.Loop}
	if o.sockets > 0 {
		row = report.Row{Subject: "loop, " + count(o.sockets, "socket"), Kind: report.Fan}
	}
	var key *load.Key
	if o.suite != 0 {
		key = load.NewKey(o.suite)
		row.AEAD = o.suite.String()
		row.Subject += ", " + row.AEAD
	}
	t, target, err := e.newTopology(ctx, row, o)
	if err != nil {
		return t, err
	}
	var at netip.AddrPort
	params := relay.Params{Sink: target, Key: key, Single: o.single, Sockets: o.sockets}
	if t.subject, err = e.start(ctx, roleRelay, params, &at, worker.Where{}); err != nil {
		return t, err
	}
	return t, e.startLoad(ctx, t, load.Params{To: at, Single: o.single, Key: key}, load.ConnectPlan{Sessions: 1, Flows: 1}, target)
}

// gateway starts and adds a topology for each gateway to measure.
func (e *env) gateway(ctx context.Context, o options) {
	binaries := e.settings.Gateways
	if len(binaries) == 0 {
		binaries = []string{""}
	}
	for _, o.binary = range binaries {
		e.add(e.oneGateway(ctx, o))
	}
}

// oneGateway starts a gateway, or with o.chain an entry and an exit behind it.
func (e *env) oneGateway(ctx context.Context, o options) (*topology, error) {
	subject := "gateway"
	if o.chain != "" {
		subject += " as " + o.chain
	}
	for _, part := range []string{o.suite.String(), o.name, o.binary} {
		if part != "" {
			subject += ", " + part
		}
	}
	t, target, err := e.newTopology(ctx, report.Row{Subject: subject, Kind: report.Gateway, AEAD: o.suite.String()}, o)
	if err != nil {
		return t, err
	}
	plan := load.ConnectPlan{Sessions: max(o.sessions, 1), Flows: max(o.flows, 1), Known: o.chain == ""}
	params := gatewayParams{Shards: max(o.shards, 1), TCP: o.tcp}
	gateway, at, err := e.startGateway(ctx, o.binary, params)
	if err != nil {
		return t, err
	}
	loadParams := load.Params{Single: o.single, Suites: o.suite, Sockets: o.sockets, TCP: o.tcp}
	if o.chain != "" {
		exit, exitAt := gateway, at
		params.Next, loadParams.Exit, plan.Sessions = &exitAt, &exitAt.Identity, max(o.sockets, 1)
		if gateway, at, err = e.startGateway(ctx, o.binary, params); err != nil {
			return t, err
		}
		if o.chain == "exit" {
			gateway, exit = exit, gateway
		}
		t.others = []process{exit}
	}
	t.subject = gateway
	t.gateway, _ = gateway.(*worker.Process)
	loadParams.To, loadParams.Gateway = at.Addr, &at.Identity
	if o.tcp {
		loadParams.To = at.TCP
	}
	return t, e.startLoad(ctx, t, loadParams, plan, target)
}

// direct starts a load and a sink without a relay.
func (e *env) direct(ctx context.Context) (*topology, error) {
	t, at, err := e.newTopology(ctx, report.Row{Subject: "no relay", Kind: report.Direct}, options{})
	if err != nil {
		return t, err
	}
	t.load, err = e.start(ctx, roleLoad, load.Params{To: at}, nil, worker.Where{})
	return t, err
}

// count formats a number of things.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
