package client

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/seal"
	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
)

// longAgo ends a read at once.
var longAgo = time.Unix(1, 0)

// errIndexTaken ends a handshake that needs another index, and another flow: what
// the entry says about this one later is about the index that was refused.
var errIndexTaken = errors.New("the receiver index is taken on the way")

// handshake makes the session. It reads the Conn in the caller's goroutine; serve
// takes over from there.
func (l *link) handshake(ctx context.Context) error {
	w := l.way.Load()
	stop := context.AfterFunc(ctx, func() { _ = w.conn.SetReadDeadline(longAgo) })
	defer stop()
	if err := l.begin(ctx); err != nil {
		return err
	}
	return l.converse(ctx, w)
}

// begin makes the first flight, which is sent when the conversation begins.
func (l *link) begin(ctx context.Context) error {
	now := time.Now()
	timeout := l.s.config.Timeout
	if at, ok := ctx.Deadline(); ok {
		timeout = min(timeout, at.Sub(now))
	}
	if l.lane != nil && !l.lane.until.IsZero() {
		timeout = min(timeout, l.lane.until.Sub(now))
	}
	timeout = max(timeout, time.Nanosecond)
	rtt := l.s.lastRTT()
	l.mu.Lock()
	defer l.mu.Unlock()
	c, at := &l.s.config, l.way.Load().path
	key := c.Identity
	if l.s.entry() {
		key = c.ViaIdentity
	}
	config := state.ClientConfig{
		Gateway:   l.s.gateway.Identity,
		Identity:  key,
		KEM:       *c.KEM,
		KnownKEM:  c.Keys.find(now, l.s.gateway.Identity, *c.KEM, l.s.pin()),
		PinnedKEM: l.s.pin(),
		Suites:    seal.Offer(),
		Rand:      rand.Reader,
		Path:      at,
		RTT:       rtt,
		Deadline:  timeout,
		Session:   state.SessionConfig{Keepalive: l.keepalive.longest, MaxPacket: l.s.maxPacket(), Stream: at.Transport == path.TCP},
	}
	client, err := state.NewClient(now, config, &l.out)
	if err != nil {
		return err
	}
	l.client = client
	return nil
}

// converse carries the handshake on until it has succeeded or failed.
func (l *link) converse(ctx context.Context, w *way) error {
	pause := time.Duration(0)
	for {
		l.mu.Lock()
		now := time.Now()
		l.tick(now)
		l.settle(now)
		over, err := l.outcome()
		due := w.armed
		l.mu.Unlock()
		if over {
			return err
		}
		if pause > 0 {
			wait(ctx.Done(), pause, due)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := w.conn.ReadBatch(w.reading)
		pause = nextPause(pause, n, err)
		l.mu.Lock()
		now = time.Now()
		l.take(now, w, w.reading[:n])
		if l.lane != nil {
			l.lane.heard(!l.client.Progress().Answered.IsZero(), err)
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			l.handshakeFailed(now, err)
		}
		l.mu.Unlock()
	}
}

// outcome says whether the handshake is over, and how.
func (l *link) outcome() (over bool, err error) {
	switch {
	case l.session != nil:
		return true, nil
	case l.client.Err() != nil:
		return true, l.client.Err()
	}
	return l.ended != nil, l.ended
}

// handshakeFailed is underlayFailed while there is no session: an entry that has
// the index in use ends the attempt, not the handshake.
func (l *link) handshakeFailed(now time.Time, err error) {
	var refused *FlowError
	if l.session == nil && errors.As(err, &refused) && refused.Reason == wire.FlowIndexCollision {
		l.ended = errIndexTaken
		return
	}
	l.underlayFailed(now, err)
}

// stand takes the session over from the handshake, once it has one.
func (l *link) stand() {
	session := l.client.Session()
	if session == nil {
		return
	}
	l.session = session
	l.byIndex[session.Current().Index()] = session.Current()
	if key, byKKT := l.client.KEMKey(); byKKT {
		l.s.config.Keys.keep(l.client.Progress().KKT, l.s.gateway.Identity, *l.s.config.KEM, key)
	}
}

// entry reports whether the session is one that others run over.
func (s *Session) entry() bool { return s.hop < len(s.config.Via) }

// pin returns the hash of the only KEM key to take; it is about the exit's.
func (s *Session) pin() *[32]byte {
	if s.entry() {
		return nil
	}
	return s.config.PinnedKEM
}

// previous returns the identities of the gateways before this one on the way.
func (s *Session) previous() []identity.PublicKey {
	var ids []identity.PublicKey
	for _, g := range s.config.Via[:s.hop] {
		ids = append(ids, g.Identity)
	}
	return ids
}
