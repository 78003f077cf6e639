package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
)

// Grade is how serious a finding is.
type Grade string

// The values of Grade.
const (
	OK      Grade = "ok"
	Warning Grade = "warning" // works, with a loss
	Fault   Grade = "fault"   // does not work
)

// Finding is the outcome of a check, or one of several.
type Finding struct {
	Check string `json:"check"`
	Grade Grade  `json:"grade"`
	Text  string `json:"text"`
	Mend  string `json:"mend,omitempty"` // a command
}

// Report is a list of findings.
type Report struct {
	Findings []Finding `json:"findings"`
	Warnings int       `json:"warnings"`
	Faults   int       `json:"faults"`
}

// Add adds findings.
func (r *Report) Add(findings ...Finding) {
	for _, f := range findings {
		r.Findings = append(r.Findings, f)
		switch f.Grade {
		case Warning:
			r.Warnings++
		case Fault:
			r.Faults++
		}
	}
}

// String formats the report as a table, each command below its finding.
func (r *Report) String() string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, f := range r.Findings {
		fmt.Fprintf(w, "%s\t%s\t%s\n", f.Grade, f.Check, f.Text)
		if f.Mend != "" {
			fmt.Fprintf(w, "\t\t  %s\n", f.Mend)
		}
	}
	fmt.Fprintf(w, "\nwarnings: %d, faults: %d", r.Warnings, r.Faults)
	_ = w.Flush() // to memory
	return text.String()
}

// Results receives the findings of one check.
type Results struct {
	name     string
	findings []Finding
}

// OK reports that all is well.
func (r *Results) OK(format string, args ...any) { r.add(OK, "", format, args) }

// Warn reports a warning and the command that mends it.
func (r *Results) Warn(mend, format string, args ...any) { r.add(Warning, mend, format, args) }

// Fault reports a fault and the command that mends it.
func (r *Results) Fault(mend, format string, args ...any) { r.add(Fault, mend, format, args) }

// Add reports a finding of another program.
func (r *Results) Add(f Finding) { r.findings = append(r.findings, f) }

func (r *Results) add(g Grade, mend, format string, args []any) {
	r.findings = append(r.findings, Finding{r.name, g, fmt.Sprintf(format, args...), mend})
}

// Checks is a list of checks. The zero value is empty.
type Checks struct{ list []check }

type check struct {
	name string
	run  func(context.Context, *Results)
}

// Register adds a check. Checks run one after the other, in the order in which they were registered.
func (c *Checks) Register(name string, run func(context.Context, *Results)) {
	c.list = append(c.list, check{name, run})
}

// Has reports whether a check of that name is registered.
func (c *Checks) Has(name string) bool {
	return slices.ContainsFunc(c.list, func(x check) bool { return x.name == name })
}

// Run runs the checks, and stops between two of them once ctx is done.
func (c *Checks) Run(ctx context.Context) *Report {
	report := &Report{Findings: []Finding{}}
	for _, x := range c.list {
		if ctx.Err() != nil {
			break
		}
		r := &Results{name: x.name}
		x.run(ctx, r)
		report.Add(r.findings...)
	}
	return report
}
