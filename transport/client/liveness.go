package client

import (
	"context"
	"time"

	"lewes/state/wire"
)

// pingAgain is how often a Ping goes again that has no answer yet.
const pingAgain = time.Second

// Ping asks the gateway for a sign of life and returns the round trip. It asks
// again each second until one comes or ctx is done; a ctx without a deadline gets
// Config.Timeout.
func (s *Session) Ping(ctx context.Context) (time.Duration, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	again := time.NewTimer(0)
	defer again.Stop()
	pong := make(chan struct{}, 1)
	var sent time.Time
	var forget func()
	defer func() {
		if forget != nil {
			forget()
		}
	}()
	for {
		select {
		case <-pong:
			return time.Since(sent), nil
		case <-again.C:
			if forget != nil {
				forget()
			}
			sent, forget = s.sendPing(pong)
			again.Reset(pingAgain)
		case <-ctx.Done():
			return 0, s.waitError(ctx, "the gateway did not answer a Ping")
		case <-s.done:
			return 0, s.Err()
		}
	}
}

// sendPing sends a Ping whose Pong is told to pong, until forget is called. It
// does nothing while the session is down.
func (s *Session) sendPing(pong chan<- struct{}) (sent time.Time, forget func()) {
	l := s.link.Load()
	var token [8]byte
	err := l.with(func(now time.Time) {
		sent = now
		token = l.session.Ping(now, wire.MinPingPacket, &l.out)
		l.pongs[token] = pong
	})
	if err != nil {
		return time.Time{}, nil
	}
	return sent, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.pongs, token)
	}
}

// ponged tells whoever waits for a Pong.
func (l *link) ponged(content []byte) {
	pong, err := wire.ParsePong(content)
	if err != nil {
		return
	}
	if waiting := l.pongs[pong.Data]; waiting != nil {
		delete(l.pongs, pong.Data)
		select {
		case waiting <- struct{}{}:
		default:
		}
	}
}

// Rekey gives the session new keys now, and returns when both ends have them. A
// ctx without a deadline gets Config.Timeout.
func (s *Session) Rekey(ctx context.Context) error {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	first := s.link.Load()
	from := first.generation()
	for {
		l := s.link.Load()
		if l != first || l.generation() != from {
			return nil // new keys, one way or the other
		}
		var changed <-chan struct{}
		_ = l.with(func(now time.Time) {
			changed = l.changed
			l.session.Rekey(now, &l.out) // nothing while one is under way
		})
		var replaced <-chan time.Time
		if changed == nil { // the link is over: the next one has other keys
			replaced = time.After(signInterval)
		}
		select {
		case <-changed:
		case <-replaced:
		case <-ctx.Done():
			return s.waitError(ctx, "the gateway did not answer the request for new keys")
		case <-s.done:
			return s.Err()
		}
	}
}

func (l *link) generation() uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.session.Current().Number()
}

// bounded gives ctx a deadline if it has none.
func (s *Session) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, s.config.Timeout)
}
