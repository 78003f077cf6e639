//go:build linux

package report

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// column is a column of a table.
type column struct {
	name string
	cell func(*Row) string // "" for no value
}

// columns returns the columns in which a group has values.
func (g *Group) columns() []column {
	median := func(name string, m Metric, format func(float64) string) column {
		return column{name, func(r *Row) string { return show(r.Median(m), format) }}
	}
	spread := func(name string, m Metric, format func(float64) string) column {
		return column{name, func(r *Row) string {
			s := r.Samples[m]
			if len(s) < 2 {
				return show(r.Median(m), format)
			}
			return fmt.Sprintf("%s (%s–%s)", format(r.Median(m)), format(slices.Min(s)), format(slices.Max(s)))
		}}
	}
	all := []column{
		{"max/s", func(r *Row) string {
			cell := spread("", Max, rate).cell(r)
			if r.Bound != "" && cell != "" {
				cell += " ≥"
			}
			return cell
		}},
		median("CPU µs there", MaxCPU, micros),
		median("rate", Rate, rate),
		spread("CPU µs", CPU, micros),
		median("allocs", Allocs, allocs),
		median("train in", TrainIn, decimal),
		median("out", TrainOut, decimal),
		g.ratio("× loop+AEAD", func(base, r *Row) bool { return base.Kind == Loop && base.AEAD == r.AEAD && r.AEAD != "" }, false),
		g.ratio("× sockets", func(base, r *Row) bool { return base.Kind == Fan && base.AEAD == r.AEAD }, false),
		g.ratio("× loop", func(base, _ *Row) bool { return base.Kind == Loop && base.AEAD == "" }, false),
		g.ratio("× operations", func(base, _ *Row) bool { return base.Kind == Operations }, false),
	}
	for i := range g.Rows {
		if peer := &g.Rows[i]; peer.Kind == Peer {
			all = append(all, g.ratio(peer.Subject+" ×", func(base, _ *Row) bool { return base == peer }, true))
		}
	}
	all = append(all,
		median("p50 µs", P50, micros), median("p99", P99, micros), median("p99.9", P999, micros),
		column{g.Unit + "s", func(r *Row) string {
			if r.Units == 0 {
				return ""
			}
			return strconv.Itoa(r.Units)
		}},
		median("resident", Resident, memory), median("per "+g.Unit, PerUnit, memory),
	)
	return slices.DeleteFunc(all, func(c column) bool {
		return !slices.ContainsFunc(g.Rows, func(r Row) bool { return c.cell(&r) != "" })
	})
}

// ratio returns the column of ratios of CPU times to a base, or of the base's to the row's.
func (g *Group) ratio(name string, isBase func(base, r *Row) bool, inverse bool) column {
	return column{name, func(r *Row) string {
		if r.Kind == Peer || r.Kind == Direct || r.Kind == Operations {
			return ""
		}
		for i := range g.Rows {
			base := &g.Rows[i]
			if base.Subject == r.Subject || !isBase(base, r) {
				continue
			}
			if inverse {
				return show(base.Median(CPU)/r.Median(CPU), decimal2)
			}
			return show(r.Median(CPU)/base.Median(CPU), decimal2)
		}
		return ""
	}}
}

// notes returns the notes of the group and its rows.
func (g *Group) notes() []string {
	notes := slices.Clone(g.Notes)
	for i := range g.Rows {
		r := &g.Rows[i]
		if r.Bound != "" && len(r.Samples[Max]) > 0 {
			notes = append(notes, r.Subject+": ≥, "+r.Bound)
		}
		if loss := r.Median(Loss); loss > 0.001 {
			notes = append(notes, fmt.Sprintf("%s: %.2f %% loss at the rate of the CPU time", r.Subject, 100*loss))
		}
		if share := r.Median(Misrouted); share > 0 {
			notes = append(notes, fmt.Sprintf("%s: %.1f %% of the packets were received on the socket of another shard", r.Subject, 100*share))
		}
		for _, n := range r.Notes {
			notes = append(notes, r.Subject+": "+n)
		}
	}
	return notes
}

// cells returns the table of the group, beginning with the header.
func (g *Group) cells() [][]string {
	columns := g.columns()
	table := [][]string{{"subject"}}
	for _, c := range columns {
		table[0] = append(table[0], c.name)
	}
	for i := range g.Rows {
		row := []string{g.Rows[i].Subject}
		for _, c := range columns {
			row = append(row, orDash(c.cell(&g.Rows[i])))
		}
		table = append(table, row)
	}
	return table
}

// warnings returns reasons to mistrust the figures.
func (r *Report) warnings() (warnings []string) {
	if r.Quick {
		warnings = append(warnings, "a quick run has few short trials; do not quote its figures")
	}
	if w := r.Machine.Warning(); w != "" {
		warnings = append(warnings, w)
	}
	return warnings
}

// method explains the tables of the Markdown page.
const method = `
- Load, subject and sink are three processes that share the machine's cores. *CPU* is the CPU time of the subject's
  process divided by the number of datagrams that arrived. It is stable on a busy machine, where rates are not.
- *max/s* is the highest rate with less than 0.1 %% loss; ≥ means that the load was the limit. *CPU* is measured at
  *rate*, the same for gateways and loops: below the maximum of the slowest of them, or of a slower peer.
- Subjects take turns: %d × %v each. Figures are medians, with the lowest and the highest in brackets.
- The *loop* only receives and sends (GRO in, GSO out); with an AEAD it also opens or seals each packet. *× loop+AEAD* is
  the subject's CPU time divided by that of the loop with the same AEAD; a peer's column is the peer's CPU time divided by
  the subject's.
- *train in* and *out* are datagrams per message that a gateway received and sent.`

// WriteMarkdown writes the tables as a page of Markdown, which a terminal shows well too.
func (r *Report) WriteMarkdown(w io.Writer) error {
	p := &printer{w: w}
	p.line("\n# What a datagram costs\n\nCommand, at commit %s, on %s (%s):\n\n    %s\n", r.Commit, r.Began.UTC().Format(time.DateOnly), r.Took.Round(time.Second), r.Command)
	p.line("%s", r.Machine.String())
	for _, warning := range r.warnings() {
		p.line("\n**Note:** %s.", warning)
	}
	p.line(method, r.Rounds, r.Trial)
	for i := range r.Groups {
		r.Groups[i].write(p)
	}
	for i, l := range r.LeftOut {
		if i == 0 {
			p.line("\n## Left out\n")
		}
		p.line("- %s: %s", l.What, l.Why)
	}
	return p.err
}

func (g *Group) write(p *printer) {
	p.line("\n## %s\n", g.Title)
	cells := g.cells()
	widths := make([]int, len(cells[0]))
	for _, row := range cells {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for n, row := range cells {
		line, rule := "|", "|"
		for i, cell := range row {
			space := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			dashes := strings.Repeat("-", widths[i])
			if i == 0 {
				line, rule = line+" "+cell+space+" |", rule+" "+dashes+" |"
			} else {
				line, rule = line+" "+space+cell+" |", rule+" "+dashes[1:]+": |"
			}
		}
		p.line("%s", line)
		if n == 0 {
			p.line("%s", rule)
		}
	}
	for i, note := range g.notes() {
		if i == 0 {
			p.line("")
		}
		p.line("- %s", note)
	}
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

func orDash(cell string) string {
	if cell == "" {
		return "–"
	}
	return cell
}

// show formats a value, "" if it was not measured.
func show(v float64, format func(float64) string) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return ""
	}
	return format(v)
}

func decimal(v float64) string  { return strconv.FormatFloat(v, 'f', 1, 64) }
func decimal2(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) }

// micros formats nanoseconds as microseconds, with three digits.
func micros(v float64) string {
	switch v /= 1000; {
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return decimal(v)
	}
	return decimal2(v)
}

func allocs(v float64) string {
	if v < 0.0005 {
		return "0"
	}
	return strconv.FormatFloat(v, 'f', 3, 64)
}

func rate(v float64) string {
	switch {
	case v >= 999_500:
		return decimal2(v/1e6) + " M"
	case v >= 9_950:
		return strconv.FormatFloat(v/1e3, 'f', 0, 64) + " k"
	case v >= 1000:
		return decimal(v/1e3) + " k"
	}
	return strconv.FormatFloat(v, 'f', 0, 64)
}

func memory(v float64) string {
	switch {
	case v >= 1<<30:
		return decimal2(v/(1<<30)) + " GiB"
	case v >= 1<<20:
		return strconv.FormatFloat(v/(1<<20), 'f', 0, 64) + " MiB"
	case v >= 1<<10:
		return decimal2(v/(1<<10)) + " KiB"
	}
	return strconv.FormatFloat(v, 'f', 0, 64) + " B"
}
