package costs

import (
	_ "embed"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// measured has the samples of the scenario "costs" in Go's benchmark format. To renew it:
//
//	go run ./bench --scenario costs --rounds 5 | grep ^BenchmarkCosts >router/costs/measured.txt
//
//go:embed measured.txt
var measured string

// table has the median of the samples of each kind, in nanoseconds.
var table = sync.OnceValue(func() map[string]float64 {
	samples := make(map[string][]float64)
	for line := range strings.Lines(measured) {
		if f := strings.Fields(line); len(f) >= 3 {
			name := strings.ReplaceAll(strings.TrimPrefix(f[0], "BenchmarkCosts/"), "_", " ")
			if ns, err := strconv.ParseFloat(f[2], 64); err == nil {
				samples[name] = append(samples[name], ns)
			}
		}
	}
	medians := make(map[string]float64)
	for name, s := range samples {
		slices.Sort(s)
		medians[name] = s[len(s)/2]
	}
	return medians
})

// Cost returns what the packet costs a shard, measured without sockets towards clients; 0 if it was
// not measured.
func (k *Kind) Cost() time.Duration { return time.Duration(table()[k.String()]) }

// Counted returns the kind's counter in a struct whose fields have the tags of metrics, as the Stats
// of package router, or the one of all values of its label; nil if there is none.
func (k *Kind) Counted(stats any) (counter *uint64) {
	name, label, _ := strings.Cut(k.Counter, "{")
	label = strings.TrimSuffix(label, "}")
	key, _, _ := strings.Cut(label, "=")
	var find func(v reflect.Value, outer string)
	find = func(v reflect.Value, outer string) {
		for i := range v.NumField() {
			tag := v.Type().Field(i).Tag
			own := tag.Get("label")
			if own == "" {
				own = outer
			}
			switch f := v.Field(i); {
			case f.Kind() == reflect.Struct:
				find(f, own)
			case f.Kind() == reflect.Uint64 && tag.Get("metric") == name && (own == label || own == key+"=*"):
				counter = f.Addr().Interface().(*uint64)
			}
		}
	}
	find(reflect.ValueOf(stats).Elem(), "")
	return counter
}
