package report

import (
	"encoding/json"
	"io"
	"time"

	"lewes/bench/machine"
	"lewes/bench/measure"
)

// Report is a whole run.
type Report struct {
	Command  string          `json:"command"`
	Version  string          `json:"version"`
	Began    time.Time       `json:"began"`
	Took     time.Duration   `json:"took"`
	Quick    bool            `json:"quick"`
	Trial    time.Duration   `json:"trial"`  // how long each measured trial took
	Rounds   int             `json:"rounds"` // how many of them there were of each
	Machine  machine.Machine `json:"machine"`
	Groups   []Group         `json:"groups"`
	Targets  []Target        `json:"targets"`
	LeftOut  []LeftOut       `json:"left_out"`
	Profiles []string        `json:"profiles,omitempty"` // files
}

// LeftOut is something that could not be measured, and why.
type LeftOut struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// Group is what is compared with each other.
type Group struct {
	Scenario string   `json:"scenario"`
	Title    string   `json:"title"`
	Unit     string   `json:"unit"` // what is counted: "datagram", "handshake", "session", …
	Payload  int      `json:"payload,omitempty"`
	Notes    []string `json:"notes,omitempty"`
	Rows     []Row    `json:"rows"`
}

// Kind says what a row is about.
type Kind string

const (
	Gateway    Kind = "gateway"
	Loop       Kind = "loop"       // relays and does nothing else, on bare sockets
	Sockets    Kind = "sockets"    // the same on the gateway's sockets
	Peer       Kind = "peer"       // another program that does a like job
	Direct     Kind = "direct"     // nothing between sender and sink
	Operations Kind = "operations" // the public-key operations alone
)

// Row is one subject. CPU times are microseconds a unit, of the subject's process, at the
// rate At.
type Row struct {
	Subject string `json:"subject"`
	Kind    Kind   `json:"kind"`
	AEAD    string `json:"aead,omitempty"` // empty where there is none, or no choice of it

	// Max is the highest rate at which less than 0.1 % was lost, in units a second, and Bits
	// the payload's bits a second at that rate. Bound says that no higher one was tried, and
	// why.
	Max   measure.Summary `json:"max"`
	Bits  measure.Summary `json:"bits"`
	Bound string          `json:"bound,omitempty"`
	// MaxLoss is the part that was lost at that rate, MaxCPU the CPU time there.
	MaxLoss measure.Summary `json:"max_loss"`
	MaxCPU  measure.Summary `json:"max_cpu"`

	// At is the rate, in units a second, at which what follows was measured.
	At     measure.Summary `json:"at"`
	Loss   measure.Summary `json:"loss"`
	CPU    measure.Summary `json:"cpu"`
	User   measure.Summary `json:"user"`
	System measure.Summary `json:"system"`
	Allocs measure.Summary `json:"allocs"` // allocations a unit

	// TrainIn and TrainOut are how many datagrams a message had on average that a gateway received and
	// sent, at the rate At: whether offloads engage.
	TrainIn  measure.Summary `json:"train_in"`
	TrainOut measure.Summary `json:"train_out"`

	// What the other processes took for a unit, which is not in CPU.
	LoadCPU measure.Summary `json:"load_cpu"`
	SinkCPU measure.Summary `json:"sink_cpu"`
	RestCPU measure.Summary `json:"rest_cpu"` // of a tunnel's other end, of an exit behind an entry, …

	// Delays in microseconds, of the first datagram of each arrival, or of each handshake.
	P50  measure.Summary `json:"p50"`
	P99  measure.Summary `json:"p99"`
	P999 measure.Summary `json:"p99.9"`

	// Memory, in bytes: of the process, and of it what each unit takes.
	Resident measure.Summary `json:"resident"`
	PerUnit  measure.Summary `json:"per_unit"`
	Units    int             `json:"units,omitempty"`

	Ratios []Ratio  `json:"ratios,omitempty"`
	Notes  []string `json:"notes,omitempty"`
}

// Ratio is a row's CPU time over that of another.
type Ratio struct {
	To    string  `json:"to"`
	Value float64 `json:"value"`
}

// Target is what the finished gateway is to reach, and whether it does.
type Target struct {
	Name     string  `json:"name"`
	Limit    string  `json:"limit"` // in words
	Value    float64 `json:"value"`
	Unit     string  `json:"unit"`
	Measured bool    `json:"measured"`
	Met      bool    `json:"met"`
	Note     string  `json:"note,omitempty"`
}

// WriteJSON writes the report as one JSON value.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// Find returns a scenario's groups.
func (r *Report) Find(scenario string) (groups []*Group) {
	for i := range r.Groups {
		if r.Groups[i].Scenario == scenario {
			groups = append(groups, &r.Groups[i])
		}
	}
	return groups
}

// Row returns the row of a kind and an AEAD, nil where there is none.
func (g *Group) Row(k Kind, aead string) *Row {
	for i := range g.Rows {
		if r := &g.Rows[i]; r.Kind == k && r.AEAD == aead {
			return r
		}
	}
	return nil
}
