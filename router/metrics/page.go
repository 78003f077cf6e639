package metrics

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// page collects metrics, and prints them in Prometheus's text format, version 0.0.4.
type page struct{ families map[string]*family }

// family is all series of one name.
type family struct {
	kind, help string
	lines      []byte
}

// Kinds of families.
const (
	counterKind   = "counter"
	gaugeKind     = "gauge"
	histogramKind = "histogram"
)

func newPage() *page { return &page{make(map[string]*family)} }

// family returns the family of a name. The help of its first series is that of all.
func (p *page) family(name, kind, help string) *family {
	f := p.families[name]
	if f == nil {
		f = &family{kind: kind, help: help}
		p.families[name] = f
	}
	return f
}

// add adds a series. labels alternates names and values.
func (p *page) add(name, kind, help string, value float64, labels ...string) {
	p.family(name, kind, help).sample(name, value, labels, "")
}

// sample adds a line; le, if not empty, is the bound of a bucket.
func (f *family) sample(name string, value float64, labels []string, le string) {
	pairs := slices.Collect(slices.Chunk(labels, 2))
	slices.SortFunc(pairs, func(a, b []string) int { return cmp.Compare(a[0], b[0]) })
	if le != "" {
		pairs = append(pairs, []string{"le", le})
	}
	f.lines = append(f.lines, name...)
	separator := byte('{')
	for _, pair := range pairs {
		f.lines = append(append(append(f.lines, separator), pair[0]...), `="`...)
		f.lines = append(append(f.lines, valueEscapes.Replace(pair[1])...), '"')
		separator = ','
	}
	if len(pairs) > 0 {
		f.lines = append(f.lines, '}')
	}
	f.lines = append(append(append(f.lines, ' '), number(value)...), '\n')
}

// histogram adds one with the counts of buckets, the last of which has no bound.
func (p *page) histogram(name, help string, counts []uint64, bound func(int) float64, sum float64, labels ...string) {
	f := p.family(name, histogramKind, help)
	count := uint64(0)
	for i, n := range counts {
		count += n
		le := "+Inf"
		if i < len(counts)-1 {
			le = number(bound(i))
		}
		f.sample(name+"_bucket", float64(count), labels, le)
	}
	f.sample(name+"_sum", sum, labels, "")
	f.sample(name+"_count", float64(count), labels, "")
}

var (
	helpEscapes  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	valueEscapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

func number(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }

// text returns the page.
func (p *page) text() []byte {
	var b []byte
	for _, name := range slices.Sorted(maps.Keys(p.families)) {
		f := p.families[name]
		b = append(b, "# HELP "+name+" "+helpEscapes.Replace(f.help)+"\n# TYPE "+name+" "+f.kind+"\n"...)
		b = append(b, f.lines...)
	}
	return b
}
