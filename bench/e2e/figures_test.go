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

// figure is something that was measured, and what it has to be less than.
type figure struct {
	what  string
	took  time.Duration
	below time.Duration // 0: nobody asks
}

// figureTable is all that the tests have measured.
type figureTable struct {
	mu   sync.Mutex
	rows []figure
}

var figures figureTable

// add notes a figure, and fails the test where it is too large.
func (f *figureTable) add(t *testing.T, what string, took, below time.Duration) {
	t.Helper()
	f.mu.Lock()
	f.rows = append(f.rows, figure{what, took, below})
	f.mu.Unlock()
	t.Logf("%s: %v", what, took.Round(time.Millisecond))
	if below > 0 && took >= below {
		t.Errorf("%s: %v, which is not less than %v", what, took, below)
	}
}

func (f *figureTable) print(w io.Writer) {
	if len(f.rows) == 0 {
		return
	}
	slices.SortFunc(f.rows, func(a, b figure) int { return strings.Compare(a.what, b.what) })
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "\nfigure\tmeasured\tless than\n%s\t%s\t%s\n", strings.Repeat("-", 6), strings.Repeat("-", 8), strings.Repeat("-", 9))
	for _, r := range f.rows {
		below := ""
		if r.below > 0 {
			below = r.below.String()
		}
		fmt.Fprintf(table, "%s\t%v\t%s\n", r.what, r.took.Round(time.Millisecond), below)
	}
	_ = table.Flush() // there is nobody left to tell
}
