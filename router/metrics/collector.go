package metrics

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"lewes/router"
	"lewes/state/wire"
	"lewes/transport/tcp"
	"lewes/transport/udp"
)

// drops is what the packets that were dropped are counted under.
const drops = "Packets dropped, by why."

// Source is what a Collector reads: a *router.Gateway.
type Source interface {
	Stats() router.Stats
	Traffic() (clients, egress udp.Stats)
	TCP() tcp.Stats
	Sockets() []router.Socket
}

// Collector reads a gateway's figures when it is asked. It is a
// prometheus.Collector.
type Collector struct{ source Source }

// New returns a collector of a gateway's figures.
func New(source Source) *Collector { return &Collector{source} }

// Describe sends nothing: the collector is unchecked, its series are those that
// Collect sends.
func (*Collector) Describe(chan<- *prometheus.Desc) {}

// Collect sends every figure.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	s := c.source.Stats()
	out := sender{ch}
	out.gauge("sessions", "Established sessions.", s.Sessions)
	out.gauge("handshake_records", "Handshakes under way, or answering repetitions.", s.Records)
	out.gauge("flows", "Open flows to targets.", s.Flows)
	out.gauge("claims", "Receiver indexes claimed at other gateways.", s.Claims)

	out.counter("datagrams_total", "Datagrams of flows.", s.Up.Packets, "direction", "up")
	out.counter("datagrams_total", "Datagrams of flows.", s.Down.Packets, "direction", "down")
	out.counter("payload_bytes_total", "Payload of flows' datagrams.", s.Up.Bytes, "direction", "up")
	out.counter("payload_bytes_total", "Payload of flows' datagrams.", s.Down.Bytes, "direction", "down")
	out.counter("forwarded_packets_total", "Inner packets passed on.", s.Forwarded, "direction", "up")
	out.counter("forwarded_packets_total", "Inner packets passed on.", s.Returned, "direction", "down")

	h := &s.Handshakes
	const steps = "Handshake messages by what became of them."
	out.counter("handshakes_total", steps, h.Hellos, "step", "hello")
	out.counter("handshakes_total", steps, h.Repeated, "step", "repeated")
	out.counter("handshakes_total", steps, h.Collisions, "step", "collision")
	out.counter("handshakes_total", steps, h.Busy, "step", "busy")
	out.counter("handshakes_total", steps, h.Cookies, "step", "cookie")
	out.counter("handshakes_total", steps, h.Opened, "step", "opened")
	out.counter("handshakes_total", steps, h.Failed, "step", "failed")
	out.counter("handshakes_total", steps, h.Unlisted, "step", "unlisted")
	out.counter("handshakes_total", steps, h.Established, "step", "established")
	out.counter("handshakes_total", steps, h.Evicted, "step", "evicted")
	out.counter("handshakes_total", steps, h.Expired, "step", "expired")
	for code, n := range h.Rejects {
		if code > 0 {
			out.counter("rejects_total", "Hellos that were rejected.", n, "code", wire.RejectCode(code).String())
		}
	}
	out.gauge("handshake_backlog_packets", "Handshake packets that wait for their share of the time.", s.Backlog)
	out.gauge("handshake_delay_milliseconds", "How long a handshake packet that comes now is going to wait, in the shard where it is longest.", uint64(s.HandshakeDelay.Milliseconds()))
	out.counter("handshake_stale_packets_total", "Handshake packets given up because they waited too long.", s.Stale)
	out.counter("handshake_milliseconds_total", "Time that shards spent on handshakes.", uint64(s.HandshakeTime.Milliseconds()))
	out.gauge("memory_used_bytes", "What the process holds of the system's memory and needs.", s.MemoryUsed)
	out.gauge("memory_limit_bytes", "What the process may hold of it; 0 where no limit is set.", s.MemoryLimit)
	out.counter("short_of_memory_total", "Hellos refused because memory was short.", s.ShortOfMemory)
	out.counter("clock_jumps_total", "How often the system's clock was set to another time.", s.ClockJumps)
	for shard := range s.Turns {
		out.turns(strconv.Itoa(shard), &s.Turns[shard])
	}
	out.counter("rekeys_total", "Subsessions that were completed.", s.Rekeys)
	out.counter("moves_total", "Changes of a client's address.", s.Moves)
	out.counter("resets_total", "Resets sent for unknown sessions.", s.Resets)

	out.counter("dropped_packets_total", drops, s.Malformed, "reason", "malformed")
	out.counter("dropped_packets_total", drops, s.Unknown, "reason", "unknown_session")
	out.counter("dropped_packets_total", drops, s.Replayed, "reason", "replayed")
	out.counter("dropped_packets_total", drops, s.Forged, "reason", "forged")
	out.counter("dropped_packets_total", drops, s.Misplaced, "reason", "misplaced")
	out.counter("dropped_packets_total", drops, s.Refused, "reason", "refused")
	out.counter("dropped_packets_total", drops, s.TooLarge, "reason", "too_large")
	out.counter("dropped_packets_total", drops, s.EgressFailed, "reason", "egress_failed")
	out.counter("dropped_packets_total", drops, s.ClientFailed, "reason", "client_failed")
	out.counter("dropped_packets_total", drops, s.Unclaimed, "reason", "unclaimed")
	out.counter("flows_opened_total", "Flows that were opened.", s.FlowsOpened)
	out.counter("flows_refused_total", "Flows that were refused.", s.FlowsRefused)
	out.counter("handed_over_packets_total", "Packets that came to another shard's socket.", s.HandedOver)

	out.tcp(&s, c.source.TCP())
	clients, egress := c.source.Traffic()
	out.socket("clients", &clients)
	out.socket("egress", &egress)
	for _, socket := range c.source.Sockets() {
		shard, addr := strconv.Itoa(socket.Shard), socket.Addr.String()
		const granted = "Socket buffer that the system granted."
		out.gauge("socket_buffer_bytes", granted, uint64(socket.ReceiveBuffer.Granted), "direction", "receive", "shard", shard, "listen", addr)
		out.gauge("socket_buffer_bytes", granted, uint64(socket.SendBuffer.Granted), "direction", "send", "shard", shard, "listen", addr)
		const offload = "Whether a segmentation offload is in use."
		out.gauge("socket_offload", offload, oneIf(socket.GSO.On), "offload", "gso", "shard", shard, "listen", addr)
		out.gauge("socket_offload", offload, oneIf(socket.GRO.On), "offload", "gro", "shard", shard, "listen", addr)
	}
}

// tcp sends what came and went over TCP.
func (s sender) tcp(r *router.Stats, t tcp.Stats) {
	s.gauge("tcp_connections", "Open TCP connections.", t.Open)
	s.counter("tcp_accepted_connections_total", "TCP connections that were let in.", t.Accepted)
	const refused = "TCP connections that were closed at once, by the bound that was reached."
	s.counter("tcp_refused_connections_total", refused, t.RefusedFull, "bound", "max_connections")
	s.counter("tcp_refused_connections_total", refused, t.RefusedSource, "bound", "max_per_source")
	s.counter("tcp_accept_errors_total", "Times that the system gave no TCP connection.", t.AcceptErrors)
	const failed = "TCP connections that ended otherwise than with their answers, by why."
	s.counter("tcp_failed_connections_total", failed, t.BadLength, "reason", "bad_length")
	s.counter("tcp_failed_connections_total", failed, t.ReceiveTimeouts, "reason", "receive_timeout")
	s.counter("tcp_failed_connections_total", failed, t.Aborted, "reason", "aborted")
	s.counter("tcp_failed_connections_total", failed, t.RefusedMemory, "reason", "max_receiving")
	s.counter("tcp_failed_connections_total", failed, t.Unanswered, "reason", "unanswered")
	s.counter("tcp_failed_connections_total", failed, t.WriteTimeouts, "reason", "write_timeout")
	s.counter("tcp_failed_connections_total", failed, t.WriteErrors, "reason", "write_error")
	s.counter("tcp_packets_total", "Packets that passed TCP connections.", t.Received.Packets, "direction", "receive")
	s.counter("tcp_packets_total", "Packets that passed TCP connections.", t.Sent.Packets, "direction", "send")
	s.counter("tcp_bytes_total", "Bytes of packets that passed TCP connections.", t.Received.Bytes, "direction", "receive")
	s.counter("tcp_bytes_total", "Bytes of packets that passed TCP connections.", t.Sent.Bytes, "direction", "send")
	s.counter("polls_total", "Polls of sessions.", r.Polls)
	s.counter("polls_replaced_total", "Polls that a newer one of their session replaced.", r.PollsReplaced)
	s.counter("polls_in_vain_total", "Polls that nothing came for.", t.HoldTimeouts)
	s.gauge("tcp_waiting_bytes", "Bytes that wait for sessions on TCP.", r.Held)
	s.counter("dropped_packets_total", drops, r.HeldFull, "reason", "tcp_max_waiting")
	s.counter("dropped_packets_total", drops, r.HeldOld, "reason", "tcp_waiting_age")
}

func oneIf(on bool) uint64 {
	if on {
		return 1
	}
	return 0
}

// sender makes metrics of figures.
type sender struct{ ch chan<- prometheus.Metric }

// desc returns the description of a series; labels are names and values in turn.
func desc(name, help string, labels []string) (*prometheus.Desc, []string) {
	var names, values []string
	for i := 0; i < len(labels); i += 2 {
		names, values = append(names, labels[i]), append(values, labels[i+1])
	}
	return prometheus.NewDesc("lewes_"+name, help, names, nil), values
}

func (s sender) counter(name, help string, value uint64, labels ...string) {
	d, values := desc(name, help, labels)
	s.ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), values...)
}

func (s sender) gauge(name, help string, value uint64, labels ...string) {
	d, values := desc(name, help, labels)
	s.ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(value), values...)
}

// socket sends what one side's sockets did.
func (s sender) socket(side string, u *udp.Stats) {
	s.lane(side, "receive", &u.Received)
	s.lane(side, "send", &u.Sent)
	s.counter("socket_send_errors_total", "Datagrams that the system did not take.", u.SendErrors.Total(), "side", side)
	s.counter("socket_kernel_drops_total", "Datagrams that the kernel dropped because a receive buffer was full.", u.KernelDrops, "side", side)
	s.counter("socket_gso_fallbacks_total", "Sockets on which segmentation offload failed.", u.GSOFallbacks, "side", side)
}

func (s sender) lane(side, direction string, l *udp.Traffic) {
	s.counter("socket_datagrams_total", "Datagrams that passed sockets.", l.Packets, "side", side, "direction", direction)
	s.counter("socket_bytes_total", "Bytes that passed sockets.", l.Bytes, "side", side, "direction", direction)
	var messages uint64
	for _, n := range l.Segments {
		messages += n
	}
	s.histogram("socket_batch_messages", "Messages that one call to the system moved.", l.Batch, messages, side, direction)
	s.histogram("socket_train_segments", "Datagrams that one message held.", l.Segments, l.Packets, side, direction)
}

func (s sender) histogram(name, help string, h udp.Histogram, sum uint64, side, direction string) {
	d, values := desc(name, help, []string{"side", side, "direction", direction})
	buckets := make(map[float64]uint64)
	var count uint64
	for i, n := range h {
		count += n
		if bound := h.Bound(i); bound > 0 {
			buckets[float64(bound)] = count
		}
	}
	s.ch <- prometheus.MustNewConstHistogram(d, count, float64(sum), buckets, values...)
}

// turns sends how long a shard's turns took.
func (s sender) turns(shard string, t *router.TurnTimes) {
	d, values := desc("turn_seconds", "How long a shard's turns took; a long one holds up all of its sessions.", []string{"shard", shard})
	buckets := make(map[float64]uint64)
	var count uint64
	for i, n := range t.Counts {
		count += n
		if i < len(router.TurnBounds) {
			buckets[router.TurnBounds[i].Seconds()] = count
		}
	}
	s.ch <- prometheus.MustNewConstHistogram(d, count, t.Sum.Seconds(), buckets, values...)
	s.gauge("turn_longest_microseconds", "The longest turn of a shard so far.", uint64(t.Longest.Microseconds()), "shard", shard)
}
