package client

import (
	"context"
	"errors"
	"sync"
	"time"

	"lewes/crypto/wgkey"
	"lewes/transport/client/wallet"
)

const (
	// minPayPause and maxPayPause bound the pause before a payment that failed is tried again.
	minPayPause = 5 * time.Second
	maxPayPause = time.Minute
	// topUpShare is the part of what an account had after its last payment that is left when the next one is
	// due: an eighth, which the gateway's report at 90 % falls below.
	topUpShare = 8
	// topUpTime is how long before the end of an account the next payment is due, or a tenth of the time
	// that was left after the last payment if that is less.
	topUpTime = 5 * time.Minute
	// doubtPause is the shortest time between two payments that the session's own traffic does not explain.
	doubtPause = time.Minute
	// storeInterval is the shortest time between two writes of what a gateway reports without being asked.
	storeInterval = time.Second
)

// payer pays for a session's registrations with the tickets of a wallet.
type payer struct {
	s    *Session
	wake chan struct{} // the fields below have changed

	mu       sync.Mutex
	request  *RegisterRequest // that is paid for again; nil: none
	account  wallet.Answer    // as last reported
	reported bool             // account is not stored yet
	stored   time.Time        // when it was the last time
	paid     wallet.Answer    // account after the last registration or payment
	paidAt   time.Time
	usedAt   uint64        // the session's bytes at that time
	pause    time.Duration // after a failure; 0: none
	again    time.Time     // when to try again; zero: nothing failed
	stopped  bool          // the gateway took a ticket for too little
}

func newPayer(s *Session) *payer { return &payer{s: s, wake: make(chan struct{}, 1)} }

// register is Session.Register with a wallet.
func (p *payer) register(ctx context.Context, r RegisterRequest) (RegisterResult, error) {
	var last RegisterResult
	a, err := p.s.config.Tickets.Register(ctx, p.registration(&r), p.ask(&r, &last))
	var refused *RegisterError
	switch {
	case err == nil:
		p.done(&r, a)
	case !errors.Is(err, wallet.ErrNoTicket) && ctx.Err() == nil && errors.As(err, &refused):
		return last, nil
	case errors.Is(err, wallet.ErrNoTicket) && !p.s.gateway.Tickets && last.Code == RegisterBandwidthUsedUp:
		return last, nil // the gateway may take no tickets: its refusal is the reason
	}
	return last, err
}

// done notes the account after a registration or payment.
func (p *payer) done(r *RegisterRequest, a wallet.Answer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.Mode == ModeRelay || r.Mode == ModeMixnet {
		p.request = &RegisterRequest{Mode: r.Mode, ClientID: r.ClientID}
	}
	p.account, p.reported, p.paid, p.paidAt, p.usedAt = a, false, a, time.Now(), p.used()
	p.pause, p.again = 0, time.Time{}
	signal(p.wake)
}

// note notes what the gateway reports about the account.
func (p *payer) note(r *RegisterResult) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := answerOf(r)
	if a.Verdict != p.account.Verdict || a.Remaining != p.account.Remaining || !a.Expires.Equal(p.account.Expires) {
		p.account, p.reported = a, true
		signal(p.wake)
	}
}

// registration returns what the tickets of a request pay for.
func (p *payer) registration(r *RegisterRequest) wallet.Registration {
	paid := wallet.Registration{Gateway: p.s.gateway.Identity, Account: p.s.key.Public(), Mode: r.Mode.String(), URI: p.s.gateway.String()}
	if r.WireGuardKey != nil {
		paid.Key = wgkey.Public(r.WireGuardKey)
	} else if r.ClientID != nil {
		paid.Key = *r.ClientID
	}
	return paid
}

// ask returns the function that sends a request, with a token unless that is nil, and stores the result in last.
func (p *payer) ask(r *RegisterRequest, last *RegisterResult) wallet.Ask {
	return func(ctx context.Context, token []byte) (wallet.Answer, error) {
		request := *r
		if token != nil {
			request.TicketType, request.Credential = TicketBlindRSA2048, token
		}
		result, err := p.s.register(ctx, request)
		if err != nil {
			return wallet.Answer{}, err
		}
		*last = result
		return answerOf(last), nil
	}
}

// run pays before the account ends.
func (p *payer) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-p.s.ctx.Done():
			return
		case <-p.wake:
		case <-timer.C:
		}
		store := p.store(time.Now())
		due, at := p.due(time.Now())
		if due {
			p.topUp()
			_, at = p.due(time.Now())
		}
		timer.Reset(time.Until(earliest(earliest(time.Now().Add(time.Hour), at), store)))
	}
}

// store stores what the gateway has reported, by which the wallet decides when an account has ended, at most
// once per storeInterval. It returns when to call it again; zero: after the next report.
func (p *payer) store(now time.Time) (again time.Time) {
	p.mu.Lock()
	a, r, next := p.account, p.request, p.stored.Add(storeInterval)
	if !p.reported || r == nil {
		p.mu.Unlock()
		return time.Time{}
	}
	if now.Before(next) {
		p.mu.Unlock()
		return next
	}
	p.reported, p.stored = false, now
	p.mu.Unlock()
	p.s.config.Tickets.Note(p.s.ctx, p.registration(r), &a)
	return time.Time{}
}

// due reports whether a payment is due, and when else to look again; zero: not by itself.
func (p *payer) due(now time.Time) (due bool, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.account.Expires.IsZero() {
		at = p.account.Expires.Add(-p.margin())
	}
	switch {
	case p.request == nil || p.stopped:
		return false, time.Time{}
	case p.account.Verdict == wallet.Granted && p.account.Remaining > p.paid.Paid/topUpShare && (at.IsZero() || now.Before(at)):
		return false, at
	case now.Before(p.again):
		return false, p.again
	case (at.IsZero() || now.Before(at)) && !p.plausible() && now.Before(p.paidAt.Add(doubtPause)):
		return false, p.paidAt.Add(doubtPause)
	}
	return true, time.Time{}
}

// plausible reports whether this session used at least half of what the gateway charged since the last payment.
// Another session of the account may have used it, or the gateway may want more tickets than it earns.
func (p *payer) plausible() bool {
	return p.account.Remaining >= p.paid.Remaining || p.used()-p.usedAt >= (p.paid.Remaining-p.account.Remaining)/2
}

// used returns the bytes that the session has carried.
func (p *payer) used() uint64 { return p.s.count.sentBytes.Load() + p.s.count.receivedBytes.Load() }

// margin returns how long before the end of the account the next payment is due.
func (p *payer) margin() time.Duration { return min(topUpTime, p.paid.Expires.Sub(p.paidAt)/10) }

// topUp pays, unless another process has.
func (p *payer) topUp() {
	ctx, cancel := p.s.bounded(p.s.ctx)
	defer cancel()
	p.mu.Lock()
	r, enough, until := p.request, p.paid.Paid/topUpShare, time.Now().Add(p.margin())
	p.mu.Unlock()
	var last RegisterResult
	a, err := p.s.config.Tickets.TopUp(ctx, p.registration(r), enough, until, p.ask(r, &last))
	if p.s.ctx.Err() != nil {
		return
	}
	if err == nil {
		p.done(r, a)
	} else {
		p.failed(err)
	}
	if errors.Is(err, wallet.ErrNoTicket) && !p.s.gateway.Tickets {
		return // the gateway may take none, and reports the end of the account itself
	}
	p.s.emit(Event{Kind: Registered, Err: err, Registration: &last})
}

func (p *payer) failed(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = errors.Is(err, wallet.ErrNoGain)
	p.pause = min(max(2*p.pause, minPayPause), maxPayPause)
	p.again = time.Now().Add(p.pause)
}

// awaitSettled waits until the session is registered with a gateway that takes tickets. Other gateways may need no
// registration, and Dial does not wait for their terms.
func (s *Session) awaitSettled(ctx context.Context) error {
	if !s.gateway.Tickets || s.leavesRegistration() {
		return nil
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var err error
	select {
	case err = <-s.settled:
	case <-ctx.Done():
		err = ctx.Err()
	case <-s.done:
		err = s.Err()
	}
	if err == nil {
		return nil
	}
	dial := &DialError{Gateway: s.gateway, Err: &registrationError{err}}
	if s.outer != nil {
		via := s.outer.gateway.Identity
		dial.Via = &via
	}
	return dial
}

// registrationError is the cause of a DialError whose session could not be registered.
type registrationError struct{ error }

func (e *registrationError) Unwrap() error { return e.error }

// answerOf returns what a result means for a wallet.
func answerOf(r *RegisterResult) wallet.Answer {
	if r.OK() {
		return wallet.Answer{Remaining: r.Remaining, Expires: r.Expires}
	}
	a := wallet.Answer{Error: r.Err()}
	switch r.Code {
	case RegisterTicketNeeded:
		a.Verdict, a.Offers = wallet.TicketNeeded, []wallet.Offer{}
		for _, t := range r.Tickets {
			if t.Type == TicketBlindRSA2048 {
				a.Offers = append(a.Offers, wallet.Offer{KeyID: t.TokenKeyID, Bytes: t.Bytes})
			}
		}
	case RegisterBandwidthUsedUp:
		a.Verdict = wallet.TicketNeeded
	case RegisterTicketInvalid, RegisterTicketExpired:
		a.Verdict = wallet.TicketRefused
	case RegisterAlreadySpent:
		a.Verdict, a.Spent = wallet.TicketRefused, true
	case RegisterUnknownIssuerKey:
		a.Verdict = wallet.KeyUnknown
	case RegisterDeviceFailed, RegisterBusy, RegisterStorageFailed:
		a.Verdict = wallet.Again
	default:
		a.Verdict = wallet.Failed
	}
	return a
}
