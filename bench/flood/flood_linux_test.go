package flood

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"lewes/bench/e2e/netns"
	"lewes/bench/load"
	"lewes/bench/measure"
	"lewes/bench/sink"
	"lewes/bench/worker"
	"lewes/crypto/identity"
	"lewes/router/costs"
	"lewes/state/parts"
	"lewes/transport/uri"
)

const (
	port        = 51264
	tcpPort     = 41264
	metricsPort = 9264
	// burst is how long one flood lasts.
	burst = 700 * time.Millisecond
	// longRounds is the number of floods of each kind with -long, each after as much garbage.
	longRounds = 5
	// offeredRate is more than the sessions can send beside any flood, in datagrams a second.
	// Without -long they send markedRate.
	offeredRate = 2_000_000
	markedRate  = 2_000
	datagram    = 1200
	// packetsPerConnection is the number of packets that open and close one.
	packetsPerConnection = 6
	memoryLimit          = 192 << 20 // of the gateway
	// standing is the number of sessions that send beside the floods.
	standing = 8
	// maxConnections is a bound that the connections of a few sources reach.
	maxConnections = 200
	// recordTTL lets the gateway forget handshakes within the test.
	recordTTL = 2 * time.Second
)

// floodEnv is a gateway on one machine, and the attacker, honest clients and their target
// on another.
type floodEnv struct {
	t                  *testing.T
	gateway            *gateway
	load, sink, honest *worker.Process
	attacker, reader   *worker.Process
	four               netip.AddrPort
	run                uint32
	dialed             int // honest sessions, whose Close a flood may have lost
}

func newFloodEnv(t *testing.T, memoryLimit int, config string) *floodEnv {
	t.Helper()
	if testing.Short() {
		t.Skip("floods take both processors")
	}
	ctx, l := t.Context(), launcher()
	var machines [2]*netns.Machine
	for i := range machines {
		m, err := netns.New(ctx, l)
		if errors.Is(err, worker.ErrNoNamespaces) || errors.Is(err, netns.ErrNoIP) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(m.Close)
		machines[i] = m
	}
	prefixes := func(last string) []netip.Prefix {
		return []netip.Prefix{netip.MustParsePrefix("192.0.2." + last + "/24"), netip.MustParsePrefix("2001:db8:1::" + last + "/64")}
	}
	if err := netns.Join(ctx, machines[0], machines[1], "wire", prefixes("1"), prefixes("2")); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{
		// The attacker has some addresses. Answers to the ones that it only spoofs are lost.
		"0 route add local 198.51.100.0/25 dev lo",
		"0 route add blackhole 198.51.100.128/25",
		"0 -6 route add blackhole 2001:db8:a000::/36",
		"1 route add default via 192.0.2.1",
		"1 -6 route add default via 2001:db8:1::1",
	} {
		fields := strings.Fields(args)
		if err := machines[fields[0][0]-'0'].IP(ctx, fields[1:]...); err != nil {
			t.Fatal(err)
		}
	}
	exit := uri.Gateway{Identity: identity.FromSeed(&[32]byte{9}).Public(), Host: "192.0.2.77", Port: port}
	b := &floodEnv{t: t, four: netip.MustParseAddrPort(fmt.Sprintf("192.0.2.2:%d", port))}
	b.gateway = startGateway(t, where{do: machines[1].Do, env: []string{fmt.Sprintf("GOMEMLIMIT=%d", memoryLimit)}}, fmt.Sprintf(`[listen]
addresses = ["192.0.2.2", "2001:db8:1::2"]
[tcp]
max_connections = %d
[flows]
max = 1000 # few enough for the limit on open files
[handshake]
%s
[egress]
allow = ["192.0.2.1"]
[metrics]
listen = "192.0.2.2:%d"
[[gateway]]
name = "exit"
uri = %q
`, maxConnections, config, metricsPort, exit))
	start := func(role string, params, result any) *worker.Process {
		p, err := l.Start(ctx, role, params, result, machines[0].Where())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Stop)
		return p
	}
	var target netip.AddrPort
	b.sink = start("sink", sink.Params{At: netip.MustParseAddrPort("192.0.2.1:0")}, &target)
	id := b.gateway.uri.Identity
	b.load = start("load", load.Params{To: b.four, Gateway: &id, Sockets: 4}, nil)
	b.honest = start("honest", worker.None{}, nil)
	b.reader = start("honest", worker.None{}, nil)
	a := attackerParams{Four: b.four, Six: netip.MustParseAddrPort(fmt.Sprintf("[2001:db8:1::2]:%d", port)), Identity: id, Exit: exit.Identity, Target: target.Addr()}
	for n := range 100 {
		a.Own = append(a.Own, netip.AddrFrom4([4]byte{198, 51, 100, byte(n + 1)}))
	}
	b.attacker = start("attacker", a, nil)
	b.call(b.load, "connect", load.ConnectPlan{Sessions: standing, Flows: 1}, nil)
	b.call(b.load, "open", target, nil)
	return b
}

func (b *floodEnv) call(p *worker.Process, name string, params, result any) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	if err := p.Call(ctx, name, params, result); err != nil {
		b.t.Fatal(err)
	}
}

// background calls a worker without waiting. wait returns its answer.
func background[R any](b *floodEnv, p *worker.Process, name string, params any) (wait func() R) {
	var result R
	ended := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(b.t.Context(), patience)
		defer cancel()
		ended <- p.Call(ctx, name, params, &result)
	}()
	return func() R {
		b.t.Helper()
		if err := <-ended; err != nil {
			b.t.Fatal(err)
		}
		return result
	}
}

// metrics reads the gateway's metrics.
func (b *floodEnv) metrics() map[string]float64 {
	b.t.Helper()
	var page string
	b.call(b.reader, "get", fmt.Sprintf("http://192.0.2.2:%d/metrics", metricsPort), &page)
	return parseMetrics(page)
}

// capture lets the attacker record handshakes and datagrams of the sessions.
func (b *floodEnv) capture() {
	b.t.Helper()
	seen := background[int](b, b.attacker, "capture", capture{Datagrams: 2000, Segment: datagram + load.Overhead, For: time.Second})
	time.Sleep(100 * time.Millisecond)
	b.call(b.honest, "dial", dials{Gateway: b.gateway.uri, Rate: 20, For: 100 * time.Millisecond}, nil)
	b.call(b.load, "send", measure.Plan{Run: 1, Rate: 2000, For: 500 * time.Millisecond, Size: datagram, Train: 1}, nil)
	if n := seen(); n < 20 {
		b.t.Fatalf("the attacker captured %d datagrams", n)
	}
}

// attack runs a flood beside the sessions' datagrams. It returns how many of these arrived,
// and how many packets the attacker sent.
func (b *floodEnv) attack(a attack, rate float64) (arrived, sent uint64) {
	b.t.Helper()
	a.For = burst + 200*time.Millisecond
	if costs.Find(a.Kind) != nil {
		b.call(b.attacker, "prepare", a.Kind, nil)
	}
	attacked := background[measure.Sent](b, b.attacker, "attack", a)
	time.Sleep(100 * time.Millisecond)
	b.run++
	b.call(b.sink, "expect", 100+b.run, nil)
	b.call(b.load, "send", measure.Plan{Run: 100 + b.run, Rate: rate, For: burst, Size: datagram, Train: 8}, nil)
	r := attacked()
	var c sink.Count
	b.call(b.sink, "count", worker.None{}, &c)
	return c.Datagrams, r.Sent
}

// TestFloods floods a gateway and checks that it counts each flood under its reason, stays
// within its memory, still serves sessions and new clients, and is as before afterwards. With
// -long it also measures throughput and handshake times, and asserts neither.
func TestFloods(t *testing.T) {
	t.Parallel()
	b := newFloodEnv(t, memoryLimit, fmt.Sprintf("record_ttl = %q", recordTTL))
	b.capture()
	before, descriptors := b.idle(), b.gateway.descriptors()
	const steps, drops, evicted, failed = `lewes_handshakes_total{step=%q}`, `lewes_dropped_packets_total{reason=%q}`, `lewes_tcp_evicted_connections_total{bound=%q}`, `lewes_tcp_failed_connections_total{reason=%q}`
	for _, f := range []struct {
		attack
		counter string // of the gateway
	}{
		{attack{Kind: "spoofed hellos", Rate: 20_000, Size: 1000}, fmt.Sprintf(steps, "hello")},
		{attack{Kind: "hellos", Rate: 20_000, Size: 1000}, fmt.Sprintf(steps, "busy")},
		{attack{Kind: "garbage, known", Rate: 20_000, Size: 1000}, fmt.Sprintf(drops, "forged")},
		{attack{Kind: "garbage, unknown", Rate: 20_000, Size: 1000}, fmt.Sprintf(drops, "unknown_session")},
		{attack{Kind: "replays", Rate: 20_000, Size: 1000}, fmt.Sprintf(drops, "replayed")},
		{attack{Kind: "silent connections", Rate: 600, Size: 100}, fmt.Sprintf(evicted, "max_per_source")},
		{attack{Kind: "slow connections", Rate: 600, Size: 100}, fmt.Sprintf(evicted, "max_per_source")},
		{attack{Kind: manySources, Rate: 600, Size: 100}, fmt.Sprintf(evicted, "max_connections")},
		{attack{Kind: "connections of a huge length", Rate: 600, Size: 100}, fmt.Sprintf(failed, "bad_length")},
		{attack{Kind: "wrong MAC1", Rate: 20_000}, ""},
		{attack{Kind: "hello that doubts a session", Rate: 20_000}, ""},
		{attack{Kind: "KKT request, repeated", Rate: 20_000}, fmt.Sprintf(steps, "kem_key")},
		{attack{Kind: "part of Handshake 1, of two", Rate: 20_000}, ""},
		{attack{Kind: "Handshake 1 that does not open", Rate: 20_000}, ""},
		{attack{Kind: "Handshake 1 with a wrong ciphertext", Rate: 20_000}, ""},
		{attack{Kind: "KK1 that fails", Rate: 20_000}, ""},
		{attack{Kind: "data to a new target", Rate: 20_000}, "lewes_requests_over_budget_total"},
		{attack{Kind: "data to a name", Rate: 20_000}, "lewes_requests_over_budget_total"},
		{attack{Kind: "data to a denied target", Rate: 20_000}, ""},
		{attack{Kind: "inner hello", Rate: 20_000}, fmt.Sprintf(drops, "refused")},
	} {
		if f.counter == "" {
			f.counter = series(costs.Find(f.Kind))
		}
		t.Run(f.Kind, func(t *testing.T) {
			counted := b.metrics()[f.counter]
			b.flood(t, f.attack)
			if *long {
				b.measure(t, f.attack)
			}
			if n := b.metrics()[f.counter] - counted; n < 20 {
				t.Errorf("%s rose by %.0f during the flood, want at least 20", f.counter, n)
			}
		})
	}
	b.recovered(before, descriptors)
	b.gateway.end()
}

// TestSpoofedHandshakesKeepToTheirMemory fills a gateway with handshakes of spoofed sources, each with
// as many parts as are kept. Without a bound they would take several times the memory limit.
func TestSpoofedHandshakesKeepToTheirMemory(t *testing.T) {
	t.Parallel()
	const (
		limit  = 128 << 20
		enough = 2 * limit / (4 * parts.MaxData)
	)
	b := newFloodEnv(t, limit, "tries_per_second = 1000000 # no cookies, which spoofed sources do not get")
	before := b.idle()
	const hellos = `lewes_handshakes_total{step="hello"}`
	for m := before; m[hellos]-before[hellos] < enough; m = b.metrics() {
		b.call(b.attacker, "attack", attack{Kind: "spoofed parts", Size: 1000, Rate: 100_000, For: time.Second}, nil)
		if used := m["lewes_memory_used_bytes"]; used > limit {
			t.Fatalf("the gateway uses %.0f MiB", used/(1<<20))
		}
	}
	b.flood(t, attack{Kind: "spoofed parts", Size: 1000, Rate: 20_000})
	m := b.metrics()
	peak := b.gateway.peakMemory()
	t.Logf("%.0f hellos, %d MiB were resident at most", m[hellos]-before[hellos], peak>>20)
	if peak > limit {
		t.Errorf("%d MiB were resident", peak>>20)
	}
	if n := m[`lewes_handshake_memory_bytes{source="unproved"}`]; n > limit/40 || n == 0 {
		t.Errorf("handshakes of spoofed sources take %.0f bytes", n)
	}
	if n := m[`lewes_hellos_refused_total{reason="memory"}`]; n > 0 {
		t.Errorf("%.0f hellos were refused because memory was short", n)
	}
	b.gateway.end()
}

// flood runs one flood. Each honest client, which repeats an attempt that failed, gets its
// session; datagrams of established sessions arrive; memory stays within its limit.
func (b *floodEnv) flood(t *testing.T, a attack) {
	dialing := background[dialResults](b, b.honest, "dial", dials{Gateway: b.gateway.uri, Rate: 20, For: burst})
	arrived, sent := b.attack(a, markedRate)
	honest := dialing()
	b.dialed += honest.Tried
	if sent < 20 {
		t.Errorf("the attacker sent %d packets", sent)
	}
	if arrived == 0 {
		t.Error("no datagram of a session arrived")
	}
	if n := b.metrics()["lewes_sessions"]; n < standing {
		t.Errorf("%.0f sessions are left of %d", n, standing)
	}
	if len(honest.Delays) < honest.Tried {
		t.Errorf("%d of %d honest clients have a session: %s", len(honest.Delays), honest.Tried, honest.Err)
	}
	if memory := b.metrics()["lewes_memory_used_bytes"]; memory > memoryLimit {
		t.Errorf("the gateway used %.0f MiB", memory/(1<<20))
	}
	b.gateway.alive()
}

// measure logs how sessions and honest clients fare under a flood, beside as many packets of
// plain garbage.
func (b *floodEnv) measure(t *testing.T, a attack) {
	garbage := a
	garbage.Spoiled = true
	if manners[a.Kind] != nil {
		garbage = attack{Kind: "garbage", Rate: a.Rate * packetsPerConnection, Size: a.Size}
	}
	var ratios []float64
	var delays []time.Duration
	var sent, moved uint64
	for range longRounds {
		beside, _ := b.attack(garbage, offeredRate)
		dialing := background[dialResults](b, b.honest, "dial", dials{Gateway: b.gateway.uri, Rate: 20, For: burst})
		under, n := b.attack(a, offeredRate)
		sent, moved = sent+n, moved+under
		ratios = append(ratios, float64(under)/max(1, float64(beside)))
		honest := dialing()
		b.dialed += honest.Tried
		delays = append(delays, honest.Delays...)
	}
	slices.Sort(ratios)
	slices.Sort(delays)
	if len(delays) == 0 {
		t.Log("no honest client has a session")
		return
	}
	t.Logf("%d packets sent; sessions moved %.0f datagrams a second, %.0f %% of those beside garbage (median of %d); %d honest handshakes, median %v, longest %v",
		sent, float64(moved)/longRounds/burst.Seconds(), 100*ratios[len(ratios)/2], len(ratios), len(delays), delays[len(delays)/2].Round(time.Millisecond), delays[len(delays)-1].Round(time.Millisecond))
}

// idle waits until the gateway has no handshake under way, and returns its metrics then.
func (b *floodEnv) idle() map[string]float64 {
	b.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		m := b.metrics()
		if m["lewes_handshake_records"] == 0 {
			return m
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("%.0f handshake records remain", m["lewes_handshake_records"])
		}
	}
}

// recovered waits until the gateway holds no more than before: no flow or claim of an attacker, and
// no session but those whose Close was lost. Records of handshakes that were completed live for half
// a minute, so only -long waits for their end.
func (b *floodEnv) recovered(before map[string]float64, descriptors int) {
	b.t.Helper()
	more := map[string]float64{
		"lewes_sessions": float64(b.dialed), "lewes_flows": 0, "lewes_index_bindings": 0, "lewes_tcp_connections": 0,
		"lewes_tcp_queued_bytes": 0, "lewes_handshake_queue_packets": 0, "go_goroutines": 3,
		"lewes_memory_used_bytes": 48 << 20, // garbage that was not collected yet, and pools
	}
	if *long {
		more["lewes_handshake_records"] = 0
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		var left []string
		now := b.metrics()
		for _, name := range slices.Sorted(maps.Keys(more)) {
			if _, ok := before[name]; !ok || now[name] > before[name]+more[name] {
				left = append(left, fmt.Sprintf("%s is %.0f (%.0f before)", name, now[name], before[name]))
			}
		}
		if n := b.gateway.descriptors(); n > descriptors+runtime.GOMAXPROCS(0) { // each shard keeps a socket to the exit
			left = append(left, fmt.Sprintf("%d descriptors are open (%d before)", n, descriptors))
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			b.t.Errorf("afterwards: %s", strings.Join(left, ", "))
			return
		}
	}
}
