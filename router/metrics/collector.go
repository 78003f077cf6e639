package metrics

import (
	"reflect"
	"strconv"
	"strings"
	"time"

	"lewes/router"
	"lewes/state/wire"
	"lewes/transport/tcp"
	"lewes/transport/udp"
)

// Source is the gateway that a Collector reads: a *router.Gateway.
type Source interface {
	Stats() router.Stats
	Traffic() (clients, egress udp.Stats)
	TCP() tcp.Stats
	Sockets() []router.Socket
	Refusals() map[router.Refusal]uint64
	Registrations() map[wire.RegisterCode]uint64
	Draining() bool
}

// Build is the version of the program, for lewes_build_info.
type Build struct{ Version, Revision, Modified, Go string }

// Collector exports a gateway's counters.
type Collector struct {
	source Source
	build  Build
	more   []func() any
}

// New returns a collector of a gateway's counters, and of those of its other parts: each function returns a struct
// with the tags of router.Stats.
func New(source Source, build Build, more ...func() any) *Collector {
	return &Collector{source, build, more}
}

// page returns all metrics, with those of the Go runtime and the process.
func (c *Collector) page() *page {
	p := newPage()
	c.collect(p)
	addRuntime(p)
	addProcess(p)
	return p
}

// collect adds every metric to a page.
func (c *Collector) collect(p *page) {
	stats, tcpStats := c.source.Stats(), c.source.TCP()
	out := sender{p}
	out.gauge("build_info", "The program: always 1.", 1, "version", c.build.Version, "revision", c.build.Revision, "modified", c.build.Modified, "go_version", c.build.Go)
	out.gauge("draining", "Whether new clients are refused on request.", oneIf(c.source.Draining()))
	out.fields(reflect.ValueOf(stats), "")
	out.fields(reflect.ValueOf(tcpStats), "")
	for _, stats := range c.more {
		out.fields(reflect.ValueOf(stats()), "")
	}
	for code, n := range stats.Handshakes.Rejects {
		if code > 0 {
			out.counter("rejects_total", "Hellos answered by a Reject, by reason.", float64(n), "reason", rejectReason(wire.RejectCode(code)))
		}
	}
	for reason, n := range refusedFlows(c.source.Refusals()) {
		out.counter("flows_refused_total", "Refused flows to targets and to other gateways, by reason.", float64(n), "reason", reason)
	}
	registrations := c.source.Registrations()
	for code := range wire.CodeClock + 1 {
		out.counter("registrations_total", "Answered Registers by code.", float64(registrations[code]), "code", strings.ReplaceAll(code.String(), " ", "_"))
	}
	for shard := range stats.Batches {
		out.batches(strconv.Itoa(shard), &stats.Batches[shard])
	}
	clients, egress := c.source.Traffic()
	out.socket("clients", &clients)
	out.socket("egress", &egress)
	for _, socket := range c.source.Sockets() {
		shard, addr := strconv.Itoa(socket.Shard), socket.Addr.String()
		const granted = "Socket buffer size that the system granted."
		out.gauge("socket_buffer_bytes", granted, float64(socket.ReceiveBuffer.Granted), "direction", "receive", "shard", shard, "listen", addr)
		out.gauge("socket_buffer_bytes", granted, float64(socket.SendBuffer.Granted), "direction", "send", "shard", shard, "listen", addr)
		const offload = "Whether a segmentation offload is in use."
		out.gauge("socket_offload", offload, oneIf(socket.GSO.On), "offload", "gso", "shard", shard, "listen", addr)
		out.gauge("socket_offload", offload, oneIf(socket.GRO.On), "offload", "gro", "shard", shard, "listen", addr)
	}
}

// fields sends the fields of a struct that have a metric tag (see router.Stats). label is inherited
// from the field that holds the struct.
func (s sender) fields(v reflect.Value, label string) {
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		field := v.Field(i)
		own := tag.Get("label")
		if own == "" {
			own = label
		}
		if field.Kind() == reflect.Struct {
			s.fields(field, own)
			continue
		}
		name := tag.Get("metric")
		if name == "" || strings.HasSuffix(own, "=*") {
			continue
		}
		help := tag.Get("help")
		var value float64
		if d, ok := field.Interface().(time.Duration); ok {
			value = d.Seconds()
		} else {
			value = float64(field.Uint())
		}
		var labels []string
		if key, text, ok := strings.Cut(own, "="); ok {
			labels = []string{key, text}
		}
		if tag.Get("kind") == "gauge" {
			s.gauge(name, help, value, labels...)
		} else {
			s.counter(name, help, value, labels...)
		}
	}
}

func oneIf(on bool) float64 {
	if on {
		return 1
	}
	return 0
}

// rejectReasons are the label values of the codes of a Reject.
var rejectReasons = map[wire.RejectCode]string{
	wire.RejectVersion: "version", wire.RejectClock: "clock", wire.RejectKEM: "kem", wire.RejectAEAD: "aead",
	wire.RejectShuttingDown: "shutting_down", wire.RejectStaleKey: "stale_key",
}

// flowReasons are the label values of the reasons for which flows are refused.
var flowReasons = map[wire.FlowReason]string{
	wire.FlowPolicy: "policy", wire.FlowUnreachable: "unreachable", wire.FlowIdle: "idle_or_unknown", wire.FlowBound: "bound",
	wire.FlowOtherTarget: "other_target", wire.FlowIndexCollision: "index_collision", wire.FlowNotRegistered: "not_registered",
	wire.FlowBandwidth: "bandwidth", wire.FlowSessionClosing: "session_closing", wire.FlowNameNotFound: "name_not_found",
}

func rejectReason(code wire.RejectCode) string {
	if reason, ok := rejectReasons[code]; ok {
		return reason
	}
	return "code_" + strconv.Itoa(int(code))
}

// refusedFlows sums refusals over the rules of the policy. Reasons without any are zero.
func refusedFlows(refusals map[router.Refusal]uint64) map[string]uint64 {
	sum := make(map[string]uint64)
	for _, reason := range flowReasons {
		sum[reason] = 0
	}
	for r, n := range refusals {
		reason, ok := flowReasons[r.Reason]
		if !ok {
			reason = "reason_" + strconv.Itoa(int(r.Reason))
		}
		sum[reason] += n
	}
	return sum
}

// sender adds the gateway's metrics to a page.
type sender struct{ page *page }

func (s sender) counter(name, help string, value float64, labels ...string) {
	s.page.add("lewes_"+name, counterKind, help, value, labels...)
}

func (s sender) gauge(name, help string, value float64, labels ...string) {
	s.page.add("lewes_"+name, gaugeKind, help, value, labels...)
}

// socket sends the counters of one side's sockets.
func (s sender) socket(side string, u *udp.Stats) {
	s.traffic(side, "receive", &u.Received)
	s.traffic(side, "send", &u.Sent)
	s.counter("socket_send_errors_total", "Datagrams that the system did not accept.", float64(u.SendErrors.Total()), "side", side)
	s.counter("socket_kernel_drops_total", "Datagrams that the kernel dropped because a receive buffer was full.", float64(u.KernelDrops), "side", side)
	s.counter("socket_gso_fallbacks_total", "Sockets on which segmentation offload failed.", float64(u.GSOFallbacks), "side", side)
}

func (s sender) traffic(side, direction string, l *udp.Traffic) {
	s.counter("socket_datagrams_total", "Datagrams that passed sockets.", float64(l.Packets), "side", side, "direction", direction)
	s.counter("socket_bytes_total", "Bytes that passed sockets.", float64(l.Bytes), "side", side, "direction", direction)
	var messages uint64
	for _, n := range l.Segments {
		messages += n
	}
	s.histogram("socket_batch_messages", "Messages per system call.", l.Batch, messages, side, direction)
	s.histogram("socket_train_segments", "Datagrams per message.", l.Segments, l.Packets, side, direction)
}

func (s sender) histogram(name, help string, h udp.Histogram, sum uint64, side, direction string) {
	bound := func(i int) float64 { return float64(h.Bound(i)) }
	s.page.histogram("lewes_"+name, help, h[:], bound, float64(sum), "side", side, "direction", direction)
}

// batches sends the durations of a shard's batches.
func (s sender) batches(shard string, t *router.BatchTimes) {
	bound := func(i int) float64 { return router.BatchBounds[i].Seconds() }
	s.page.histogram("lewes_shard_batch_seconds", "Duration of a shard's batches; a long one delays all of its sessions.",
		t.Counts[:], bound, t.Sum.Seconds(), "shard", shard)
	s.gauge("shard_batch_longest_seconds", "Longest batch of a shard since the start.", t.Longest.Seconds(), "shard", shard)
}
