package client

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"lewes/state"
	"lewes/state/path"
	"lewes/transport"
)

const (
	// addressHeadStart is how long an address is tried before the next one is tried beside it.
	addressHeadStart = 300 * time.Millisecond
	// tcpHeadStart is how long UDP is tried alone (section 10 of PROTOCOL.md), or a quarter of
	// Config.Timeout if that is less, unless the network refuses UDP earlier. If UDP has answered
	// without a session, TCP starts after half of Config.Timeout and gets the other half: the
	// gateway may just not admit the client.
	tcpHeadStart = 2500 * time.Millisecond
	// udpGrace is how long a session over TCP waits for one over UDP that has just begun to answer.
	udpGrace = 200 * time.Millisecond
	// maxAddresses is how many of a gateway's addresses are tried.
	maxAddresses = 4
	// indexTries is how often a handshake restarts because an entry has its attempt index in use.
	indexTries = 4
)

// connect makes a handshake.
func (s *Session) connect(ctx context.Context, a attempt) (*sessionConn, error) {
	if s.outer != nil {
		return s.connectThrough(ctx, a)
	}
	addrs, err := s.resolve(ctx)
	if err != nil {
		return nil, &DialError{Gateway: s.gateway, Err: err}
	}
	return s.race(ctx, addrs, a)
}

// connectThrough makes a handshake through the outer session. All tries share one timeout. The first
// goes on the flow of the session beside which it runs.
func (s *Session) connectThrough(ctx context.Context, a attempt) (*sessionConn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	via := s.outer.gateway.Identity
	conn := a.flow()
	for try := 1; ; try++ {
		var err error
		if conn == nil {
			conn, err = s.outer.forward(s.gateway.Identity)
		}
		if err != nil {
			return nil, &DialError{Gateway: s.gateway, Via: &via, Err: err}
		}
		c := newSessionConn(s, newGatewayPath(conn, path.Path{}), a)
		if err = c.handshake(ctx); err == nil {
			return c, nil
		}
		_ = conn.Close()
		conn = nil
		if !errors.Is(err, errIndexTaken) || try == indexTries {
			return nil, &DialError{Gateway: s.gateway, Via: &via, Err: err, Underlay: c.st.networkErr}
		}
	}
}

// resolve returns the gateway's addresses in the order in which to try them: the
// resolver's, with alternating families.
func (s *Session) resolve(ctx context.Context) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(s.gateway.Host); err == nil {
		s.addrs.Store(&[]netip.Addr{a})
		return []netip.Addr{a}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	found, err := s.config.Resolver.LookupNetIP(ctx, "ip", s.gateway.Host)
	if err == nil && len(found) == 0 {
		err = &net.DNSError{Err: "no such host", Name: s.gateway.Host, IsNotFound: true}
	}
	if err != nil {
		return nil, resolveError(s.gateway.Host, err)
	}
	addrs := alternateFamilies(found)
	addrs = addrs[:min(len(addrs), maxAddresses)]
	s.addrs.Store(&addrs)
	return addrs, nil
}

// alternateFamilies orders addresses so that the families alternate, the first one's first.
func alternateFamilies(addrs []netip.Addr) []netip.Addr {
	var families [2][]netip.Addr
	for _, a := range addrs {
		family := &families[0]
		if a.Unmap().Is4() != addrs[0].Unmap().Is4() {
			family = &families[1]
		}
		*family = append(*family, a.Unmap())
	}
	var ordered []netip.Addr
	for i := range addrs {
		for _, family := range families {
			ordered = append(ordered, family[min(i, len(family)):min(i+1, len(family))]...)
		}
	}
	return ordered
}

// dialResult is the result of a handshake with one address.
type dialResult struct {
	queue      *dialQueue
	conn       *sessionConn
	err        error
	networkErr error // the socket's last
}

// dialQueue tries the addresses over one transport, each addressHeadStart after the one
// before, or when that one has failed.
type dialQueue struct {
	transport path.Transport
	addrs     []netip.Addr
	next      time.Time // when the next try is due
	until     time.Time // the deadline of all tries; zero: each has Config.Timeout
	started   int
	running   int
	answered  atomic.Bool // the gateway has answered
	refused   atomic.Bool // by the network
	wake      chan struct{}
	best      dialResult // the failed try that got furthest

	mu    sync.Mutex
	conns []*sessionConn // of all tries, guarded by mu
}

// note records the progress of a handshake.
func (q *dialQueue) note(answered bool, err error) {
	if answered && !q.answered.Swap(true) {
		signal(q.wake)
	}
	refused := errors.Is(err, transport.ErrRefused) || errors.Is(err, transport.ErrUnreachable) || errors.Is(err, transport.ErrDenied)
	if refused && !q.refused.Swap(true) {
		signal(q.wake)
	}
}

// add adds a handshake that has begun.
func (q *dialQueue) add(c *sessionConn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.conns = append(q.conns, c)
}

func (q *dialQueue) more() bool { return q.started < len(q.addrs) }
func (q *dialQueue) over() bool { return q.running == 0 && !q.more() }

// dialError returns the error of the transport.
func (q *dialQueue) dialError(g Gateway) *DialError {
	e := &DialError{Gateway: g, Transport: transportOf(q.transport), Err: q.best.err, Underlay: q.best.networkErr}
	for _, a := range q.addrs[:q.started] {
		e.Tried = append(e.Tried, netip.AddrPortFrom(a, portFor(g, e.Transport)))
	}
	return e
}

// dialRace runs the handshakes for one sessionConn; the first that succeeds wins.
type dialRace struct {
	s        *Session
	attempt  attempt
	began    time.Time
	udp, tcp *dialQueue
	results  chan dialResult
	won      *sessionConn
	resent   bool
	spare    *sessionConn // over TCP, while UDP has answered and may win
	until    time.Time    // that the spare one waits
	held     bool         // the gateway still holds the session that the attempt doubts
}

// newDialRace prepares UDP, to start at once, and TCP, to start later, or at once if TCP carried
// the session before. UDP, if it works by then, takes half the round trips and wins.
func newDialRace(s *Session, now time.Time, addrs []netip.Addr, a attempt) *dialRace {
	wake := make(chan struct{}, 1)
	udp := &dialQueue{transport: path.UDP, wake: wake, next: now}
	tcp := &dialQueue{transport: path.TCP, wake: wake, next: now.Add(min(tcpHeadStart, s.config.Timeout/4))}
	if a.beside != nil { // the next one starts over UDP
		udp.until = now.Add(s.config.Timeout)
		tcp.until = udp.until
	}
	mayUDP, mayTCP := s.transports()
	if mayUDP {
		udp.addrs = addrs
	}
	if mayTCP {
		tcp.addrs = addrs
	}
	if last := s.conn.Load(); !mayUDP || last != nil && last.active.Load().path.Transport == path.TCP {
		tcp.next = now
	}
	return &dialRace{s: s, attempt: a, began: now, udp: udp, tcp: tcp, results: make(chan dialResult)}
}

// race tries the addresses over each transport.
func (s *Session) race(ctx context.Context, addrs []netip.Addr, a attempt) (*sessionConn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := newDialRace(s, time.Now(), addrs, a)
	udp, tcp := r.udp, r.tcp
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if r.spare != nil && (udp.over() || due(time.Now(), r.until)) {
			r.won, r.spare = r.spare, nil
			cancel()
		}
		done := r.won != nil || r.held || udp.started+tcp.started > 0 && ctx.Err() != nil
		switch {
		case udp.running+tcp.running > 0 || !done && !(udp.over() && tcp.over()):
		case r.won != nil:
			return r.won, nil
		case r.held:
			return nil, &DialError{Gateway: s.gateway, Err: state.ErrHeld}
		default:
			return nil, r.err()
		}
		select {
		case <-timer.C:
			if !done {
				timer.Reset(time.Until(r.start(ctx, time.Now())))
			}
		case <-udp.wake:
			r.resend()
			timer.Reset(0)
		case result := <-r.results:
			r.ended(result)
			if r.won != nil || r.held {
				cancel()
			}
			timer.Reset(0)
		}
	}
}

// resend makes UDP send its flight again when the gateway has answered over TCP: after a restart of
// the gateway TCP would win where its timer was the first to fire.
func (r *dialRace) resend() {
	if r.resent || !r.tcp.answered.Load() {
		return
	}
	r.resent = true
	r.udp.mu.Lock()
	conns := r.udp.conns
	r.udp.mu.Unlock()
	for _, c := range conns {
		_ = c.update(func(st *connState, _ time.Time) { st.client.Resend(&st.out) })
	}
}

// start starts the tries that are due, and returns when others are.
func (r *dialRace) start(ctx context.Context, now time.Time) (next time.Time) {
	switch {
	case r.tcp.started > 0 || r.udp.running == 0:
	case r.udp.answered.Load():
		timeout := r.s.config.Timeout
		if half := r.began.Add(timeout / 2); now.Before(half) {
			r.tcp.next, r.tcp.until = half, r.began.Add(timeout)
		}
	case r.udp.refused.Load() && r.s.conn.Load() == nil:
		// On a reconnect, a refusal more likely means that the gateway restarts.
		r.tcp.next = earliest(r.tcp.next, now)
	}
	next = earliest(now.Add(time.Hour), r.until)
	for _, q := range []*dialQueue{r.udp, r.tcp} {
		if q.more() && due(now, q.next) {
			to := q.addrs[q.started]
			q.started++
			q.running++
			q.next = now.Add(addressHeadStart)
			go func() { r.results <- r.s.dialAddr(ctx, q, to, r.attempt) }()
		}
		if q.more() {
			next = earliest(next, q.next)
		}
	}
	return next
}

// ended handles the result of a try.
func (r *dialRace) ended(result dialResult) {
	q := result.queue
	q.running--
	switch {
	case result.conn != nil && r.won == nil && q == r.tcp && r.resent && r.udp.answered.Load() && !r.udp.over():
		r.spare, r.until = result.conn, time.Now().Add(udpGrace)
	case result.conn != nil && r.won == nil:
		r.won = result.conn
		if r.spare != nil {
			r.spare.close()
			r.spare = nil
		}
	case result.conn != nil:
		result.conn.close()
	case errors.Is(result.err, state.ErrHeld):
		r.held = true
	case r.won == nil:
		if progress(result.err) > progress(q.best.err) {
			q.best = result
		}
		q.next = time.Now()
		if r.udp.over() && r.tcp.started == 0 {
			r.tcp.next = q.next
		}
	}
}

// dialAddr makes a handshake with one address.
func (s *Session) dialAddr(ctx context.Context, q *dialQueue, to netip.Addr, a attempt) dialResult {
	p, err := s.openPath(ctx, q.transport, to)
	if err != nil {
		return dialResult{queue: q, err: err}
	}
	c := newSessionConn(s, p, a)
	c.st.dials = q
	if err := c.handshake(ctx); err != nil {
		p.abort()
		return dialResult{queue: q, err: err, networkErr: c.st.networkErr}
	}
	c.st.dials = nil
	return dialResult{queue: q, conn: c}
}

// err returns the error of both transports.
func (r *dialRace) err() error {
	if r.udp.started == 0 {
		return r.tcp.dialError(r.s.gateway)
	}
	e := r.udp.dialError(r.s.gateway)
	if r.tcp.started > 0 {
		e.TCP = r.tcp.dialError(r.s.gateway)
	}
	return e
}
