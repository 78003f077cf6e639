//go:build linux

package scenario

import (
	"context"
	"fmt"
	"sync"
	"time"

	"lewes/bench/load"
	"lewes/bench/measure"
	"lewes/bench/report"
	"lewes/bench/sink"
	"lewes/bench/worker"
)

// run is the result of sending at a rate for some time.
type run struct {
	sent, arrived uint64
	rate          float64 // as sent, per second
	loss          float64
	late          time.Duration // from the end of sending to the last arrival
	delays        measure.Delays
	used          usages
	traffic       traffic
}

// usages is what the processes of a topology have used.
type usages struct{ subject, load, sink, others measure.Usage }

const (
	drainInterval = 5 * time.Millisecond
	drainQuiet    = 60 * time.Millisecond // without arrivals
	drainLimit    = time.Second
)

// try sends at a rate.
func (b *bench) try(ctx context.Context, t *topology, rate float64, d time.Duration) (*run, error) {
	ctx, cancel := context.WithTimeout(ctx, d+patience)
	defer cancel()
	b.run++
	if err := t.expect(ctx, b.run); err != nil {
		return nil, err
	}
	trafficBefore, err := t.traffic(ctx)
	if err != nil {
		return nil, err
	}
	before, err := t.usage(ctx)
	if err != nil {
		return nil, err
	}
	sent, err := t.send(ctx, b.run, rate, d)
	if err != nil {
		return nil, err
	}
	ended := measure.Now()
	counts, err := t.drain(ctx, sent)
	if err != nil {
		return nil, err
	}
	after, err := t.usage(ctx)
	if err != nil {
		return nil, err
	}
	trafficAfter, err := t.traffic(ctx)
	if err != nil {
		return nil, err
	}
	r := &run{
		used: usages{
			subject: after.subject.Since(before.subject),
			load:    after.load.Since(before.load),
			sink:    after.sink.Since(before.sink),
			others:  after.others.Since(before.others),
		},
		traffic: traffic{
			In:          trafficAfter.In - trafficBefore.In,
			Out:         trafficAfter.Out - trafficBefore.Out,
			MessagesIn:  trafficAfter.MessagesIn - trafficBefore.MessagesIn,
			MessagesOut: trafficAfter.MessagesOut - trafficBefore.MessagesOut,
			Misrouted:   trafficAfter.Misrouted - trafficBefore.Misrouted,
		},
	}
	for i, n := range counts {
		r.sent += sent[i].Sent
		r.arrived += n.Datagrams
		r.rate += sent[i].Rate()
		if n.Last > 0 {
			r.late = max(r.late, time.Duration(n.Last-ended))
		}
		if r.delays.N == 0 {
			r.delays = n.Delays
		}
	}
	if r.sent == 0 {
		return nil, fmt.Errorf("%s: nothing was sent", t.row.Subject)
	}
	r.loss = max(0, 1-float64(r.arrived)/float64(r.sent))
	return r, nil
}

// outcome returns the result for a search. Datagrams that arrive long after the end of sending were
// in a growing queue, so the rate is not sustained.
func (r *run) outcome(d time.Duration) measure.Outcome {
	o := measure.Outcome{Sent: r.rate, Loss: r.loss}
	if r.late > d/20+10*time.Millisecond {
		o.Loss = max(o.Loss, r.late.Seconds()/d.Seconds())
	}
	return o
}

func (t *topology) expect(ctx context.Context, run uint32) error {
	if t.out {
		if err := t.sink.Call(ctx, "expect", run, nil); err != nil {
			return err
		}
	}
	if t.back {
		return t.load.Call(ctx, "expect", load.ExpectPlan{Run: run, Size: t.payload}, nil)
	}
	return nil
}

// send sends in all directions at once, which share the rate. The results are in the order out,
// back.
func (t *topology) send(ctx context.Context, run uint32, rate float64, d time.Duration) ([]measure.Sent, error) {
	if t.out && t.back {
		rate /= 2
	}
	var sent [2]measure.Sent
	var errs [2]error
	var group sync.WaitGroup
	if t.out {
		plan := load.Plan{Run: run, Rate: rate, For: d, Size: t.payload, Train: t.train}
		group.Go(func() { errs[0] = t.load.Call(ctx, "send", plan, &sent[0]) })
	}
	if t.back {
		plan := sink.Plan{Run: run, Rate: rate, For: d, Size: t.payload, Train: t.train, Single: t.single}
		group.Go(func() { errs[1] = t.sink.Call(ctx, "send", plan, &sent[1]) })
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return sent[t.from():t.to()], nil
}

// from and to are the range of the topology's directions in the order out, back.
func (t *topology) from() int {
	if t.out {
		return 0
	}
	return 1
}

func (t *topology) to() int {
	if t.back {
		return 2
	}
	return 1
}

// drain waits until all datagrams have arrived or no more arrive.
func (t *topology) drain(ctx context.Context, sent []measure.Sent) ([]sink.Count, error) {
	var last uint64
	began := time.Now()
	moved := began
	receivers := []*worker.Process{t.sink, t.load}[t.from():t.to()]
	for {
		counts := make([]sink.Count, len(sent))
		var sum, want uint64
		for i, receiver := range receivers {
			if err := receiver.Call(ctx, "count", worker.None{}, &counts[i]); err != nil {
				return nil, err
			}
			sum += counts[i].Datagrams
			want += sent[i].Sent
		}
		now := time.Now()
		if sum != last {
			last, moved = sum, now
		}
		if sum >= want || now.Sub(moved) > drainQuiet || now.Sub(began) > drainLimit {
			return counts, nil
		}
		time.Sleep(drainInterval)
	}
}

// traffic returns the traffic of a gateway's sockets so far.
func (t *topology) traffic(ctx context.Context) (n traffic, err error) {
	if t.gateway != nil {
		err = t.gateway.Call(ctx, "traffic", worker.None{}, &n)
	}
	return n, err
}

func (t *topology) usage(ctx context.Context) (u usages, err error) {
	add := func(sum *measure.Usage, p process) {
		if err == nil {
			var one measure.Usage
			one, err = p.Usage(ctx)
			*sum = sum.Add(one)
		}
	}
	if t.subject != nil {
		add(&u.subject, t.subject)
	}
	add(&u.load, t.load)
	add(&u.sink, t.sink)
	for _, p := range t.others {
		add(&u.others, p)
	}
	return u, err
}

// per returns the nanoseconds per datagram that arrived.
func (r *run) per(u measure.Usage) float64 { return float64(u.CPU) / float64(r.arrived) }

// add adds the samples of a run.
func (t *topology) add(r *run) {
	t.row.Add(report.Rate, r.rate)
	t.row.Add(report.Loss, r.loss)
	if r.arrived == 0 {
		return
	}
	if t.subject != nil {
		t.row.Add(report.CPU, r.per(r.used.subject))
		if r.used.subject.Mallocs > 0 {
			t.row.Add(report.Allocs, float64(r.used.subject.Mallocs)/float64(r.arrived))
		}
	}
	t.row.Add(report.LoadCPU, r.per(r.used.load))
	t.row.Add(report.SinkCPU, r.per(r.used.sink))
	if len(t.others) > 0 {
		t.row.Add(report.OtherCPU, r.per(r.used.others))
	}
	if n := r.traffic; n.MessagesIn > 0 && n.MessagesOut > 0 {
		t.row.Add(report.TrainIn, float64(n.In)/float64(n.MessagesIn))
		t.row.Add(report.TrainOut, float64(n.Out)/float64(n.MessagesOut))
		t.row.Add(report.Misrouted, float64(n.Misrouted)/float64(n.In))
	}
	t.row.AddDelays(r.delays)
}
