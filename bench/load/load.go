//go:build linux

package load

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"lewes/bench/measure"
	"lewes/bench/rawudp"
	"lewes/bench/sink"
	"lewes/bench/worker"
	"lewes/transport"
)

// Load sends and counts datagrams.
type Load struct {
	flows  []boundFlow
	meter  *meter
	closes []func()
}

// boundFlow is a flow and the socket of its packets.
type boundFlow struct {
	Flow
	conn transport.Conn
}

// Unseal opens a packet from the gateway and returns its payload, nil if it is not authentic.
type Unseal func(packet []byte) (payload []byte)

// New returns a Load for flows on one socket, which it closes. A nil unseal takes packets as
// payloads.
func New(conn transport.Conn, unseal Unseal, flows ...Flow) *Load {
	l := &Load{meter: new(meter)}
	for _, f := range flows {
		l.flows = append(l.flows, boundFlow{f, conn})
	}
	if unseal == nil {
		unseal = func(packet []byte) []byte { return packet }
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.read(conn, unseal)
	}()
	l.closes = append(l.closes, func() {
		_ = conn.Close()
		<-ended
	})
	return l
}

func (l *Load) read(conn transport.Conn, unseal Unseal) {
	batch := make([]transport.Packet, 32)
	for {
		n, err := conn.ReadBatch(batch)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			time.Sleep(time.Millisecond)
		}
		for i := range batch[:n] {
			p := &batch[i]
			if !l.meter.expects(p) {
				continue
			}
			for packet := range p.Segments() {
				l.meter.add(p, unseal(packet))
				break
			}
		}
	}
}

// Close closes the sockets.
func (l *Load) Close() {
	for _, c := range l.closes {
		c()
	}
}

var errNoFlow = errors.New("load: no flow")

// openingRate bounds the rate at which flows are opened: a gateway creates a socket for each.
const openingRate = 5000

// Open sends on every flow a datagram that opens it to a target. The sink counts the flows;
// another Open repeats lost datagrams.
func (l *Load) Open(ctx context.Context, target netip.AddrPort) error {
	datagram := make([]byte, measure.HeaderSize)
	measure.PutHeader(datagram, measure.OpeningRun, measure.Now())
	next := 0
	send := func(n int) (int, error) {
		for range min(n, len(l.flows)-next) {
			flow := l.flows[next]
			next++
			packet, err := flow.Opening(target, datagram)
			if err != nil {
				return 0, fmt.Errorf("load: open flow %d: %w", next, err)
			}
			if _, err := write(flow.conn, []transport.Packet{{Data: packet}}); err != nil {
				return 0, err
			}
		}
		return n, nil
	}
	if len(l.flows) == 0 {
		return errNoFlow
	}
	for next < len(l.flows) {
		left := time.Duration(len(l.flows)-next) * time.Second / openingRate
		if _, err := (measure.Pacer{Rate: openingRate, For: left + time.Millisecond}).Run(ctx, send); err != nil {
			return err
		}
	}
	return nil
}

// Send sends on the flows in turn.
func (l *Load) Send(ctx context.Context, p measure.Plan) (measure.Sent, error) {
	if len(l.flows) == 0 {
		return measure.Sent{}, errNoFlow
	}
	s := newSender(l.flows, p)
	pacer := measure.Pacer{Rate: p.Rate, For: p.For, Unit: s.plan.Train, Most: cap(s.packets)}
	return pacer.Run(ctx, s.send)
}

type sender struct {
	flows   []boundFlow
	plan    measure.Plan
	next    int
	payload []byte
	buffer  []byte
	packets []transport.Packet
}

// burst is the largest number of datagrams per call, at least one train. Their buffer should fit
// in the CPU's cache.
const burst = 64

func newSender(flows []boundFlow, p measure.Plan) *sender {
	overhead := 0
	for _, f := range flows {
		overhead = max(overhead, f.Overhead())
	}
	p.Size = max(p.Size, measure.HeaderSize)
	p.Train = min(max(p.Train, 1), rawudp.SegmentsIn(p.Size+overhead))
	most := max(burst/p.Train, 1) * p.Train
	return &sender{
		flows:   flows,
		plan:    p,
		payload: make([]byte, p.Size),
		buffer:  make([]byte, most*(p.Size+overhead)),
		packets: make([]transport.Packet, 0, most),
	}
}

// send builds and sends n datagrams, a whole number of trains.
func (s *sender) send(n int) (sent int, err error) {
	measure.PutHeader(s.payload, s.plan.Run, measure.Now())
	free := s.buffer
	s.packets = s.packets[:0]
	for i := range n {
		flow := s.flows[s.next]
		size := len(s.payload) + flow.Overhead()
		packet := free[:size:size]
		free = free[size:]
		if err := flow.Build(packet, s.payload); err != nil {
			return sent, err
		}
		s.packets = append(s.packets, transport.Packet{Data: packet})
		if (i+1)%s.plan.Train != 0 {
			continue
		}
		s.next = (s.next + 1) % len(s.flows)
		if i+1 < n && s.flows[s.next].conn == flow.conn {
			continue
		}
		n, err := write(flow.conn, s.packets)
		if sent += n; err != nil {
			return sent, err
		}
		s.packets = s.packets[:0]
	}
	return sent, nil
}

// write returns how many packets of a batch were sent. A rejected packet is not an error, but a
// closed socket is.
func write(conn transport.Conn, packets []transport.Packet) (int, error) {
	n, err := conn.WriteBatch(packets)
	var some *transport.SendError
	if err == nil || n == len(packets) || errors.As(err, &some) {
		return n, nil
	}
	return n, err
}

// Expect restarts the count of datagrams that come back: payloads of a size, of a run.
func (l *Load) Expect(run uint32, size int) {
	if len(l.flows) > 0 {
		size += l.flows[0].Overhead()
	}
	l.meter.size.Store(int64(size))
	l.meter.Expect(run)
}

// Count returns the datagrams that have come back so far.
func (l *Load) Count() sink.Count { return l.meter.Count() }

// ExpectPlan describes the datagrams to count.
type ExpectPlan struct {
	Run  uint32 `json:"run"`
	Size int    `json:"size"`
}

// Calls are the calls that every load has: "open" (a target), "send" (a measure.Plan), "expect" (an
// ExpectPlan) and "count".
func Calls(l *Load) map[string]worker.Handler {
	return map[string]worker.Handler{
		"open": worker.Method(func(ctx context.Context, target netip.AddrPort) (worker.None, error) {
			return worker.None{}, l.Open(ctx, target)
		}),
		"send": worker.Method(l.Send),
		"expect": worker.Method(func(_ context.Context, p ExpectPlan) (worker.None, error) {
			l.Expect(p.Run, p.Size)
			return worker.None{}, nil
		}),
		"count": worker.Method(func(context.Context, worker.None) (sink.Count, error) { return l.Count(), nil }),
	}
}
