package client

import (
	"sync"

	"lewes/state/wire"
	"lewes/transport"
)

// outgoing is a packet on its way out, in a pooled buffer.
type outgoing struct {
	batch [1]transport.Packet // what the Conn is given
	data  []byte
	buf   [wire.MaxUDPPacket]byte
}

var outgoings = sync.Pool{New: func() any { return new(outgoing) }}

// flowPacket builds a packet of a flow up to its sealing, which writes the header.
// opening is what a packet bears that opens its flow, nil for one that does not;
// the caller has checked that all of it fits.
func flowPacket(t wire.Type, id uint16, opening, payload []byte) *outgoing {
	p := outgoings.Get().(*outgoing)
	var flags wire.FlowFlags
	if opening != nil {
		flags = wire.FlagTarget // the same bit as FlagIdentity
	}
	b := wire.Begin(p.buf[:0], 0, wire.LevelTransport, 0, t)
	b = append(b, byte(id), byte(id>>8), byte(flags))
	b = append(b, opening...)
	b = append(b, payload...)
	p.data = wire.Finish(b)
	return p
}

func (p *outgoing) free() {
	p.batch[0] = transport.Packet{}
	p.data = nil
	outgoings.Put(p)
}
