package scenario

import (
	"fmt"

	"lewes/bench/load"
	"lewes/bench/machine"
	"lewes/bench/report"
)

// innerOverhead is what a packet inside a ForwardPacket has more than its payload.
const innerOverhead = load.Overhead

// targets judges the report by what the gateway is to reach.
func targets(r *report.Report) []report.Target {
	j := &judge{report: r}
	j.ratio("bulk-out", "bulk, client → target, against the loop with the same AEAD", 1.35)
	j.ratio("bulk-back", "bulk, target → client, against the loop with the same AEAD", 1.35)
	j.ratio("sparse", "sparse, against the same loop when nothing coalesces", 1.3)
	j.ratio("exit", "entry forwarding to an exit, against the loop with AEAD", 1.5)
	j.peer(singly, "wireguard-go, datagrams sent into its tunnel singly, against the gateway, in bulk", 8)
	j.peer("masque-go", "masque-go against the gateway, in bulk", 12)
	j.handshakes()
	j.idle()
	j.allocations()
	j.shards()
	j.tcp()
	j.delay()
	return j.targets
}

type judge struct {
	report  *report.Report
	targets []report.Target
}

// most adds a target that holds up to a limit.
func (j *judge) most(t report.Target, limit float64) {
	t.Met = t.Measured && t.Value <= limit
	j.targets = append(j.targets, t)
}

// least adds a target that holds from a limit.
func (j *judge) least(t report.Target, limit float64) {
	t.Met = t.Measured && t.Value >= limit
	j.targets = append(j.targets, t)
}

// gateways calls f for every gateway's row of a scenario.
func (j *judge) gateways(scenario string, f func(*report.Group, *report.Row)) {
	for _, g := range j.report.Find(scenario) {
		for i := range g.Rows {
			if g.Rows[i].Kind == report.Gateway {
				f(g, &g.Rows[i])
			}
		}
	}
}

// ratio judges the worst of a scenario's gateways, an exit behind an entry apart.
func (j *judge) ratio(scenario, name string, limit float64) {
	t := report.Target{Name: name, Limit: fmt.Sprintf("at most %v times", limit), Unit: "times"}
	j.gateways(scenario, func(_ *report.Group, row *report.Row) {
		if v, ok := row.ToLoop(); ok && v > t.Value && !isExit(row) {
			t.Value, t.Measured, t.Note = v, true, row.Subject
		}
	})
	j.most(t, limit)
}

// peer judges how many times more a peer costs than the dearest gateway, in bulk.
func (j *judge) peer(subject, name string, limit float64) {
	t := report.Target{Name: name, Limit: fmt.Sprintf("at least %v times", limit), Unit: "times"}
	for _, scenario := range []string{"bulk-out", "bulk-back"} {
		j.gateways(scenario, func(_ *report.Group, row *report.Row) {
			v, ok := row.Ratio(subject)
			if !ok || v <= 0 || t.Measured && 1/v >= t.Value {
				return
			}
			t.Value, t.Measured, t.Note = 1/v, true, scenario+", "+row.Subject
			if trains, ok := row.Ratio(wireGuard); ok && subject == singly && trains > 0 {
				t.Note += fmt.Sprintf("; %.2f times where trains are sent into the tunnel", 1/trains)
			}
		})
	}
	j.least(t, limit)
}

func (j *judge) handshakes() {
	t := report.Target{Name: "handshakes, ML-KEM-768, against the sum of their public-key operations", Limit: "at most 1.3 times", Unit: "times"}
	j.gateways("handshakes", func(g *report.Group, row *report.Row) {
		if v, ok := row.ToOperations(); ok && v > t.Value && row.Subject == "gateway" {
			t.Value, t.Measured, t.Note = v, true, g.Title
		}
	})
	j.most(t, 1.3)
}

func (j *judge) idle() {
	t := report.Target{Name: "an established session at rest", Limit: "at most 1.5 KiB resident", Unit: "bytes"}
	j.gateways("idle", func(_ *report.Group, row *report.Row) {
		if row.Subject == restedSubject && row.PerUnit.Measured() {
			t.Value, t.Measured, t.Note = row.PerUnit.Median, true, fmt.Sprintf("with %d sessions", row.Units)
		}
	})
	j.most(t, 1536)
}

func (j *judge) allocations() {
	t := report.Target{Name: "allocations a datagram, over real sockets", Limit: "0", Unit: "a datagram"}
	for _, scenario := range []string{"bulk-out", "bulk-back", "both", "sparse", "exit"} {
		j.gateways(scenario, func(_ *report.Group, row *report.Row) {
			datagrams := row.At.Median * j.report.Trial.Seconds()
			if row.Allocs.Measured() && datagrams >= manyDatagrams && (!t.Measured || row.Allocs.Median > t.Value) {
				t.Value, t.Measured, t.Note = row.Allocs.Median, true, scenario+", "+row.Subject
			}
		})
	}
	j.most(t, noAllocations)
}

// noAllocations is what the process allocates beside the datapath, in timers and in being
// asked.
const noAllocations = 0.001

// manyDatagrams is how many a trial has to have so that what is allocated beside them does
// not show.
const manyDatagrams = 50_000

// shards judges the two only where a ratio means something: not where the load was the
// limit of one shard, nor where there were no cores free for the second.
func (j *judge) shards() {
	const limit = 1.8
	t := report.Target{Name: "two shards against one", Limit: "at least 1.8 times, where the load leaves the cores free", Unit: "times"}
	for _, g := range j.report.Find("shards") {
		if len(g.Rows) != 2 || !g.Rows[0].Max.Measured() || !g.Rows[1].Max.Measured() {
			continue
		}
		one, two := &g.Rows[0], &g.Rows[1]
		ratio := two.Max.Median / one.Max.Median
		taken, full := coresTaken(&j.report.Machine, two)
		switch {
		case one.Bound != "":
			t.Note = fmt.Sprintf("it was %.2f times, but the load could not fill one shard", ratio)
		case ratio < limit && full:
			t.Note = fmt.Sprintf("it was %.2f times, but the cores were not free: %s", ratio, taken)
		default:
			t.Value, t.Measured, t.Note = ratio, true, taken
		}
	}
	j.least(t, limit)
}

// coresTaken says how much of the cores a row took at its highest rate, and whether that was
// about all.
func coresTaken(m *machine.Machine, row *report.Row) (words string, full bool) {
	others := (row.LoadCPU.Median + row.SinkCPU.Median) * row.Max.Median / 1e6
	own := row.CPU.Median * row.Max.Median / 1e6
	return fmt.Sprintf("load and sink took %.1f of %d cores, the gateway %.1f", others, m.Cores, own), others+own > 0.8*float64(m.Cores)
}

// tcp judges the slower way.
func (j *judge) tcp() {
	const limit = 5000
	t := report.Target{Name: "over TCP, the slower way", Limit: fmt.Sprintf("at least %d packets a second", limit), Unit: "a second"}
	j.gateways("tcp", func(g *report.Group, row *report.Row) {
		if v := row.Max; row.Subject == tcpSubject && v.Measured() && (!t.Measured || v.Median < t.Value) {
			t.Value, t.Measured, t.Note = v.Median, true, g.Title
		}
	})
	j.least(t, limit)
}

func (j *judge) delay() {
	for _, limit := range []struct {
		name   string
		of     func(*report.Row) float64
		micros float64
	}{
		{"p50", func(r *report.Row) float64 { return r.P50.Median }, 60},
		{"p99", func(r *report.Row) float64 { return r.P99.Median }, 200},
	} {
		t := report.Target{
			Name:  "delay that an idle gateway adds, " + limit.name,
			Limit: fmt.Sprintf("under %v µs", limit.micros),
			Unit:  "µs",
			Note:  "more than with nothing between",
		}
		for _, g := range j.report.Find("latency") {
			direct := g.Row(report.Direct, "")
			for i := range g.Rows {
				row := &g.Rows[i]
				if row.Kind == report.Gateway && direct != nil && g.Title == "Delay, idle" {
					t.Value, t.Measured = limit.of(row)-limit.of(direct), true
				}
			}
		}
		j.most(t, limit.micros)
	}
}

// isExit reports whether a row is about the exit behind an entry.
func isExit(row *report.Row) bool {
	return len(row.Subject) > 15 && row.Subject[:15] == "gateway as exit"
}
