package router

import (
	"reflect"
	"sync/atomic"
	"time"

	"lewes/state"
)

// Stats are the counters of a gateway since it started. The tags describe the metric of each field:
// its name, whether it is a gauge, its label as name=value, and its help text (fields with the same
// name share the first one's). Package metrics exports them from the tags, durations in seconds; the
// value * of a label stands for several, which a method of Gateway returns.
type Stats struct {
	Sessions uint64 `metric:"sessions" kind:"gauge" help:"Established sessions."`
	Records  uint64 `metric:"handshake_records" kind:"gauge" help:"Handshake records: handshakes under way, and completed ones that answer retransmissions."`
	Flows    uint64 `metric:"flows" kind:"gauge" help:"Open flows to targets."`
	Bindings uint64 `metric:"index_bindings" kind:"gauge" help:"Receiver indexes bound at other gateways."`

	Up        Traffic `label:"direction=up"`   // datagrams from clients, opened
	Down      Traffic `label:"direction=down"` // datagrams to clients, sealed
	Forwarded uint64  `metric:"forwarded_packets_total" label:"direction=up" help:"Inner packets forwarded between clients and other gateways."`
	Returned  uint64  `metric:"forwarded_packets_total" label:"direction=down"`

	Handshakes   state.HandshakeStats
	Rekeys       uint64 `metric:"rekeys_total" help:"Completed subsessions."`
	RekeysFailed uint64 `metric:"rekeys_failed_total" help:"Requests for new keys that failed."`
	Migrations   uint64 `metric:"migrations_total" help:"Migrations of sessions to another path."`

	Malformed     uint64 `metric:"dropped_packets_total" label:"reason=malformed" help:"Dropped packets by reason."`
	Unknown       uint64 `metric:"dropped_packets_total" label:"reason=unknown_session"`
	Replayed      uint64 `metric:"dropped_packets_total" label:"reason=replayed"`
	Forged        uint64 `metric:"dropped_packets_total" label:"reason=forged"`
	Misplaced     uint64 `metric:"dropped_packets_total" label:"reason=unexpected"`
	Refused       uint64 `metric:"dropped_packets_total" label:"reason=refused"`
	TooLarge      uint64 `metric:"dropped_packets_total" label:"reason=too_large"`
	EgressFailed  uint64 `metric:"dropped_packets_total" label:"reason=egress_failed"`
	ClientFailed  uint64 `metric:"dropped_packets_total" label:"reason=client_failed"`
	Unvalidated   uint64 `metric:"dropped_packets_total" label:"reason=unvalidated_path"`
	UnboundIndex  uint64 `metric:"dropped_packets_total" label:"reason=unbound_index"`
	QueueFull     uint64 `metric:"dropped_packets_total" label:"reason=tcp_queue_full"`
	QueueExpired  uint64 `metric:"dropped_packets_total" label:"reason=tcp_queue_expired"`
	OverRate      uint64 `metric:"dropped_packets_total" label:"reason=account_rate"`
	NotRegistered uint64 `metric:"dropped_packets_total" label:"reason=not_registered"`
	UsedUp        uint64 `metric:"dropped_packets_total" label:"reason=bandwidth_used_up"`
	NotRecorded   uint64 `metric:"dropped_packets_total" label:"reason=usage_not_recorded"`

	SessionsRefused uint64 `metric:"sessions_refused_total" label:"reason=account_bound" help:"New sessions that were closed at once, by reason."`

	UnregisteredExpired uint64 `metric:"unregistered_sessions_closed_total" label:"reason=time" help:"Sessions closed because they had no registration, by reason."`
	UnregisteredEvicted uint64 `metric:"unregistered_sessions_closed_total" label:"reason=bound"`
	Unregistered        uint64 `metric:"unregistered_sessions" kind:"gauge" help:"Sessions without a required registration."`

	LedgerUp              uint64 `metric:"ledger_up" kind:"gauge" help:"Whether the ledger of registrations can be read and written; 1 without registrations."`
	Registers             uint64 `metric:"registers_total" help:"Registers received, without repeats."`
	RegistrationsUnderWay uint64 `metric:"registrations_under_way" kind:"gauge" help:"Registers that workers carry out."`

	OverBudget  uint64        `metric:"requests_over_budget_total" help:"Expensive requests refused because the session or its account has used its share of time."`
	RequestTime time.Duration `metric:"request_seconds_total" help:"Time that shards spent on expensive requests of clients."`

	FlowsOpened  uint64 `metric:"flows_opened_total" help:"Flows opened."`
	FlowsRefused uint64 `metric:"flows_refused_total" label:"reason=*"` // by reason: Gateway.Refusals
	Misrouted    uint64 `metric:"misrouted_packets_total" help:"Packets that arrived at another shard's socket."`

	MemoryUsed    uint64 `metric:"memory_used_bytes" kind:"gauge" help:"Memory in use by the process."`
	MemoryLimit   uint64 `metric:"memory_limit_bytes" kind:"gauge" help:"Memory limit of the process; 0 is none."`
	ShortOfMemory uint64 `metric:"hellos_refused_total" label:"reason=memory" help:"Hellos refused before they were read, by reason."`
	ClockJumps    uint64 `metric:"clock_jumps_total" help:"Steps of the system's clock."`

	MeterAccounts   uint64 `metric:"registered_accounts" kind:"gauge" help:"Accounts of registered clients in use."`
	MeterUsed       uint64 `metric:"bandwidth_used_bytes_total" help:"Bytes charged to accounts of registered clients."`
	MeterUnrecorded uint64 `metric:"bandwidth_unrecorded_bytes" kind:"gauge" help:"Charged bytes that the ledger does not have yet."`
	MeterFailed     uint64 `metric:"bandwidth_records_failed_total" help:"Attempts to record charged bytes that failed."`
	MeterStopped    uint64 `metric:"bandwidth_stopped" kind:"gauge" help:"1 while registered clients are not served because charged bytes cannot be recorded."`

	Polls         uint64 `metric:"polls_total" help:"Polls received over TCP."`
	PollsReplaced uint64 `metric:"polls_replaced_total" help:"Waiting Polls that a newer one of the session replaced."`
	QueuedBytes   uint64 `metric:"tcp_queued_bytes" kind:"gauge" help:"Bytes queued for sessions on TCP."`

	HandshakeQueue uint64 `metric:"handshake_queue_packets" kind:"gauge" help:"Queued handshake packets."`
	// HandshakeMemory and HandshakeOthers are by whether the source has proved its address.
	HandshakeMemory uint64        `metric:"handshake_memory_bytes" kind:"gauge" label:"source=proved" help:"Memory of handshake records and queued handshake packets."`
	HandshakeOthers uint64        `metric:"handshake_memory_bytes" kind:"gauge" label:"source=unproved"`
	HandshakeStale  uint64        `metric:"handshake_stale_packets_total" help:"Handshake packets dropped because they were queued too long."`
	HandshakeTime   time.Duration `metric:"handshake_seconds_total" help:"Time that shards spent on handshakes."`
	// HandshakeDelay is the largest of all shards.
	HandshakeDelay time.Duration `metric:"handshake_delay_seconds" kind:"gauge" sum:"max" help:"Expected wait of a handshake packet that arrives now, in the slowest shard."`

	Batches []BatchTimes // one per shard
}

// Traffic counts datagrams of flows and the bytes of their payload.
type Traffic struct {
	Packets uint64 `metric:"datagrams_total" help:"Datagrams of flows."`
	Bytes   uint64 `metric:"payload_bytes_total" help:"Payload bytes of the datagrams of flows."`
}

// add adds another shard's counters.
func (s *Stats) add(o *Stats) {
	sum(reflect.ValueOf(s).Elem(), reflect.ValueOf(o).Elem(), "")
	s.Batches = append(s.Batches, o.Batches...)
}

// sum adds the numbers of one struct to another's, or takes the larger one where the tag asks.
func sum(to, from reflect.Value, how string) {
	switch to.Kind() {
	case reflect.Struct:
		for i := range to.NumField() {
			sum(to.Field(i), from.Field(i), to.Type().Field(i).Tag.Get("sum"))
		}
	case reflect.Array:
		for i := range to.Len() {
			sum(to.Index(i), from.Index(i), how)
		}
	case reflect.Uint64:
		to.SetUint(to.Uint() + from.Uint())
	case reflect.Int64:
		if how == "max" {
			to.SetInt(max(to.Int(), from.Int()))
		} else {
			to.SetInt(to.Int() + from.Int())
		}
	}
}

// returnCounters are the counters of the return path.
type returnCounters struct {
	datagrams, bytes, forwarded, unbound, tooLarge, overRate, failed, unvalidated atomic.Uint64
	usedUp, notRecorded                                                           atomic.Uint64
}

// stats returns the shard's counters and gauges.
func (st *shardState) stats() Stats {
	s, r, q := st.counters, &st.returned, &st.queues
	s.Sessions = uint64(st.sessions.Len())
	s.Records = uint64(st.handshakes.Len())
	s.Flows = uint64(st.flows.all.Len())
	s.Bindings = uint64(st.forwarder.timers.Len())
	s.Unregistered = uint64(st.unregistered.Len())
	s.Handshakes = st.handshakes.Stats
	s.HandshakeQueue = uint64(st.scheduler.len())
	s.HandshakeDelay = max(st.scheduler.delay(state.Unproved), st.scheduler.delay(state.Proved))
	s.Down = Traffic{r.datagrams.Load(), r.bytes.Load()}
	s.Returned = r.forwarded.Load()
	s.UnboundIndex = r.unbound.Load()
	s.Unvalidated = r.unvalidated.Load()
	s.TooLarge += r.tooLarge.Load()
	s.OverRate += r.overRate.Load()
	s.UsedUp += r.usedUp.Load()
	s.NotRecorded += r.notRecorded.Load()
	s.ClientFailed += r.failed.Load()
	s.QueueFull, s.QueueExpired, s.PollsReplaced = q.full.Load(), q.expired.Load(), q.renewed.Load()
	s.Batches = []BatchTimes{st.times}
	return s
}

// BatchBounds are the upper bounds of BatchTimes.Counts, except the last, which has none.
var BatchBounds = [...]time.Duration{
	20 * time.Microsecond, 50 * time.Microsecond, 100 * time.Microsecond, 200 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond,
}

// BatchTimes is a histogram of the durations of a shard's batches, from the arrival of the first
// packet until the last result was sent. A long batch delays all sessions of the shard.
type BatchTimes struct {
	Counts  [len(BatchBounds) + 1]uint64
	Sum     time.Duration
	Longest time.Duration
}

func (t *BatchTimes) add(took time.Duration) {
	i := 0
	for i < len(BatchBounds) && took > BatchBounds[i] {
		i++
	}
	t.Counts[i]++
	t.Sum += took
	t.Longest = max(t.Longest, took)
}
