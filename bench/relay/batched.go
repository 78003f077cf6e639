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
	"lewes/crypto/seal"
	"lewes/state/path"
	"lewes/transport"
	"lewes/transport/udp"
)

// batched relays on sockets of transport/udp.
type batched struct {
	listener *udp.Listener
	near     *udp.Conn // to the load
	far      *udp.Conn // to the sink
	out      *seal.Key // nil: relay payloads
	back     *seal.Key
	client   atomic.Pointer[path.Path]
	done     chan struct{}
}

func startBatched(p *Params) (*batched, error) {
	o := udp.Options{NoGSO: p.Single, NoGRO: p.Single}
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

// relayOut returns the function that relays to the sink.
func (r *batched) relayOut() func([]transport.Packet) {
	o := &opener{relay: r}
	return o.relayBatch
}

// opener opens packets and keeps their payloads until they are sent.
type opener struct {
	relay    *batched
	payloads []transport.Packet
}

func (o *opener) relayBatch(batch []transport.Packet) {
	r := o.relay
	if c := r.client.Load(); c == nil || *c != batch[0].Path {
		from := batch[0].Path
		r.client.Store(&from)
	}
	if r.out == nil {
		_, _ = r.far.WriteBatch(batch) // rejected datagrams are lost
		return
	}
	o.payloads = o.payloads[:0]
	for i := range batch {
		for packet := range batch[i].Segments() {
			if body, err := r.out.Open(packet); err == nil {
				o.payloads = append(o.payloads, transport.Packet{Data: load.PayloadIn(body)})
			}
		}
	}
	_, _ = r.far.WriteBatch(o.payloads)
}

// relayBack returns the function that relays to the load.
func (r *batched) relayBack() func([]transport.Packet) {
	c := &batchSealer{relay: r, buffer: make([]byte, rawudp.MaxTrain+rawudp.MaxSegments*(load.Overhead+1))}
	return c.relayBatch
}

// batchSealer seals payloads, one train at a time.
type batchSealer struct {
	relay   *batched
	seq     uint64
	buffer  []byte
	packets []transport.Packet
}

func (c *batchSealer) relayBatch(batch []transport.Packet) {
	client := c.relay.client.Load()
	if client == nil {
		return
	}
	for i := range batch {
		if c.relay.back == nil {
			batch[i].Path = *client
			continue
		}
		free := c.buffer
		c.packets = c.packets[:0]
		for payload := range batch[i].Segments() {
			c.seq++
			packet := load.SealPayload(c.relay.back, free, c.seq, payload)
			free = free[len(packet):]
			c.packets = append(c.packets, transport.Packet{Data: packet, Path: *client})
		}
		_, _ = c.relay.near.WriteBatch(c.packets)
	}
	if c.relay.back == nil {
		_, _ = c.relay.near.WriteBatch(batch)
	}
}
