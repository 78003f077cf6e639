//go:build linux

package relay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"lewes/bench/load"
	"lewes/bench/rawudp"
	"lewes/bench/worker"
	"lewes/crypto/seal"
)

// Params start a relay as a worker, whose result is the address for the load. It has no calls.
type Params struct {
	Sink netip.AddrPort `json:"sink"`
	// Key opens packets from the load and seals packets to it; nil relays payloads.
	Key *load.Key `json:"key,omitempty"`
	// Single receives and sends each datagram by itself.
	Single bool `json:"single"`
	// Sockets sends to the sink from that many connected sockets in turn, with a system call for
	// each datagram; 0 sends from one socket. There is no way back then.
	Sockets int `json:"sockets"`
}

var loopback = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)

// Role is a relay as a worker.
var Role = worker.Start(func(_ context.Context, p Params) (*worker.Service, error) {
	r, err := start(&p)
	if err != nil {
		return nil, err
	}
	return &worker.Service{Result: r.near.Addr(), Close: r.close}, nil
})

// Few buffers stay in the CPU's cache: trains fill theirs, single datagrams are small and many.
const (
	trains     = 8
	datagrams  = 64
	datagram   = 2048
	sealBuffer = 256 << 10 // sealed packets before they are sent
)

// relay is a loop.
type relay struct {
	near, far *rawudp.Socket // towards the load, towards the sink
	fan       *rawudp.Fan    // may be nil; replaces far on the way out
	out, back *seal.Key      // nil: relay payloads
	client    atomic.Pointer[netip.AddrPort]
	done      chan struct{}
}

func start(p *Params) (*relay, error) {
	o := rawudp.Options{GRO: true, Batch: trains}
	if p.Single {
		o = rawudp.Options{Batch: datagrams, Keep: datagram}
	}
	near, err := rawudp.Open(loopback, o)
	if err != nil {
		return nil, err
	}
	far, err := rawudp.Open(loopback, o)
	if err == nil {
		if err = far.Connect(p.Sink); err != nil {
			_ = far.Close()
		}
	}
	if err != nil {
		_ = near.Close()
		return nil, err
	}
	r := &relay{near: near, far: far, done: make(chan struct{}, 2)}
	if p.Sockets > 0 {
		if r.fan, err = rawudp.OpenFan(p.Sink, p.Sockets); err != nil {
			_, _ = near.Close(), far.Close()
			return nil, err
		}
	}
	if p.Key != nil {
		r.out = seal.NewKey(p.Key.Suite, &p.Key.Out)
		r.back = seal.NewKey(p.Key.Suite, &p.Key.Back)
	}
	go r.run(near, r.relayOut)
	go r.run(far, r.relayBack())
	return r, nil
}

func (r *relay) close() {
	_, _ = r.near.Close(), r.far.Close()
	<-r.done
	<-r.done
	if r.fan != nil {
		r.fan.Close()
	}
}

// run relays until the socket is closed.
func (r *relay) run(from *rawudp.Socket, relay func([]rawudp.Message) error) {
	defer func() { r.done <- struct{}{} }()
	for {
		messages, err := from.Receive()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil && len(messages) > 0 {
			err = relay(messages)
		}
		if err != nil {
			time.Sleep(time.Millisecond) // rejected datagrams are lost
		}
	}
}

// relayOut relays to the sink.
func (r *relay) relayOut(messages []rawudp.Message) error {
	if c := r.client.Load(); c == nil || *c != messages[0].From {
		from := messages[0].From
		r.client.Store(&from)
	}
	var pieces [rawudp.MaxSegments][]byte
	for i := range messages {
		a := &messages[i]
		n, segment := 1, a.Segment
		pieces[0] = a.Data
		if r.out != nil {
			n, segment = r.unseal(pieces[:], a)
		}
		if r.fan != nil {
			for _, p := range pieces[:n] {
				r.fan.Send(p)
			}
		} else if n > 0 {
			if err := r.far.Queue(netip.AddrPort{}, segment, pieces[:n]...); err != nil {
				return err
			}
		}
	}
	return r.far.Flush()
}

// unseal opens the packets of a message and returns how many are authentic, and the segment of
// their payloads: the size of the first one, or 0 if it is alone.
func (r *relay) unseal(payloads [][]byte, a *rawudp.Message) (n, segment int) {
	for rest := a.Data; len(rest) > 0 && n < len(payloads); {
		size := len(rest)
		if a.Segment > 0 {
			size = min(size, a.Segment)
		}
		if body, err := r.out.Open(rest[:size]); err == nil {
			payloads[n] = load.PayloadIn(body)
			n++
		}
		rest = rest[size:]
	}
	if n > 1 {
		segment = len(payloads[0])
	}
	return n, segment
}

// relayBack returns the function that relays to the load, whose address is known after its first
// datagram.
func (r *relay) relayBack() func([]rawudp.Message) error {
	s := &sealer{socket: r.near, key: r.back, buffer: make([]byte, sealBuffer)}
	s.free = s.buffer
	return func(messages []rawudp.Message) error {
		client := r.client.Load()
		if client == nil {
			return nil
		}
		for i := range messages {
			a := &messages[i]
			var err error
			if r.back == nil {
				err = r.near.Queue(*client, a.Segment, a.Data)
			} else {
				err = s.train(*client, a)
			}
			if err != nil {
				return err
			}
		}
		s.free = s.buffer
		return r.near.Flush()
	}
}

// sealer seals trains into a buffer, which is sent when it is full.
type sealer struct {
	socket       *rawudp.Socket
	key          *seal.Key
	seq          uint64
	buffer, free []byte
}

// train seals a message. It may need several trains, because packets are longer than payloads.
func (s *sealer) train(to netip.AddrPort, a *rawudp.Message) error {
	segment := a.Segment
	if segment == 0 {
		segment = len(a.Data)
	}
	size := segment + load.Overhead
	most := rawudp.SegmentsIn(size)
	for rest := a.Data; len(rest) > 0; {
		if len(s.free) < most*size {
			if err := s.socket.Flush(); err != nil {
				return err
			}
			s.free = s.buffer
		}
		packets, n := 0, 0 // bytes, number
		for ; len(rest) > 0 && n < most; n++ {
			payload := rest[:min(segment, len(rest))]
			rest = rest[len(payload):]
			s.seq++
			packets += len(load.SealPayload(s.key, s.free[packets:], s.seq, payload))
		}
		train := s.free[:packets]
		s.free = s.free[packets:]
		joined := size
		if n == 1 {
			joined = 0
		}
		if err := s.socket.Queue(to, joined, train); err != nil {
			return err
		}
	}
	return nil
}
