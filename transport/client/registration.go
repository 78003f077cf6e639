package client

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"lewes/crypto/wgkey"
	"lewes/state"
	"lewes/state/wire"
)

// Mode is what a client registers for (section 9 of PROTOCOL.md).
type Mode uint8

const (
	ModeRelay   = Mode(wire.ModeRelay)   // datagrams through a session
	ModeDVPN    = Mode(wire.ModeDVPN)    // a WireGuard peer
	ModeMixnet  = Mode(wire.ModeMixnet)  // datagrams to the gateway's mix node
	ModeBalance = Mode(wire.ModeBalance) // asks what is left, and changes nothing
)

func (m Mode) String() string { return wire.Mode(m).String() }

// TicketType is the type of a credential.
type TicketType uint8

const (
	TicketNone         = TicketType(wire.TicketNone)         // no credential
	TicketBlindRSA2048 = TicketType(wire.TicketBlindRSA2048) // a publicly verifiable token of RFC 9578
)

func (t TicketType) String() string { return wire.TicketType(t).String() }

// RegisterCode is a gateway's answer to Session.Register. Codes without a name are failures.
type RegisterCode uint8

const (
	RegisterOK               = RegisterCode(wire.CodeOK)
	RegisterBadRequest       = RegisterCode(wire.CodeBadRequest)
	RegisterModeNotOffered   = RegisterCode(wire.CodeModeNotOffered)
	RegisterNotAllowed       = RegisterCode(wire.CodeNotAllowed)
	RegisterTicketNeeded     = RegisterCode(wire.CodeTicketNeeded)
	RegisterTicketInvalid    = RegisterCode(wire.CodeTicketInvalid)
	RegisterUnknownIssuerKey = RegisterCode(wire.CodeUnknownIssuerKey)
	RegisterTicketExpired    = RegisterCode(wire.CodeTicketExpired)
	RegisterAlreadySpent     = RegisterCode(wire.CodeAlreadySpent)
	RegisterNoAddressFree    = RegisterCode(wire.CodeNoAddressFree)
	RegisterDeviceFailed     = RegisterCode(wire.CodeDeviceFailed)
	RegisterBusy             = RegisterCode(wire.CodeBusy)
	RegisterStorageFailed    = RegisterCode(wire.CodeStorageFailed)
	RegisterBandwidthUsedUp  = RegisterCode(wire.CodeBandwidthUsedUp)
	RegisterClock            = RegisterCode(wire.CodeClock)
)

func (c RegisterCode) String() string { return wire.RegisterCode(c).String() }

// TicketOffer describes a ticket that a gateway takes.
type TicketOffer struct {
	Type       TicketType
	Issuer     string   // the issuer's host
	TokenKeyID [32]byte // of the issuer's key
	Bytes      uint64   // that the ticket grants
	Seconds    uint64   // for how long from its spending
}

// WireGuardPeer is a gateway's half of a WireGuard configuration.
type WireGuardPeer struct {
	PublicKey [32]byte
	IPv4      netip.Addr // the client's address in the tunnel; zero: none
	IPv6      netip.Addr
	Endpoint  string // host:port
}

// Unlimited is the bandwidth of an account without a limit.
const Unlimited = wire.Unlimited

const (
	// busyPause is the first pause before a Register that the gateway was too busy for is sent again; it doubles.
	busyPause    = time.Second
	maxBusyPause = 8 * time.Second
)

// ErrNoRegistration means that a gateway has no registration.
var ErrNoRegistration = errors.New("the gateway does not answer registrations")

// RegisterRequest is a request to Session.Register.
type RegisterRequest struct {
	Mode Mode
	// TicketType and Credential are a ticket to spend. Without one, the result is the registration
	// that stands, or RegisterTicketNeeded with the tickets that the gateway takes.
	TicketType TicketType
	Credential []byte
	// WireGuardKey is the private key of ModeDVPN. Register does not keep it.
	WireGuardKey *[32]byte
	// ClientID is that of ModeMixnet.
	ClientID *[32]byte
}

// RegisterResult is a gateway's answer to a registration, or what it reports of an account.
type RegisterResult struct {
	Code RegisterCode
	// Detail is the gateway's explanation, often empty, with control characters replaced.
	Detail string
	// Remaining is what the account has left, in bytes, or Unlimited. Expires is when the last of it
	// expires; zero means never.
	Remaining uint64
	Expires   time.Time
	// Tickets are those that the gateway takes, with RegisterTicketNeeded.
	Tickets []TicketOffer
	// Peer and PresharedKey are the gateway's half of the WireGuard configuration and the preshared key, with
	// ModeDVPN. The caller wipes the key.
	Peer         *WireGuardPeer
	PresharedKey [32]byte
}

// OK reports whether the registration stands.
func (r *RegisterResult) OK() bool { return r.Code == RegisterOK }

// Err returns nil, or a *RegisterError if the registration does not stand.
func (r *RegisterResult) Err() error {
	if r.OK() {
		return nil
	}
	return &RegisterError{r.Code, r.Detail}
}

// RegisterError is a registration that a gateway refused.
type RegisterError struct {
	Code   RegisterCode
	Detail string
}

func (e *RegisterError) Error() string {
	text := "gateway refused the registration: " + e.Code.String()
	if e.Detail != "" && e.Detail != e.Code.String() {
		text += " (" + e.Detail + ")"
	}
	return text
}

func resultOf(r *wire.RegisterResult) RegisterResult {
	result := RegisterResult{Code: RegisterCode(r.Code), Detail: r.Error.String(), Remaining: r.Remaining}
	for _, o := range r.Tickets {
		result.Tickets = append(result.Tickets, TicketOffer{TicketType(o.Type), o.Issuer, o.TokenKeyID, o.Bytes, o.Seconds})
	}
	if p := r.Peer; p != nil {
		result.Peer = &WireGuardPeer{p.PublicKey, p.IPv4, p.IPv6, p.Endpoint}
	}
	if r.ExpiresAt != 0 {
		result.Expires = time.Unix(int64(r.ExpiresAt), 0)
	}
	return result
}

// Register registers with the gateway and returns its answer, also a refusal: see RegisterResult.Err. It
// repeats the request over loss, in a new session too, and while the gateway is busy, until ctx is done; a
// ctx without a deadline gets Config.Timeout. A ticket is spent once however often it is sent. After
// success with ModeRelay or ModeMixnet the session registers again, without a ticket, each time that it
// reconnects.
//
// With Config.Tickets, a request without a ticket asks first, and then spends one if the gateway needs it; in ModeRelay and
// ModeMixnet the session does so again before the account ends.
//
// Errors: ErrNoRegistration, wallet.ErrNoTicket, those of a wallet that cannot be written, that of ctx or Err,
// or of an invalid request.
func (s *Session) Register(ctx context.Context, r RegisterRequest) (RegisterResult, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	if s.payer != nil && r.TicketType == TicketNone && r.Mode != ModeBalance {
		return s.payer.register(ctx, r)
	}
	return s.register(ctx, r)
}

// register is Register without a wallet.
func (s *Session) register(ctx context.Context, r RegisterRequest) (RegisterResult, error) {
	select {
	case s.registering <- struct{}{}: // one is under way at a time (R9.11)
		defer func() { <-s.registering }()
	case <-ctx.Done():
		return RegisterResult{}, s.waitError(ctx, "register")
	}
	pause := busyPause
	for {
		result, err := s.registerOnce(ctx, &r)
		if err != nil || result.Code != RegisterBusy {
			if result.OK() && (r.Mode == ModeRelay || r.Mode == ModeMixnet) && err == nil {
				s.registered.Store(&RegisterRequest{Mode: r.Mode, ClientID: r.ClientID})
			}
			return result, err
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, maxBusyPause)
		case <-ctx.Done():
			return result, nil
		case <-s.done:
			return result, s.Err()
		}
	}
}

// registerOnce returns the answer to one Register, which goes to each sessionConn in turn.
func (s *Session) registerOnce(ctx context.Context, r *RegisterRequest) (RegisterResult, error) {
	for {
		c, flags, err := s.awaitTerms(ctx)
		switch {
		case err != nil:
			return RegisterResult{}, s.registerError(ctx, err)
		case flags&wire.AckRegisters == 0:
			return RegisterResult{}, fmt.Errorf("client: register: %w", ErrNoRegistration)
		}
		m, psk, err := s.message(c, r)
		if err != nil {
			return RegisterResult{}, fmt.Errorf("client: register: %w", err)
		}
		answer, err := c.register(ctx, m)
		switch {
		case err != nil && ctx.Err() == nil && s.ctx.Err() == nil && errors.Is(err, errReconnecting):
			continue
		case err != nil:
			return RegisterResult{}, s.registerError(ctx, err)
		}
		result := resultOf(answer)
		if r.Mode == ModeDVPN && result.OK() {
			if result.Peer == nil {
				return RegisterResult{}, errors.New("client: register: the gateway registered without a WireGuard peer")
			}
			result.PresharedKey = psk(&result.Peer.PublicKey)
		}
		return result, nil
	}
}

// registerError is the error of a Register that has no answer.
func (s *Session) registerError(ctx context.Context, err error) error {
	switch {
	case s.Err() != nil:
		return s.Err()
	case ctx.Err() != nil:
		return s.waitError(ctx, "register")
	}
	return fmt.Errorf("client: register: %w", err)
}

// message returns the Register for the session of c, and the preshared key of its WireGuard key and a gateway's.
func (s *Session) message(c *sessionConn, r *RegisterRequest) (*wire.Register, func(gateway *[32]byte) [32]byte, error) {
	m := &wire.Register{
		Mode: wire.Mode(r.Mode), Timestamp: uint64(time.Now().Unix()), TicketType: wire.TicketType(r.TicketType), Credential: r.Credential,
	}
	if r.ClientID != nil {
		m.ClientID = r.ClientID[:]
	}
	if r.WireGuardKey == nil {
		return m, nil, nil
	}
	c.mu.Lock()
	exporter := c.session.Exporter()
	c.mu.Unlock()
	proof, err := wgkey.Prove(r.WireGuardKey, s.gateway.Identity, &exporter)
	public := wgkey.Public(r.WireGuardKey)
	m.WGPublicKey, m.WGProof = public[:], proof[:]
	return m, func(gateway *[32]byte) [32]byte { return wgkey.PresharedKey(&exporter, &public, gateway) }, err
}

// awaitTerms waits for a sessionConn whose gateway has sent its terms.
func (s *Session) awaitTerms(ctx context.Context) (*sessionConn, wire.AckFlags, error) {
	for {
		c := s.conn.Load()
		flags, changed, err := c.terms()
		if err == nil && changed == nil {
			return c, flags, nil
		}
		var replaced <-chan time.Time
		if err != nil { // the next sessionConn takes its place
			replaced = time.After(livenessInterval)
		}
		select {
		case <-changed:
		case <-replaced:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		case <-s.done:
			return nil, 0, s.Err()
		}
	}
}

// terms returns the flags of the gateway's Ack, or a channel that is closed at the next change while it has not
// arrived, or the error that ended the conn.
func (c *sessionConn) terms() (wire.AckFlags, <-chan struct{}, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.st.ended != nil {
		return 0, nil, c.st.ended
	}
	terms := c.session.Terms()
	if terms == (state.Terms{}) {
		return 0, c.st.changed, nil
	}
	return terms.Flags, nil, nil
}

// unsettled reports whether the session may be registering by itself: the gateway requires it, or has not sent its terms.
func (st *connState) unsettled() bool {
	terms := st.c.session.Terms()
	return !st.settled && (terms == (state.Terms{}) || terms.Flags&wire.AckRegistrationRequired != 0)
}

// register sends a Register until its result arrives. errReconnecting means that another sessionConn takes
// the place of c.
func (c *sessionConn) register(ctx context.Context, m *wire.Register) (*wire.RegisterResult, error) {
	answer := make(chan *wire.RegisterResult, 1)
	var failed error
	err := c.update(func(st *connState, now time.Time) {
		if _, failed = c.session.Register(now, m, &st.out); failed == nil {
			st.registering = answer
		}
	})
	if err != nil {
		failed = errReconnecting
	}
	if failed != nil {
		return nil, failed
	}
	defer func() {
		_ = c.update(func(st *connState, _ time.Time) {
			st.registering = nil
			c.session.CancelRegister()
		})
	}()
	for {
		c.mu.Lock()
		changed, ended := c.st.changed, c.st.ended != nil
		c.mu.Unlock()
		select {
		case result := <-answer:
			return result, nil
		default:
		}
		if ended {
			return nil, errReconnecting
		}
		select {
		case result := <-answer:
			return result, nil
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// handleRegistered handles a RegisterResult: the answer to the Register that waits, or a report of the account.
func (st *connState) handleRegistered(r *wire.RegisterResult) {
	if r.RequestID == 0 {
		result := resultOf(r)
		st.s.emit(Event{Kind: Registered, Err: result.Err(), Registration: &result})
		if st.s.payer != nil {
			st.s.payer.note(&result)
		}
		return
	}
	if st.registering != nil {
		st.registering <- r // has room for the one answer
		st.registering = nil
	}
}

// leavesRegistration reports whether the program registers the session.
func (s *Session) leavesRegistration() bool { return s.config.NoRegister && s.hop == len(s.config.Via) }

// keepRegistered registers a new sessionConn if the gateway requires it, or if the last one was registered.
// Until it is done, flows that the gateway refuses for want of a registration open again.
func (s *Session) keepRegistered(c *sessionConn) {
	settled := func(err error) {
		select {
		case s.settled <- err:
		default: // Dial has not waited, or no longer
		}
	}
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.st.settled = true
	}()
	if s.leavesRegistration() {
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.config.Timeout)
	defer cancel()
	now, flags, err := s.awaitTerms(ctx)
	if err != nil {
		settled(s.registerError(ctx, err))
		return
	}
	if now != c {
		return
	}
	request := s.registered.Load()
	if request == nil && flags&wire.AckRegistrationRequired != 0 {
		request = &RegisterRequest{Mode: ModeRelay}
	}
	if request == nil || flags&wire.AckRegisters == 0 {
		settled(nil)
		return
	}
	result, err := s.Register(ctx, *request)
	if err == nil {
		err = result.Err()
	}
	settled(err)
	if s.ctx.Err() == nil {
		s.emit(Event{Kind: Registered, Err: err, Registration: &result})
	}
}
