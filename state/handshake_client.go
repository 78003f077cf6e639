package state

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"lewes/crypto/cookie"
	"lewes/crypto/identity"
	"lewes/crypto/kem"
	"lewes/crypto/kkt"
	"lewes/crypto/noise"
	"lewes/crypto/seal"
	"lewes/state/path"
	"lewes/state/wire"
)

// maxAttempts bounds the parallel attempts that hints of a gateway lead to (section 2).
const maxAttempts = 3

// DefaultDeadline is the default time limit of a handshake (section 10).
const DefaultDeadline = 10 * time.Second

// ClientConfig configures a client's handshake.
type ClientConfig struct {
	Gateway   identity.PublicKey   // identity that the gateway must prove
	Identity  *identity.PrivateKey // the client's own
	KEM       kem.ID
	KnownKEM  []byte     // the gateway's KEM public key from an earlier KKT; nil runs KKT
	PinnedKEM *[32]byte  // BLAKE3 of the only KEM key to accept; nil accepts any signed one
	Suites    seal.Suite // AEADs to offer; ChaCha20-Poly1305 always is
	Rand      io.Reader
	Path      path.Path     // to the gateway
	RTT       time.Duration // of the path; 0 if unknown
	Deadline  time.Duration // 0 means DefaultDeadline
	MaxWait   time.Duration // bounds the time between retransmissions like the default of 1 s; 0 means that
	Doubted   uint32        // receiver index of the session beside which this handshake runs; 0: none
	Session   SessionConfig // Static is filled in from Identity

	gatewayStatic [32]byte
}

func (c *ClientConfig) deadline() time.Duration { return cmp.Or(c.Deadline, DefaultDeadline) }

// Client establishes one session with one gateway. It runs up to three attempts in
// parallel; the first to succeed wins.
type Client struct {
	config   ClientConfig
	mac      *cookie.MAC1Key
	attempts []*attempt
	cookies  int // answered at once
	started  time.Time
	until    time.Time
	progress Progress

	clockTried bool
	kktTried   bool
	session    *Session
	err        error
	lastHint   HandshakeError // the fields of the gateway's last unauthenticated message
}

// Progress records when each step of a handshake completed; zero means not yet.
type Progress struct {
	Started     time.Time
	Answered    time.Time // first answer to the hello
	KKT         time.Time // signed KEM key received
	Established time.Time // Handshake 2 opened: the gateway is authenticated
}

// NewClient starts a handshake and appends the first flight to out.
func NewClient(now time.Time, config ClientConfig, out *Output) (*Client, error) {
	static, err := config.Gateway.X25519()
	if err != nil {
		return nil, fmt.Errorf("gateway identity %s: %w", config.Gateway, err)
	}
	if !config.KEM.Supported() {
		return nil, fmt.Errorf("KEM %s is not supported", config.KEM)
	}
	config.gatewayStatic = static
	private, public := config.Identity.X25519()
	config.Session.Static = noise.KeyPair{Private: private, Public: public}
	config.Session.Rand = config.Rand
	c := &Client{
		config:   config,
		mac:      cookie.NewMAC1Key(config.Gateway),
		started:  now,
		until:    now.Add(config.deadline()),
		progress: Progress{Started: now},
		kktTried: config.KnownKEM == nil,
	}
	if err := c.startAttempt(now, config.KnownKEM, 0, out); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Client) startAttempt(now time.Time, known []byte, offset time.Duration, out *Output) error {
	if len(c.attempts) == maxAttempts {
		return nil
	}
	a, err := newAttempt(now, &c.config, c.mac, known, offset)
	if err != nil {
		return err
	}
	c.attempts = append(c.attempts, a)
	a.start(now, out)
	return nil
}

// Handle processes a packet from the gateway's path. A non-nil error means that the
// packet was ignored; it never fails the handshake.
func (c *Client) Handle(now time.Time, packet []byte, out *Output) error {
	if c.session != nil && c.session.Confirmed() || c.err != nil {
		return ErrStale
	}
	h, err := wire.ParseHeader(packet)
	if err != nil {
		return err
	}
	if h.Level == wire.LevelClear && !c.mac.Verify(packet) {
		return ErrMAC1
	}
	for _, a := range c.attempts {
		if a.index == h.ReceiverIdx && (c.session == nil || c.session == a.session) {
			return c.handle(now, a, h, packet, out)
		}
	}
	return ErrStale
}

func (c *Client) handle(now time.Time, a *attempt, h wire.Header, packet []byte, out *Output) error {
	hint, err := a.handle(now, h, packet, out)
	if h.Level == wire.LevelClear && c.progress.Answered.IsZero() {
		c.progress.Answered = now
	}
	if errors.Is(err, kkt.ErrSignature) {
		c.lastHint.BadKKTSignature = true
	}
	if a.handshake1 != nil && c.progress.KKT.IsZero() {
		c.progress.KKT = now
	}
	if a.session != nil {
		if c.session == nil {
			c.session = a.session
			c.progress.Established = now
			c.wipeOthers()
		}
		return err
	}
	if a.failed != nil {
		c.fail(now, a.failed)
		return err
	}
	return errors.Join(err, c.followHint(now, a, hint, out))
}

// followHint starts the attempt that a hint suggests, in parallel to the others. If it cannot be
// started, for example because the hinted clock is out of range, the others continue.
func (c *Client) followHint(now time.Time, a *attempt, h hint, out *Output) error {
	switch {
	case h.busy != nil:
		c.lastHint = HandshakeError{Busy: h.busy}
		if h.cookie && c.cookies < maxCookies {
			c.cookies++
			a.start(now, out)
		}
	case h.held:
		c.fail(now, ErrHeld)
	case h.reject != nil:
		c.lastHint = HandshakeError{Reject: h.reject, RejectAt: now}
		return c.followReject(now, a, h.reject, out)
	}
	return nil
}

func (c *Client) followReject(now time.Time, a *attempt, r *wire.Reject, out *Output) error {
	switch {
	case r.Code == wire.RejectStaleKey && !c.kktTried:
		c.kktTried = true
		return c.startAttempt(now, nil, a.offset, out)
	case r.Code == wire.RejectClock && !c.clockTried:
		c.clockTried = true
		theirs := time.Unix(int64(r.GatewaySeconds), 0)
		return c.startAttempt(now, a.known(), theirs.Sub(now), out)
	}
	return nil
}

// Tick retransmits and ends the handshake at its deadline.
func (c *Client) Tick(now time.Time, out *Output) {
	if c.session != nil || c.err != nil {
		return
	}
	if !now.Before(c.until) {
		c.fail(now, nil)
		return
	}
	for _, a := range c.attempts {
		a.tick(now, out)
	}
}

// Resend sends the current flight again at once, beside the retransmissions of Tick.
func (c *Client) Resend(out *Output) {
	if c.session != nil || c.err != nil {
		return
	}
	for _, a := range c.attempts {
		a.send(true, out)
	}
}

// Deadline returns when Tick is due; zero means never.
func (c *Client) Deadline() time.Time {
	if c.session != nil || c.err != nil {
		return time.Time{}
	}
	at := c.until
	for _, a := range c.attempts {
		at = earliest(at, a.retry.at)
	}
	return at
}

// Session returns the session of the attempt that succeeded, or nil. The session itself retransmits
// Handshake 3. Until it is confirmed, Handle still takes the answers to other copies of the hello.
func (c *Client) Session() *Session { return c.session }

// Err returns a *HandshakeError if the handshake failed, else nil.
func (c *Client) Err() error { return c.err }

// Progress returns when each step completed.
func (c *Client) Progress() Progress { return c.progress }

// KEMKey returns the gateway's KEM public key that the handshake used, and whether a KKT
// of this handshake delivered it. A client may cache it for 24 h after that KKT.
func (c *Client) KEMKey() (key []byte, byKKT bool) {
	for _, a := range c.attempts {
		if a.session != nil {
			return a.kemKey, a.request != nil
		}
	}
	return nil, false
}

// wipeOthers wipes the attempts that did not win.
func (c *Client) wipeOthers() {
	for _, a := range c.attempts {
		if a.session == nil {
			a.wipe()
		}
	}
}

func (c *Client) fail(now time.Time, cause error) {
	furthest := ReadyToHandshake
	for _, a := range c.attempts {
		furthest = max(furthest, a.phase())
	}
	e := c.lastHint
	e.Gateway, e.Transport, e.Phase = c.config.Gateway, c.config.Path.Transport, furthest
	e.Answered, e.Elapsed, e.Cause = !c.progress.Answered.IsZero(), now.Sub(c.started), cause
	c.err = &e
	c.wipeOthers()
}

// HandshakeError describes how far a handshake got and the gateway's last hint.
type HandshakeError struct {
	Gateway         identity.PublicKey
	Transport       path.Transport
	Phase           Phase // furthest phase of all attempts
	Answered        bool  // an answer arrived from an end that knows the gateway's key
	Elapsed         time.Duration
	Reject          *wire.Reject // if it was the last hint
	RejectAt        time.Time    // when it arrived, by the local clock
	Busy            *wire.Busy   // if it was the last hint
	BadKKTSignature bool         // a KKT response was not signed by the identity
	Cause           error        // nil if the time limit ended the handshake
}

func (e *HandshakeError) Unwrap() error { return e.Cause }

func (e *HandshakeError) Error() string {
	var causes string
	switch {
	case !e.TimedOut():
	case e.Answered && e.Phase == Handshaking:
		causes = ": it does not list this client's identity, or packets of 700 bytes are lost"
	case e.Answered:
		causes = ": packets are lost"
	default:
		causes = fmt.Sprintf(": the gateway is down, %s is blocked on the way, or another identity than the one in the URI answers at this address", strings.ToUpper(e.Transport.String()))
	}
	return e.Symptom() + causes
}

// TimedOut reports whether nothing but silence explains the failure.
func (e *HandshakeError) TimedOut() bool {
	return e.Cause == nil && e.Reject == nil && e.Busy == nil && !e.BadKKTSignature
}

// Symptom describes the failure without the possible causes of a timeout.
func (e *HandshakeError) Symptom() string {
	after := e.Elapsed.Round(100 * time.Millisecond)
	switch {
	case e.Cause != nil:
		return fmt.Sprintf("handshake with %s failed: %v", e.Gateway, e.Cause)
	case e.Reject != nil && e.Reject.Code == wire.RejectClock:
		return fmt.Sprintf("the gateway refuses this machine's clock: it is %s here and %s at the gateway; set the clock (e.g. with NTP)",
			e.RejectAt.UTC().Format(time.RFC3339), time.Unix(int64(e.Reject.GatewaySeconds), 0).UTC().Format(time.RFC3339))
	case e.Reject != nil:
		return fmt.Sprintf("the gateway refused within %s: %s%s", after, e.Reject.Code, detail(e.Reject.Detail))
	case e.Busy != nil:
		return fmt.Sprintf("the gateway was busy for %s; retry in %s", after, time.Duration(e.Busy.RetryAfterMillis)*time.Millisecond)
	case e.BadKKTSignature:
		return fmt.Sprintf("the gateway did not prove that it is %s: its key exchange is not signed by that identity; check the URI", e.Gateway)
	case e.Answered && e.Phase == Handshaking:
		return fmt.Sprintf("the gateway answered the hello but not the handshake within %s", after)
	case e.Answered:
		return fmt.Sprintf("the gateway answered the hello but its key exchange did not arrive within %s", after)
	}
	return fmt.Sprintf("no answer within %s", after)
}

func detail(d wire.Detail) string {
	if len(d) == 0 {
		return ""
	}
	return " (" + d.String() + ")"
}
