//go:build linux

// Package sink is the target in every scenario: it counts datagrams and their delays, and sends
// datagrams back to the flows that were opened to it. It is the same for gateways, loops and
// peers.
//
// Counting is cheap: trains are received as one message, and only the header of the first
// datagram is copied out of the kernel.
package sink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"lewes/bench/measure"
	"lewes/bench/rawudp"
	"lewes/bench/worker"
)

const (
	// buffer keeps a burst while other processes run. The system may grant less.
	buffer = 32 << 20
	// maxSources bounds the flows that are remembered.
	maxSources = 1 << 17
)

// Count is the number of datagrams of one run.
type Count struct {
	Datagrams uint64 `json:"datagrams"`
	Bytes     uint64 `json:"bytes"`
	Last      int64  `json:"last"`    // time of the last arrival by measure.Now; 0: none
	Foreign   uint64 `json:"foreign"` // of another run or without a header

	Delays measure.Delays `json:"delays"` // of the first datagram of each message
}

// Counter counts the datagrams of a run. It is safe for concurrent use.
type Counter struct {
	mu     sync.Mutex
	run    uint32
	count  Count
	delays *measure.Histogram
}

// Expect restarts the count, for a run.
func (c *Counter) Expect(run uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.run, c.count, c.delays = run, Count{}, new(measure.Histogram)
}

// Count returns the count so far.
func (c *Counter) Count() Count {
	c.mu.Lock()
	defer c.mu.Unlock()
	count := c.count
	if c.delays != nil {
		count.Delays = c.delays.Delays()
	}
	return count
}

// Add counts a message that begins with a datagram. Only its header needs to be valid.
func (c *Counter) Add(datagram []byte, datagrams, size int, now int64) {
	run, sent, ok := measure.Header(datagram)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !ok || run != c.run || c.delays == nil {
		c.count.Foreign += uint64(datagrams)
		return
	}
	c.count.Datagrams += uint64(datagrams)
	c.count.Bytes += uint64(size)
	c.count.Last = now
	c.delays.Add(time.Duration(now - sent))
}

// Sink is a target.
type Sink struct {
	Counter
	socket *rawudp.Socket
	done   chan struct{}

	mu      sync.Mutex
	known   map[netip.AddrPort]struct{}
	sources []netip.AddrPort
}

// New returns a sink that listens at an IPv4 address.
func New(at netip.AddrPort) (*Sink, error) {
	socket, err := rawudp.Open(at, rawudp.Options{Keep: measure.HeaderSize, GRO: true, Buffer: buffer})
	if err != nil {
		return nil, fmt.Errorf("sink: %w", err)
	}
	s := &Sink{socket: socket, done: make(chan struct{}), known: make(map[netip.AddrPort]struct{})}
	go s.receive()
	return s, nil
}

// Addr returns the address of the sink.
func (s *Sink) Addr() netip.AddrPort { return s.socket.Addr() }

// Close stops the sink.
func (s *Sink) Close() {
	_ = s.socket.Close()
	<-s.done
}

func (s *Sink) receive() {
	defer close(s.done)
	for {
		messages, err := s.socket.Receive()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			time.Sleep(time.Millisecond)
		}
		now := measure.Now()
		for i := range messages {
			m := &messages[i]
			if run, _, ok := measure.Header(m.Data); ok && run == measure.OpeningRun {
				s.addSource(m.From)
				continue
			}
			s.Add(m.Data, m.Count(), m.Size, now)
		}
	}
}

func (s *Sink) addSource(from netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.known[from]; ok || len(s.sources) == maxSources {
		return
	}
	s.known[from] = struct{}{}
	s.sources = append(s.sources, from)
}

// Sources returns the number of flows, by source address, that were opened to the sink.
func (s *Sink) Sources() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sources)
}

// ErrNoFlows means that no flow was opened to the sink.
var ErrNoFlows = errors.New("sink: no open flow")

// Send sends to the open flows in turn.
func (s *Sink) Send(ctx context.Context, p measure.Plan) (measure.Sent, error) {
	s.mu.Lock()
	flows := s.sources[:len(s.sources):len(s.sources)]
	s.mu.Unlock()
	if len(flows) == 0 {
		return measure.Sent{}, ErrNoFlows
	}
	p.Size = max(p.Size, measure.HeaderSize)
	p.Train = min(max(p.Train, 1), rawudp.SegmentsIn(p.Size))
	train := make([]byte, p.Train*p.Size) // the trains of one burst are identical
	next := 0
	queue := func(to netip.AddrPort) error {
		if !p.Single && p.Train > 1 {
			return s.socket.Queue(to, p.Size, train)
		}
		for at := 0; at < len(train); at += p.Size {
			if err := s.socket.Queue(to, 0, train[at:at+p.Size]); err != nil {
				return err
			}
		}
		return nil
	}
	pacer := measure.Pacer{Rate: p.Rate, For: p.For, Unit: p.Train, Most: 4 * max(p.Train, 16)}
	return pacer.Run(ctx, func(n int) (sent int, err error) {
		now := measure.Now()
		for at := 0; at < len(train); at += p.Size {
			measure.PutHeader(train[at:], p.Run, now)
		}
		for ; sent < n; sent += p.Train {
			if err := queue(flows[next]); err != nil {
				return sent, err
			}
			next = (next + 1) % len(flows)
		}
		return sent, s.socket.Flush()
	})
}

// Params start a sink as a worker.
type Params struct {
	At netip.AddrPort `json:"at"`
}

// Role is a sink as a worker. Its result is the address. The calls are "expect" (a run), "count",
// "sources" and "send" (a measure.Plan).
var Role = worker.Start(func(_ context.Context, p Params) (*worker.Service, error) {
	s, err := New(p.At)
	if err != nil {
		return nil, err
	}
	return &worker.Service{
		Result: s.Addr(),
		Close:  s.Close,
		Calls: map[string]worker.Handler{
			"expect": worker.Method(func(_ context.Context, run uint32) (worker.None, error) {
				s.Expect(run)
				return worker.None{}, nil
			}),
			"count":   worker.Method(func(context.Context, worker.None) (Count, error) { return s.Count(), nil }),
			"sources": worker.Method(func(context.Context, worker.None) (int, error) { return s.Sources(), nil }),
			"send":    worker.Method(s.Send),
		},
	}, nil
})
