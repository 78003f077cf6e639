package sink

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"lewes/bench/measure"
	"lewes/bench/payload"
	"lewes/bench/rawudp"
)

const (
	// buffer lets a burst wait while others have the processor. Where the system grants
	// less, that is what there is.
	buffer = 32 << 20
	// maxSources bounds the flows that are remembered.
	maxSources = 1 << 17
)

// Count is what has arrived of one run.
type Count struct {
	Datagrams uint64 `json:"datagrams"`
	Bytes     uint64 `json:"bytes"`
	First     int64  `json:"first"` // when the first came, of measure.Now; 0: none did
	Last      int64  `json:"last"`
	Foreign   uint64 `json:"foreign"` // of another run, or of somebody else's

	Delays measure.Delays `json:"delays"` // from sender to sink, of the first of each arrival
}

// Seconds is the time from the first arrival to the last.
func (c *Count) Seconds() float64 { return time.Duration(c.Last - c.First).Seconds() }

// Sink counts.
type Sink struct {
	socket *rawudp.Socket
	done   chan struct{}

	mu     sync.Mutex
	run    uint32
	count  Count
	delays *measure.Histogram

	known   map[netip.AddrPort]struct{}
	sources []netip.AddrPort
}

// New returns a sink that listens at an IPv4 address.
func New(at netip.AddrPort) (*Sink, error) {
	socket, err := rawudp.Open(at, rawudp.Options{Keep: payload.Size, Join: true, Buffer: buffer})
	if err != nil {
		return nil, fmt.Errorf("sink: %w", err)
	}
	s := &Sink{
		socket: socket,
		done:   make(chan struct{}),
		delays: new(measure.Histogram),
		known:  make(map[netip.AddrPort]struct{}),
	}
	go s.receive()
	return s, nil
}

// Addr returns where the sink listens.
func (s *Sink) Addr() netip.AddrPort { return s.socket.Addr() }

// Close ends the sink.
func (s *Sink) Close() {
	_ = s.socket.Close()
	<-s.done
}

func (s *Sink) receive() {
	defer close(s.done)
	for {
		arrived, err := s.socket.Receive()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			time.Sleep(time.Millisecond)
		case len(arrived) > 0:
			s.take(arrived)
		}
	}
}

func (s *Sink) take(arrived []rawudp.Arrival) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := measure.Now()
	for i := range arrived {
		a := &arrived[i]
		run, sent, ok := payload.Get(a.Data)
		switch {
		case ok && run == payload.Opening:
			s.opened(a.From)
		case !ok || run != s.run:
			s.count.Foreign += uint64(a.Count())
		default:
			s.count.Datagrams += uint64(a.Count())
			s.count.Bytes += uint64(a.Size)
			if s.count.First == 0 {
				s.count.First = now
			}
			s.count.Last = now
			s.delays.Add(time.Duration(now - sent))
		}
	}
}

func (s *Sink) opened(from netip.AddrPort) {
	if _, ok := s.known[from]; ok || len(s.sources) == maxSources {
		return
	}
	s.known[from] = struct{}{}
	s.sources = append(s.sources, from)
}

// Expect starts to count anew: the datagrams of a run.
func (s *Sink) Expect(run uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.run, s.count = run, Count{}
	s.delays = new(measure.Histogram)
}

// Count returns what has arrived so far.
func (s *Sink) Count() Count {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.count
	c.Delays = s.delays.Delays()
	return c
}

// Sources returns how many flows were opened to the sink, by where they come from.
func (s *Sink) Sources() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sources)
}
