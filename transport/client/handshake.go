package client

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/kdf"
	"lewes/crypto/kem"
	"lewes/crypto/seal"
	"lewes/state"
	"lewes/state/path"
)

// past is a deadline that ends a read at once.
var past = time.Unix(1, 0)

// errIndexTaken ends a handshake that needs another attempt index and another flow: a
// later FlowClosed of the entry's would be about the rejected index.
var errIndexTaken = errors.New("client: attempt index in use at the entry")

// handshake establishes the session. It reads the path in the caller's goroutine; serve
// takes over from there.
func (c *sessionConn) handshake(ctx context.Context) error {
	p := c.active.Load()
	stop := context.AfterFunc(ctx, func() { _ = p.conn.SetReadDeadline(past) })
	defer stop()
	if err := c.begin(ctx); err != nil {
		return err
	}
	if q := c.st.dials; q != nil {
		q.add(c)
	}
	return c.exchange(ctx, p)
}

// begin prepares the first flight, which exchange sends.
func (c *sessionConn) begin(ctx context.Context) error {
	now := time.Now()
	timeout := c.s.config.Timeout
	if at, ok := ctx.Deadline(); ok {
		timeout = min(timeout, at.Sub(now))
	}
	if c.st.dials != nil && !c.st.dials.until.IsZero() {
		timeout = min(timeout, c.st.dials.until.Sub(now))
	}
	timeout = max(timeout, time.Nanosecond)
	c.mu.Lock()
	defer c.mu.Unlock()
	config, at := &c.s.config, c.active.Load().path
	client, err := state.NewClient(now, state.ClientConfig{
		Gateway:   c.s.gateway.Identity,
		Identity:  c.s.key,
		KEM:       config.KEM.id(),
		KnownKEM:  config.Keys.find(now, c.s.gateway.Identity, config.KEM.id(), c.s.pin),
		PinnedKEM: c.s.pin,
		Suites:    seal.Offer(),
		Rand:      rand.Reader,
		Path:      at,
		RTT:       c.st.lastRTT,
		Deadline:  timeout,
		MaxWait:   c.st.attempt.maxWait(),
		Doubted:   c.st.attempt.doubted,
		Session:   state.SessionConfig{Keepalive: c.st.keepalive.interval, MaxPacket: c.s.maxPacket(), Stream: at.Transport == path.TCP},
	}, &c.st.out)
	if err != nil {
		return err
	}
	c.st.client = client
	return nil
}

// exchange runs the handshake until it has succeeded or failed.
func (c *sessionConn) exchange(ctx context.Context, p *gatewayPath) error {
	pause := time.Duration(0)
	for {
		c.mu.Lock()
		now := time.Now()
		c.st.tick(now)
		c.st.flush(now)
		established, err := c.session != nil, cmp.Or(c.st.client.Err(), c.st.ended)
		deadline := p.deadline
		c.mu.Unlock()
		switch {
		case established:
			return nil
		case err != nil:
			return err
		}
		if pause > 0 {
			sleep(ctx.Done(), pause, deadline)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := p.conn.ReadBatch(p.batch)
		pause = nextPause(pause, n, err)
		c.mu.Lock()
		now = time.Now()
		c.st.handleBatch(now, p, p.batch[:n])
		if c.st.dials != nil {
			c.st.dials.note(!c.st.client.Progress().Answered.IsZero(), err)
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			c.st.handshakeFailed(now, err)
		}
		c.mu.Unlock()
	}
}

// handshakeFailed is activePathFailed for a handshake: a collision at the entry ends the attempt.
func (st *connState) handshakeFailed(now time.Time, err error) {
	var refused *FlowError
	if st.c.session == nil && errors.As(err, &refused) && refused.Reason == ReasonIndexCollision {
		st.ended = errIndexTaken
		return
	}
	st.activePathFailed(now, err)
}

// establish takes the session over from a handshake that has succeeded.
func (st *connState) establish() {
	session := st.client.Session()
	if session == nil {
		return
	}
	st.c.session = session
	st.keySets[session.Current().Index()] = session.Current()
	if key, byKKT := st.client.KEMKey(); byKKT {
		st.s.config.Keys.keep(st.client.Progress().KKT, st.s.gateway.Identity, st.s.config.KEM.id(), key)
	}
}

const (
	// keyLifetime is how long a gateway's KEM key may be used after its KKT (section 4
	// of PROTOCOL.md).
	keyLifetime = 24 * time.Hour
	// maxKeys bounds a KeyCache.
	maxKeys = 1024
)

// KeyCache caches gateways' signed KEM public keys in memory for 24 hours. A handshake
// with a gateway whose key is cached takes one flight less. The zero value is ready; it is
// safe for concurrent use.
type KeyCache struct {
	mu   sync.Mutex
	keys map[keyName]kemKey
}

// sharedKeys is the cache of the process.
var sharedKeys KeyCache

type keyName struct {
	gateway identity.PublicKey
	kem     kem.ID
}

type kemKey struct {
	public []byte // immutable
	at     time.Time
}

// find returns the gateway's key if it is fresh and matches pin, unless pin is nil; else nil.
func (c *KeyCache) find(now time.Time, gateway identity.PublicKey, id kem.ID, pin *[32]byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := keyName{gateway, id}
	key, ok := c.keys[name]
	switch age := now.Sub(key.at); {
	case !ok || pin != nil && kdf.Hash(key.public) != *pin:
		return nil
	case age >= keyLifetime || age < 0: // negative: the clock was set back
		delete(c.keys, name)
		return nil
	}
	return key.public
}

// keep stores a key that a KKT returned at now. The cache keeps public.
func (c *KeyCache) keep(now time.Time, gateway identity.PublicKey, id kem.ID, public []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := keyName{gateway, id}
	if c.keys == nil {
		c.keys = make(map[keyName]kemKey)
	}
	if _, known := c.keys[name]; !known && len(c.keys) >= maxKeys {
		oldest := slices.MinFunc(slices.Collect(maps.Keys(c.keys)), func(a, b keyName) int { return c.keys[a].at.Compare(c.keys[b].at) })
		delete(c.keys, oldest)
	}
	// Round removes the monotonic time: a key ages while the machine sleeps, too.
	c.keys[name] = kemKey{public, now.Round(0)}
}
