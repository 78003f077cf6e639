package relay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"lewes/bench/load"
	"lewes/crypto/seal"
	"lewes/transport"
	"lewes/transport/path"
	"lewes/transport/udp"
)

// batched relays on the gateway's own sockets.
type batched struct {
	listener *udp.Listener
	near     *udp.Conn // towards the load
	far      *udp.Conn // towards the sink
	out      *seal.Key // nil: payloads pass as they are
	back     *seal.Key
	client   atomic.Pointer[path.Path]
	done     chan struct{}
}

func startBatched(p *Params) (*batched, error) {
	o := udp.Options{NoGSO: p.Apart, NoGRO: p.Apart}
	l, err := udp.Listen(context.Background(), udp.Config{Addrs: []netip.AddrPort{loopback}, Options: o})
	if err != nil {
		return nil, err
	}
	far, err := udp.Dial(p.Sink, o)
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	r := &batched{listener: l, near: l.Groups[0].Conns[0], far: far, done: make(chan struct{}, 2)}
	if p.Key != nil {
		r.out = seal.NewKey(p.Key.Suite, &p.Key.Out)
		r.back = seal.NewKey(p.Key.Suite, &p.Key.Back)
	}
	go r.run(r.near, r.relayOut())
	go r.run(r.far, r.relayBack())
	return r, nil
}

func (r *batched) addr() netip.AddrPort { return r.near.LocalAddrPort() }

func (r *batched) close() {
	_, _ = r.listener.Close(), r.far.Close()
	<-r.done
	<-r.done
}

func (r *batched) run(from *udp.Conn, relay func([]transport.Packet)) {
	defer func() { r.done <- struct{}{} }()
	batch := make([]transport.Packet, udp.DefaultBatch)
	for {
		n, err := from.ReadBatch(batch)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			time.Sleep(time.Millisecond)
		default:
			relay(batch[:n])
		}
	}
}

// relayOut returns what sends what came from the load to the sink.
func (r *batched) relayOut() func([]transport.Packet) {
	var payloads []transport.Packet
	return func(batch []transport.Packet) {
		if c := r.client.Load(); c == nil || *c != batch[0].Path {
			from := batch[0].Path
			r.client.Store(&from)
		}
		if r.out == nil {
			_, _ = r.far.WriteBatch(batch) // what is lost is lost; the sink counts
			return
		}
		payloads = payloads[:0]
		for i := range batch {
			for packet := range batch[i].Segments() {
				if body, err := r.out.Open(packet); err == nil {
					payloads = append(payloads, transport.Packet{Data: load.PayloadIn(body)})
				}
			}
		}
		_, _ = r.far.WriteBatch(payloads)
	}
}

// relayBack returns what sends what came from the sink to the load.
func (r *batched) relayBack() func([]transport.Packet) {
	var seq uint64
	var packets []transport.Packet
	buffer := make([]byte, 0, 1<<20)
	return func(batch []transport.Packet) {
		client := r.client.Load()
		if client == nil {
			return
		}
		if r.back == nil {
			for i := range batch {
				batch[i].Path = *client
			}
			_, _ = r.near.WriteBatch(batch)
			return
		}
		for i := range batch {
			free := buffer[:cap(buffer)]
			packets = packets[:0]
			for payload := range batch[i].Segments() {
				seq++
				packet := load.SealPayload(r.back, free, seq, payload)
				free = free[len(packet):]
				packets = append(packets, transport.Packet{Data: packet, Path: *client})
			}
			_, _ = r.near.WriteBatch(packets)
		}
	}
}
