package flood

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"lewes/bench/e2e/netns"
	"lewes/bench/load"
	"lewes/bench/pace"
	"lewes/bench/sink"
	"lewes/bench/worker"
)

const (
	port        = 51264
	tcpPort     = 41264
	metricsPort = 9264
	// slice is how long a flood, or plain garbage in its place, goes on until the other
	// has its turn: whatever else the machine does, it does beside both.
	slice = 600 * time.Millisecond
	turns = 3 // of each
	// mostTurns are taken where the verdict is not clear after the first few: other
	// programs want the processors too.
	mostTurns = 16
	// offered is what the sessions try to send, datagrams a second: more than gets
	// through beside anything.
	offered  = 400_000
	datagram = 1200
	// packetsOfConnection are those that it takes to open and to close one.
	packetsOfConnection = 6
	// memoryLimit is what the gateway may use.
	memoryLimit = 192 << 20
	// shortLife lets the gateway forget handshakes while the test looks on.
	shortLife = 2 * time.Second
)

// battlefield is a gateway on one machine, and everybody else on the other.
type battlefield struct {
	t                   *testing.T
	gateway             *gateway
	load, sink, visitor *worker.Process
	attacker, reader    *worker.Process
	four                netip.AddrPort
	run                 uint32
}

func newBattlefield(t *testing.T) *battlefield {
	t.Helper()
	if testing.Short() {
		t.Skip("floods take a minute and both processors")
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
		// The attacker has some addresses. What is sent to others, whose names he only
		// uses, is gone without a word, as in a network that is not his.
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
	b := &battlefield{t: t, four: netip.MustParseAddrPort(fmt.Sprintf("192.0.2.2:%d", port))}
	b.gateway = startGateway(t, where{do: machines[1].Do, env: []string{fmt.Sprintf("GOMEMLIMIT=%d", memoryLimit)}}, fmt.Sprintf(`[listen]
addresses = ["192.0.2.2", "2001:db8:1::2"]
[handshake]
record_ttl = %q
[egress]
allow = ["192.0.2.1"]
[metrics]
listen = "192.0.2.2:%d"
`, shortLife, metricsPort))
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
	b.visitor = start("visitor", worker.None{}, nil)
	b.reader = start("visitor", worker.None{}, nil)
	a := attackerParams{Four: b.four, Six: netip.MustParseAddrPort(fmt.Sprintf("[2001:db8:1::2]:%d", port)), Identity: id}
	for n := range 100 {
		a.Own = append(a.Own, netip.AddrFrom4([4]byte{198, 51, 100, byte(n + 1)}))
	}
	b.attacker = start("attacker", a, nil)
	b.call(b.load, "connect", load.ConnectPlan{Sessions: 8, Flows: 1}, nil)
	b.call(b.load, "open", target, nil)
	return b
}

func (b *battlefield) call(p *worker.Process, name string, params, result any) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	if err := p.Call(ctx, name, params, result); err != nil {
		b.t.Fatal(err)
	}
}

// background calls a worker beside what follows; what it returns waits for the answer.
func background[R any](b *battlefield, p *worker.Process, name string, params any) (wait func() R) {
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

// figures reads the gateway's metrics.
func (b *battlefield) figures() map[string]float64 {
	b.t.Helper()
	var page string
	b.call(b.reader, "get", fmt.Sprintf("http://192.0.2.2:%d/metrics", metricsPort), &page)
	return parseFigures(page)
}

// capture lets the attacker see a handshake and data of every session.
func (b *battlefield) capture() {
	b.t.Helper()
	seen := background[int](b, b.attacker, "capture", capture{Datagrams: 2000, Segment: datagram + load.Overhead, For: time.Second})
	time.Sleep(100 * time.Millisecond)
	b.call(b.visitor, "visit", visits{Gateway: b.gateway.uri, Rate: 20, For: 100 * time.Millisecond}, nil)
	b.call(b.load, "send", load.Plan{Run: 1, Rate: 2000, For: 500 * time.Millisecond, Size: datagram, Train: 1}, nil)
	if n := seen(); n < 100 {
		b.t.Fatalf("the attacker has seen %d datagrams", n)
	}
}

// under sends as much as it can in sessions while something else goes on, and returns
// how much of that arrived.
func (b *battlefield) under(a attack) (arrived float64, sent uint64) {
	b.t.Helper()
	a.For = slice + 200*time.Millisecond
	attacked := background[pace.Result](b, b.attacker, "attack", a)
	time.Sleep(100 * time.Millisecond)
	b.run++
	b.call(b.sink, "expect", 100+b.run, nil)
	b.call(b.load, "send", load.Plan{Run: 100 + b.run, Rate: offered, For: slice, Size: datagram, Train: 8}, nil)
	r := attacked()
	var c sink.Count
	b.call(b.sink, "count", worker.None{}, &c)
	return float64(c.Datagrams), r.Sent
}

// TestFloods floods a gateway, in turn with as much plain garbage, and looks how
// sessions and new clients fare; and what is left of it afterwards.
func TestFloods(t *testing.T) {
	b := newBattlefield(t)
	b.capture()
	b.call(b.attacker, "learn", worker.None{}, nil)
	time.Sleep(shortLife)
	before, descriptors := b.figures(), b.gateway.descriptors()
	const steps, drops, refused, failed = `lewes_handshakes_total{step=%q}`, `lewes_dropped_packets_total{reason=%q}`, `lewes_tcp_refused_connections_total{bound=%q}`, `lewes_tcp_failed_connections_total{reason=%q}`
	for _, f := range []struct {
		attack
		counted string // by the gateway, as what it is
	}{
		{attack{Kind: "spoofed hellos", Rate: 20_000, Size: 1000}, fmt.Sprintf(steps, "hello")},
		{attack{Kind: "hellos", Rate: 20_000, Size: 1000}, fmt.Sprintf(steps, "busy")},
		{attack{Kind: "bad ciphertexts", Rate: 5_000, Size: 700}, fmt.Sprintf(steps, "failed")},
		{attack{Kind: "garbage, known", Rate: 20_000, Size: 1000}, fmt.Sprintf(drops, "forged")},
		{attack{Kind: "garbage, unknown", Rate: 20_000, Size: 1000}, fmt.Sprintf(drops, "unknown_session")},
		{attack{Kind: "replays", Rate: 20_000, Size: 1000}, fmt.Sprintf(drops, "replayed")},
		{attack{Kind: "silent connections", Rate: 600, Size: 100}, fmt.Sprintf(refused, "max_per_source")},
		{attack{Kind: "slow connections", Rate: 600, Size: 100}, fmt.Sprintf(refused, "max_per_source")},
		{attack{Kind: "connections of a huge length", Rate: 600, Size: 100}, fmt.Sprintf(failed, "bad_length")},
	} {
		t.Run(f.Kind, func(t *testing.T) {
			counted := b.figures()[f.counted]
			b.flood(t, f.attack)
			if n := b.figures()[f.counted] - counted; n < 20 {
				t.Errorf("%s has risen by %.0f: the flood did not come to where it was aimed at", f.counted, n)
			}
		})
	}
	b.afterwards(before, descriptors)
	b.gateway.end()
}

// shares are throughputs under a flood, as parts of those beside plain garbage right
// before. What else the machine does spoils one or the other; the one in the middle
// stands for all.
type shares []float64

func (s shares) median() float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	return (sorted[(len(s)-1)/2] + sorted[len(s)/2]) / 2
}

// flood does one.
func (b *battlefield) flood(t *testing.T, a attack) {
	garbage := a
	garbage.Spoiled = true
	if manners[a.Kind] != nil {
		garbage = attack{Kind: "garbage", Rate: a.Rate * packetsOfConnection, Size: a.Size}
	}
	var under, beside, memory, milliseconds float64
	var ratios shares
	var sent, sentGarbage uint64
	var honest visited
	done := 0
	for ; done < turns || done < mostTurns && ratios.median() < 0.75; done++ {
		visits := visits{Gateway: b.gateway.uri, Rate: 20, For: slice}
		visiting := background[visited](b, b.visitor, "visit", visits)
		arrivedBeside, n := b.under(garbage)
		beside += arrivedBeside
		sentGarbage += n
		visiting()
		handshakes := b.figures()["lewes_handshake_milliseconds_total"]
		visiting = background[visited](b, b.visitor, "visit", visits)
		arrived, n := b.under(a)
		under += arrived
		ratios = append(ratios, arrived/max(1, arrivedBeside))
		sent += n
		v := visiting()
		honest.Tried += v.Tried
		honest.Delays = append(honest.Delays, v.Delays...)
		if v.Err != "" {
			honest.Err = v.Err
		}
		milliseconds += b.figures()["lewes_handshake_milliseconds_total"] - handshakes
		memory = max(memory, b.figures()["lewes_memory_used_bytes"])
	}
	inTime, longest := 0, time.Duration(0)
	for _, d := range honest.Delays {
		longest = max(longest, d)
		if d < 2*time.Second {
			inTime++
		}
	}
	t.Logf("%d sent, %d of garbage; sessions moved %.0f, %.0f beside garbage (%.0f %% in the middle); %d of %d handshakes within 2 s, the longest %v; %.0f ms of %v went into handshakes; memory %.0f MiB",
		sent, sentGarbage, under, beside, 100*ratios.median(), inTime, honest.Tried, longest.Round(time.Millisecond), milliseconds, slice*time.Duration(done), memory/(1<<20))
	if share := ratios.median(); share < 0.7 {
		t.Errorf("sessions have %.0f %% of the throughput that they have beside garbage, want 70 %%", 100*share)
	}
	if float64(inTime) < 0.99*float64(honest.Tried) {
		t.Errorf("%d of %d handshakes stood within 2 s, want 99 %%; %s", inTime, honest.Tried, honest.Err)
	}
	if memory > memoryLimit {
		t.Errorf("the gateway used %.0f MiB", memory/(1<<20))
	}
	if took := slice * time.Duration(done); float64(sent) < a.Rate*took.Seconds()/4 {
		t.Errorf("%d in %v are no flood", sent, took)
	}
	b.gateway.alive()
}

// afterwards waits until the gateway is as before.
func (b *battlefield) afterwards(before map[string]float64, descriptors int) {
	b.t.Helper()
	const slack = 48 << 20 // what is garbage already, and what pools keep
	var now map[string]float64
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		now = b.figures()
		if now["lewes_handshake_records"] == 0 && now["go_goroutines"] <= before["go_goroutines"]+3 &&
			b.gateway.descriptors() <= descriptors && now["lewes_memory_used_bytes"] <= before["lewes_memory_used_bytes"]+slack {
			break
		}
		if time.Now().After(deadline) {
			b.t.Errorf("afterwards: %.0f records, %.0f goroutines and %.0f before, %d descriptors and %d before, %.0f MiB and %.0f MiB before",
				now["lewes_handshake_records"], now["go_goroutines"], before["go_goroutines"], b.gateway.descriptors(), descriptors,
				now["lewes_memory_used_bytes"]/(1<<20), before["lewes_memory_used_bytes"]/(1<<20))
			return
		}
	}
	b.t.Logf("afterwards: %.0f goroutines and %.0f before, %d descriptors and %d before, %.0f MiB and %.0f MiB before",
		now["go_goroutines"], before["go_goroutines"], b.gateway.descriptors(), descriptors,
		now["lewes_memory_used_bytes"]/(1<<20), before["lewes_memory_used_bytes"]/(1<<20))
}
