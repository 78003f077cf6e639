//go:build linux

package report

import (
	"bytes"
	"encoding/json"
	"math"
	"runtime"
	"strings"
	"testing"
)

func sample() *Report {
	row := func(subject string, kind Kind, aead string, micros ...float64) Row {
		r := Row{Subject: subject, Kind: kind, AEAD: aead}
		for _, v := range micros {
			r.Add(CPU, 1000*v)
		}
		return r
	}
	gateway := row("gateway, AES-256-GCM", Gateway, "AES-256-GCM", 3, 1.5, 2)
	gateway.Bound = "the load was the limit"
	gateway.Add(Max, 123_456)
	r := new(Report)
	r.Machine.System = "linux/amd64"
	r.AddGroup(Group{Scenario: "bulk-out", Title: "Bulk out", Unit: "datagram", Payload: 1200, Rows: []Row{
		row("loop", Loop, "", 0.5), row("loop, AES-256-GCM", Loop, "AES-256-GCM", 1), gateway, row("wireguard-go", Peer, "", 20), row("nothing measured", Loop, ""),
	}})
	r.AddGroup(Group{Title: "Empty"})
	return r
}

func TestTables(t *testing.T) {
	var out bytes.Buffer
	if err := sample().WriteMarkdown(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Bulk out", "× loop+AEAD", "wireguard-go ×", "123 k ≥", "2.00 (1.50–3.00)", "10.00", "4.00", "gateway, AES-256-GCM: ≥, the load was the limit"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	for _, not := range []string{"Empty", "nothing measured", "p50", "allocs", "× operations"} {
		if strings.Contains(out.String(), not) {
			t.Errorf("%q in\n%s", not, out.String())
		}
	}
}

func TestJSON(t *testing.T) {
	var out bytes.Buffer
	if err := sample().WriteJSON(&out); err != nil {
		t.Fatal(err)
	}
	var r Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || len(r.Groups) != 1 || len(r.Groups[0].Rows[2].Samples[CPU]) != 3 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestBenchmarkFormat(t *testing.T) {
	var out bytes.Buffer
	if err := sample().WriteBenchmarks(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"goos: linux\n", "\nBenchmarkBulkOut/payload=1200/loop 1 500 cpu-ns/op\n",
		"\nBenchmarkBulkOut/payload=1200/gateway,_AES-256-GCM 1 123456 max/s 3000 cpu-ns/op\nBenchmarkBulkOut/payload=1200/gateway,_AES-256-GCM 1 1500 cpu-ns/op\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestMedian(t *testing.T) {
	var r Row
	if !math.IsNaN(r.Median(CPU)) {
		t.Error("no samples have a median")
	}
	for _, v := range []float64{9, 1, 2, 4} {
		r.Add(CPU, v)
	}
	if m := r.Median(CPU); m != 3 {
		t.Errorf("median %v, want 3", m)
	}
}

func TestMachine(t *testing.T) {
	m := ReadMachine()
	if m.Cores != runtime.GOMAXPROCS(0) || m.CPU == "" || m.GSO == "" || m.GRO == "" || !strings.Contains(m.String(), runtime.GOARCH) {
		t.Errorf("%+v", m)
	}
	for load, warns := range map[float64]bool{0.3: false, 0.6: true} {
		m := Machine{Load: load, Cores: 2}
		if (m.Warning() != "") != warns {
			t.Errorf("load average %v on 2 cores: %q", load, m.Warning())
		}
	}
}
