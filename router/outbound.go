package router

import "lewes/transport"

const (
	// maxOutbound bounds the datagrams that a shard collects before it sends them.
	maxOutbound = 4096
	// maxWrite is the number of datagrams written to a socket at once.
	maxWrite = 128
)

// outlet is a socket towards a target or another gateway, with the datagrams that wait for the end
// of the batch.
type outlet struct {
	conn        transport.Conn // nil until it is opened
	first, last int32          // places in outbound.queue, from 1; 0: none
}

// outbound collects the datagrams of a batch by socket. The space belongs to the shard, so that a
// flow keeps none of it after a burst.
type outbound struct {
	queue   []queuedDatagram
	outlets []*outlet          // that have datagrams, in the order of their first
	packets []transport.Packet // scratch of flushOutlet
	failed  *uint64            // counts datagrams that are not sent
}

// queuedDatagram is a datagram in an outlet's list.
type queuedDatagram struct {
	data []byte
	next int32 // place of the outlet's next datagram; 0: none
}

// add queues a datagram, which must stay unchanged until the end of the batch.
func (b *outbound) add(o *outlet, data []byte) {
	if len(b.queue) == maxOutbound {
		b.flush()
	}
	b.queue = append(b.queue, queuedDatagram{data: data})
	place := int32(len(b.queue))
	if o.first == 0 {
		o.first = place
		b.outlets = append(b.outlets, o)
	} else {
		b.queue[o.last-1].next = place
	}
	o.last = place
}

// flush sends all datagrams.
func (b *outbound) flush() {
	for _, o := range b.outlets {
		b.flushOutlet(o)
	}
	clear(b.outlets)
	clear(b.queue)
	b.outlets, b.queue = b.outlets[:0], b.queue[:0]
}

// flushOutlet sends the datagrams of one socket.
func (b *outbound) flushOutlet(o *outlet) {
	at := o.first
	o.first, o.last = 0, 0
	for at != 0 {
		for at != 0 && len(b.packets) < maxWrite {
			d := &b.queue[at-1]
			b.packets = append(b.packets, transport.Packet{Data: d.data})
			at = d.next
		}
		if sent, err := o.conn.WriteBatch(b.packets); err != nil {
			*b.failed += uint64(len(b.packets) - sent)
		}
		clear(b.packets)
		b.packets = b.packets[:0]
	}
}
