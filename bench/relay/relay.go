//go:build linux

package relay

import (
	"context"
	"net/netip"

	"lewes/bench/load"
	"lewes/bench/worker"
)

// Params start a relay as a worker, whose result is the address for the load. It has no calls.
type Params struct {
	Sink netip.AddrPort `json:"sink"`
	// Key opens packets from the load and seals packets to it; nil relays payloads.
	Key *load.Key `json:"key,omitempty"`
	// Single receives and sends each datagram by itself.
	Single bool `json:"single"`
	// Batched relays on the sockets of transport/udp.
	Batched bool `json:"batched"`
	// Sockets sends to the sink from that many connected sockets in turn, with a system call for
	// each datagram; 0 sends from one socket. There is no way back then.
	Sockets int `json:"sockets"`
}

var loopback = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)

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
