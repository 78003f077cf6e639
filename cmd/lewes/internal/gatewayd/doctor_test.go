package gatewayd

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"lewes/cmd/lewes/internal/config"
	"lewes/cmd/lewes/internal/doctor"
)

// examined returns the only finding of a check.
func examined(t *testing.T, check func(*doctor.Results)) doctor.Finding {
	t.Helper()
	var c doctor.Checks
	c.Register("one", func(_ context.Context, r *doctor.Results) { check(r) })
	r := c.Run(t.Context())
	if len(r.Findings) != 1 {
		t.Fatalf("findings %+v", r.Findings)
	}
	return r.Findings[0]
}

func TestDoctorChecks(t *testing.T) {
	c := config.Default()
	c.Listen.Shards = 1
	status := filepath.Join(t.TempDir(), "status")
	capabilities := func(held string) func(*doctor.Results) {
		return func(r *doctor.Results) {
			if err := os.WriteFile(status, []byte("Name:\tlewes\nCapEff:\t"+held+"\nSeccomp:\t0\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			checkCapabilities(r, c, status)
		}
	}
	buffers := func(receive, send int) func(*doctor.Results) {
		return func(r *doctor.Results) {
			checkBuffers(r, []SocketStatus{{ReceiveBuffer: BufferStatus{4096, receive}, SendBuffer: BufferStatus{2048, send}}})
		}
	}
	for name, row := range map[string]struct {
		check func(*doctor.Results)
		grade doctor.Grade
		mend  string
	}{
		"healthy":           {func(r *doctor.Results) { checkHealth(r, nil) }, doctor.OK, ""},
		"buffers elsewhere": {func(r *doctor.Results) { checkHealth(r, []problem{{Code: "buffers"}}) }, doctor.OK, ""},
		"problem":           {func(r *doctor.Results) { checkHealth(r, []problem{{Code: "reload", Text: "x"}}) }, doctor.Warning, "lewes reload"},
		"refuses":           {func(r *doctor.Results) { checkHealth(r, []problem{{Code: "draining", Refuses: true}}) }, doctor.Fault, "lewes drain --off"},
		"buffers":           {buffers(4096, 2048), doctor.OK, ""},
		"receive buffer":    {buffers(1024, 2048), doctor.Warning, "sysctl -w net.core.rmem_max=4096 &&"},
		"both buffers":      {buffers(1024, 1024), doctor.Warning, "sysctl -w net.core.rmem_max=4096 net.core.wmem_max=2048 &&"},
		"files":             {func(r *doctor.Results) { checkDescriptors(r, c, 1<<30) }, doctor.OK, ""},
		"few files":         {func(r *doctor.Results) { checkDescriptors(r, c, 1024) }, doctor.Warning, "LimitNOFILE="},
		"unprivileged":      {capabilities("0000000000000000"), doctor.OK, ""},
		"root":              {capabilities("000001ffffffffff"), doctor.Warning, "lewes-gateway"},
	} {
		if f := examined(t, row.check); f.Grade != row.grade || !strings.Contains(f.Mend, row.mend) || (row.mend == "") != (f.Mend == "") {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

// problemCode finds the codes of problems in the source of status.go.
var problemCode = regexp.MustCompile(`\t(?:note|refuse)\(.*?, "(\w+)", "|problem\{Code: "(\w+)"`)

func TestProblemsHaveRemedies(t *testing.T) {
	source, err := os.ReadFile("status.go")
	if err != nil {
		t.Fatal(err)
	}
	codes := make(map[string]bool)
	for _, m := range problemCode.FindAllStringSubmatch(string(source), -1) {
		codes[m[1]+m[2]] = true
	}
	if !codes["buffers"] || !codes["directory"] {
		t.Fatalf("codes %v", codes)
	}
	delete(codes, "buffers") // has a check of its own
	for code := range codes {
		if remedies[code] == "" {
			t.Errorf("the problem %q has no remedy", code)
		}
	}
	for code := range remedies {
		if !codes[code] {
			t.Errorf("there is no problem %q", code)
		}
	}
}
