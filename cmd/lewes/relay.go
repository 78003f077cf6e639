package main

import (
	"container/list"
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
	"lewes/transport/client"
	"lewes/transport/udp"
)

const (
	// maxPeers bounds the local peers of one mapping. A session's own bound on flows
	// is lower: beyond it, too, the peer that was quiet longest gives way.
	maxPeers = 4096
	// peerIdle is how long a peer keeps its flow when nothing passes.
	peerIdle = 2 * time.Minute
	// relayBatch is how many messages a relay reads from its local socket at once.
	relayBatch = 32
)

// dialer opens flows: a *client.Session.
type dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// relay carries datagrams between the peers of one local socket and a target: each
// peer by a flow of its own, so that answers find their way back and the target can
// tell the peers apart.
type relay struct {
	target string
	local  *udp.Conn
	dialer dialer
	// siblings are all relays of the dialer, this one included: they share its bound
	// on flows.
	siblings []*relay
	log      *zap.Logger

	maxPeers int
	idle     time.Duration

	mu     sync.Mutex
	peers  map[netip.AddrPort]*peer
	recent list.List // of *peer, the one that sent last in front
	flows  sync.WaitGroup

	refusal        atomic.Pointer[client.FlowError] // the target will never be taken
	up, down, lost atomic.Uint64                    // datagrams
}

// peer is a local program's socket, and the flow for it.
type peer struct {
	path     path.Path
	conn     net.Conn
	place    *list.Element // nil once it has been dropped
	lastUp   time.Time
	lastDown atomic.Int64 // Unix nanoseconds
}

// newRelay binds the local side of a mapping; dialer and siblings are set before it
// runs.
func newRelay(ctx context.Context, m mapping, log *zap.Logger) (*relay, error) {
	l, err := udp.Listen(ctx, udp.Config{Addrs: []netip.AddrPort{m.local}, Options: udp.Options{Fragment: true}})
	if err != nil {
		return nil, err
	}
	return &relay{
		target:   m.target,
		local:    l.Groups[0].Conns[0],
		log:      log,
		maxPeers: maxPeers,
		idle:     peerIdle,
		peers:    make(map[netip.AddrPort]*peer),
	}, nil
}

// run serves the local side until ctx is done, and then waits until every flow has
// ended. It returns an error where the gateway will never take the target.
func (r *relay) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, r.close)
	r.flows.Add(1)
	go r.sweep(ctx)
	r.read(ctx)
	cancel()
	stop()
	r.close()
	r.dropAll()
	r.flows.Wait()
	if refusal := r.refusal.Load(); refusal != nil {
		return refusal
	}
	return nil
}

// addr returns the address that is served.
func (r *relay) addr() string { return r.local.LocalAddr().String() }

// close ends read.
func (r *relay) close() { _ = r.local.Close() }

// read takes what local peers send.
func (r *relay) read(ctx context.Context) {
	batch := make([]transport.Packet, relayBatch)
	for {
		n, err := r.local.ReadBatch(batch)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(time.Millisecond) // a peer that has gone; its flow goes when it is idle
			continue
		}
		for i := range batch[:n] {
			for datagram := range batch[i].Segments() {
				r.send(ctx, batch[i].Path, datagram)
			}
		}
	}
}

// send gives a datagram to the flow of its peer. A flow that has just ended gets a
// successor.
func (r *relay) send(ctx context.Context, from path.Path, datagram []byte) {
	r.up.Add(1)
	var err error
	for range 2 {
		var p *peer
		if p, err = r.peer(ctx, from); err != nil {
			break
		}
		if _, err = p.conn.Write(datagram); !errors.Is(err, net.ErrClosed) {
			break
		}
		r.drop(p)
	}
	if err != nil {
		r.lost.Add(1)
		r.tell(err)
	}
}

// tell logs what became of a flow. The user of the relay sees loss, as of any
// network.
func (r *relay) tell(err error) {
	var refused *client.FlowError
	if errors.As(err, &refused) && refused.Reason == wire.FlowPolicy {
		if r.refusal.CompareAndSwap(nil, refused) {
			r.close()
		}
		return
	}
	if errors.Is(err, net.ErrClosed) {
		return // the session has ended, which is said once and elsewhere
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err // which has the target in it, and not the flow's number for an address
	}
	r.log.Warn(err.Error())
}

// peer returns the peer that a datagram came from. Only read calls it.
func (r *relay) peer(ctx context.Context, from path.Path) (*peer, error) {
	now := time.Now()
	r.mu.Lock()
	if p := r.peers[from.Peer]; p != nil {
		p.lastUp, p.path = now, from
		r.recent.MoveToFront(p.place)
		r.mu.Unlock()
		return p, nil
	}
	if len(r.peers) >= r.maxPeers {
		r.dropLocked(r.quietest())
	}
	r.mu.Unlock()

	conn, err := r.dialer.DialContext(ctx, "udp", r.target)
	var bound *client.FlowError
	for errors.As(err, &bound) && bound.Reason == wire.FlowBound && dropQuietest(r.siblings) {
		conn, err = r.dialer.DialContext(ctx, "udp", r.target)
	}
	if err != nil {
		return nil, err
	}
	p := &peer{path: from, conn: conn, lastUp: now}
	r.mu.Lock()
	p.place = r.recent.PushFront(p)
	r.peers[from.Peer] = p
	r.mu.Unlock()
	r.flows.Add(1)
	go r.bringBack(p)
	return p, nil
}

// bringBack takes what the target answers to a peer.
func (r *relay) bringBack(p *peer) {
	defer r.flows.Done()
	defer r.drop(p)
	buffer := make([]byte, wire.MaxUDPPacket)
	packet := make([]transport.Packet, 1)
	for {
		n, err := p.conn.Read(buffer)
		if err != nil {
			var flow *client.FlowError
			r.tell(err)
			if errors.As(err, &flow) && flow.Reason == wire.FlowUnreachable {
				continue // the flow goes on: the target may come back
			}
			return
		}
		p.lastDown.Store(time.Now().UnixNano())
		r.mu.Lock()
		packet[0] = transport.Packet{Data: buffer[:n], Path: p.path}
		r.mu.Unlock()
		if _, err := r.local.WriteBatch(packet); err != nil {
			r.lost.Add(1)
			continue
		}
		r.down.Add(1)
	}
}

// drop ends a peer's flow.
func (r *relay) drop(p *peer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropLocked(p)
}

func (r *relay) dropLocked(p *peer) {
	if p.place == nil {
		return
	}
	r.recent.Remove(p.place)
	p.place = nil
	delete(r.peers, p.path.Peer)
	_ = p.conn.Close()
}

func (r *relay) dropAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.peers {
		r.dropLocked(p)
	}
}

// quietest returns the peer with whom nothing passed for longest; there is one. One
// that was only answered lately moves to the front of those who sent.
func (r *relay) quietest() *peer {
	for range r.recent.Len() {
		p := r.recent.Back().Value.(*peer)
		if answered := time.Unix(0, p.lastDown.Load()); answered.After(p.lastUp) {
			p.lastUp = answered
			r.recent.MoveToFront(p.place)
			continue
		}
		return p
	}
	return r.recent.Back().Value.(*peer)
}

// dropQuietest ends the flow of the quietest peer of all relays. It reports whether
// there was one.
func dropQuietest(relays []*relay) bool {
	var of *relay
	var since time.Time
	for _, r := range relays {
		if at, ok := r.quietSince(); ok && (of == nil || at.Before(since)) {
			of, since = r, at
		}
	}
	if of == nil {
		return false
	}
	of.mu.Lock()
	defer of.mu.Unlock()
	if of.recent.Len() > 0 {
		of.dropLocked(of.quietest())
	}
	return true
}

// quietSince returns when something passed last for the quietest peer, if there is
// one.
func (r *relay) quietSince() (at time.Time, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.recent.Len() == 0 {
		return time.Time{}, false
	}
	return r.quietest().lastUp, true
}

// sweep ends the flows of idle peers.
func (r *relay) sweep(ctx context.Context) {
	defer r.flows.Done()
	ticker := time.NewTicker(r.idle / 4)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			r.dropIdle(now)
		}
	}
}

func (r *relay) dropIdle(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.recent.Len() > 0 {
		p := r.quietest()
		if now.Sub(p.lastUp) < r.idle {
			return
		}
		r.dropLocked(p)
	}
}
