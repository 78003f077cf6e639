//go:build linux

package report

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
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
			cell := show(r.Median(m), format)
			if s := r.Samples[m]; len(s) > 1 {
				cell += fmt.Sprintf(" (%s–%s)", format(slices.Min(s)), format(slices.Max(s)))
			}
			if r.Bound != "" && m == Max && cell != "" {
				cell += " ≥"
			}
			return cell
		}}
	}
	all := []column{
		spread("max/s", Max, rate),
		median("CPU µs there", MaxCPU, micros),
		median("rate", Rate, rate),
		spread("CPU µs", CPU, micros),
		median("allocs", Allocs, allocs),
		median("train in", TrainIn, decimal(1)),
		median("out", TrainOut, decimal(1)),
		g.ratio("× loop+AEAD", func(base, r *Row) bool { return base.Kind == Loop && base.AEAD == r.AEAD && r.AEAD != "" }, false),
		g.ratio("× sockets", func(base, r *Row) bool { return base.Kind == Fan && base.AEAD == r.AEAD }, false),
		g.ratio("× loop", func(base, _ *Row) bool { return base.Kind == Loop && base.AEAD == "" }, false),
		g.ratio("× operations", func(base, _ *Row) bool { return base.Kind == Operations }, false),
	}
	all = append(all,
		g.ratio("× data", func(base, _ *Row) bool { return base.Kind == Baseline }, false),
		column{"bound", func(r *Row) string { return r.CoveredBy }})
	for i := range g.Rows {
		if peer := &g.Rows[i]; peer.Kind == Peer {
			all = append(all, g.ratio(peer.Subject+" ×", func(base, _ *Row) bool { return base == peer }, true))
		}
	}
	all = append(all,
		median("p50 µs", P50, micros), median("p99", P99, micros), median("p99.9", P999, micros),
		median(g.Unit+"s", Units, decimal(0)), median("resident", Resident, memory), median("per "+g.Unit, PerUnit, memory),
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
			ratio := r.Median(CPU) / base.Median(CPU)
			if inverse {
				ratio = 1 / ratio
			}
			return show(ratio, decimal(2))
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
			row = append(row, cmp.Or(c.cell(&g.Rows[i]), "–"))
		}
		table = append(table, row)
	}
	return table
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
	if r.Quick {
		p.line("\n**Note:** a quick run has few short trials; do not quote its figures.")
	}
	if warning := r.Machine.Warning(); warning != "" {
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
	table := tabwriter.NewWriter(p, 0, 0, 0, ' ', tabwriter.AlignRight)
	for n, row := range g.cells() {
		fmt.Fprintf(table, "|\t %s |\t\n", strings.Join(row, " |\t "))
		if n == 0 {
			fmt.Fprintf(table, "|\t --- |\t%s\n", strings.Repeat(" ---: |\t", len(row)-1))
		}
	}
	_ = table.Flush() // p keeps the error
	for i, note := range g.notes() {
		if i == 0 {
			p.line("")
		}
		p.line("- %s", note)
	}
}

// printer writes and keeps the first error.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) Write(b []byte) (int, error) {
	if p.err == nil {
		_, p.err = p.w.Write(b)
	}
	return len(b), p.err
}

func (p *printer) line(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

// show formats a value, "" if it was not measured.
func show(v float64, format func(float64) string) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return ""
	}
	return format(v)
}

// decimal returns a format with n digits after the point.
func decimal(n int) func(float64) string {
	return func(v float64) string { return strconv.FormatFloat(v, 'f', n, 64) }
}

// micros formats nanoseconds as microseconds, with three digits.
func micros(v float64) string {
	switch v /= 1000; {
	case v >= 100:
		return decimal(0)(v)
	case v >= 10:
		return decimal(1)(v)
	}
	return decimal(2)(v)
}

func allocs(v float64) string {
	if v < 0.0005 {
		return "0"
	}
	return decimal(3)(v)
}

func rate(v float64) string {
	switch {
	case v >= 999_500:
		return decimal(2)(v/1e6) + " M"
	case v >= 9_950:
		return decimal(0)(v/1e3) + " k"
	case v >= 1000:
		return decimal(1)(v/1e3) + " k"
	}
	return decimal(0)(v)
}

func memory(v float64) string {
	switch {
	case v >= 1<<30:
		return decimal(2)(v/(1<<30)) + " GiB"
	case v >= 1<<20:
		return decimal(0)(v/(1<<20)) + " MiB"
	}
	return decimal(2)(v/(1<<10)) + " KiB"
}
