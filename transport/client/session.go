package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"lewes/crypto/cookie"
	"lewes/state/path"
	"lewes/state/wire"
)

// pingInterval is the time between the Pings of Session.Ping.
const pingInterval = time.Second

// Session is a session with a gateway. It lasts until Close, or with
// Config.NoReconnect until the gateway ends it or stops responding.
type Session struct {
	// Immutable.
	config  Config
	hop     int // index of the session's gateway in Via, or its length
	gateway Gateway
	key     *PrivateKey
	derived bool      // the session wipes the key at its end
	pin     *[32]byte // the hash of the only KEM key to accept; nil: any
	outer   *Session  // that this session runs over; nil: the underlay
	mac     *cookie.MAC1Key
	began   time.Time
	log     *slog.Logger
	events  *events

	// Safe for concurrent use.
	conn    atomic.Pointer[sessionConn]
	addrs   atomic.Pointer[[]netip.Addr] // the gateway's, as last resolved; never nil
	flows   flowTable
	count   counters
	carries atomic.Bool   // an inner session is up, whose Pings stand for this one's
	wake    chan struct{} // the supervisor has to check the conn
	// registering holds a value while a Register is under way. registered is the registration to renew with
	// each conn; nil: none.
	registering chan struct{}
	registered  atomic.Pointer[RegisterRequest]
	settled     chan error         // receives whether the first conn is registered, or does without
	payer       *payer             // nil: no wallet
	ctx         context.Context    // done when the session ends
	cancel      context.CancelFunc // of ctx
	running     sync.WaitGroup
	done        chan struct{}

	mu         sync.Mutex // guards the fields below
	finished   bool
	err        error
	lastErr    error  // the reason for reconnecting; nil while the session is up
	pathReason string // explains the transport; "" for the preferred one
}

// Dial makes a session with config.Gateway, through the gateways in config.Via. It
// returns when the gateway has proved its identity; ctx bounds only that. Its errors are a
// *DialError, or wrap ErrConfig.
func Dial(ctx context.Context, config Config) (*Session, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	queue := &events{onEvent: config.OnEvent}
	var s *Session
	for hop := range len(config.Via) + 1 {
		outer := s
		var c *sessionConn
		if s, err = newSession(config, hop, outer, queue); err == nil {
			c, err = s.connect(ctx, attempt{})
		}
		if err != nil {
			if s != nil {
				s.cancel()
				s.wipe()
			}
			if outer != nil {
				_ = outer.Close()
			}
			return nil, err
		}
		s.adopt(c)
		s.emitTransport(Connected)
		if outer != nil {
			context.AfterFunc(outer.ctx, s.outerEnded)
		}
		s.running.Go(s.supervise)
		if s.payer != nil {
			s.running.Go(s.payer.run)
			if err := s.awaitSettled(ctx); err != nil {
				_ = s.Close()
				return nil, err
			}
		}
	}
	return s, nil
}

func newSession(config Config, hop int, outer *Session, queue *events) (*Session, error) {
	gateway, pin := config.Gateway, config.PinnedKEM
	if hop < len(config.Via) {
		gateway, pin = config.Via[hop], nil
	}
	key, derived, err := config.keyFor(hop)
	if err != nil {
		return nil, err
	}
	s := &Session{
		config:  config,
		hop:     hop,
		gateway: gateway,
		key:     key,
		derived: derived,
		pin:     pin,
		outer:   outer,
		mac:     cookie.NewMAC1Key(gateway.Identity),
		began:   time.Now(),
		log:     config.Logger.With(slog.String("gateway", gateway.Identity.String())),
		events:  queue,
		wake:    make(chan struct{}, 1),
		done:    make(chan struct{}),

		registering: make(chan struct{}, 1),
		settled:     make(chan error, 1),
	}
	if config.Tickets != nil {
		s.payer = newPayer(s)
	}
	s.addrs.Store(new([]netip.Addr))
	s.flows.init()
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// wipe erases a derived key, which no goroutine of the session may use any more.
func (s *Session) wipe() {
	if s.derived {
		s.key.Wipe()
	}
}

// adopt replaces the sessionConn and closes the previous one. It reports false, and closes
// c, if the session has ended.
func (s *Session) adopt(c *sessionConn) bool {
	c.start()
	s.mu.Lock()
	if s.finished {
		s.mu.Unlock()
		c.close()
		return false
	}
	old := s.conn.Swap(c)
	s.lastErr = nil
	if s.outer != nil {
		s.outer.carries.Store(true)
	}
	active := c.active.Load()
	s.pathReason = ""
	if active.path.Transport == path.TCP && s.config.Transport == Auto {
		s.pathReason = "UDP did not answer in time"
	}
	s.running.Go(func() { c.serve(active) })
	s.running.Go(func() { s.keepRegistered(c) })
	s.mu.Unlock()
	if old == nil {
		return true
	}
	s.count.expired.Add(old.active.Load().expired())
	old.close()
	for _, f := range s.flows.all() {
		if f.to.forward() {
			f.report(errOuterReplaced)
		}
	}
	return true
}

// Close closes the session and its flows, sends the gateway a Close, and waits for the
// session's goroutines. It always returns nil.
func (s *Session) Close() error {
	s.finish(ErrClosed)
	s.running.Wait()
	if s.outer != nil {
		return s.outer.Close()
	}
	return nil
}

// finish ends the session for good. Only the first call has an effect.
func (s *Session) finish(err error) {
	s.mu.Lock()
	if s.finished {
		s.mu.Unlock()
		return
	}
	s.finished, s.err = true, err
	s.mu.Unlock()
	s.cancel()
	flowErr := err
	if errors.Is(err, ErrClosed) {
		flowErr = net.ErrClosed
	}
	s.flows.end(flowErr)
	if c := s.conn.Load(); c != nil {
		c.close()
	}
	if s.outer != nil {
		s.outer.finish(ErrClosed)
	}
	s.emit(Event{Kind: Closed, Err: err})
	close(s.done)
	if s.derived {
		go func() {
			s.running.Wait()
			s.wipe()
		}()
	}
}

// outerEnded is called when the outer session has ended.
func (s *Session) outerEnded() {
	<-s.outer.done
	s.finish(&EndedError{s.gateway.Identity, s.outer.Err()})
}

// Done returns a channel that is closed when the session has ended for good.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err returns why the session has ended: ErrClosed or an *EndedError. It is nil before
// Done is closed, while reconnecting too.
func (s *Session) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// at returns the session's age at a time.
func (s *Session) at(now time.Time) time.Duration { return now.Sub(s.began) }

// maxPacket returns the size of the largest packet to send now: the least of the
// configuration, the gateway's limit and the path MTU.
func (s *Session) maxPacket() int {
	most := s.config.MaxPacket
	if s.outer != nil {
		most = s.outer.maxPacket() - forwardOverhead
	}
	if c := s.conn.Load(); c != nil {
		most = min(most, int(c.maxDatagram.Load()), c.session.MaxPacket())
	}
	return most
}

func (s *Session) pathChanged(from, to path.Transport, reason string) {
	s.mu.Lock()
	s.pathReason = reason
	if to == path.UDP && from == path.TCP {
		s.pathReason = ""
	}
	s.mu.Unlock()
	s.emit(Event{Kind: PathChanged, From: transportOf(from), To: transportOf(to), Reason: reason})
}

func (s *Session) setLastErr(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastErr = err
}

// Ping measures the round trip to the gateway. It retransmits each second until ctx is
// done; a ctx without a deadline gets Config.Timeout.
func (s *Session) Ping(ctx context.Context) (time.Duration, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	again := time.NewTimer(0)
	defer again.Stop()
	pong := make(chan struct{}, 1)
	var sent time.Time
	forget := func() {}
	defer func() { forget() }()
	for {
		select {
		case <-pong:
			return time.Since(sent), nil
		case <-again.C:
			forget()
			sent, forget = s.sendPing(wire.MinPingPacket, pong)
			again.Reset(pingInterval)
		case <-ctx.Done():
			return 0, s.waitError(ctx, "ping")
		case <-s.done:
			return 0, s.Err()
		}
	}
}

// PingOnce sends one Ping in a packet of size bytes, not counting IP and UDP headers, and returns the round trip to
// the gateway. It sends none again: one that is lost, or too large for the path, ends with ctx, which gets
// Config.Timeout if it has no deadline. Size is from 64 to Config.MaxPacket, less what the entries of Config.Via need.
func (s *Session) PingOnce(ctx context.Context, size int) (time.Duration, error) {
	if most := s.config.MaxPacket - s.hop*forwardOverhead; size < wire.MinPingPacket || size > most {
		return 0, fmt.Errorf("client: ping: a packet of %d bytes is not within %d and %d", size, wire.MinPingPacket, most)
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	pong := make(chan struct{}, 1)
	sent, forget := s.sendPing(size, pong)
	defer forget()
	select {
	case <-pong:
		return time.Since(sent), nil
	case <-ctx.Done():
		return 0, s.waitError(ctx, "ping")
	case <-s.done:
		return 0, s.Err()
	}
}

// sendPing sends a Ping in a packet of size bytes whose Pong is reported on pong until forget is called. It sends
// nothing while the session is down.
func (s *Session) sendPing(size int, pong chan<- struct{}) (sent time.Time, forget func()) {
	c := s.conn.Load()
	var token [8]byte
	err := c.update(func(st *connState, now time.Time) {
		sent = now
		token = c.session.Ping(now, size, &st.out)
		st.pongs[token] = pong
	})
	if err != nil {
		return time.Time{}, func() {}
	}
	return sent, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.st.pongs, token)
	}
}

// Rekey renews the session's keys now and returns when both ends have them. A ctx without
// a deadline gets Config.Timeout.
func (s *Session) Rekey(ctx context.Context) error {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	first := s.conn.Load()
	from := first.generation()
	for {
		c := s.conn.Load()
		if c != first || c.generation() != from {
			return nil // a reconnect brings new keys too
		}
		var changed <-chan struct{}
		_ = c.update(func(st *connState, now time.Time) {
			changed = st.changed
			c.session.Rekey(now, &st.out) // does nothing during a rekey
		})
		var replaced <-chan time.Time
		if changed == nil { // the conn has ended: the next one has other keys
			replaced = time.After(livenessInterval)
		}
		select {
		case <-changed:
		case <-replaced:
		case <-ctx.Done():
			return s.waitError(ctx, "rekey")
		case <-s.done:
			return s.Err()
		}
	}
}

// bounded gives ctx a deadline if it has none.
func (s *Session) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, s.config.Timeout)
}

// waitError is the error of an operation whose ctx is done before the gateway answered.
func (s *Session) waitError(ctx context.Context, op string) error {
	s.mu.Lock()
	down := s.lastErr
	s.mu.Unlock()
	if down != nil {
		return fmt.Errorf("client: %s: %w (reconnecting: %w)", op, ctx.Err(), down)
	}
	return fmt.Errorf("client: %s: no answer: %w", op, ctx.Err())
}
