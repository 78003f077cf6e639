package metrics

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"lewes/router/registrar"
	"lewes/router/wireguard"
	"lewes/state/ledger"
)

var update = flag.Bool("update", false, "write the table of metrics in deploy/README.md")

// families returns all metrics of a source in which nothing is zero.
func families(t *testing.T) []*dto.MetricFamily {
	t.Helper()
	return gather(t, New(newNumbered(), testBuild, others...))
}

// gather parses the gateway's metrics as Prometheus does, and sorts them by name.
func gather(t *testing.T, c *Collector) (all []*dto.MetricFamily) {
	t.Helper()
	p := newPage()
	c.collect(p)
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(p.text()))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(families)) {
		all = append(all, families[name])
	}
	return all
}

// others are the parts of a gateway that have metrics if they are configured.
var others = []func() any{
	func() any {
		return wireguard.Stats{Up: 1, Failures: 2, Peers: 3, Foreign: 4, Resting: 5, Exhausted: 6, Bytes: 7}
	},
	func() any {
		return ledger.Stats{Accounts: 1, Changes: 2, Transactions: 3, Failures: 4, Restored: 1}
	},
	func() any { return registrar.IssuerStats{Failing: 1, Keys: 2} },
}

// freeLabels are the labels whose values are no words of this program.
var freeLabels = []string{"listen", "shard", "version", "revision", "modified", "go_version"}

// word is a label value of this program.
var word = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)

// TestMetricsLint applies the rules of "promtool check metrics", and of label values. A family that
// counts refusals names their reason.
func TestMetricsLint(t *testing.T) {
	w := render(t, newNumbered())
	problems, err := promlint.New(strings.NewReader(w)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	for _, f := range families(t) {
		for _, m := range f.Metric {
			for _, l := range m.Label {
				if !slices.Contains(freeLabels, l.GetName()) && !word.MatchString(l.GetValue()) {
					t.Errorf("%s{%s=%q} is not in snake case", f.GetName(), l.GetName(), l.GetValue())
				}
			}
			reason := slices.ContainsFunc(m.Label, func(l *dto.LabelPair) bool { return slices.Contains([]string{"reason", "bound"}, l.GetName()) })
			if name := f.GetName(); !reason && regexp.MustCompile(`refused|reject|dropped|evicted|failed_conn`).MatchString(name) {
				t.Errorf("%s has no reason", name)
			}
		}
	}
}

// table returns the table of metrics in deploy/README.md.
func table(all []*dto.MetricFamily) string {
	var text strings.Builder
	text.WriteString("| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n")
	for _, f := range all {
		values := make(map[string]map[string]bool)
		for _, m := range f.Metric {
			for _, l := range m.Label {
				if values[l.GetName()] == nil {
					values[l.GetName()] = make(map[string]bool)
				}
				values[l.GetName()][l.GetValue()] = true
			}
		}
		var labels []string
		for _, name := range slices.Sorted(maps.Keys(values)) {
			if slices.Contains(freeLabels, name) {
				labels = append(labels, "`"+name+"`")
			} else {
				labels = append(labels, fmt.Sprintf("`%s`: %s", name, strings.Join(slices.Sorted(maps.Keys(values[name])), ", ")))
			}
		}
		fmt.Fprintf(&text, "| `%s` | %s | %s | %s |\n", f.GetName(), strings.ToLower(f.GetType().String()), cmp.Or(strings.Join(labels, "; "), "–"), f.GetHelp())
	}
	return text.String()
}

// TestMetricsInREADME compares the table of metrics in deploy/README.md with the code. -update writes it.
func TestMetricsInREADME(t *testing.T) {
	const file, heading, after = "../../deploy/README.md", "## Metrics\n", "\n## "
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(content), heading)
	section, tail, more := strings.Cut(rest, after)
	start := strings.Index(section, "| metric | type |")
	if !found || !more || start < 0 {
		t.Fatalf("%s has no section %q with a table", file, heading)
	}
	want := table(families(t))
	if section[start:] == want {
		return
	}
	if !*update {
		t.Fatalf("the table of metrics in %s differs from the code: go test ./router/metrics -run README -update\n%s", file, want)
	}
	if err := os.WriteFile(file, []byte(before+heading+section[:start]+want+after+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}
