package scenario

import (
	"context"
	"fmt"
	"sync"
	"time"

	"lewes/bench/gateway"
	"lewes/bench/load"
	"lewes/bench/measure"
	"lewes/bench/pace"
	"lewes/bench/report"
	"lewes/bench/sink"
	"lewes/bench/worker"
	"lewes/transport/udp"
)

// rig is a load, a subject and a sink.
type rig struct {
	row     report.Row
	load    *worker.Process
	sink    *worker.Process
	subject *worker.Process   // nil where nothing is between the two
	rest    []*worker.Process // others on the way

	out, back bool // which way it sends
	payload   int
	train     int
	apart     bool
	first     float64 // a rate to begin with, a second
	gateway   bool    // the subject is one
	figures
}

// figures is what the trials of a rig have given so far.
type figures struct {
	dropped bool // it takes no part any more
	max     measure.Series
	maxBits measure.Series
	maxLoss measure.Series
	maxCPU  measure.Series
	at      measure.Series
	loss    measure.Series

	cpu, user, system, allocs measure.Series
	loadCPU, sinkCPU, restCPU measure.Series
	p50, p99, p999            measure.Series
	trainIn, trainOut, handed measure.Series
}

// trial is what came of sending at a rate for a time.
type trial struct {
	sent, arrived uint64
	rate          float64 // as it was sent, a second
	arriving      float64 // as it arrived, a second
	loss          float64
	late          time.Duration // from the end of sending to the last arrival
	delays        measure.Delays

	subject, load, sink, rest measure.Usage
	trainIn, trainOut         float64 // datagrams a message, of a gateway
	handed                    float64 // the share that its shards handed over to each other
}

// drain is how long a trial waits for what is still under way, once nothing comes any
// more, and at most.
const (
	drainStep = 5 * time.Millisecond
	drainWait = 60 * time.Millisecond
	drainMost = time.Second
)

// try sends at a rate.
func (b *Bench) try(ctx context.Context, r *rig, rate float64, d time.Duration) (*trial, error) {
	ctx, cancel := context.WithTimeout(ctx, d+patience)
	defer cancel()
	b.run++
	if err := r.expect(ctx, b.run); err != nil {
		return nil, err
	}
	in, out, err := r.messages(ctx)
	if err != nil {
		return nil, err
	}
	before, err := r.usage(ctx)
	if err != nil {
		return nil, err
	}
	sent, err := r.send(ctx, b.run, rate, d)
	if err != nil {
		return nil, err
	}
	ended := measure.Now()
	counts, err := r.drain(ctx, sent)
	if err != nil {
		return nil, err
	}
	after, err := r.usage(ctx)
	if err != nil {
		return nil, err
	}
	inAfter, outAfter, err := r.messages(ctx)
	if err != nil {
		return nil, err
	}
	t := &trial{
		trainIn:  inAfter.since(in),
		trainOut: outAfter.since(out),
		handed:   inAfter.handedOverSince(in),

		subject: after.subject.Since(before.subject),
		load:    after.load.Since(before.load),
		sink:    after.sink.Since(before.sink),
		rest:    after.rest.Since(before.rest),
	}
	for i, n := range counts {
		t.sent += sent[i].Sent
		t.arrived += n.Datagrams
		t.rate += sent[i].Rate()
		if s := n.Seconds(); s > 0 {
			t.arriving += float64(n.Datagrams) / s
		}
		if n.Last > 0 {
			t.late = max(t.late, time.Duration(n.Last-ended))
		}
		if n.Delays.N > 0 && t.delays.N == 0 {
			t.delays = n.Delays
		}
	}
	if t.sent == 0 {
		return nil, fmt.Errorf("%s: nothing was sent", r.row.Subject)
	}
	t.loss = max(0, 1-float64(t.arrived)/float64(t.sent))
	return t, nil
}

// outcome is what a search is told of a trial of a length: what arrives long after it was sent
// has waited in a queue that grows, which no rate is held with.
func (t *trial) outcome(d time.Duration) measure.Outcome {
	o := measure.Outcome{Sent: t.rate, Loss: t.loss}
	if t.late > d/20+10*time.Millisecond {
		o.Loss = max(o.Loss, t.late.Seconds()/d.Seconds())
	}
	return o
}

// ways returns how many ways the rig sends.
func (r *rig) ways() int {
	n := 0
	for _, way := range []bool{r.out, r.back} {
		if way {
			n++
		}
	}
	return n
}

func (r *rig) expect(ctx context.Context, run uint32) error {
	if r.out {
		if err := r.sink.Call(ctx, "expect", run, nil); err != nil {
			return err
		}
	}
	if r.back {
		return r.load.Call(ctx, "expect", load.CountPlan{Run: run, Size: r.payload}, nil)
	}
	return nil
}

// send sends the ways that the rig has at once, a share of the rate each, and returns what
// was sent, out before back.
func (r *rig) send(ctx context.Context, run uint32, rate float64, d time.Duration) ([]pace.Result, error) {
	rate /= float64(r.ways())
	var results []*pace.Result
	var group sync.WaitGroup
	var errs [2]error
	ask := func(who *worker.Process, plan any) {
		result, i := new(pace.Result), len(results)
		results = append(results, result)
		group.Go(func() { errs[i] = who.Call(ctx, "send", plan, result) })
	}
	if r.out {
		ask(r.load, load.Plan{Run: run, Rate: rate, For: d, Size: r.payload, Train: r.train})
	}
	if r.back {
		ask(r.sink, sink.Plan{Run: run, Rate: rate, For: d, Size: r.payload, Train: r.train, Apart: r.apart})
	}
	group.Wait()
	var sent []pace.Result
	for i, result := range results {
		if errs[i] != nil {
			return nil, errs[i]
		}
		sent = append(sent, *result)
	}
	return sent, nil
}

// counts returns what has arrived, in the order of send.
func (r *rig) counts(ctx context.Context) (counts []sink.Count, err error) {
	ask := func(who *worker.Process) {
		var n sink.Count
		if err == nil {
			err = who.Call(ctx, "count", worker.None{}, &n)
		}
		counts = append(counts, n)
	}
	if r.out {
		ask(r.sink)
	}
	if r.back {
		ask(r.load)
	}
	return counts, err
}

// drain waits until all has arrived, or nothing does any more.
func (r *rig) drain(ctx context.Context, sent []pace.Result) ([]sink.Count, error) {
	var last uint64
	began := time.Now()
	moved := began
	for {
		counts, err := r.counts(ctx)
		if err != nil {
			return nil, err
		}
		var sum, want uint64
		for i := range counts {
			sum += counts[i].Datagrams
			want += sent[i].Sent
		}
		now := time.Now()
		if sum != last {
			last, moved = sum, now
		}
		if sum >= want || now.Sub(moved) > drainWait || now.Sub(began) > drainMost {
			return counts, nil
		}
		time.Sleep(drainStep)
	}
}

// messages is how much a gateway's sockets have moved, and how much of that its shards had
// to hand over to each other.
type messages struct{ datagrams, messages, handedOver uint64 }

// since returns how many datagrams a message had since an earlier look.
func (m messages) since(before messages) float64 {
	if m.messages == before.messages {
		return 0
	}
	return float64(m.datagrams-before.datagrams) / float64(m.messages-before.messages)
}

// handedOverSince returns the share of the datagrams since an earlier look that were handed
// over.
func (m messages) handedOverSince(before messages) float64 {
	if m.datagrams == before.datagrams {
		return 0
	}
	return float64(m.handedOver-before.handedOver) / float64(m.datagrams-before.datagrams)
}

func (m messages) add(l *udp.Traffic) messages {
	m.datagrams += l.Packets
	for _, n := range l.Segments {
		m.messages += n
	}
	return m
}

// messages asks a gateway's sockets.
func (r *rig) messages(ctx context.Context) (in, out messages, err error) {
	if !r.gateway {
		return in, out, nil
	}
	var t gateway.Traffic
	if err := r.subject.Call(ctx, "traffic", worker.None{}, &t); err != nil {
		return in, out, err
	}
	in = in.add(&t.Clients.Received).add(&t.Egress.Received)
	out = out.add(&t.Clients.Sent).add(&t.Egress.Sent)
	in.handedOver = t.HandedOver
	return in, out, nil
}

// usages is what the rig's processes have used.
type usages struct{ subject, load, sink, rest measure.Usage }

func (r *rig) usage(ctx context.Context) (u usages, err error) {
	ask := func(who *worker.Process, into *measure.Usage) {
		if who == nil || err != nil {
			return
		}
		var one measure.Usage
		if one, err = who.Usage(ctx); err == nil {
			*into = into.Add(one)
		}
	}
	ask(r.subject, &u.subject)
	ask(r.load, &u.load)
	ask(r.sink, &u.sink)
	for _, p := range r.rest {
		ask(p, &u.rest)
	}
	return u, err
}

// per returns microseconds a datagram that arrived.
func (t *trial) per(d time.Duration) float64 {
	return float64(d) / float64(time.Microsecond) / float64(t.arrived)
}

// note adds a measured trial to the figures.
func (r *rig) note(t *trial) {
	r.at = append(r.at, t.rate)
	r.loss = append(r.loss, t.loss)
	if t.arrived == 0 {
		return
	}
	if r.subject != nil {
		r.cpu = append(r.cpu, t.per(t.subject.CPU()))
		r.user = append(r.user, t.per(t.subject.User))
		r.system = append(r.system, t.per(t.subject.System))
		r.allocs = append(r.allocs, float64(t.subject.Mallocs)/float64(t.arrived))
	}
	r.loadCPU = append(r.loadCPU, t.per(t.load.CPU()))
	r.sinkCPU = append(r.sinkCPU, t.per(t.sink.CPU()))
	if len(r.rest) > 0 {
		r.restCPU = append(r.restCPU, t.per(t.rest.CPU()))
	}
	if t.trainIn > 0 {
		r.trainIn = append(r.trainIn, t.trainIn)
		r.trainOut = append(r.trainOut, t.trainOut)
		r.handed = append(r.handed, t.handed)
	}
	r.noteDelays(t.delays)
}

func (r *figures) noteDelays(d measure.Delays) {
	if d.N == 0 {
		return
	}
	micros := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	r.p50 = append(r.p50, micros(d.P50))
	r.p99 = append(r.p99, micros(d.P99))
	r.p999 = append(r.p999, micros(d.P999))
}

// fill puts the figures into the rig's row, and returns it.
func (r *rig) fill() report.Row {
	row := &r.row
	row.Max, row.Bits, row.MaxLoss, row.MaxCPU = r.max.Summary(), r.maxBits.Summary(), r.maxLoss.Summary(), r.maxCPU.Summary()
	row.At, row.Loss = r.at.Summary(), r.loss.Summary()
	row.CPU, row.User, row.System, row.Allocs = r.cpu.Summary(), r.user.Summary(), r.system.Summary(), r.allocs.Summary()
	row.LoadCPU, row.SinkCPU, row.RestCPU = r.loadCPU.Summary(), r.sinkCPU.Summary(), r.restCPU.Summary()
	row.TrainIn, row.TrainOut = r.trainIn.Summary(), r.trainOut.Summary()
	row.P50, row.P99, row.P999 = r.p50.Summary(), r.p99.Summary(), r.p999.Summary()
	if row.Loss.Median > measure.MaxLoss {
		row.Notes = append(row.Notes, "more than 0.1 % was lost at the rate that the CPU time was measured at")
	}
	if share := r.handed.Summary().Median; share > 0 {
		row.Notes = append(row.Notes, fmt.Sprintf("%.1f %% of the datagrams came to the socket of another shard than their session's, and were handed over", 100*share))
	}
	return *row
}
