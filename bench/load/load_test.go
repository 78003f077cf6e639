package load_test

import (
	"context"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"lewes/bench/gateway"
	"lewes/bench/load"
	"lewes/bench/pace"
	"lewes/bench/sink"
	"lewes/bench/worker"
	"lewes/crypto/identity"
	"lewes/crypto/seal"
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
func out(t *testing.T, l service, s *sink.Sink, p load.Plan) (n uint64) {
	t.Helper()
	s.Expect(p.Run)
	sent := call[pace.Result](l, "send", p)
	until(t, "datagrams are missing at the sink", func() bool { return s.Count().Datagrams == sent.Sent })
	if n := s.Count(); sent.Sent == 0 || n.Bytes != sent.Sent*uint64(p.Size) || n.Foreign != 0 || n.Delays.N == 0 {
		t.Errorf("%d sent; %+v", sent.Sent, n)
	}
	return sent.Sent
}

func back(t *testing.T, l service, s *sink.Sink, p sink.Plan) {
	t.Helper()
	call[worker.None](l, "expect", load.CountPlan{Run: p.Run, Size: p.Size})
	sent, err := s.Send(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	until(t, "datagrams are missing at the load", func() bool { return call[sink.Count](l, "count", worker.None{}).Datagrams == sent.Sent })
	if n := call[sink.Count](l, "count", worker.None{}); sent.Sent == 0 || n.Foreign != 0 || n.Delays.N == 0 {
		t.Errorf("%d sent; %+v", sent.Sent, n)
	}
}

func startGateway(t *testing.T, p gateway.Params) (service, gateway.At) {
	t.Helper()
	g := run(t, gateway.Role, p)
	return g, g.Result.(gateway.At)
}

func TestThroughAGateway(t *testing.T) {
	for _, row := range []struct {
		name     string
		suites   seal.Suite
		shards   int
		params   load.Params
		sessions int
		flows    int
	}{
		{name: "one flow", sessions: 1, flows: 1, shards: 1, suites: seal.ChaCha20Poly1305},
		{name: "sessions apart", sessions: 20, flows: 1, shards: 1, params: load.Params{Apart: true}},
		{name: "flows and sockets", sessions: 6, flows: 5, shards: 2, params: load.Params{Sockets: 3}},
	} {
		t.Run(row.name, func(t *testing.T) {
			g, at := startGateway(t, gateway.Params{Suites: row.suites, Shards: row.shards})
			s := newSink(t)
			row.params.To, row.params.Gateway = at.Addr, &at.Identity
			l := run(t, load.Role, row.params)
			if made := call[load.Made](l, "connect", load.ConnectPlan{Sessions: row.sessions, Flows: row.flows, Known: true}); made.Sessions != row.sessions || made.Delays.Max == 0 {
				t.Fatalf("%+v", made)
			}
			opened(t, l, s, row.sessions*row.flows)
			out(t, l, s, load.Plan{Run: 1, Rate: 20_000, For: 50 * time.Millisecond, Size: 1200, Train: 8})
			back(t, l, s, sink.Plan{Run: 2, Rate: 20_000, For: 50 * time.Millisecond, Size: 1200, Train: 8})
			stats := call[map[string]any](g, "stats", worker.None{})
			if n := stats["Sessions"].(float64); int(n) != row.sessions {
				t.Errorf("the gateway has %v sessions", n)
			}
			if traffic := call[gateway.Traffic](g, "traffic", worker.None{}); traffic.Clients.Received.Packets == 0 || traffic.Egress.Sent.Packets == 0 {
				t.Errorf("the gateway's sockets moved nothing: %+v", traffic)
			}
		})
	}
}

func TestThroughAnEntry(t *testing.T) {
	_, exit := startGateway(t, gateway.Params{Shards: 2})
	g, entry := startGateway(t, gateway.Params{Shards: 2, Next: &exit})
	s := newSink(t)
	l := run(t, load.Role, load.Params{To: entry.Addr, Gateway: &entry.Identity, Exit: &exit.Identity, Sockets: 4})
	call[load.Made](l, "connect", load.ConnectPlan{})
	opened(t, l, s, 4)
	sent := out(t, l, s, load.Plan{Run: 1, Rate: 20_000, For: 50 * time.Millisecond, Size: 1200, Train: 8})
	if n := call[map[string]any](g, "stats", worker.None{})["Forwarded"].(float64); uint64(n) < sent {
		t.Errorf("the entry has forwarded %v packets of %d", n, sent)
	}
}

func TestMakesSessions(t *testing.T) {
	g, at := startGateway(t, gateway.Params{Shards: 2})
	l := run(t, load.Role, load.Params{To: at.Addr, Gateway: &at.Identity})
	sessions := func() int { return int(call[map[string]any](g, "stats", worker.None{})["Sessions"].(float64)) }
	for _, known := range []bool{false, true} {
		before := sessions()
		made := call[load.Made](l, "make", load.MakePlan{Sessions: 30, Together: 8, Known: known, Forget: true})
		if made.Sessions != 30 || made.Failed != 0 || made.Took <= 0 || made.Delays.N != 30 || sessions() != before+30 {
			t.Errorf("known %v: %+v, the gateway has %d sessions", known, made, sessions()-before)
		}
	}
	began := time.Now()
	made := call[load.Made](l, "make", load.MakePlan{For: 200 * time.Millisecond, Together: 8, Forget: true})
	if took := time.Since(began); made.Sessions == 0 || took < 200*time.Millisecond || took > 5*time.Second {
		t.Errorf("%+v after %v", made, took)
	}
}

func TestRenewsKeys(t *testing.T) {
	g, at := startGateway(t, gateway.Params{Shards: 1})
	l := run(t, load.Role, load.Params{To: at.Addr, Gateway: &at.Identity})
	if _, err := try[load.Renewed](l, "renew", load.RenewPlan{For: time.Second}); err == nil || !strings.Contains(err.Error(), "no session") {
		t.Errorf("without sessions: %v", err)
	}
	call[load.Made](l, "connect", load.ConnectPlan{Sessions: 3})
	renewed := call[load.Renewed](l, "renew", load.RenewPlan{For: 200 * time.Millisecond})
	if renewed.Subsessions < 6 || renewed.Delays.N != uint64(renewed.Subsessions) || renewed.Delays.P50 <= 0 {
		t.Errorf("%+v", renewed)
	}
	if n := call[map[string]any](g, "stats", worker.None{})["Rekeys"].(float64); int(n) < renewed.Subsessions {
		t.Errorf("%d subsessions here, %v at the gateway", renewed.Subsessions, n)
	}
	// The sessions are what they were.
	s := newSink(t)
	call[load.Made](l, "connect", load.ConnectPlan{Sessions: 1})
	call[worker.None](l, "open", s.Addr())
	out(t, l, s, load.Plan{Run: 1, Rate: 5_000, For: 20 * time.Millisecond, Size: 100, Train: 1})
}

func TestNoGateway(t *testing.T) {
	s := newSink(t) // something that takes datagrams and says nothing
	id := identity.FromSeed(&[32]byte{1}).Public()
	l := run(t, load.Role, load.Params{To: s.Addr(), Gateway: &id})
	text, _ := json.Marshal(load.ConnectPlan{Sessions: 1})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := l.Calls["connect"](ctx, text); err == nil {
		t.Error("a session was made with nobody")
	}
	if _, err := try[pace.Result](l, "send", load.Plan{Rate: 1000, For: time.Second}); err == nil || !strings.Contains(err.Error(), "no lane") {
		t.Errorf("sending without a session: %v", err)
	}
	if _, err := try[worker.None](l, "open", s.Addr()); err == nil || !strings.Contains(err.Error(), "no lane") {
		t.Errorf("opening without a session: %v", err)
	}
}
