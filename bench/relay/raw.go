package relay

import (
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"lewes/bench/load"
	"lewes/bench/rawudp"
	"lewes/crypto/seal"
)

// Few buffers stay in the processor's cache. Trains fill theirs; datagrams that come by
// themselves are small and many.
const (
	trains    = 8
	datagrams = 64
	datagram  = 2048
	sealed    = 256 << 10 // what is sealed before it is sent
)

// raw relays on bare sockets.
type raw struct {
	near, far *rawudp.Socket // towards the load, towards the sink
	out, back *seal.Key      // nil: payloads pass as they are
	client    atomic.Pointer[netip.AddrPort]
	done      chan struct{}
}

func startRaw(p *Params) (*raw, error) {
	o := rawudp.Options{Join: true, Batch: trains}
	if p.Apart {
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
	r := &raw{near: near, far: far, done: make(chan struct{}, 2)}
	if p.Key != nil {
		r.out = seal.NewKey(p.Key.Suite, &p.Key.Out)
		r.back = seal.NewKey(p.Key.Suite, &p.Key.Back)
	}
	go r.run(near, r.relayOut)
	go r.run(far, r.relayBack())
	return r, nil
}

func (r *raw) addr() netip.AddrPort { return r.near.Addr() }

func (r *raw) close() {
	_, _ = r.near.Close(), r.far.Close()
	<-r.done
	<-r.done
}

// run receives until the socket is closed.
func (r *raw) run(from *rawudp.Socket, relay func([]rawudp.Arrival) error) {
	defer func() { r.done <- struct{}{} }()
	for {
		arrived, err := from.Receive()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil && len(arrived) > 0 {
			err = relay(arrived)
		}
		if err != nil {
			time.Sleep(time.Millisecond) // what was refused is lost; the sink counts
		}
	}
}

// relayOut sends what came from the load to the sink.
func (r *raw) relayOut(arrived []rawudp.Arrival) error {
	if c := r.client.Load(); c == nil || *c != arrived[0].From {
		from := arrived[0].From
		r.client.Store(&from)
	}
	var pieces [rawudp.MaxSegments][]byte
	for i := range arrived {
		a := &arrived[i]
		if r.out == nil {
			if err := r.far.Queue(netip.AddrPort{}, a.Segment, a.Data); err != nil {
				return err
			}
			continue
		}
		n := 0
		for rest := a.Data; len(rest) > 0 && n < len(pieces); {
			size := len(rest)
			if a.Segment > 0 {
				size = min(size, a.Segment)
			}
			if body, err := r.out.Open(rest[:size]); err == nil {
				pieces[n] = load.PayloadIn(body)
				n++
			}
			rest = rest[size:]
		}
		if err := r.queue(pieces[:n]); err != nil {
			return err
		}
	}
	return r.far.Flush()
}

// queue adds a train of payloads of one size, the last of which may be shorter.
func (r *raw) queue(pieces [][]byte) error {
	switch len(pieces) {
	case 0:
		return nil
	case 1:
		return r.far.Queue(netip.AddrPort{}, 0, pieces[0])
	}
	return r.far.Queue(netip.AddrPort{}, len(pieces[0]), pieces...)
}

// relayBack returns what sends what came from the sink to the load, of whom nothing is
// known until it has sent.
func (r *raw) relayBack() func([]rawudp.Arrival) error {
	s := &sealing{socket: r.near, key: r.back, buffer: make([]byte, sealed)}
	s.free = s.buffer
	return func(arrived []rawudp.Arrival) error {
		client := r.client.Load()
		if client == nil {
			return nil
		}
		for i := range arrived {
			a := &arrived[i]
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

// sealing seals trains into a buffer that is sent when it is full.
type sealing struct {
	socket       *rawudp.Socket
	key          *seal.Key
	seq          uint64
	buffer, free []byte
}

// train seals what arrived, in as many trains as it needs: packets are longer than
// payloads.
func (s *sealing) train(to netip.AddrPort, a *rawudp.Arrival) error {
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
		packets, n := 0, 0 // bytes and number
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
