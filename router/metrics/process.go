package metrics

import (
	"runtime"
	"runtime/metrics"
)

// runtimeMetrics are those of the Go runtime, under the names that Prometheus's library for Go gives them.
var runtimeMetrics = []struct{ key, name, kind, help string }{
	{"/sched/goroutines:goroutines", "go_goroutines", gaugeKind, "Number of goroutines."},
	{"/sched/gomaxprocs:threads", "go_sched_gomaxprocs_threads", gaugeKind, "GOMAXPROCS, the number of threads that run Go code at a time."},
	{"/gc/gomemlimit:bytes", "go_gc_gomemlimit_bytes", gaugeKind, "Memory limit of the Go runtime; huge: none."},
	{"/gc/cycles/total:gc-cycles", "go_gc_cycles_total_gc_cycles_total", counterKind, "Completed garbage collections."},
	{"/memory/classes/heap/objects:bytes", "go_memstats_alloc_bytes", gaugeKind, "Bytes in allocated heap objects."},
	{"/memory/classes/total:bytes", "go_memstats_sys_bytes", gaugeKind, "Bytes that the Go runtime has from the system."},
}

// addRuntime adds the metrics of the Go runtime.
func addRuntime(p *page) {
	samples := make([]metrics.Sample, len(runtimeMetrics))
	for i, m := range runtimeMetrics {
		samples[i].Name = m.key
	}
	metrics.Read(samples)
	for i, m := range runtimeMetrics {
		if v := samples[i].Value; v.Kind() == metrics.KindUint64 {
			p.add(m.name, m.kind, m.help, float64(v.Uint64()))
		}
	}
	p.add("go_info", gaugeKind, "The version of Go: always 1.", 1, "version", runtime.Version())
}
