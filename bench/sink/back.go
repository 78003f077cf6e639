package sink

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"lewes/bench/measure"
	"lewes/bench/pace"
	"lewes/bench/payload"
	"lewes/bench/rawudp"
)

// Plan says what to send back.
type Plan struct {
	Run  uint32        `json:"run"`
	Rate float64       `json:"rate"` // datagrams a second, of all flows together
	For  time.Duration `json:"for"`
	Size int           `json:"size"` // bytes of each datagram, at least payload.Size
	// Train is how many datagrams go to one flow before the next has its turn; they leave
	// as one train, unless Apart is set: then each by itself.
	Train int  `json:"train"`
	Apart bool `json:"apart"`
}

// ErrNoFlows means that no flow was opened to the sink, which then cannot send.
var ErrNoFlows = errors.New("sink: no flow is open")

// Send sends to the flows that were opened, in turn.
func (s *Sink) Send(ctx context.Context, p Plan) (pace.Result, error) {
	s.mu.Lock()
	flows := s.sources[:len(s.sources):len(s.sources)]
	s.mu.Unlock()
	if len(flows) == 0 {
		return pace.Result{}, ErrNoFlows
	}
	p.Size = max(p.Size, payload.Size)
	p.Train = min(max(p.Train, 1), rawudp.SegmentsIn(p.Size))
	b := &back{socket: s.socket, plan: p, flows: flows, buffer: make([]byte, p.Train*p.Size)}
	return pace.Run(ctx, pace.Plan{Rate: p.Rate, For: p.For, Unit: p.Train, Most: 4 * max(p.Train, 16)}, b.send)
}

// back is a sending under way.
type back struct {
	socket *rawudp.Socket
	plan   Plan
	flows  []netip.AddrPort
	next   int
	buffer []byte // one train; the trains of one flush are all alike
}

// send sends n datagrams, a whole number of trains.
func (b *back) send(n int) (sent int, err error) {
	now := measure.Now()
	for at := 0; at < len(b.buffer); at += b.plan.Size {
		payload.Put(b.buffer[at:], b.plan.Run, now)
	}
	for sent < n {
		if err := b.queue(b.flows[b.next]); err != nil {
			return sent, err
		}
		b.next = (b.next + 1) % len(b.flows)
		sent += b.plan.Train
	}
	return sent, b.socket.Flush()
}

func (b *back) queue(to netip.AddrPort) error {
	if !b.plan.Apart && b.plan.Train > 1 {
		return b.socket.Queue(to, b.plan.Size, b.buffer)
	}
	for at := 0; at < len(b.buffer); at += b.plan.Size {
		if err := b.socket.Queue(to, 0, b.buffer[at:at+b.plan.Size]); err != nil {
			return err
		}
	}
	return nil
}
