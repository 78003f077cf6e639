package client

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"lewes/crypto/cookie"
	"lewes/state/path"
	"lewes/transport/uri"
)

// Session is a session with a gateway. It lasts until Close, or with
// Config.NoReconnect until the gateway ends it or falls silent.
type Session struct {
	config  Config
	hop     int         // this session's gateway on the way: an index of Via, or its length
	gateway uri.Gateway // the other end
	outer   *Session    // that this one runs over; nil: the underlay
	mac     *cookie.MAC1Key
	begun   time.Time
	log     *zap.Logger
	events  *events

	link  atomic.Pointer[link]
	addrs atomic.Pointer[[]netip.Addr] // of the gateway, as they were last asked for
	flows flowTable
	count counters

	trouble chan struct{}      // the link has to be looked at
	ctx     context.Context    // done when the session ends
	cancel  context.CancelFunc // of ctx
	running sync.WaitGroup
	done    chan struct{}

	mu       sync.Mutex
	finished bool
	err      error
	lastErr  error // why it is being made anew; nil while it stands

	pathReason string // why packets go the way they do; empty: it is the first choice
}

// Dial makes a session with config.Gateway, through the gateways in config.Via
// where there are some. It returns when the gateway has proved its identity. ctx
// bounds the making alone.
//
// What fails is said by a *DialError, or by one that wraps ErrConfig.
func Dial(ctx context.Context, config Config) (*Session, error) {
	config, err := config.complete()
	if err != nil {
		return nil, err
	}
	queue := &events{tell: config.OnEvent}
	var s *Session
	for hop := range len(config.Via) + 1 {
		outer := s
		s = newSession(config, hop, outer, queue)
		l, err := s.connect(ctx)
		if err != nil {
			s.cancel()
			if outer != nil {
				_ = outer.Close()
			}
			return nil, err
		}
		s.adopt(l)
		s.tellTransport(Connected)
		s.running.Go(s.supervise)
	}
	return s, nil
}

func newSession(config Config, hop int, outer *Session, queue *events) *Session {
	gateway := config.Gateway
	if hop < len(config.Via) {
		gateway = config.Via[hop]
	}
	s := &Session{
		config:  config,
		hop:     hop,
		gateway: gateway,
		outer:   outer,
		mac:     cookie.NewMAC1Key(gateway.Identity),
		begun:   time.Now(),
		log:     config.Logger.With(zap.Stringer("gateway", gateway.Identity)),
		events:  queue,
		trouble: make(chan struct{}, 1),
		done:    make(chan struct{}),
	}
	s.flows.init()
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// adopt puts a link in the place of the one before, if there is one, which then
// goes. It reports whether the session still wants it.
func (s *Session) adopt(l *link) bool {
	l.start()
	s.mu.Lock()
	if s.finished {
		s.mu.Unlock()
		l.close()
		return false
	}
	old := s.link.Swap(l)
	s.lastErr = nil
	w := l.way.Load()
	s.pathReason = ""
	if w.path.Transport == path.TCP && s.config.Transport == Auto {
		s.pathReason = "UDP did not answer in time"
	}
	s.running.Go(func() { l.serve(w) })
	s.mu.Unlock()
	if old == nil {
		return true
	}
	s.count.expired.Add(old.way.Load().expired())
	old.close()
	for _, f := range s.flows.all() {
		if f.to.forward() {
			f.inbox.tell(errMoved)
		}
	}
	return true
}

// Close ends the session and everything that is open on it, and tells the gateway.
// It returns when nothing of it runs any more, and always nil.
func (s *Session) Close() error {
	s.finish(ErrClosed)
	s.running.Wait()
	if s.outer != nil {
		return s.outer.Close()
	}
	return nil
}

// finish ends the session for good. The first call counts.
func (s *Session) finish(err error) {
	s.mu.Lock()
	if s.finished {
		s.mu.Unlock()
		return
	}
	s.finished, s.err = true, err
	s.mu.Unlock()
	s.cancel()
	forUsers := err
	if errors.Is(err, ErrClosed) {
		forUsers = net.ErrClosed
	}
	s.flows.end(forUsers)
	if l := s.link.Load(); l != nil {
		l.close()
	}
	if s.outer != nil {
		s.outer.finish(ErrClosed)
	}
	s.tell(Event{Kind: Closed, Err: err})
	close(s.done)
}

// Done returns a channel that is closed when the session has ended for good.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err returns why the session has ended: ErrClosed, or an *EndedError. It is nil
// before Done is closed, also while the session is being made anew.
func (s *Session) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// at returns how old the session is: the time that its parts go by.
func (s *Session) at(now time.Time) time.Duration { return now.Sub(s.begun) }

// maxPacket returns the size of the largest packet that may be sent now: what is
// configured, what the gateway takes, what the path is believed to take.
func (s *Session) maxPacket() int {
	most := s.config.MaxPacket
	if s.outer != nil {
		most = s.outer.maxPacket() - wrap
	}
	if l := s.link.Load(); l != nil {
		most = min(most, int(l.maxDatagram.Load()), l.session.MaxPacket())
	}
	return most
}

// pathChanged tells that packets go another way.
func (s *Session) pathChanged(from, to path.Transport, why string) {
	s.mu.Lock()
	s.pathReason = why
	if to == path.UDP && from == path.TCP {
		s.pathReason = ""
	}
	s.mu.Unlock()
	s.tell(Event{Kind: PathChanged, From: from, To: to, Reason: why})
}

// tellTransport tells of an event with the transport that carries the session.
func (s *Session) tellTransport(k EventKind) {
	carrier, why := s.carrier()
	s.tell(Event{Kind: k, From: carrier, To: carrier, Reason: why})
}

// tell tells the user and the log of an event.
func (s *Session) tell(e Event) {
	e.Gateway = s.gateway.Identity
	s.events.push(e)
	switch e.Kind {
	case Connected:
		s.log.Info("connected", transportFields(e)...)
	case Rekeyed:
		s.log.Debug("rekeyed", zap.Uint32("generation", e.Generation))
	case Reconnecting:
		s.log.Warn("reconnecting", zap.Error(e.Err))
	case Reconnected:
		s.log.Info("reconnected", transportFields(e)...)
	case PathChanged:
		if e.From == e.To {
			s.log.Info("the path has changed: another local port is used", transportFields(e)...)
			return
		}
		s.log.Warn("the path has changed: another transport is used", transportFields(e)...)
	case Closed:
		if errors.Is(e.Err, ErrClosed) {
			s.log.Info("closed")
			return
		}
		s.log.Warn("ended", zap.Error(e.Err))
	}
}

// transportFields says in the log what carries a session, and why where that is not
// the first choice.
func transportFields(e Event) []zap.Field {
	fields := []zap.Field{zap.Stringer("transport", e.To)}
	if e.Reason != "" {
		fields = append(fields, zap.String("because", e.Reason))
	}
	return fields
}
