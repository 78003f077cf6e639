package client

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"lewes/transport/path"
)

const (
	// headStart is how long an address is tried alone before the next one is tried
	// beside it.
	headStart = 300 * time.Millisecond
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
		l := newLink(s, conn, path.Path{})
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
func (s *Session) resolve(ctx context.Context) ([]netip.AddrPort, error) {
	port := s.gateway.Port
	if a, err := netip.ParseAddr(s.gateway.Host); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(a, port)}, nil
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
	var addrs []netip.AddrPort
	for _, a := range inTurn(found) {
		addrs = append(addrs, netip.AddrPortFrom(a, port))
	}
	return addrs[:min(len(addrs), maxAddresses)], nil
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
	link  *link
	err   error
	fault error // the last that the underlay said
}

// race tries the addresses, each a head start after the one before or as soon as
// that one has failed. The first session that stands wins.
func (s *Session) race(ctx context.Context, addrs []netip.AddrPort) (*link, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan try)
	next := time.NewTimer(0)
	defer next.Stop()
	running, started := 0, 0
	var won *link
	var best try // of those that failed
	for {
		over := won != nil || started == len(addrs) || started > 0 && ctx.Err() != nil
		switch {
		case running > 0 || !over:
		case won != nil:
			return won, nil
		default:
			return nil, &DialError{Gateway: s.gateway, Tried: addrs[:started], Err: best.err, Underlay: best.fault}
		}
		select {
		case <-next.C:
			if over {
				continue
			}
			to := addrs[started]
			started++
			running++
			go func() { results <- s.try(ctx, to) }()
			next.Reset(headStart)
		case r := <-results:
			running--
			switch {
			case r.link != nil && won == nil:
				won = r.link
				cancel()
			case r.link != nil:
				r.link.close()
			case won == nil:
				if further(r.err, best.err) {
					best = r
				}
				next.Reset(0)
			}
		}
	}
}

// try makes a session with the gateway at one address.
func (s *Session) try(ctx context.Context, to netip.AddrPort) try {
	conn, err := s.config.Underlay(ctx, to)
	if err != nil {
		return try{err: err}
	}
	l := newLink(s, conn, path.NewUDP(to, netip.Addr{}, 0))
	if err := l.handshake(ctx); err != nil {
		_ = conn.Close()
		return try{err: err, fault: l.fault}
	}
	return try{link: l}
}
