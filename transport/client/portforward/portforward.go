// Package portforward forwards local UDP ports through a session.
//
//	f, err := portforward.Listen(ctx, mappings, logger)
//	if err != nil {
//		return err
//	}
//	defer f.Close()
//	return f.Run(ctx, session)
package portforward

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
	"lewes/transport/client"
	"lewes/transport/udp"
)

const (
	// maxPeers bounds the peers of a port; at it, the least recently active is evicted.
	maxPeers = 4096
	// peerIdle is how long a peer keeps an idle flow.
	peerIdle = 2 * time.Minute
	// readBatch is how many messages one read of a local socket returns at most.
	readBatch = 32
)

// Mapping forwards datagrams for a local address to a target.
type Mapping struct {
	Local  netip.AddrPort // port 0 lets the system choose one
	Target string         // host:port, resolved by the gateway
}

// Dialer opens flows; a *client.Session is one.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Forwarder forwards the local ports of one session.
type Forwarder struct {
	ports []*port
	log   *slog.Logger
}

// Listen binds the local addresses. A nil logger discards.
func Listen(ctx context.Context, mappings []Mapping, log *slog.Logger) (*Forwarder, error) {
	f := &Forwarder{log: cmp.Or(log, slog.New(slog.DiscardHandler))}
	for _, m := range mappings {
		l, err := udp.Listen(ctx, udp.Config{Addrs: []netip.AddrPort{m.Local}, Options: udp.Options{Fragment: true}})
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("portforward: listen for %s: %w", m.Target, err)
		}
		f.ports = append(f.ports, &port{
			f:        f,
			target:   m.Target,
			local:    l.Groups[0].Conns[0],
			maxPeers: maxPeers,
			idle:     peerIdle,
			peers:    make(map[netip.AddrPort]*peer),
		})
	}
	return f, nil
}

// Mappings returns the mappings with the ports that the system has chosen.
func (f *Forwarder) Mappings() []Mapping {
	var all []Mapping
	for _, p := range f.ports {
		all = append(all, Mapping{p.local.LocalAddr().(*net.UDPAddr).AddrPort(), p.target})
	}
	return all
}

// Close closes the local ports, which ends Run.
func (f *Forwarder) Close() {
	for _, p := range f.ports {
		p.close()
	}
}

// Run forwards until ctx is done or the gateway's policy has denied every target; the
// error is then the last *client.FlowError.
func (f *Forwarder) Run(ctx context.Context, d Dialer) error {
	var all sync.WaitGroup
	var mu sync.Mutex
	var last error
	left := len(f.ports)
	for _, p := range f.ports {
		all.Go(func() {
			denied := p.run(ctx, d)
			mu.Lock()
			defer mu.Unlock()
			if left--; denied == nil {
				return
			}
			if last = denied; left > 0 {
				f.log.Error("target denied", slog.String("target", p.target), slog.String("error", denied.Error()))
			}
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return last
}

// evict drops the least recently active peer of all ports. It reports whether there was one.
func (f *Forwarder) evict() bool {
	var of *port
	var least *peer
	for _, p := range f.ports {
		p.mu.Lock()
		if q := p.leastActiveLocked(); q != nil && (least == nil || q.active.Load() < least.active.Load()) {
			of, least = p, q
		}
		p.mu.Unlock()
	}
	if least != nil {
		of.drop(least)
	}
	return least != nil
}

// port forwards between the peers of a local socket and a target. Each peer has a flow, so
// that answers find their peer and the target can tell the peers apart.
type port struct {
	f        *Forwarder
	target   string
	local    *udp.Conn
	maxPeers int
	idle     time.Duration

	flows          sync.WaitGroup
	denied         atomic.Pointer[client.FlowError] // by the gateway's policy
	up, down, lost atomic.Uint64                    // datagrams

	mu    sync.Mutex // guards peers and their paths
	peers map[netip.AddrPort]*peer
}

// peer is the socket of a local program, and its flow.
type peer struct {
	path   path.Path
	conn   net.Conn
	active atomic.Int64 // the last datagram in either direction, in Unix nanoseconds
}

// run serves the port until ctx is done, and waits for its flows to end. It returns the
// error of a target that the gateway's policy denies, or nil.
func (p *port) run(ctx context.Context, d Dialer) *client.FlowError {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, p.close)
	p.flows.Go(func() { p.expire(ctx) })
	p.read(ctx, d)
	cancel()
	stop()
	p.close()
	p.mu.Lock()
	for _, of := range p.peers {
		p.dropLocked(of)
	}
	p.mu.Unlock()
	p.flows.Wait()
	return p.denied.Load()
}

// close ends read.
func (p *port) close() { _ = p.local.Close() }

// read forwards datagrams from local peers.
func (p *port) read(ctx context.Context, d Dialer) {
	batch := make([]transport.Packet, readBatch)
	for {
		n, err := p.local.ReadBatch(batch)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(time.Millisecond) // ICMP from a peer that has closed; its flow expires
			continue
		}
		for i := range batch[:n] {
			for datagram := range batch[i].Segments() {
				p.send(ctx, d, batch[i].Path, datagram)
			}
		}
	}
}

// send writes a datagram to its peer's flow. It replaces a flow that has just ended.
func (p *port) send(ctx context.Context, d Dialer, from path.Path, datagram []byte) {
	p.up.Add(1)
	var err error
	for range 2 {
		var of *peer
		if of, err = p.peer(ctx, d, from); err != nil {
			break
		}
		if _, err = of.conn.Write(datagram); !errors.Is(err, net.ErrClosed) {
			break
		}
		p.drop(of)
	}
	if err != nil {
		p.lost.Add(1)
		p.report(err)
	}
}

// report handles the error of a flow: it ends the port if the policy denies the target,
// and is logged otherwise. Peers only see loss. It returns the gateway's reason, or 0.
func (p *port) report(err error) (reason client.FlowReason) {
	var flow *client.FlowError
	if errors.As(err, &flow) {
		reason = flow.Reason
	}
	switch {
	case reason == client.ReasonPolicy:
		if p.denied.CompareAndSwap(nil, flow) {
			p.close()
		}
	case !errors.Is(err, net.ErrClosed): // the end of the session is reported elsewhere
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err // which contains the target instead of the flow's LocalAddr
		}
		p.f.log.Warn("forwarding failed", slog.String("target", p.target), slog.String("error", err.Error()))
	}
	return reason
}

// peer returns the peer of a datagram. Only read calls it.
func (p *port) peer(ctx context.Context, d Dialer, from path.Path) (*peer, error) {
	now := time.Now().UnixNano()
	p.mu.Lock()
	if known := p.peers[from.Peer]; known != nil {
		known.path = from
		known.active.Store(now)
		p.mu.Unlock()
		return known, nil
	}
	if len(p.peers) >= p.maxPeers {
		p.dropLocked(p.leastActiveLocked())
	}
	p.mu.Unlock()

	conn, err := d.DialContext(ctx, "udp", p.target)
	var limit *client.FlowError
	for errors.As(err, &limit) && limit.Reason == client.ReasonLimit && p.f.evict() {
		conn, err = d.DialContext(ctx, "udp", p.target)
	}
	if err != nil {
		return nil, err
	}
	added := &peer{path: from, conn: conn}
	added.active.Store(now)
	p.mu.Lock()
	p.peers[from.Peer] = added
	p.mu.Unlock()
	p.flows.Go(func() { p.copyAnswers(added) })
	return added, nil
}

// copyAnswers forwards the target's datagrams to a peer.
func (p *port) copyAnswers(to *peer) {
	defer p.drop(to)
	buffer := make([]byte, wire.MaxUDPPacket)
	packet := make([]transport.Packet, 1)
	for {
		n, err := to.conn.Read(buffer)
		if err != nil {
			if p.report(err) == client.ReasonUnreachable {
				continue // the target may return
			}
			return
		}
		to.active.Store(time.Now().UnixNano())
		p.mu.Lock()
		packet[0] = transport.Packet{Data: buffer[:n], Path: to.path}
		p.mu.Unlock()
		if _, err := p.local.WriteBatch(packet); err != nil {
			p.lost.Add(1)
			continue
		}
		p.down.Add(1)
	}
}

// drop closes a peer's flow.
func (p *port) drop(of *peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropLocked(of)
}

func (p *port) dropLocked(of *peer) {
	if p.peers[of.path.Peer] == of {
		delete(p.peers, of.path.Peer)
		_ = of.conn.Close()
	}
}

// leastActiveLocked returns the least recently active peer, or nil.
func (p *port) leastActiveLocked() (least *peer) {
	for _, of := range p.peers {
		if least == nil || of.active.Load() < least.active.Load() {
			least = of
		}
	}
	return least
}

// expire drops idle peers until ctx is done.
func (p *port) expire(ctx context.Context) {
	ticker := time.NewTicker(p.idle / 4)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			p.dropIdle(now)
		}
	}
}

// dropIdle drops the peers that have been idle at now.
func (p *port) dropIdle(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, of := range p.peers {
		if now.UnixNano()-of.active.Load() >= int64(p.idle) {
			p.dropLocked(of)
		}
	}
}
