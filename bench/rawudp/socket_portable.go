//go:build !linux

package rawudp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"lewes/state/path"
	"lewes/transport"
	"lewes/transport/udp"
)

// Socket is a UDP socket. One goroutine receives and one queues and flushes; the two may
// differ.
type Socket struct {
	conn    *udp.Conn
	options Options
	batch   []transport.Packet
	arrived []Arrival
	queue   []transport.Packet
	joined  []byte
}

// Open binds a socket; port 0 lets the system choose.
func Open(local netip.AddrPort, o Options) (*Socket, error) {
	if !local.Addr().Is4() {
		return nil, fmt.Errorf("rawudp: %s is no IPv4 address", local.Addr())
	}
	l, err := udp.Listen(context.Background(), udp.Config{Addrs: []netip.AddrPort{local}, Options: o.transport()})
	if err != nil {
		return nil, err
	}
	return &Socket{conn: l.Groups[0].Conns[0], options: o, batch: make([]transport.Packet, o.batch())}, nil
}

func (o *Options) transport() udp.Options {
	return udp.Options{Batch: o.batch(), NoGRO: !o.Join, ReceiveBuffer: o.buffer(), SendBuffer: o.buffer()}
}

// Addr returns the address that the socket is bound to.
func (s *Socket) Addr() netip.AddrPort { return s.conn.LocalAddrPort() }

// Connect makes to the only peer of the socket.
func (s *Socket) Connect(to netip.AddrPort) error {
	local := s.conn.LocalAddrPort()
	_ = s.conn.Close()
	conn, err := udp.DialFrom(local, to, s.options.transport())
	if err != nil {
		return err
	}
	s.conn = conn
	return nil
}

// Receive waits until something comes and returns what is there, or nothing after
// 100 ms. After Close the error is net.ErrClosed.
func (s *Socket) Receive() ([]Arrival, error) {
	if err := s.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return nil, err
	}
	n, err := s.conn.ReadBatch(s.batch)
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, transport.ErrRefused) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s.arrived = s.arrived[:0]
	for _, p := range s.batch[:n] {
		s.arrived = append(s.arrived, Arrival{Data: p.Data[:min(len(p.Data), s.options.keep())], Size: len(p.Data), Segment: p.Segment, From: p.Path.Peer})
	}
	return s.arrived, nil
}

// Queue adds a message: the pieces, one after the other, as datagrams of segment
// bytes each, or as one datagram where segment is 0. They must not change before the
// Flush. to is of no matter on a connected socket.
func (s *Socket) Queue(to netip.AddrPort, segment int, pieces ...[]byte) error {
	way := path.NewUDP(to, netip.Addr{}, 0)
	if segment > 0 {
		for _, p := range pieces {
			s.queue = append(s.queue, transport.Packet{Data: p, Segment: segment, Path: way})
		}
		return nil
	}
	data := pieces[0]
	if len(pieces) > 1 {
		start := len(s.joined)
		for _, p := range pieces {
			s.joined = append(s.joined, p...)
		}
		data = s.joined[start:len(s.joined):len(s.joined)]
	}
	s.queue = append(s.queue, transport.Packet{Data: data, Path: way})
	return nil
}

// Flush sends what was queued. A message that the system refuses is dropped, and what
// follows it is still sent.
func (s *Socket) Flush() error {
	_, err := s.conn.WriteBatch(s.queue)
	clear(s.queue)
	s.queue, s.joined = s.queue[:0], s.joined[:0]
	if errors.Is(err, transport.ErrRefused) {
		return nil
	}
	return err
}

// Close ends a Receive that waits.
func (s *Socket) Close() error { return s.conn.Close() }
