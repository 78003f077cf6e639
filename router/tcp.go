package router

import (
	"context"
	"net"
	"net/netip"

	"go.uber.org/zap"

	"lewes/state/wire"
	"lewes/transport/tcp"
)

// answerRoom is what a connection may hold for its own answers, beside what waited
// for the session.
const answerRoom = 128 << 10

// listenTCP binds the gateway's TCP port, if it is to have one. A gateway that cannot
// goes on over UDP alone. It owns the listeners of a predecessor, and begins to accept.
func (g *Gateway) listenTCP(ctx context.Context, inherited []*net.TCPListener) {
	if !g.config.TCP.On {
		for _, listener := range inherited {
			_ = listener.Close()
		}
		return
	}
	steer := g.shards[0].steer
	listen := g.config.TCP.Listen
	listen.Inherited = inherited
	listen.Shards = g.config.Shards
	listen.Steer = func(packet []byte) int {
		index, _ := wire.ReceiverIdx(packet)
		return steer.Shard(index)
	}
	listen.MaxAnswer = or(g.config.TCP.MaxHeld, maxHeld) + answerRoom
	if listen.Notify == nil {
		listen.Notify = func(err error) { g.log.Warn(err.Error()) }
	}
	listener, err := tcp.Listen(ctx, listen)
	if err != nil {
		g.log.Warn("TCP cannot be served; clients whose networks let no UDP pass will not reach this gateway", zap.Error(err))
		return
	}
	for _, failed := range listener.Failed {
		g.log.Warn("an address cannot be served over TCP", zap.Error(failed))
	}
	g.tcp = listener
	for i, s := range g.shards {
		s.down.out = listener.Shards[i]
		g.feeds = append(g.feeds, feed{s, listener.Shards[i]})
	}
}

// TCPAddrs returns the addresses that the gateway serves over TCP.
func (g *Gateway) TCPAddrs() []netip.AddrPort {
	if g.tcp == nil {
		return nil
	}
	var addrs []netip.AddrPort
	for _, group := range g.tcp.Groups {
		addrs = append(addrs, group.Addr)
	}
	return addrs
}

// TCP returns what the gateway's TCP port has seen; zero where it has none.
func (g *Gateway) TCP() tcp.Stats {
	if g.tcp == nil {
		return tcp.Stats{}
	}
	return g.tcp.Stats()
}
