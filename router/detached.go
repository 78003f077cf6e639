package router

import (
	"lewes/state/path"
	"lewes/transport"
	"lewes/transport/udp"
)

// NewDetached returns the shard of a gateway without sockets towards clients, for measurements: its
// user passes it packets by Receive, and it writes its packets for clients to out. Flows get real
// sockets unless the configuration has an Egress. detach ends the shard.
func NewDetached(config Config, out transport.Conn) (s *Shard, detach func(), err error) {
	config.Shards = 1
	g, err := newGateway(config)
	if err != nil {
		return nil, nil, err
	}
	s, err = newShard(g, 0, udp.Steer{Shards: 1}, g.handshakeConfig(), oneSocket{out})
	if err != nil {
		return nil, nil, err
	}
	g.shards = []*Shard{s}
	g.addReturnLoop(s)
	g.startReturnLoop(s)
	return s, func() {
		s.close()
		g.returnLoops.Wait()
		if s.returns != nil {
			s.returns.poller.Close()
		}
	}, nil
}

// oneSocket is the only socket towards clients.
type oneSocket struct{ conn transport.Conn }

func (o oneSocket) For(path.Path) transport.Conn { return o.conn }
