package metrics

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"lewes/router"
	"lewes/state/wire"
	"lewes/transport/tcp"
	"lewes/transport/udp"
)

// figures is a source with a number of its own in every place that matters.
type figures struct{}

func (figures) Stats() router.Stats {
	var s router.Stats
	s.Sessions, s.Replayed, s.Up.Packets, s.Down.Bytes = 3, 4, 5, 6
	s.Handshakes.Rejects[2] = 7
	s.Batches = []router.BatchTimes{{}, {Sum: 250 * time.Microsecond, Longest: 240 * time.Microsecond}}
	s.Batches[1].Counts[0], s.Batches[1].Counts[4] = 1, 1
	return s
}

func (figures) Traffic() (clients, egress udp.Stats) {
	clients.Received = udp.Traffic{Packets: 12, Calls: 3}
	clients.Received.Batch[0], clients.Received.Batch[3], clients.Received.Segments[0] = 1, 2, 15
	clients.KernelDrops = 9
	return clients, egress
}

func (figures) TCP() tcp.Stats { return tcp.Stats{Open: 8} }

func (figures) Sockets() []router.Socket {
	return []router.Socket{{Addr: netip.MustParseAddrPort("0.0.0.0:51264"), ReceiveBuffer: udp.Buffer{Requested: 4 << 20, Granted: 425984}, GRO: udp.Offload{On: true}}}
}

func (figures) Refusals() map[router.Refusal]uint64 {
	return map[router.Refusal]uint64{{Reason: wire.FlowPolicy, Rule: "10.0.0.0/8"}: 2, {Reason: wire.FlowPolicy, Rule: "192.0.2.0/24"}: 3, {Reason: wire.FlowBound}: 1}
}

func (figures) Registrations() map[wire.RegisterCode]uint64 {
	return map[wire.RegisterCode]uint64{wire.CodeOK: 4, wire.CodeTicketNeeded: 2}
}

func (figures) Draining() bool { return true }

func TestMetricsFormat(t *testing.T) {
	want := `
# HELP lewes_sessions Established sessions.
# TYPE lewes_sessions gauge
lewes_sessions 3
# HELP lewes_socket_batch_messages Messages per system call.
# TYPE lewes_socket_batch_messages histogram
lewes_socket_batch_messages_bucket{direction="receive",side="clients",le="1"} 1
lewes_socket_batch_messages_bucket{direction="receive",side="clients",le="2"} 1
lewes_socket_batch_messages_bucket{direction="receive",side="clients",le="4"} 1
lewes_socket_batch_messages_bucket{direction="receive",side="clients",le="8"} 3
lewes_socket_batch_messages_bucket{direction="receive",side="clients",le="16"} 3
lewes_socket_batch_messages_bucket{direction="receive",side="clients",le="32"} 3
lewes_socket_batch_messages_bucket{direction="receive",side="clients",le="64"} 3
lewes_socket_batch_messages_bucket{direction="receive",side="clients",le="128"} 3
lewes_socket_batch_messages_bucket{direction="receive",side="clients",le="+Inf"} 3
lewes_socket_batch_messages_sum{direction="receive",side="clients"} 15
lewes_socket_batch_messages_count{direction="receive",side="clients"} 3
`
	got := render(t, figures{})
	for line := range strings.Lines(want) {
		if line = strings.TrimSpace(line); line != "" && !strings.Contains(got, line) {
			t.Errorf("missing: %s", line)
		}
	}
	for _, line := range []string{
		`lewes_dropped_packets_total{reason="replayed"} 4`,
		`lewes_datagrams_total{direction="up"} 5`,
		`lewes_payload_bytes_total{direction="down"} 6`,
		`lewes_tcp_connections 8`,
		`lewes_shard_batch_seconds_bucket{shard="1",le="2e-05"} 1`,
		`lewes_shard_batch_seconds_bucket{shard="1",le="0.0002"} 1`,
		`lewes_shard_batch_seconds_bucket{shard="1",le="0.0005"} 2`,
		`lewes_shard_batch_seconds_sum{shard="1"} 0.00025`,
		`lewes_shard_batch_seconds_count{shard="0"} 0`,
		`lewes_shard_batch_longest_seconds{shard="1"} 0.00024`,
		`lewes_draining 1`,
		`lewes_rejects_total{reason="clock"} 7`,
		`lewes_flows_refused_total{reason="policy"} 5`,
		`lewes_flows_refused_total{reason="bound"} 1`,
		`lewes_flows_refused_total{reason="unreachable"} 0`,
		`lewes_build_info{go_version="go1.26",modified="unknown",revision="0123456789abcdef",version="v1.2.3"} 1`,
		`lewes_socket_kernel_drops_total{side="clients"} 9`,
		`lewes_socket_buffer_bytes{direction="receive",listen="0.0.0.0:51264",shard="0"} 425984`,
		`lewes_socket_offload{listen="0.0.0.0:51264",offload="gro",shard="0"} 1`,
	} {
		if !strings.Contains(got, line) {
			t.Errorf("missing: %s", line)
		}
	}
}

// render returns the page of a source.
func render(t *testing.T, source Source) string {
	t.Helper()
	w := httptest.NewRecorder()
	Handler(source, testBuild).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatal(w.Code, w.Body)
	}
	return w.Body.String()
}

var testBuild = Build{Version: "v1.2.3", Revision: "0123456789abcdef", Modified: "unknown", Go: "go1.26"}

func TestListenInvalidAddress(t *testing.T) {
	_, err := Listen(context.Background(), "127.0.0.1:notaport")
	if err == nil || !strings.Contains(err.Error(), `metrics.listen "127.0.0.1:notaport"`) {
		t.Errorf("error %v", err)
	}
}

// TestServedConnectionsAreBounded shows that as many connections as are served at once may be idle, and
// that the next is served when one of them ends.
func TestServedConnectionsAreBounded(t *testing.T) {
	listener, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{}, maxConnections+1)
	ServeOn(t.Context(), listener, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served <- struct{}{} }))
	ask := func() net.Conn {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		return conn
	}
	first := ask()
	for range maxConnections - 1 {
		ask()
	}
	for range maxConnections {
		<-served
	}
	ask()
	// A later request on a served connection marks the time by which the excess one would be served.
	_, _ = io.WriteString(first, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	<-served
	if len(served) != 0 {
		t.Error("a connection beyond the bound is served")
	}
	_ = first.Close()
	<-served
}

// numbered is a source whose every figure has a number of its own.
type numbered struct {
	figures
	stats router.Stats
	tcp   tcp.Stats
	names map[uint64]string
}

func newNumbered() *numbered {
	n := &numbered{names: map[uint64]string{}}
	next := uint64(1_000_001)
	var fill func(name string, v reflect.Value)
	fill = func(name string, v reflect.Value) {
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				fill(name+"."+v.Type().Field(i).Name, v.Field(i))
			}
		case reflect.Array:
			for i := range v.Len() {
				fill(fmt.Sprintf("%s[%d]", name, i), v.Index(i))
			}
		case reflect.Uint64:
			v.SetUint(next)
			n.names[next] = name
			next++
		case reflect.Int64: // a time.Duration, shown in seconds
			v.SetInt(int64(next) * 1e9)
			n.names[next] = name
			next++
		case reflect.Slice: // Stats.Batches, histograms: TestMetricsFormat
		default:
			panic("no figure: " + name)
		}
	}
	fill("Stats", reflect.ValueOf(&n.stats).Elem())
	n.stats.Batches = figures{}.Stats().Batches
	fill("TCP", reflect.ValueOf(&n.tcp).Elem())
	delete(n.names, n.stats.Handshakes.Rejects[0]) // there is no code 0
	delete(n.names, n.stats.FlowsRefused)          // by reason: TestMetricsFormat
	return n
}

func (n *numbered) Stats() router.Stats { return n.stats }
func (n *numbered) TCP() tcp.Stats      { return n.tcp }

// TestEveryCounterIsExported shows that whatever a gateway counts is a metric, each
// bound that was reached among it.
//
// Shows R12.5.
func TestEveryCounterIsExported(t *testing.T) {
	source := newNumbered()
	shown := map[uint64]int{}
	for _, f := range gather(t, New(source, testBuild)) {
		for _, m := range f.Metric {
			shown[uint64(m.GetCounter().GetValue()+m.GetGauge().GetValue())]++
		}
	}
	for number, name := range source.names {
		if shown[number] != 1 {
			t.Errorf("%s is shown %d times", name, shown[number])
		}
	}
}

// TestProcessMetrics: the page has what the alerts and the dashboard expect of any program in Go, with plausible values.
func TestProcessMetrics(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("Linux only")
	}
	p := newPage()
	addRuntime(p)
	addProcess(p)
	now := float64(time.Now().Unix())
	for name, within := range map[string][2]float64{
		"process_start_time_seconds": {now - 24*3600, now + 60}, "process_cpu_seconds_total": {0, 24 * 3600}, "process_open_fds": {3, 10_000},
		"process_max_fds": {16, 1 << 40}, "process_resident_memory_bytes": {1 << 20, 1 << 40}, "process_virtual_memory_bytes": {1 << 20, 1 << 50},
		"go_goroutines": {1, 10_000}, "go_memstats_alloc_bytes": {1 << 10, 1 << 40},
	} {
		f := p.families[name]
		if f == nil {
			t.Errorf("%s is missing", name)
			continue
		}
		var value float64
		if _, err := fmt.Sscanf(string(f.lines), name+" %g", &value); err != nil || value < within[0] || value > within[1] {
			t.Errorf("%s, %v", f.lines, err)
		}
	}
}

func TestPageEscapes(t *testing.T) {
	p := newPage()
	p.add("b", gaugeKind, "a \\ and\na line", 1e21, "z", "say \"\\\n\"", "a", "")
	p.add("a_total", counterKind, "first", 0)
	const want = "# HELP a_total first\n# TYPE a_total counter\na_total 0\n# HELP b a \\\\ and\\na line\n# TYPE b gauge\nb{a=\"\",z=\"say \\\"\\\\\\n\\\"\"} 1e+21\n"
	if got := string(p.text()); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}
