package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// column is one of a group's table.
type column struct {
	name string
	cell func(*Row) string
}

// columns returns those in which a group has something to show.
func (g *Group) columns() []column {
	all := []column{
		{"max/s", func(r *Row) string { return all(r.Max, rate) + boundMark(r) }},
		{"bit/s", func(r *Row) string { return one(r.Bits, bits) }},
		{"loss", func(r *Row) string { return one(r.MaxLoss, percent) }},
		{"CPU µs there", func(r *Row) string { return one(r.MaxCPU, micros) }},
		{"measured at", func(r *Row) string { return one(r.At, rate) }},
		{lossThere, func(r *Row) string { return one(r.Loss, percent) }},
		{"CPU µs", func(r *Row) string { return all(r.CPU, micros) }},
		{"user+system", func(r *Row) string {
			if !r.User.Measured() {
				return "–"
			}
			return micros(r.User.Median) + "+" + micros(r.System.Median)
		}},
		{"allocs", func(r *Row) string { return one(r.Allocs, allocs) }},
		{"trains in/out", func(r *Row) string {
			if !r.TrainIn.Measured() {
				return "–"
			}
			return one(r.TrainIn, train) + "/" + one(r.TrainOut, train)
		}},
	}
	for _, to := range g.ratioNames() {
		all = append(all, g.ratioColumn(to))
	}
	all = append(all,
		column{"p50 µs", func(r *Row) string { return one(r.P50, micros) }},
		column{"p99", func(r *Row) string { return one(r.P99, micros) }},
		column{"p99.9", func(r *Row) string { return one(r.P999, micros) }},
		column{g.Unit + "s", func(r *Row) string {
			if r.Units == 0 {
				return "–"
			}
			return fmt.Sprint(r.Units)
		}},
		column{"resident", func(r *Row) string { return one(r.Resident, memory) }},
		column{"a " + g.Unit, func(r *Row) string { return one(r.PerUnit, memory) }},
	)
	var used []column
	for _, c := range all {
		for i := range g.Rows {
			cell := c.cell(&g.Rows[i])
			if cell != "–" && (cell != "0" || c.name != lossThere) {
				used = append(used, c)
				break
			}
		}
	}
	return used
}

// lossThere is a column that is left out where there is none.
const lossThere = "loss there"

// ratioColumn shows how many times what a row is compared with it costs; of peers, which cost
// more, the other way around.
func (g *Group) ratioColumn(to string) column {
	peer := to != toSame && to != toPlain && to != toOperations
	name := "× " + short(to)
	if peer {
		name = to + " ×"
	}
	return column{name, func(r *Row) string {
		v, ok := r.Ratio(to)
		switch {
		case !ok || v == 0:
			return "–"
		case peer:
			return times(1 / v)
		}
		return times(v)
	}}
}

func (g *Group) ratioNames() (names []string) {
	seen := make(map[string]bool)
	for _, r := range g.Rows {
		for _, ratio := range r.Ratios {
			if !seen[ratio.To] {
				seen[ratio.To] = true
				names = append(names, ratio.To)
			}
		}
	}
	rank := func(name string) int { return slices.Index([]string{"", toSame, toPlain, toOperations}, name) & 7 } // peers, -1, come last
	slices.SortStableFunc(names, func(a, b string) int { return rank(a) - rank(b) })
	return names
}

// short is what a column of ratios is called.
func short(to string) string {
	switch to {
	case toSame:
		return "loop+AEAD"
	case toPlain:
		return "loop"
	case toOperations:
		return "operations"
	}
	return to
}

// boundMark marks a highest rate that was not the subject's own limit.
func boundMark(r *Row) string {
	if r.Bound != "" && r.Max.Measured() {
		return " ≥"
	}
	return ""
}

// allocs prints allocations a unit: next to none is none.
func allocs(v float64) string {
	if v < 0.0005 {
		return "0"
	}
	return fmt.Sprintf("%.3f", v)
}

// grid returns the group's table, the head first.
func (g *Group) grid() [][]string {
	columns := g.columns()
	head := []string{"subject"}
	for _, c := range columns {
		head = append(head, c.name)
	}
	rows := [][]string{head}
	for i := range g.Rows {
		cells := []string{g.Rows[i].Subject}
		for _, c := range columns {
			cells = append(cells, c.cell(&g.Rows[i]))
		}
		rows = append(rows, cells)
	}
	return rows
}

// WriteTable writes the report for a terminal.
func (r *Report) WriteTable(w io.Writer) error {
	p := &printer{w: w}
	for _, line := range r.Machine.Lines() {
		p.line("%s", line)
	}
	for _, warning := range r.warnings() {
		p.line("Mind: %s.", warning)
	}
	for i := range r.Groups {
		r.Groups[i].write(p)
	}
	if len(r.Targets) > 0 {
		p.line("")
		p.line("Targets")
		for _, t := range r.Targets {
			p.line("  %-8s %s: %s", t.verdict(), t.Name, t.words())
		}
	}
	for _, l := range r.LeftOut {
		p.line("")
		p.line("Left out: %s: %s.", l.What, strings.TrimSuffix(l.Why, "."))
	}
	return p.err
}

// warnings are what a reader has to know before the first figure.
func (r *Report) warnings() (warnings []string) {
	if r.Quick {
		warnings = append(warnings, "this was a quick run, with short trials and few of them: good for a first look, not for figures to quote")
	}
	if noisy := r.Machine.Noisy(); noisy != "" {
		warnings = append(warnings, noisy)
	}
	return warnings
}

func (g *Group) write(p *printer) {
	p.line("")
	p.line("%s", g.Title)
	grid := g.grid()
	widths := make([]int, len(grid[0]))
	for _, row := range grid {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range grid {
		var b strings.Builder
		for i, cell := range row {
			space := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i == 0 {
				b.WriteString("  " + cell + space)
			} else {
				b.WriteString("  " + space + cell)
			}
		}
		p.line("%s", strings.TrimRight(b.String(), " "))
	}
	for _, note := range g.notes() {
		p.line("  %s", note)
	}
}

// notes are the group's and its rows'.
func (g *Group) notes() []string {
	notes := g.Notes[:len(g.Notes):len(g.Notes)]
	for i := range g.Rows {
		row := &g.Rows[i]
		if row.Bound != "" && row.Max.Measured() {
			notes = append(notes, fmt.Sprintf("%s: ≥, %s", row.Subject, row.Bound))
		}
		for _, n := range row.Notes {
			notes = append(notes, row.Subject+": "+n)
		}
	}
	return notes
}

func (t *Target) verdict() string {
	switch {
	case !t.Measured:
		return "open"
	case t.Met:
		return "met"
	}
	return "missed"
}

// words says what was measured of a target.
func (t *Target) words() string {
	s := "not measured in this run"
	if t.Measured {
		s = times(t.Value)
		if t.Unit == "bytes" {
			s = memory(t.Value)
		} else if t.Unit != "" {
			s += " " + t.Unit
		}
	}
	s += " (" + t.Limit + ")"
	if t.Note != "" {
		s += "; " + t.Note
	}
	return s
}

// printer writes lines and keeps the first error.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}
