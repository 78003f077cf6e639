//go:build linux

package scenario

import (
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

// newTopology starts the sink of a topology.
func (e *env) newTopology(ctx context.Context, row report.Row) (*topology, netip.AddrPort, error) {
	t := &topology{row: row, payload: payloadSize, train: rawudp.MaxSegments, first: 300_000}
	var at netip.AddrPort
	var err error
	t.sink, err = e.start(ctx, roleSink, sink.Params{At: localhost}, &at, worker.Where{})
	return t, at, err
}

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
	shards   int        // of a gateway; 0 means 1
	sessions int        // of a gateway; 0 means 1
	flows    int        // of each session; 0 means 1
	sockets  int        // of the load, or connected ones of a loop; 0 means 1
	tcp      bool
	binary   string // of a gateway; "" is the gateway of this tree
}

// apply sets the fields of a topology.
func (o *options) apply(t *topology) {
	t.back, t.single = o.back, o.single
	if o.single {
		t.first = 50_000
	}
	if o.train > 0 {
		t.train = o.train
	}
	if o.payload > 0 {
		t.payload = o.payload
	}
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
	t, target, err := e.newTopology(ctx, row)
	if err != nil {
		return t, err
	}
	o.apply(t)
	var at netip.AddrPort
	params := relay.Params{Sink: target, Key: key, Single: o.single, Sockets: o.sockets}
	if t.subject, err = e.start(ctx, roleRelay, params, &at, worker.Where{}); err != nil {
		return t, err
	}
	if t.load, err = e.start(ctx, roleLoad, load.Params{To: at, Single: o.single, Key: key}, nil, worker.Where{}); err != nil {
		return t, err
	}
	return t, e.open(ctx, t, target, 1)
}

// gateways calls start for each gateway to measure and adds the topologies, whose subjects get the
// gateway's name.
func (e *env) gateways(o options, start func(options) (*topology, error)) []*topology {
	binaries := e.settings.Gateways
	if len(binaries) == 0 {
		binaries = []string{""}
	}
	var added []*topology
	for _, o.binary = range binaries {
		t, err := start(o)
		if o.binary != "" {
			t.row.Subject += ", " + o.binary
		}
		if t = e.add(t, err); t != nil {
			added = append(added, t)
		}
	}
	return added
}

// gateway starts the gateways to measure.
func (e *env) gateway(ctx context.Context, o options) []*topology {
	return e.gateways(o, func(o options) (*topology, error) { return e.oneGateway(ctx, o) })
}

func (e *env) oneGateway(ctx context.Context, o options) (*topology, error) {
	row := report.Row{Subject: "gateway, " + o.suite.String(), Kind: report.Gateway, AEAD: o.suite.String()}
	t, target, err := e.newTopology(ctx, row)
	if err != nil {
		return t, err
	}
	o.apply(t)
	subject, at, err := e.startGateway(ctx, o.binary, gatewayParams{Shards: max(o.shards, 1), TCP: o.tcp})
	if err != nil {
		return t, err
	}
	t.setSubject(subject)
	params := load.Params{To: at.Addr, Single: o.single, Gateway: &at.Identity, Suites: o.suite, Sockets: o.sockets, TCP: o.tcp}
	if o.tcp {
		params.To, t.first = at.TCP, 4_000
	}
	if t.load, err = e.start(ctx, roleLoad, params, nil, worker.Where{}); err != nil {
		return t, err
	}
	plan := load.ConnectPlan{Sessions: max(o.sessions, 1), Flows: max(o.flows, 1), Known: true}
	if err := e.connect(ctx, t, plan); err != nil {
		return t, err
	}
	return t, e.open(ctx, t, target, plan.Sessions*plan.Flows)
}

// setSubject sets a gateway as the subject.
func (t *topology) setSubject(p process) {
	t.subject = p
	t.gateway, _ = p.(*worker.Process)
}

// connect creates the sessions of a load.
func (e *env) connect(ctx context.Context, t *topology, plan load.ConnectPlan) error {
	if plan.Sessions > 100 {
		e.progress("creating %d sessions: %s", plan.Sessions, t.row.Subject)
	}
	ctx, cancel := context.WithTimeout(ctx, patience+time.Duration(plan.Sessions)*20*time.Millisecond)
	defer cancel()
	return t.load.Call(ctx, "connect", plan, nil)
}

// chain starts an entry and an exit behind it. The subject is one of them.
func (e *env) chain(ctx context.Context, o options, subjectIsExit bool) []*topology {
	return e.gateways(o, func(o options) (*topology, error) { return e.oneChain(ctx, o, subjectIsExit) })
}

func (e *env) oneChain(ctx context.Context, o options, subjectIsExit bool) (*topology, error) {
	subject := "entry"
	if subjectIsExit {
		subject = "exit"
	}
	row := report.Row{
		Subject: fmt.Sprintf("gateway as %s, %s, %s", subject, count(o.shards, "shard"), o.suite),
		Kind:    report.Gateway,
		AEAD:    o.suite.String(),
	}
	t, target, err := e.newTopology(ctx, row)
	if err != nil {
		return t, err
	}
	o.apply(t)
	exit, exitAt, err := e.startGateway(ctx, o.binary, gatewayParams{Shards: o.shards})
	if err != nil {
		return t, err
	}
	entry, entryAt, err := e.startGateway(ctx, o.binary, gatewayParams{Shards: o.shards, Next: &exitAt})
	if err != nil {
		return t, err
	}
	if subjectIsExit {
		entry, exit = exit, entry
	}
	t.setSubject(entry)
	t.others = []process{exit}
	params := load.Params{To: entryAt.Addr, Gateway: &entryAt.Identity, Exit: &exitAt.Identity, Suites: o.suite, Sockets: o.sessions}
	if t.load, err = e.start(ctx, roleLoad, params, nil, worker.Where{}); err != nil {
		return t, err
	}
	if err := e.connect(ctx, t, load.ConnectPlan{}); err != nil {
		return t, err
	}
	return t, e.open(ctx, t, target, o.sessions)
}

// direct starts a load and a sink without a relay.
func (e *env) direct(ctx context.Context) (*topology, error) {
	t, at, err := e.newTopology(ctx, report.Row{Subject: "no relay", Kind: report.Direct})
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
