//go:build linux

package scenario

import (
	"context"
	"fmt"
	"time"

	"lewes/bench/load"
	"lewes/bench/measure"
	"lewes/bench/report"
	"lewes/bench/sink"
	"lewes/bench/worker"
)

// run is the result of sending at a rate for some time.
type run struct {
	sent    measure.Sent
	arrived sink.Count
	loss    float64
	late    time.Duration // from the end of sending to the last arrival
	used    usages
	traffic traffic
}

// usages are those of the processes of a topology.
type usages struct{ subject, load, sink, others measure.Usage }

const (
	drainInterval = 5 * time.Millisecond
	drainQuiet    = 60 * time.Millisecond // without arrivals
	drainLimit    = 16                    // times that
)

// try sends at a rate.
func (b *bench) try(ctx context.Context, t *topology, rate float64, d time.Duration) (*run, error) {
	ctx, cancel := context.WithTimeout(ctx, d+patience)
	defer cancel()
	b.run++
	sender, receiver := t.load, t.sink
	plan := measure.Plan{Run: b.run, Rate: rate, For: d, Size: t.payload, Train: t.train, Single: t.single}
	var expected any = b.run
	if t.back {
		sender, receiver = t.sink, t.load
		expected = load.ExpectPlan{Run: b.run, Size: t.payload}
	}
	if err := receiver.Call(ctx, "expect", expected, nil); err != nil {
		return nil, err
	}
	before, trafficBefore, err := t.usage(ctx)
	if err != nil {
		return nil, err
	}
	r := new(run)
	if err := sender.Call(ctx, "send", plan, &r.sent); err != nil {
		return nil, err
	}
	ended := measure.Now()
	if r.arrived, err = b.drain(ctx, receiver, r.sent.Sent); err != nil {
		return nil, err
	}
	after, traffic, err := t.usage(ctx)
	if err != nil {
		return nil, err
	}
	if r.sent.Sent == 0 {
		return nil, fmt.Errorf("%s: nothing was sent", t.row.Subject)
	}
	r.used = usages{after.subject.Since(before.subject), after.load.Since(before.load), after.sink.Since(before.sink), after.others.Since(before.others)}
	r.traffic = traffic.since(trafficBefore)
	r.loss = max(0, 1-float64(r.arrived.Datagrams)/float64(r.sent.Sent))
	r.late = max(0, time.Duration(r.arrived.Last-ended))
	return r, nil
}

// outcome returns the result for a search. Datagrams that arrive long after the end of sending were
// in a growing queue, so the rate is not sustained.
func (r *run) outcome(d time.Duration) measure.Outcome {
	o := measure.Outcome{Sent: r.sent.Rate(), Loss: r.loss}
	if r.late > d/20+10*time.Millisecond {
		o.Loss = max(o.Loss, r.late.Seconds()/d.Seconds())
	}
	return o
}

// drain waits until all datagrams have arrived or no more arrive.
func (b *bench) drain(ctx context.Context, receiver *worker.Process, sent uint64) (n sink.Count, err error) {
	var last uint64
	began := time.Now()
	moved := began
	for {
		if err := receiver.Call(ctx, "count", worker.None{}, &n); err != nil {
			return n, err
		}
		now := time.Now()
		if n.Datagrams != last {
			last, moved = n.Datagrams, now
		}
		if n.Datagrams >= sent || now.Sub(moved) > b.quiet || now.Sub(began) > drainLimit*b.quiet {
			return n, nil
		}
		time.Sleep(drainInterval)
	}
}

// usage returns the usage of the processes so far, and the traffic of a gateway's sockets.
func (t *topology) usage(ctx context.Context) (u usages, n traffic, err error) {
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
	if t.gateway != nil && err == nil {
		err = t.gateway.Call(ctx, "traffic", worker.None{}, &n)
	}
	return u, n, err
}

// per returns the nanoseconds per datagram that arrived.
func (r *run) per(u measure.Usage) float64 { return float64(u.CPU) / float64(r.arrived.Datagrams) }

// add adds the samples of a run.
func (t *topology) add(r *run) {
	t.row.Add(report.Rate, r.sent.Rate())
	t.row.Add(report.Loss, r.loss)
	if r.arrived.Datagrams == 0 {
		return
	}
	if t.subject != nil {
		t.row.Add(report.CPU, r.per(r.used.subject))
		if r.used.subject.Mallocs > 0 {
			t.row.Add(report.Allocs, float64(r.used.subject.Mallocs)/float64(r.arrived.Datagrams))
		}
	}
	t.row.Add(report.LoadCPU, r.per(r.used.load))
	t.row.Add(report.SinkCPU, r.per(r.used.sink))
	if len(t.others) > 0 {
		t.row.Add(report.OtherCPU, r.per(r.used.others))
	}
	if n := r.traffic; n.MessagesIn > 0 && n.MessagesOut > 0 {
		t.row.Add(report.TrainIn, float64(n.DatagramsIn)/float64(n.MessagesIn))
		t.row.Add(report.TrainOut, float64(n.DatagramsOut)/float64(n.MessagesOut))
		t.row.Add(report.Misrouted, float64(n.Misrouted)/float64(n.DatagramsIn))
	}
	t.row.AddDelays(r.arrived.Delays)
}
