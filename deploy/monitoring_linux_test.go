package deploy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// exported maps each series that a gateway exports to its labels, and those to their values.
type exported map[string]map[string][]string

// scrape starts a gateway by its own command, and reads its metrics.
func scrape(t *testing.T) exported {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "gateway.toml")
	text := fmt.Sprintf("state_dir = %q\n%s[tcp]\nport = 0\n[metrics]\nlisten = \"127.0.0.1:0\"\n", dir, anyPort) +
		"[registration]\naccess = \"open\"\n[wireguard]\ndevice = \"missing\"\nipv4 = \"10.77.0.0/16\"\nendpoint = \"gw.example\"\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	gateway := exec.Command(lewes, "gateway", "--config", file)
	startGateway(t, gateway)
	var status struct{ Metrics string }
	if err := json.Unmarshal([]byte(run(t, exec.Command(lewes, "status", "--json", "--state", dir))), &status); err != nil {
		t.Fatal(err)
	}
	answer, err := http.Get(status.Metrics)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	page, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	endGateway(t, gateway, patience)
	all := exported{"up": {}}
	line := regexp.MustCompile(`(?m)^([a-z]\w*)(\{.*\})? \S+$`)
	for _, m := range line.FindAllStringSubmatch(string(page), -1) {
		if all[m[1]] == nil {
			all[m[1]] = make(map[string][]string)
		}
		for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
			all[m[1]][l[1]] = append(all[m[1]][l[1]], l[3])
		}
	}
	if len(all) < 50 {
		t.Fatalf("%d series: %v", len(all), all)
	}
	return all
}

var (
	series   = regexp.MustCompile(`\b(?:(?:lewes|process|go)_\w+|up\b)(\{[^}]*\})?`)
	matcher  = regexp.MustCompile(`(\w+)(=~|!=|=)"([^"]*)"`)
	grouping = regexp.MustCompile(`\bby \(([^)]*)\)`)
	template = regexp.MustCompile(`\{\{ *(?:\$labels\.)?(\w+) *\}\}`)
	// target are the labels that Prometheus adds to all series.
	target = []string{"instance", "job"}
)

// check returns an error if an expression names a series, a label or a value that is not exported. texts
// are templates for its result.
func (all exported) check(expression string, texts ...string) error {
	known := slices.Clone(target)
	found := series.FindAllStringSubmatch(expression, -1)
	if len(found) == 0 {
		return fmt.Errorf("no series in %s", expression)
	}
	for _, m := range found {
		name, _, _ := strings.Cut(m[0], "{")
		labels, ok := all[name]
		if !ok {
			return fmt.Errorf("%s is not exported", name)
		}
		for label := range labels {
			known = append(known, label)
		}
		for _, l := range matcher.FindAllStringSubmatch(m[1], -1) {
			if slices.Contains(target, l[1]) {
				continue
			}
			for value := range strings.SplitSeq(l[3], "|") {
				if !slices.Contains(labels[l[1]], value) {
					return fmt.Errorf("%s{%s=%q} is not exported", name, l[1], value)
				}
			}
		}
	}
	for _, m := range grouping.FindAllStringSubmatch(expression, -1) {
		for label := range strings.SplitSeq(m[1], ",") {
			if label = strings.TrimSpace(label); !slices.Contains(known, label) {
				return fmt.Errorf("no series in %s has the label %s", expression, label)
			}
		}
	}
	for _, text := range texts {
		for _, m := range template.FindAllStringSubmatch(text, -1) {
			if !slices.Contains(known, m[1]) {
				return fmt.Errorf("no series in %s has the label %s of %q", expression, m[1], text)
			}
		}
	}
	return nil
}

// alert is a rule of alerts.yaml: its expression, and its lines until the next one.
type alert struct{ name, expression, text string }

func alerts(t *testing.T) (all []alert) {
	t.Helper()
	for i, text := range strings.Split(read("monitoring/alerts.yaml"), "- alert: ") {
		if i == 0 {
			continue
		}
		name, rest, _ := strings.Cut(text, "\n")
		m := regexp.MustCompile(`(?m)^ +expr: (.+)$`).FindStringSubmatch(rest)
		if m == nil || !strings.Contains(rest, "summary:") || !strings.Contains(rest, "description:") {
			t.Fatalf("%s has no expression, summary or description", name)
		}
		all = append(all, alert{name, m[1], rest})
	}
	return all
}

// query is an expression of the dashboard with its legend.
type query struct{ panel, expression, legend string }

func dashboard(t *testing.T) (all []query) {
	t.Helper()
	var d struct {
		Panels []struct {
			Title   string
			Targets []struct {
				Expr         string
				LegendFormat string
			}
		}
		Templating struct {
			List []struct{ Query json.RawMessage }
		}
	}
	if err := json.Unmarshal([]byte(read("monitoring/dashboard.json")), &d); err != nil {
		t.Fatal(err)
	}
	for _, p := range d.Panels {
		for _, x := range p.Targets {
			all = append(all, query{p.Title, x.Expr, x.LegendFormat})
		}
	}
	for _, v := range d.Templating.List {
		if m := series.FindString(string(v.Query)); m != "" {
			all = append(all, query{"variable", m, ""})
		}
	}
	return all
}

// TestMonitoring compares the alert rules and the dashboard with what a gateway exports, and has promtool
// parse their expressions if it is installed.
func TestMonitoring(t *testing.T) {
	all := scrape(t)
	rules, queries := alerts(t), dashboard(t)
	if len(rules) < 10 || len(queries) < 20 {
		t.Fatalf("%d alert rules, %d queries", len(rules), len(queries))
	}
	for _, r := range rules {
		if err := all.check(r.expression, r.text); err != nil {
			t.Errorf("alert %s: %v", r.name, err)
		}
	}
	var text strings.Builder
	text.WriteString("groups:\n- name: dashboard\n  rules:\n")
	for i, q := range queries {
		if err := all.check(q.expression, q.legend); err != nil {
			t.Errorf("panel %s: %v", q.panel, err)
		}
		expression := strings.NewReplacer("$__rate_interval", "1m", "$instance", ".*").Replace(q.expression)
		fmt.Fprintf(&text, "  - record: q%d\n    expr: '%s'\n", i, expression)
	}
	file := filepath.Join(t.TempDir(), "dashboard.yaml")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("promtool", "check", "rules", "monitoring/alerts.yaml", file).CombinedOutput()
	if err != nil && !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("promtool: %v: %s", err, out)
	}
}

// TestMonitoringCheck shows that the check finds what is not exported.
func TestMonitoringCheck(t *testing.T) {
	all := exported{"lewes_sessions": {}, "lewes_rejects_total": {"reason": {"clock"}}}
	for expression, ok := range map[string]bool{
		"sum(lewes_sessions)": true,
		"lewes_session":       false,
		"1":                   false,
		`lewes_rejects_total{job="x",reason="clock"}`:         true,
		`lewes_rejects_total{reason="the clocks"}`:            false,
		`lewes_rejects_total{reason=~"clock|none"}`:           false,
		`lewes_rejects_total{code="clock"}`:                   false,
		`sum by (instance, reason) (lewes_rejects_total)`:     true,
		`sum by (reason) (lewes_sessions)`:                    false,
		`lewes_sessions / lewes_rejects_total{reason="none"}`: false,
	} {
		if err := all.check(expression, "{{instance}}"); (err == nil) != ok {
			t.Errorf("%s: %v", expression, err)
		}
	}
	if all.check("lewes_sessions", "{{ $labels.reason }}") == nil {
		t.Error("a template may name any label")
	}
}
