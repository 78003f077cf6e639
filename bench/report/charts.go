package report

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"lewes/bench/chart"
)

// Chart is a picture of a group, or of several.
type Chart struct {
	File string // a name without a folder
	Text string // for who cannot see it
	SVG  []byte
	of   *Group // after which it stands
}

// Charts draws what there is to see.
func (r *Report) Charts() []Chart {
	var all []Chart
	add := func(name, text string, of *Group, picture []byte) {
		for i := range all {
			if all[i].File == name+".svg" {
				name = fmt.Sprintf("%s-%d", name, len(all))
			}
		}
		all = append(all, Chart{File: name + ".svg", Text: text, SVG: picture, of: of})
	}
	for i := range r.Groups {
		g := &r.Groups[i]
		name := fileName(g.Scenario)
		if n := len(r.Find(g.Scenario)); n > 1 {
			name = fileName(g.Title)
		}
		if b := g.costs(); b != nil {
			add(name, b.Title, g, b.SVG())
		}
		if b := g.delays(); b != nil {
			add(name, b.Title, g, b.SVG())
		}
	}
	if l, last := r.sizes(); l != nil {
		add("sizes", l.Title, last, l.SVG())
	}
	return all
}

// WriteCharts writes the charts into a folder, which it makes.
func (r *Report) WriteCharts(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, c := range r.Charts() {
		if err := os.WriteFile(filepath.Join(dir, c.File), c.SVG, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// fileName makes a file's name of a title.
func fileName(title string) string {
	var b strings.Builder
	for _, c := range strings.ToLower(title) {
		switch {
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
			b.WriteRune(c)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	return strings.Trim(b.String(), "-")
}

// costs draws the CPU time of a unit; nil where a single row or none has one, and where a chart
// of another kind says more.
func (g *Group) costs() *chart.Bars {
	if g.Scenario == scenarioSizes || g.Scenario == scenarioLatency {
		return nil
	}
	b := &chart.Bars{
		Title:    fmt.Sprintf("%s: CPU time a %s", g.Title, g.Unit),
		Subtitle: "of the relaying process; less is better; median, with the lowest and the highest of all trials",
		Unit:     "µs a " + g.Unit,
		Parts:    []string{"user", "system"},
	}
	for i := range g.Rows {
		row := &g.Rows[i]
		if !row.CPU.Measured() {
			continue
		}
		b.Bars = append(b.Bars, chart.Bar{
			Label:  row.Subject,
			Parts:  []float64{row.User.Median, row.CPU.Median - row.User.Median},
			Low:    row.CPU.Low,
			High:   row.CPU.High,
			Text:   micros(row.CPU.Median),
			Strong: row.Kind == Gateway,
		})
	}
	if len(b.Bars) < 2 {
		return nil
	}
	return b
}

// delays draws the delays of a group whose point they are.
func (g *Group) delays() *chart.Bars {
	if g.Scenario != scenarioLatency {
		return nil
	}
	b := &chart.Bars{
		Title:    g.Title + ": delay from sender to sink",
		Subtitle: "less is better; each part ends where the named share of all datagrams has arrived",
		Unit:     "µs",
		Parts:    []string{"p50", "to p99", "to p99.9"},
	}
	for i := range g.Rows {
		row := &g.Rows[i]
		if !row.P50.Measured() {
			continue
		}
		b.Bars = append(b.Bars, chart.Bar{
			Label:  row.Subject,
			Parts:  []float64{row.P50.Median, row.P99.Median - row.P50.Median, row.P999.Median - row.P99.Median},
			Text:   fmt.Sprintf("%s, %s, %s", one(row.P50, micros), one(row.P99, micros), one(row.P999, micros)),
			Strong: row.Kind == Gateway,
		})
	}
	if len(b.Bars) < 2 {
		return nil
	}
	return b
}

// Scenarios that are drawn in a way of their own, and the one that others are held
// against.
const (
	scenarioBulk    = "bulk-out"
	scenarioSizes   = "sizes"
	scenarioLatency = "latency"
)

// sizes draws the cost over the size of payloads, and returns the last group that is in
// the picture.
func (r *Report) sizes() (*chart.Lines, *Group) {
	groups := r.Find(scenarioSizes)
	if len(groups) < 2 {
		return nil, nil
	}
	l := &chart.Lines{
		Title:    "CPU time a datagram by the size of its payload",
		Subtitle: "of the relaying process; less is better",
		XUnit:    "bytes of payload",
		YUnit:    "µs a datagram",
		LogX:     true,
	}
	for _, row := range groups[0].Rows {
		line := chart.Line{Name: row.Subject}
		for _, g := range groups {
			for i := range g.Rows {
				if g.Rows[i].Subject == row.Subject && g.Rows[i].CPU.Measured() {
					line.Points = append(line.Points, chart.Point{X: float64(g.Payload), Y: g.Rows[i].CPU.Median})
				}
			}
		}
		l.Lines = append(l.Lines, line)
	}
	return l, groups[len(groups)-1]
}
