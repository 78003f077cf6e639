//go:build linux

package report

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"lewes/bench/measure"
)

// Report is the result of a run.
type Report struct {
	Command string        `json:"command"`
	Commit  string        `json:"commit"`
	Began   time.Time     `json:"began"`
	Took    time.Duration `json:"took"`
	Quick   bool          `json:"quick"`
	Trial   time.Duration `json:"trial"`  // length of a measured trial
	Rounds  int           `json:"rounds"` // measured trials of each subject
	Machine Machine       `json:"machine"`
	Groups  []Group       `json:"groups"`
	LeftOut []LeftOut     `json:"left_out"`
}

// LeftOut is a subject that could not be measured.
type LeftOut struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// Group is a set of subjects that are compared.
type Group struct {
	Scenario string   `json:"scenario"`
	Variant  string   `json:"variant,omitempty"` // distinguishes the groups of a scenario
	Title    string   `json:"title"`
	Unit     string   `json:"unit"` // "datagram", "handshake", "session", …
	Payload  int      `json:"payload,omitempty"`
	Notes    []string `json:"notes,omitempty"`
	Rows     []Row    `json:"rows"`
}

// Kind is the kind of a subject.
type Kind string

// Kinds of subjects.
const (
	Gateway    Kind = "gateway"
	Loop       Kind = "loop"       // relays only, on rawudp
	Fan        Kind = "fan"        // relays only, to as many connected sockets as the gateway has flows
	Peer       Kind = "peer"       // another program for a similar purpose
	Direct     Kind = "direct"     // no relay
	Operations Kind = "operations" // the public-key operations alone
	Packet     Kind = "packet"     // a kind of packet
	Baseline   Kind = "baseline"   // the kind of packet that the others are compared with
)

// Metric is the name of a measured quantity: its unit in the benchmark format.
type Metric string

// Metrics. CPU times are those of the subject's process, except LoadCPU, SinkCPU and OtherCPU.
const (
	Max       Metric = "max/s"     // highest rate with less than 0.1 % loss
	MaxCPU    Metric = "max-ns/op" // CPU time at that rate
	Rate      Metric = "rate/s"    // rate at which the following are measured
	Loss      Metric = "loss"      // fraction
	CPU       Metric = "cpu-ns/op"
	LoadCPU   Metric = "load-ns/op"
	SinkCPU   Metric = "sink-ns/op"
	OtherCPU  Metric = "other-ns/op" // of further processes, as the second gateway of a chain
	Allocs    Metric = "allocs/op"
	TrainIn   Metric = "datagrams/received" // per message of a socket: the effect of GRO
	TrainOut  Metric = "datagrams/sent"     // the effect of GSO
	Misrouted Metric = "misrouted"          // fraction received on the socket of another shard
	P50       Metric = "p50-ns"             // delay of the first datagram of a message, or of a handshake
	P99       Metric = "p99-ns"
	P999      Metric = "p99.9-ns"
	Units     Metric = "units" // sessions
	Resident  Metric = "resident-B"
	PerUnit   Metric = "B/op"
)

var metrics = []Metric{Max, MaxCPU, Rate, Loss, CPU, LoadCPU, SinkCPU, OtherCPU, Allocs, TrainIn, TrainOut, Misrouted, P50, P99, P999, Units, Resident, PerUnit}

// Row is a subject with its samples, one for each trial.
type Row struct {
	Subject string `json:"subject"`
	Kind    Kind   `json:"kind"`
	AEAD    string `json:"aead,omitempty"`
	Bound   string `json:"bound,omitempty"` // set if Max was not the subject's own limit
	// CoveredBy is the bound of the protocol that covers the cost of a kind of packet.
	CoveredBy string               `json:"covered_by,omitempty"`
	Notes     []string             `json:"notes,omitempty"`
	Samples   map[Metric][]float64 `json:"samples"`
}

// Add adds a sample.
func (r *Row) Add(m Metric, v float64) {
	if r.Samples == nil {
		r.Samples = make(map[Metric][]float64)
	}
	r.Samples[m] = append(r.Samples[m], v)
}

// AddDelays adds the quantiles of delays.
func (r *Row) AddDelays(d measure.Delays) {
	if d.N > 0 {
		r.Add(P50, float64(d.P50))
		r.Add(P99, float64(d.P99))
		r.Add(P999, float64(d.P999))
	}
}

// Median returns the median of the samples of a metric, NaN if there are none.
func (r *Row) Median(m Metric) float64 {
	s := slices.Sorted(slices.Values(r.Samples[m]))
	n := len(s)
	if n == 0 {
		return math.NaN()
	}
	return (s[(n-1)/2] + s[n/2]) / 2
}

// AddGroup adds a group, unless it has no rows with samples.
func (r *Report) AddGroup(g Group) {
	g.Rows = slices.DeleteFunc(g.Rows, func(row Row) bool { return len(row.Samples) == 0 })
	if len(g.Rows) > 0 {
		r.Groups = append(r.Groups, g)
	}
}

// WriteJSON writes the report as one JSON value.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// WriteBenchmarks writes the samples in Go's benchmark format.
func (r *Report) WriteBenchmarks(w io.Writer) error {
	p := &printer{w: w}
	system, arch, _ := strings.Cut(r.Machine.System, "/")
	p.line("goos: %s\ngoarch: %s\npkg: lewes/bench\ncpu: %s", system, arch, r.Machine.CPU)
	for _, g := range r.Groups {
		for _, row := range g.Rows {
			row.writeBenchmarks(p, &g)
		}
	}
	return p.err
}

func (r *Row) writeBenchmarks(p *printer, g *Group) {
	name := "Benchmark"
	for word := range strings.SplitSeq(g.Scenario, "-") {
		name += strings.ToUpper(word[:1]) + word[1:]
	}
	if g.Payload > 0 {
		name += fmt.Sprintf("/payload=%d", g.Payload)
	}
	if g.Variant != "" {
		name += "/" + g.Variant
	}
	name += "/" + strings.ReplaceAll(r.Subject, "/", "_")
	rounds := 0
	for _, s := range r.Samples {
		rounds = max(rounds, len(s))
	}
	for i := range rounds {
		line := strings.ReplaceAll(name, " ", "_") + " 1"
		for _, m := range metrics {
			if s := r.Samples[m]; i < len(s) {
				line += fmt.Sprintf(" %.6g %s", s[i], m)
			}
		}
		p.line("%s", line)
	}
}
