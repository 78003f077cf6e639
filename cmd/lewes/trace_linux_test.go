package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"
)

// traceRecord is a record of lewes trace.
type traceRecord struct {
	Schema string         `json:"file_schema"`
	Time   float64        `json:"time"`
	Name   string         `json:"name"`
	Data   map[string]any `json:"data"`
}

// traceRecords parses a JSON text sequence.
func traceRecords(t *testing.T, text string) (records []traceRecord) {
	t.Helper()
	if !strings.HasPrefix(text, "\x1e") || !strings.HasSuffix(text, "\n") {
		t.Fatalf("not a sequence of JSON texts: %q", text)
	}
	for _, one := range strings.Split(text[1:], "\x1e") {
		var r traceRecord
		if err := json.Unmarshal([]byte(one), &r); err != nil {
			t.Fatalf("%v in %q", err, one)
		}
		records = append(records, r)
	}
	return records
}

func (p *process) awaitOutput(text string) {
	p.t.Helper()
	p.await(fmt.Sprintf("%q in its output", text), func(stdout, _ string) bool { return strings.Contains(stdout, text) })
}

// TestTraceCommand traces a session through a flow, a refusal and new keys to its end, and another until an
// upgrade.
func TestTraceCommand(t *testing.T) {
	t.Parallel()
	_, key := newClient(t)
	_, stays := newClient(t)
	g := launchGateway(t, allowEcho+"deny = [\"198.51.100.0/24\"]\n", key, stays)
	id := key.Public().String()
	has(t, fails(t, environment(g.dir), exitFailed, "trace", "--state", g.dir, id), "there is no such session")
	s := dial(t, g.uri, key)
	if _, err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := launch(t, environment(g.dir), "trace", "--state", g.dir, id)
	p.awaitOutput("session_established")
	has(t, fails(t, environment(g.dir), exitFailed, "trace", "--state", g.dir, id), "traced already")
	target := echo(t)
	conn, err := s.DialContext(t.Context(), "udp", target)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write([]byte("canary of a payload")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAtLeast(conn, make([]byte, 64), 1); err != nil {
		t.Fatal(err)
	}
	denied, err := s.DialContext(t.Context(), "udp", "198.51.100.7:53")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := denied.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	p.awaitOutput("flow_refused")
	g.awaitLog("refused a flow")
	if err := s.Rekey(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.awaitOutput("rekeyed")
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	p.awaitOutput("flow_closed")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if code := p.wait(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	records := traceRecords(t, p.stdout())
	if records[0].Schema != "urn:ietf:params:qlog:file:sequential" {
		t.Errorf("header: %+v", records[0])
	}
	var names []string
	for _, r := range records[1:] {
		names = append(names, strings.TrimPrefix(r.Name, "lewes:"))
	}
	if got, want := strings.Join(names, " "), "session_established flow_opened flow_refused rekeyed flow_closed session_closed"; got != want {
		t.Errorf("events: %s\nwant:   %s", got, want)
	}
	has(t, p.stdout(), id, `"address":"127.0.0.x:`, `"target":"127.0.0.x:`, `"target":"198.51.100.x:53"`, `"rule":"198.51.100.0/24"`, `"key_set":1`)
	hasNot(t, p.stdout(), "canary", "127.0.0.1", "198.51.100.7")
	hasNot(t, g.stderr(), "canary", "198.51.100.7", target)
	g.awaitLog(`control request  {"action": "trace"`)

	other := dial(t, g.uri, stays)
	// A trace whose command is killed makes room for the next.
	killed := launch(t, environment(g.dir), "trace", "--state", g.dir, stays.Public().String())
	killed.awaitOutput("session_established")
	if err := killed.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-killed.done
	var last *process
	for timeout := time.Now().Add(patience); ; {
		last = launch(t, environment(g.dir), "trace", "--show-addresses", "--state", g.dir, stays.Public().String())
		last.await("its first record or an error", func(stdout, stderr string) bool { return strings.Contains(stdout, "established") || stderr != "" })
		if last.stderr() == "" || time.Now().After(timeout) {
			break
		}
		last.wait()
	}
	has(t, last.stdout(), `"address":"127.0.0.1:`)
	has(t, g.control("upgrade"), "upgraded")
	var successor struct {
		PID int `json:"pid"`
	}
	parseJSON(t, g.control("status", "--json"), &successor)
	t.Cleanup(func() { _ = syscall.Kill(successor.PID, syscall.SIGKILL) }) // before g's, which waits for its output
	if code := last.wait(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	has(t, last.stdout(), "trace_ended", "a successor has taken over")
	if _, err := other.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}
