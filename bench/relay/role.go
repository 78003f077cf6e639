package relay

import (
	"context"
	"net/netip"

	"lewes/bench/load"
	"lewes/bench/worker"
)

// Params start a relay as a worker, which answers with the address that the load is
// to send to. It has no calls of its own.
type Params struct {
	Sink netip.AddrPort `json:"sink"`
	// Key opens what comes from the load and seals what goes back; nil passes payloads as
	// they are.
	Key *load.Key `json:"key,omitempty"`
	// Apart receives and sends each datagram by itself.
	Apart bool `json:"apart"`
	// Batched relays on the gateway's own sockets, not on bare ones.
	Batched bool `json:"batched"`
}

var loopback = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)

// relay is either kind.
type relay interface {
	addr() netip.AddrPort
	close()
}

// Role is a relay as a worker.
var Role = worker.Start(func(_ context.Context, p Params) (*worker.Service, error) {
	r, err := p.start()
	if err != nil {
		return nil, err
	}
	return &worker.Service{Result: r.addr(), Close: r.close}, nil
})

func (p *Params) start() (relay, error) {
	if p.Batched {
		return startBatched(p)
	}
	return startRaw(p)
}
