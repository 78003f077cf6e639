package client

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"lewes/state/path"
	"lewes/transport"
)

const (
	// headStart is how long an address is tried alone before the next one is tried
	// beside it.
	headStart = 300 * time.Millisecond
	// tcpHeadStart is how long UDP is tried alone (section 10 of PROTOCOL.md), or a
	// quarter of Config.Timeout where that is less, unless the network says before that
	// it does not pass. Where UDP has answered but made no session, TCP begins after half
	// of Config.Timeout and has the other half: the gateway may simply not want this
	// client, and its user waits for the word.
	tcpHeadStart = 2500 * time.Millisecond
	// maxAddresses is how many of a gateway's addresses are tried.
	maxAddresses = 4
	// indexTries is how often a handshake begins again because an entry has its
	// receiver index in use.
	indexTries = 4
)

// connect makes a link: a session that stands.
func (s *Session) connect(ctx context.Context) (*link, error) {
	if s.outer != nil {
		return s.connectThrough(ctx)
	}
	addrs, err := s.resolve(ctx)
	if err != nil {
		return nil, &DialError{Gateway: s.gateway, Err: err}
	}
	return s.race(ctx, addrs)
}

// connectThrough connects through the session with the gateway before this one.
// All tries together have the time of one.
func (s *Session) connectThrough(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	via := s.outer.gateway.Identity
	for try := 1; ; try++ {
		conn, err := s.outer.forward(s.gateway.Identity)
		if err != nil {
			return nil, &DialError{Gateway: s.gateway, Via: &via, Err: err}
		}
		l := newLink(s, newWay(conn, path.Path{}))
		if err = l.handshake(ctx); err == nil {
			return l, nil
		}
		_ = conn.Close()
		if !errors.Is(err, errIndexTaken) || try == indexTries {
			return nil, &DialError{Gateway: s.gateway, Via: &via, Err: err, Underlay: l.fault}
		}
	}
}

// resolve returns the gateway's addresses in the order in which to try them: that
// of the resolver, the families in turn.
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
	addrs := inTurn(found)
	addrs = addrs[:min(len(addrs), maxAddresses)]
	s.addrs.Store(&addrs)
	return addrs, nil
}

// known returns the addresses that the gateway had when it was last asked for.
func (s *Session) known() []netip.Addr {
	if addrs := s.addrs.Load(); addrs != nil {
		return *addrs
	}
	return nil
}

// inTurn orders addresses so that the families take turns, beginning with that of
// the first.
func inTurn(addrs []netip.Addr) []netip.Addr {
	var first, second []netip.Addr
	for _, a := range addrs {
		a = a.Unmap()
		if a.Is4() == addrs[0].Unmap().Is4() {
			first = append(first, a)
		} else {
			second = append(second, a)
		}
	}
	var ordered []netip.Addr
	for len(first)+len(second) > 0 {
		if len(first) > 0 {
			ordered, first = append(ordered, first[0]), first[1:]
		}
		if len(second) > 0 {
			ordered, second = append(ordered, second[0]), second[1:]
		}
	}
	return ordered
}

// try is what became of one address.
type try struct {
	lane  *lane
	link  *link
	err   error
	fault error // the last that the underlay said
}

// lane is the tries over one transport: each address a head start after the one before,
// or as soon as that one has failed.
type lane struct {
	transport path.Transport
	addrs     []netip.Addr
	next      time.Time // when the next one is due
	until     time.Time // the end of all of them; zero: each has Config.Timeout
	started   int
	running   int
	answered  atomic.Bool // something has come
	refused   atomic.Bool // the network says that nothing will
	wake      chan struct{}
	best      try // of those that failed
}

// heard is told how a handshake of the lane goes.
func (l *lane) heard(answered bool, err error) {
	if answered {
		l.answered.Store(true)
	}
	refused := errors.Is(err, transport.ErrRefused) || errors.Is(err, transport.ErrUnreachable) || errors.Is(err, transport.ErrDenied)
	if refused && !l.refused.Swap(true) {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

func (l *lane) left() bool { return l.started < len(l.addrs) }
func (l *lane) over() bool { return l.running == 0 && !l.left() }

// tried returns the addresses that were tried, with their port.
func (l *lane) tried(port uint16) (tried []netip.AddrPort) {
	for _, a := range l.addrs[:l.started] {
		tried = append(tried, netip.AddrPortFrom(a, port))
	}
	return tried
}

// lanes returns UDP, at once, and TCP, later: at the same time where it is TCP that
// carried the session before. UDP, where it works by now, takes half the round trips
// and stands first.
func (s *Session) lanes(now time.Time, addrs []netip.Addr) (udp, tcp *lane) {
	wake := make(chan struct{}, 1)
	udp = &lane{transport: path.UDP, wake: wake, next: now}
	tcp = &lane{transport: path.TCP, wake: wake, next: now.Add(min(tcpHeadStart, s.config.Timeout/4))}
	mayUDP, mayTCP := s.uses()
	if mayUDP {
		udp.addrs = addrs
	}
	if mayTCP {
		tcp.addrs = addrs
	}
	if last := s.link.Load(); !mayUDP || last != nil && last.way.Load().path.Transport == path.TCP {
		tcp.next = now
	}
	return udp, tcp
}

// race tries the addresses over each transport. The first session that stands wins.
func (s *Session) race(ctx context.Context, addrs []netip.Addr) (*link, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	udp, tcp := s.lanes(time.Now(), addrs)
	r := &race{s: s, began: time.Now(), udp: udp, tcp: tcp, results: make(chan try)}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		done := r.won != nil || udp.started+tcp.started > 0 && ctx.Err() != nil
		switch {
		case udp.running+tcp.running > 0 || !done && !(udp.over() && tcp.over()):
		case r.won != nil:
			return r.won, nil
		default:
			return nil, s.dialError(udp, tcp)
		}
		select {
		case <-timer.C:
			if !done {
				timer.Reset(time.Until(r.start(ctx, time.Now())))
			}
		case <-udp.wake:
			timer.Reset(0)
		case t := <-r.results:
			r.ended(t)
			if r.won != nil {
				cancel()
			}
			timer.Reset(0)
		}
	}
}

// race is the tries for one link.
type race struct {
	s        *Session
	began    time.Time
	udp, tcp *lane
	results  chan try
	won      *link
}

// start begins the tries that are due, and returns when others are.
func (r *race) start(ctx context.Context, now time.Time) (next time.Time) {
	switch {
	case r.tcp.started > 0 || r.udp.running == 0:
	case r.udp.answered.Load():
		timeout := r.s.config.Timeout
		if half := r.began.Add(timeout / 2); now.Before(half) {
			r.tcp.next, r.tcp.until = half, r.began.Add(timeout)
		}
	case r.udp.refused.Load() && r.s.link.Load() == nil:
		// Later it more likely means that the gateway is just being started again.
		r.tcp.next = earliest(r.tcp.next, now)
	}
	next = now.Add(time.Hour)
	for _, l := range []*lane{r.udp, r.tcp} {
		if l.left() && due(now, l.next) {
			to := l.addrs[l.started]
			l.started++
			l.running++
			l.next = now.Add(headStart)
			go func() { r.results <- r.s.try(ctx, l, to) }()
		}
		if l.left() {
			next = earliest(next, l.next)
		}
	}
	return next
}

// ended notes what became of a try.
func (r *race) ended(t try) {
	t.lane.running--
	switch {
	case t.link != nil && r.won == nil:
		r.won = t.link
	case t.link != nil:
		t.link.close()
	case r.won == nil:
		if further(t.err, t.lane.best.err) {
			t.lane.best = t
		}
		t.lane.next = time.Now()
		if r.udp.over() && r.tcp.started == 0 {
			r.tcp.next = t.lane.next
		}
	}
}

// try makes a session with the gateway at one address.
func (s *Session) try(ctx context.Context, in *lane, to netip.Addr) try {
	w, err := s.reach(ctx, in.transport, to)
	if err != nil {
		return try{lane: in, err: err}
	}
	l := newLink(s, w)
	l.lane = in
	if err := l.handshake(ctx); err != nil {
		w.abort()
		return try{lane: in, err: err, fault: l.fault}
	}
	l.lane = nil
	return try{lane: in, link: l}
}

// dialError says what came of both transports.
func (s *Session) dialError(udp, tcp *lane) error {
	e := &DialError{Gateway: s.gateway}
	first := udp
	if udp.started == 0 {
		first = tcp
	} else if tcp.started > 0 {
		e.TCP = &DialError{Gateway: s.gateway, Over: path.TCP, Tried: tcp.tried(s.gateway.PortForTCP()), Err: tcp.best.err, Underlay: tcp.best.fault}
	}
	e.Over, e.Err, e.Underlay = first.transport, first.best.err, first.best.fault
	port := s.gateway.Port
	if first == tcp {
		port = s.gateway.PortForTCP()
	}
	e.Tried = first.tried(port)
	return e
}
