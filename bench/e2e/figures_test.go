package e2e

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"
)

// figure is a measured time and its target, which no test asserts: the machine may be busy.
type figure struct {
	what   string
	took   time.Duration
	target time.Duration
}

// figureTable collects the figures of all tests.
type figureTable struct {
	mu   sync.Mutex
	rows []figure
}

var figures figureTable

// add records a figure.
func (f *figureTable) add(t *testing.T, what string, took, target time.Duration) {
	t.Helper()
	f.mu.Lock()
	f.rows = append(f.rows, figure{what, took, target})
	f.mu.Unlock()
	t.Logf("%s: %v", what, took.Round(time.Millisecond))
}

func (f *figureTable) print(w io.Writer) {
	if len(f.rows) == 0 {
		return
	}
	slices.SortFunc(f.rows, func(a, b figure) int { return strings.Compare(a.what, b.what) })
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "\nfigure\tmeasured\ttarget\n%s\t%s\t%s\n", strings.Repeat("-", 6), strings.Repeat("-", 8), strings.Repeat("-", 6))
	for _, r := range f.rows {
		fmt.Fprintf(table, "%s\t%v\t%v\n", r.what, r.took.Round(time.Millisecond), r.target)
	}
	_ = table.Flush() // an error of standard output
}
