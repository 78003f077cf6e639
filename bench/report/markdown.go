package report

import (
	"fmt"
	"io"
	"path"
	"strings"
	"time"
)

// WriteMarkdown writes the report as a page. charts is where its charts are, relative to the
// page; empty leaves them out.
func (r *Report) WriteMarkdown(w io.Writer, charts string) error {
	p := &printer{w: w}
	p.line("# What a datagram costs")
	p.line("")
	p.line("One run of `lewes bench`, made by")
	p.line("")
	p.line("    %s", r.Command)
	p.line("")
	p.line("on %s, in %s, with lewes %s.", r.Began.UTC().Format("2 January 2006, 15:04 UTC"), r.Took.Round(time.Second), r.Version)
	p.line("")
	for _, line := range r.Machine.Lines() {
		p.line("- %s", escapeCell(line))
	}
	for _, warning := range r.warnings() {
		p.line("")
		p.line("**Mind:** %s.", warning)
	}
	p.line("")
	p.line("%s", strings.TrimSpace(fmt.Sprintf(method, r.Rounds, r.Trial)))
	r.markdownTargets(p)
	drawn := r.Charts()
	for i := range r.Groups {
		r.Groups[i].markdown(p)
		for _, c := range drawn {
			if c.of == &r.Groups[i] && charts != "" {
				p.line("")
				p.line("![%s](%s)", strings.NewReplacer("[", "(", "]", ")").Replace(c.Text), path.Join(charts, c.File))
			}
		}
	}
	if len(r.LeftOut) > 0 {
		p.line("")
		p.line("## Left out")
		p.line("")
		for _, l := range r.LeftOut {
			p.line("- %s: %s.", l.What, strings.TrimSuffix(l.Why, "."))
		}
	}
	return p.err
}

// method says how figures come about.
const method = `
## How to read this

- A load sends, a subject relays, a sink counts: three processes that share the machine's cores. CPU is the time of the
  subject's process, user and system, over the datagrams that arrived; it holds steady where rates do not.
- *max/s* is the highest rate at which less than 0.1 %% was lost, found by search; ≥ marks one that the load, not the
  subject, was the limit of. *CPU* is measured at the rate *measured at*, the same for gateway and loops, which lies
  below what the slowest of them holds; a peer that holds less is measured at what it holds.
- What is compared takes turns: A, B, A, B, …, %d trials of %v each. The first after each start is thrown away. Shown is
  the median, and in brackets the lowest and the highest.
- The *loop* receives and sends and does nothing else, on bare sockets: GRO in, GSO out. With an AEAD it also opens each
  packet, or seals it on the way back, and that is all. *gateway's sockets* is the same loop on the sockets of the
  gateway. Ratios are of medians of CPU time in this run: *× loop* is how many times the loop's a row costs, *peer ×* how
  many times a row's the peer costs. Where a scenario has no peers, those of bulk out are taken.
- *trains in/out* is how many datagrams a message had on average that the gateway received and sent.
- Delays are from the sender's clock to the sink's, which are one; of trains, that of the first datagram.`

func (r *Report) markdownTargets(p *printer) {
	if len(r.Targets) == 0 {
		return
	}
	p.line("")
	p.line("## Targets")
	p.line("")
	p.line("| target | measured | |")
	p.line("| --- | --- | --- |")
	for i := range r.Targets {
		t := &r.Targets[i]
		p.line("| %s | %s | %s |", escapeCell(t.Name), escapeCell(t.words()), t.verdict())
	}
}

func (g *Group) markdown(p *printer) {
	p.line("")
	p.line("## %s", g.Title)
	p.line("")
	grid := g.grid()
	p.line("| %s |", strings.Join(grid[0], " | "))
	p.line("| ---%s |", strings.Repeat(" | ---:", len(grid[0])-1))
	for i, row := range grid[1:] {
		for j := range row {
			row[j] = escapeCell(row[j])
		}
		if g.Rows[i].Kind == Gateway {
			row[0] = "**" + row[0] + "**"
		}
		p.line("| %s |", strings.Join(row, " | "))
	}
	if notes := g.notes(); len(notes) > 0 {
		p.line("")
		for _, note := range notes {
			p.line("- %s", note)
		}
	}
}

func escapeCell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
