package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"lewes/bench/machine"
	"lewes/bench/measure"
)

func values(v ...float64) measure.Summary { return measure.Series(v).Summary() }

// costing returns a row with a CPU time.
func costing(subject string, kind Kind, aead string, micros float64) Row {
	return Row{
		Subject: subject, Kind: kind, AEAD: aead,
		Max: values(500_000), Bits: values(4.8e9), MaxLoss: values(0.0004), MaxCPU: values(micros),
		At: values(375_000), Loss: values(0), Allocs: values(0),
		CPU: values(0.9*micros, micros, 1.1*micros), User: values(0.4 * micros), System: values(0.6 * micros),
		P50: values(60), P99: values(120), P999: values(400),
	}
}

// sample is a report with a bit of everything.
func sample() *Report {
	r := &Report{
		Command: "lewes bench --quick", Version: "v1.2.3", Began: time.Unix(1_800_000_000, 0), Took: 90 * time.Second,
		Quick: true, Trial: 300 * time.Millisecond, Rounds: 3,
		Machine: machine.Machine{CPU: "A CPU | fast", Cores: 2, System: "linux/amd64", Go: "go1.26", Kernel: "Linux 6", GSO: "on", GRO: "on", Busy: 4},
		Groups: []Group{
			{Scenario: "bulk-out", Title: "Bulk out", Unit: "datagram", Payload: 1200, Notes: []string{"a note of the group"}, Rows: []Row{
				costing("loop, plain", Loop, "", 0.5),
				costing("loop, AES", Loop, "AES", 1),
				costing("gateway's sockets, AES", Sockets, "AES", 1.1),
				costing("gateway, AES", Gateway, "AES", 1.25),
				costing("wireguard-go", Peer, "", 10),
			}},
			{Scenario: "sparse", Title: "Sparse", Unit: "datagram", Payload: 1200, Rows: []Row{
				costing("loop, AES", Loop, "AES", 4),
				costing("gateway, AES", Gateway, "AES", 5),
			}},
			{Scenario: "sizes", Title: "64 bytes", Unit: "datagram", Payload: 64, Rows: []Row{costing("gateway, AES", Gateway, "AES", 0.5)}},
			{Scenario: "sizes", Title: "1400 bytes", Unit: "datagram", Payload: 1400, Rows: []Row{costing("gateway, AES", Gateway, "AES", 1.5)}},
			{Scenario: "latency", Title: "Delay, idle", Unit: "datagram", Payload: 1200, Rows: []Row{
				{Subject: "nothing between", Kind: Direct, P50: values(20), P99: values(40), P999: values(80)},
				costing("gateway, AES", Gateway, "AES", 50),
			}},
			{Scenario: "handshakes", Title: "Handshakes", Unit: "handshake", Rows: []Row{
				{Subject: "its public-key operations", Kind: Operations, CPU: values(200), User: values(200)},
				{Subject: "gateway", Kind: Gateway, CPU: values(300), User: values(280), Notes: []string{"a note of the row"}},
			}},
			{Scenario: "idle", Title: "Memory", Unit: "session", Rows: []Row{
				{Subject: "gateway", Kind: Gateway, Units: 200_000, Resident: values(300 << 20), PerUnit: values(1234)},
			}},
		},
		Targets: []Target{
			{Name: "bulk", Limit: "at most 1.35 times", Value: 1.25, Unit: "times", Measured: true, Met: true},
			{Name: "memory", Limit: "at most 1.5 KiB", Value: 2048, Unit: "bytes", Measured: true},
			{Name: "shards", Limit: "at least 1.8 times", Unit: "times"},
		},
		LeftOut: []LeftOut{{What: "masque-go", Why: "the program go is not installed"}},
	}
	r.Groups[0].Rows[3].TrainIn, r.Groups[0].Rows[3].TrainOut = values(52), values(51.26)
	r.Groups[0].Rows[3].Bound = "the sender could send no more"
	r.Compare()
	return r
}

func TestRatios(t *testing.T) {
	r := sample()
	near := func(row *Row, to string, want float64) {
		t.Helper()
		if got, ok := row.Ratio(to); !ok || got < want*0.999 || got > want*1.001 {
			t.Errorf("%s to %s: %v, %v; want %v", row.Subject, to, got, ok, want)
		}
	}
	bulk, sparse, shaken := &r.Groups[0], &r.Groups[1], &r.Groups[5]
	gateway := bulk.Row(Gateway, "AES")
	near(gateway, toSame, 1.25)
	near(gateway, toPlain, 2.5)
	near(gateway, "wireguard-go", 0.125)
	near(bulk.Row(Loop, "AES"), toPlain, 2)
	near(bulk.Row(Sockets, "AES"), toSame, 1.1)
	// Other sizes are not what the peers were measured with.
	if _, ok := r.Groups[2].Rows[0].Ratio("wireguard-go"); ok {
		t.Error("64 bytes are compared with 1200")
	}
	// Sparse has no peers and no plain loop of its own.
	near(sparse.Row(Gateway, "AES"), "wireguard-go", 0.5)
	if _, ok := sparse.Row(Gateway, "AES").Ratio(toPlain); ok {
		t.Error("a ratio to the loop of another group")
	}
	near(&shaken.Rows[1], toOperations, 1.5)
	if len(shaken.Rows[1].Ratios) != 1 {
		t.Errorf("a handshake is compared to %v", shaken.Rows[1].Ratios)
	}
	for _, kind := range []Kind{Peer, Direct, Operations} {
		for _, g := range r.Groups {
			if row := g.Row(kind, ""); row != nil && len(row.Ratios) > 0 {
				t.Errorf("%s is compared to %v", row.Subject, row.Ratios)
			}
		}
	}
	before := len(gateway.Ratios)
	r.Compare()
	if len(gateway.Ratios) != before {
		t.Error("comparing twice doubles the ratios")
	}
}

func TestTable(t *testing.T) {
	var b bytes.Buffer
	if err := sample().WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	for _, want := range []string{
		"A CPU | fast, 2 cores", "Mind: this was a quick run", "Mind: the machine was busy",
		"Bulk out\n", "500 k ≥", "4.80 Gbit", "0.04 %", "375 k", "1.25 (1.12–1.38)", "wireguard-go ×", "8.00", "0.50+0.75", "× loop+AEAD", "52.0/51.3",
		"gateway, AES: ≥, the sender could send no more", "a note of the group", "gateway: a note of the row",
		"200000", "300 MiB", "1.21 KiB",
		"met      bulk: 1.25 times (at most 1.35 times)", "missed   memory: 2.00 KiB", "open     shards: not measured in this run",
		"Left out: masque-go: the program go is not installed.",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	// What has nothing to show has no column.
	if group := text[strings.Index(text, "Memory\n"):strings.Index(text, "Targets")]; strings.Contains(group, "CPU") {
		t.Errorf("the memory of sessions has columns without figures:\n%s", group)
	}
}

func TestTableLinesUp(t *testing.T) {
	for _, g := range sample().Groups {
		grid := g.grid()
		for _, row := range grid {
			if len(row) != len(grid[0]) {
				t.Errorf("%s: a row of %d cells under %d names", g.Title, len(row), len(grid[0]))
			}
		}
	}
}

func TestJSON(t *testing.T) {
	r := sample()
	var b bytes.Buffer
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var again Report
	d := json.NewDecoder(&b)
	d.DisallowUnknownFields()
	if err := d.Decode(&again); err != nil {
		t.Fatal(err)
	}
	again.Began = again.Began.Local()
	if !reflect.DeepEqual(&again, r) {
		t.Errorf("it came back as %+v", again)
	}
}

var (
	picture   = regexp.MustCompile(`!\[[^\]]*\]\(([^)]*)\)`)
	separator = regexp.MustCompile(`(?m)^\| ---( \| ---:?)* \|$`)
)

func TestMarkdown(t *testing.T) {
	r, dir := sample(), t.TempDir()
	if err := r.WriteCharts(filepath.Join(dir, "charts")); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := r.WriteMarkdown(&b, "charts"); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	for _, want := range []string{
		"# What a datagram costs", "    lewes bench --quick\n", "15 January 2027", "A CPU \\| fast", "**Mind:** this was a quick run",
		"## Targets", "| bulk | 1.25 times (at most 1.35 times) | met |", "## Bulk out", "| **gateway, AES** |", "3 trials of 300ms each",
		"## Left out", "- masque-go: the program go is not installed.", "- gateway: a note of the row",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	links := picture.FindAllStringSubmatch(text, -1)
	if len(links) != len(r.Charts()) || len(links) < 5 {
		t.Errorf("%d pictures, %d charts", len(links), len(r.Charts()))
	}
	for _, link := range links {
		svg, err := os.ReadFile(filepath.Join(dir, link[1]))
		if err != nil {
			t.Errorf("a link leads nowhere: %v", err)
		}
		for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", link[1], err)
			}
		}
	}
	if n := len(separator.FindAllString(text, -1)); n != 1+len(r.Groups) {
		t.Errorf("%d tables", n)
	}
	b.Reset()
	if err := r.WriteMarkdown(&b, ""); err != nil || picture.MatchString(b.String()) {
		t.Errorf("without charts: %v", err)
	}
}

func TestNoTwoChartsHaveOneName(t *testing.T) {
	r := sample()
	r.Groups = append(r.Groups, r.Groups...)
	seen := make(map[string]bool)
	for _, c := range r.Charts() {
		if seen[c.File] || c.File != filepath.Base(c.File) {
			t.Errorf("file name %q", c.File)
		}
		seen[c.File] = true
	}
}

// full is a disk that is full.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestWritingFails(t *testing.T) {
	r := sample()
	for name, err := range map[string]error{
		"table":    r.WriteTable(full{}),
		"JSON":     r.WriteJSON(full{}),
		"markdown": r.WriteMarkdown(full{}, "charts"),
	} {
		if err == nil || !strings.Contains(err.Error(), "disk full") {
			t.Errorf("%s: %v", name, err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.WriteCharts(file); err == nil {
		t.Error("charts were written into a file")
	}
}

func TestFormats(t *testing.T) {
	for _, row := range []struct{ got, want string }{
		{rate(12), "12"}, {rate(999.4), "999"}, {rate(1234), "1.2 k"}, {rate(12_345), "12 k"}, {rate(999_600), "1.00 M"}, {rate(2.5e6), "2.50 M"},
		{micros(0.512), "0.51"}, {micros(12.34), "12.3"}, {micros(512.3), "512"},
		{memory(1), "1 B"}, {memory(1234), "1.21 KiB"}, {memory(20 << 10), "20 KiB"}, {memory(3 << 30), "3.00 GiB"},
		{percent(0), "0"}, {percent(0.00001), "<0.01 %"}, {percent(0.0123), "1.23 %"},
		{times(0.03), "0.030"}, {times(1.25), "1.25"}, {times(12.34), "12.3"},
		{allocs(0.0001), "0"}, {allocs(0.25), "0.250"},
		{all(values(2, 1, 3), micros), "2.00 (1.00–3.00)"}, {all(values(2), micros), "2.00"}, {all(values(), micros), "–"},
	} {
		if row.got != row.want {
			t.Errorf("%q, want %q", row.got, row.want)
		}
	}
}
