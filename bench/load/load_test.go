//go:build linux

package load_test

import (
	"context"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"lewes/bench/load"
	"lewes/bench/measure"
	"lewes/bench/sink"
	"lewes/bench/worker"
	"lewes/crypto/identity"
	"lewes/crypto/seal"
	"lewes/router"
	"lewes/router/gatewaytest"
)

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

// service is a worker's role, in this process.
type service struct {
	t *testing.T
	*worker.Service
}

func run(t *testing.T, role worker.Role, params any) service {
	t.Helper()
	text, err := json.Marshal(params)
	if err != nil {
		t.Fatal(err)
	}
	s, err := role(t.Context(), text)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return service{t, s}
}

func call[R any](s service, name string, params any) R {
	s.t.Helper()
	result, err := try[R](s, name, params)
	if err != nil {
		s.t.Fatalf("%s: %v", name, err)
	}
	return result
}

func try[R any](s service, name string, params any) (result R, err error) {
	s.t.Helper()
	text, err := json.Marshal(params)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	got, err := s.Calls[name](ctx, text)
	if err != nil {
		return result, err
	}
	if text, err = json.Marshal(got); err != nil {
		s.t.Fatal(err)
	}
	return result, json.Unmarshal(text, &result)
}

func newSink(t *testing.T) *sink.Sink {
	t.Helper()
	s, err := sink.New(loopback)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

// opened opens the flows of l to s until all stand.
func opened(t *testing.T, l service, s *sink.Sink, flows int) {
	t.Helper()
	call[worker.None](l, "open", s.Addr())
	until(t, "not all flows were opened", func() bool { return s.Sources() >= flows })
	if n := s.Sources(); n != flows {
		t.Fatalf("%d flows were opened, want %d", n, flows)
	}
}

// out sends from l to s through whatever is between them.
func out(t *testing.T, l service, s *sink.Sink, p measure.Plan) (n uint64) {
	t.Helper()
	s.Expect(p.Run)
	sent := call[measure.Sent](l, "send", p)
	until(t, "datagrams are missing at the sink", func() bool { return s.Count().Datagrams == sent.Sent })
	if n := s.Count(); sent.Sent == 0 || n.Bytes != sent.Sent*uint64(p.Size) || n.Foreign != 0 || n.Delays.N == 0 {
		t.Errorf("%d sent; %+v", sent.Sent, n)
	}
	return sent.Sent
}

func back(t *testing.T, l service, s *sink.Sink, p measure.Plan) {
	t.Helper()
	call[worker.None](l, "expect", load.ExpectPlan{Run: p.Run, Size: p.Size})
	sent, err := s.Send(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	until(t, "datagrams are missing at the load", func() bool { return call[sink.Count](l, "count", worker.None{}).Datagrams == sent.Sent })
	if n := call[sink.Count](l, "count", worker.None{}); sent.Sent == 0 || n.Foreign != 0 || n.Delays.N == 0 {
		t.Errorf("%d sent; %+v", sent.Sent, n)
	}
}

func startGateway(t *testing.T, shards int, next ...*gatewaytest.Gateway) (*gatewaytest.Gateway, load.Params) {
	t.Helper()
	g := gatewaytest.Start(t, gatewaytest.Options{Next: next, Config: func(c *router.Config) {
		c.Shards, c.Rate, c.Burst, c.TrustedRate, c.TriesASecond = shards, 1000, 1000, 1000, 1000
	}})
	return g, load.Params{To: g.Addrs()[0], Gateway: &g.URI.Identity}
}

func TestThroughGateway(t *testing.T) {
	for _, row := range []struct {
		name            string
		shards          int
		suites          seal.Suite
		single          bool
		sockets         int
		sessions, flows int
	}{
		{name: "one flow", sessions: 1, flows: 1, shards: 1, suites: seal.ChaCha20Poly1305},
		{name: "single datagrams", sessions: 20, flows: 1, shards: 1, single: true},
		{name: "flows and sockets", sessions: 6, flows: 5, shards: 2, sockets: 3},
	} {
		t.Run(row.name, func(t *testing.T) {
			g, params := startGateway(t, row.shards)
			s := newSink(t)
			params.Suites, params.Single, params.Sockets = row.suites, row.single, row.sockets
			l := run(t, load.Role, params)
			if made := call[load.Made](l, "connect", load.ConnectPlan{Sessions: row.sessions, Flows: row.flows, Known: true}); made.Number != row.sessions || made.Delays.N == 0 {
				t.Fatalf("%+v", made)
			}
			opened(t, l, s, row.sessions*row.flows)
			out(t, l, s, measure.Plan{Run: 1, Rate: 5_000, For: 50 * time.Millisecond, Size: 1200, Train: 8})
			back(t, l, s, measure.Plan{Run: 2, Rate: 5_000, For: 50 * time.Millisecond, Size: 1200, Train: 8})
			if n := g.Stats().Sessions; int(n) != row.sessions {
				t.Errorf("the gateway has %d sessions, want %d", n, row.sessions)
			}
		})
	}
}

func TestThroughEntry(t *testing.T) {
	exit, _ := startGateway(t, 2)
	entry, params := startGateway(t, 2, exit)
	s := newSink(t)
	params.Exit, params.Sockets = &exit.URI.Identity, 4
	l := run(t, load.Role, params)
	call[load.Made](l, "connect", load.ConnectPlan{})
	opened(t, l, s, 4)
	sent := out(t, l, s, measure.Plan{Run: 1, Rate: 5_000, For: 50 * time.Millisecond, Size: 1200, Train: 8})
	if n := entry.Stats().Forwarded; n < sent {
		t.Errorf("the entry forwarded %d packets of %d", n, sent)
	}
}

func TestMakeSessions(t *testing.T) {
	g, params := startGateway(t, 2)
	l := run(t, load.Role, params)
	for _, known := range []bool{false, true} {
		before := g.Stats().Sessions
		made := call[load.Made](l, "make", load.MakePlan{Sessions: 30, Together: 8, Known: known, Forget: true})
		if made.Number != 30 || made.Took <= 0 || made.Delays.N != 30 || g.Stats().Sessions != before+30 {
			t.Errorf("known %v: %+v, the gateway has %d more sessions", known, made, g.Stats().Sessions-before)
		}
	}
	if made := call[load.Made](l, "make", load.MakePlan{For: 200 * time.Millisecond, Together: 8, Forget: true}); made.Took > 200*time.Millisecond {
		t.Errorf("%+v", made)
	}
}

func TestRenewKeys(t *testing.T) {
	g, params := startGateway(t, 1)
	l := run(t, load.Role, params)
	if _, err := try[load.Made](l, "renew", time.Second); err == nil || !strings.Contains(err.Error(), "no session") {
		t.Errorf("without sessions: %v", err)
	}
	call[load.Made](l, "connect", load.ConnectPlan{Sessions: 3})
	renewed := call[load.Made](l, "renew", 300*time.Millisecond)
	if renewed.Delays.N != uint64(renewed.Number) || int(g.Stats().Rekeys) < renewed.Number {
		t.Errorf("%+v, %d at the gateway", renewed, g.Stats().Rekeys)
	}
	// The sessions are still usable.
	s := newSink(t)
	call[load.Made](l, "connect", load.ConnectPlan{Sessions: 1})
	opened(t, l, s, 4)
	out(t, l, s, measure.Plan{Run: 1, Rate: 5_000, For: 20 * time.Millisecond, Size: 100, Train: 1})
}

func TestNoGateway(t *testing.T) {
	s := newSink(t) // receives and never responds
	id := identity.FromSeed(&[32]byte{1}).Public()
	l := run(t, load.Role, load.Params{To: s.Addr(), Gateway: &id})
	text, _ := json.Marshal(load.ConnectPlan{Sessions: 1})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := l.Calls["connect"](ctx, text); err == nil {
		t.Error("a session was created without a gateway")
	}
	if _, err := try[measure.Sent](l, "send", measure.Plan{Rate: 1000, For: time.Second}); err == nil || !strings.Contains(err.Error(), "no flow") {
		t.Errorf("sending without a session: %v", err)
	}
	if _, err := try[worker.None](l, "open", s.Addr()); err == nil || !strings.Contains(err.Error(), "no flow") {
		t.Errorf("opening without a session: %v", err)
	}
}
