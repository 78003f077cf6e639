package portforward

import (
	"bytes"
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
	// maxPeers bounds the peers of a port; at it, one is evicted.
	maxPeers = 4096
	// answerWait is how long a peer without an answer is evicted after all others.
	answerWait = 5 * time.Second
	// boundMemory is how long a bound on flows is kept that the gateway has shown.
	boundMemory = time.Minute
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
	open  atomic.Int64 // peers of all ports
	bound flowBound
}

// flowBound is the number of flows that the gateway lets this client have, as far as a refusal has shown.
type flowBound struct {
	mu    sync.Mutex
	flows int64
	until time.Time
}

// learn records that the gateway has refused a flow beside n others.
func (b *flowBound) learn(now time.Time, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.flows, b.until = max(n, 1), now.Add(boundMemory)
}

// reached reports whether n flows are as many as the gateway accepts.
func (b *flowBound) reached(now time.Time, n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return now.Before(b.until) && n >= b.flows
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

// evict drops a peer of all ports, the one that leastActiveLocked prefers. It reports whether there was one.
func (f *Forwarder) evict() bool {
	var of *port
	var least *peer
	now := time.Now()
	for _, p := range f.ports {
		p.mu.Lock()
		if q := p.leastActiveLocked(now); q != nil && (least == nil || q.before(least, now)) {
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
	failures       failureLog

	mu    sync.Mutex // guards peers and their paths
	peers map[netip.AddrPort]*peer
}

// peer is the socket of a local program, and its flow.
type peer struct {
	path     path.Path
	conn     net.Conn
	active   atomic.Int64 // the last datagram in either direction, in Unix nanoseconds
	answered atomic.Bool
	first    []byte // the datagram that opened the flow, to send again if the gateway refuses the flow
}

// before reports whether a peer is evicted before another: after all others one that waits for its first
// answer, else the least recently active.
func (q *peer) before(other *peer, now time.Time) bool {
	if w := q.waits(now); w != other.waits(now) {
		return !w
	}
	return q.active.Load() < other.active.Load()
}

func (q *peer) waits(now time.Time) bool {
	return !q.answered.Load() && now.UnixNano()-q.active.Load() < int64(answerWait)
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
		if of, err = p.peer(ctx, d, from, datagram); err != nil {
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
		p.failures.add(time.Now(), p.f.log, p.target, err)
	}
	return reason
}

// refused reports whether the gateway has refused to open a peer's flow because this client has too many,
// and the flow's datagram is worth another try.
func (p *port) refused(of *peer, err error) bool {
	var flow *client.FlowError
	return errors.As(err, &flow) && flow.Reason == client.ReasonLimit && flow.Detail == "" && !of.answered.Load() && of.first != nil
}

// peer returns the peer of a datagram. If it has none, it opens a flow, for which others may have to go.
func (p *port) peer(ctx context.Context, d Dialer, from path.Path, datagram []byte) (*peer, error) {
	now := time.Now()
	p.mu.Lock()
	if known := p.peers[from.Peer]; known != nil {
		known.path = from
		known.active.Store(now.UnixNano())
		p.mu.Unlock()
		return known, nil
	}
	if len(p.peers) >= p.maxPeers {
		p.dropLocked(p.leastActiveLocked(now))
	}
	p.mu.Unlock()

	for p.f.bound.reached(now, p.f.open.Load()) && p.f.evict() {
	}
	conn, err := d.DialContext(ctx, "udp", p.target)
	var limit *client.FlowError
	for errors.As(err, &limit) && limit.Reason == client.ReasonLimit && p.f.evict() {
		conn, err = d.DialContext(ctx, "udp", p.target)
	}
	if err != nil {
		return nil, err
	}
	added := &peer{path: from, conn: conn}
	if len(datagram) <= wire.MaxUDPPacket {
		added.first = bytes.Clone(datagram)
	}
	added.active.Store(now.UnixNano())
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.peers[from.Peer]; known != nil { // opened meanwhile, for a datagram that was refused
		_ = conn.Close()
		return known, nil
	}
	if ctx.Err() != nil {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	p.peers[from.Peer] = added
	p.f.open.Add(1)
	p.flows.Go(func() { p.copyAnswers(ctx, d, added) })
	return added, nil
}

// copyAnswers forwards the target's datagrams to a peer.
func (p *port) copyAnswers(ctx context.Context, d Dialer, to *peer) {
	defer p.drop(to)
	buffer := make([]byte, wire.MaxUDPPacket)
	packet := make([]transport.Packet, 1)
	for {
		n, err := to.conn.Read(buffer)
		if p.refused(to, err) {
			p.drop(to)
			p.f.bound.learn(time.Now(), p.f.open.Load())
			p.send(ctx, d, to.path, to.first)
			return
		}
		if err != nil {
			if p.report(err) == client.ReasonUnreachable {
				continue // the target may return
			}
			return
		}
		to.active.Store(time.Now().UnixNano())
		to.answered.Store(true)
		to.first = nil
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
		p.f.open.Add(-1)
		_ = of.conn.Close()
	}
}

// leastActiveLocked returns the peer to evict first, or nil.
func (p *port) leastActiveLocked(now time.Time) (least *peer) {
	for _, of := range p.peers {
		if least == nil || of.before(least, now) {
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
			p.failures.flush(now, p.f.log, p.target)
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
