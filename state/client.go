package state

import (
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

// maxAttempts bounds the attempts that a client makes beside each other because
// of what a gateway said in clear (section 2).
const maxAttempts = 3

// DefaultDeadline is how long a handshake may take (section 10).
const DefaultDeadline = 10 * time.Second

// ClientConfig is what a client needs for a handshake.
type ClientConfig struct {
	Gateway   identity.PublicKey   // who the gateway must prove to be
	Identity  *identity.PrivateKey // the client's own
	KEM       kem.ID
	KnownKEM  []byte     // the gateway's KEM public key from an earlier KKT; nil runs KKT
	PinnedKEM *[32]byte  // BLAKE3 of the only KEM key to take; nil takes any signed one
	Suites    seal.Suite // AEADs to offer; ChaCha20-Poly1305 always is
	Rand      io.Reader
	Path      path.Path     // where the gateway is
	RTT       time.Duration // of the path, where it is known
	Deadline  time.Duration // 0 means DefaultDeadline
	Session   SessionConfig // Static is filled in from Identity

	gatewayStatic [32]byte
}

func (c *ClientConfig) deadline() time.Duration {
	if c.Deadline > 0 {
		return c.Deadline
	}
	return DefaultDeadline
}

// Client makes one session with one gateway. It drives up to three attempts
// beside each other; the first that stands wins.
type Client struct {
	config   ClientConfig
	mac      *cookie.MAC1Key
	attempts []*initiator
	cookies  int // that were followed at once
	started  time.Time
	until    time.Time
	progress Progress

	clockTried bool
	kktTried   bool
	session    *Session
	err        error
	heard      heard
}

// Progress says when each step of a handshake was done; a zero time was not.
type Progress struct {
	Started     time.Time
	Answered    time.Time // the first answer to the hello
	KKT         time.Time // the gateway's KEM key, signed
	Established time.Time // Handshake 2 has opened: the gateway is proved
}

// heard is the last word of a gateway in clear, the likely cause of a failure.
type heard struct {
	collision bool
	busy      *wire.Busy
	reject    *wire.Reject
	rejectAt  time.Time
	unproved  bool // a KKT response that the gateway's identity did not sign
}

// NewClient starts a handshake: out gets the first flight.
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
	if err := c.attempt(now, config.KnownKEM, 0, out); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Client) attempt(now time.Time, known []byte, offset time.Duration, out *Output) error {
	if len(c.attempts) == maxAttempts {
		return nil
	}
	i, err := newInitiator(now, &c.config, c.mac, known, offset)
	if err != nil {
		return err
	}
	c.attempts = append(c.attempts, i)
	i.start(now, out)
	return nil
}

// Handle takes a packet that came from the gateway's path. An error says that it
// was of no use; nothing else follows from it.
func (c *Client) Handle(now time.Time, packet []byte, out *Output) error {
	if c.session != nil || c.err != nil {
		return ErrStale
	}
	h, err := wire.ParseHeader(packet)
	if err != nil {
		return err
	}
	if h.Level == wire.LevelClear && !c.mac.Verify(packet) {
		return ErrMAC1
	}
	for _, i := range c.attempts {
		if i.index == h.ReceiverIdx {
			return c.handle(now, i, h, packet, out)
		}
	}
	return ErrStale
}

func (c *Client) handle(now time.Time, i *initiator, h wire.Header, packet []byte, out *Output) error {
	a, err := i.handle(now, h, packet, out)
	if h.Level == wire.LevelClear && c.progress.Answered.IsZero() {
		c.progress.Answered = now
	}
	if errors.Is(err, kkt.ErrSignature) {
		c.heard.unproved = true
	}
	if i.first != nil && c.progress.KKT.IsZero() {
		c.progress.KKT = now
	}
	if i.session != nil {
		c.session = i.session
		c.progress.Established = now
		c.drop()
		return err
	}
	if i.failed != nil {
		c.fail(now, i.failed)
		return err
	}
	return errors.Join(err, c.follow(now, i, a, out))
}

// follow makes the attempt that the gateway's word in clear indicates, beside
// those under way. An attempt that cannot be made, with a clock of another age
// for one, changes nothing for the others.
func (c *Client) follow(now time.Time, i *initiator, a advice, out *Output) error {
	switch {
	case a.busy != nil:
		c.heard = heard{busy: a.busy}
		if a.cookie && c.cookies < maxCookies {
			c.cookies++
			i.start(now, out)
		}
	case a.collision:
		c.heard = heard{collision: true}
		return c.attempt(now, i.known(), i.offset, out)
	case a.reject != nil:
		c.heard = heard{reject: a.reject, rejectAt: now}
		return c.followReject(now, i, a.reject, out)
	}
	return nil
}

func (c *Client) followReject(now time.Time, i *initiator, r *wire.Reject, out *Output) error {
	switch {
	case r.Code == wire.RejectStaleKey && !c.kktTried:
		c.kktTried = true
		return c.attempt(now, nil, i.offset, out)
	case r.Code == wire.RejectClock && !c.clockTried:
		c.clockTried = true
		theirs := time.Unix(int64(r.GatewaySeconds), 0)
		return c.attempt(now, i.known(), theirs.Sub(now), out)
	}
	return nil
}

// known returns the KEM key with which the attempt skipped KKT.
func (i *initiator) known() []byte {
	if i.request == nil {
		return i.kemKey
	}
	return nil
}

// Tick repeats what is due and ends the handshake when its time is up.
func (c *Client) Tick(now time.Time, out *Output) {
	if c.session != nil || c.err != nil {
		return
	}
	if !now.Before(c.until) {
		c.fail(now, nil)
		return
	}
	for _, i := range c.attempts {
		i.tick(now, out)
	}
}

// Deadline returns when the client wants to be ticked; zero means never.
func (c *Client) Deadline() time.Time {
	if c.session != nil || c.err != nil {
		return time.Time{}
	}
	at := c.until
	for _, i := range c.attempts {
		if i.retry.at.Before(at) {
			at = i.retry.at
		}
	}
	return at
}

// Session returns the session, once an attempt stands. The client has then no
// more to do: the session itself repeats Handshake 3.
func (c *Client) Session() *Session { return c.session }

// Err returns why the handshake failed, a *HandshakeError; nil while it is under
// way or when it succeeded.
func (c *Client) Err() error { return c.err }

// Progress returns when each step was done.
func (c *Client) Progress() Progress { return c.progress }

// KEMKey returns the gateway's KEM public key that the handshake used; a client
// may keep it for 24 h after the KKT that brought it.
func (c *Client) KEMKey() (key []byte, byKKT bool) {
	for _, i := range c.attempts {
		if i.session != nil {
			return i.kemKey, i.request != nil
		}
	}
	return nil, false
}

// drop wipes the attempts that did not win.
func (c *Client) drop() {
	for _, i := range c.attempts {
		if i.session == nil {
			i.wipe()
		}
	}
}

func (c *Client) fail(now time.Time, cause error) {
	furthest := ReadyToHandshake
	for _, i := range c.attempts {
		furthest = max(furthest, i.phase())
	}
	c.err = &HandshakeError{
		Gateway:         c.config.Gateway,
		Transport:       c.config.Path.Transport,
		Phase:           furthest,
		Answered:        !c.progress.Answered.IsZero(),
		Elapsed:         now.Sub(c.started),
		Reject:          c.heard.reject,
		RejectAt:        c.heard.rejectAt,
		Busy:            c.heard.busy,
		IndexTaken:      c.heard.collision,
		BadKKTSignature: c.heard.unproved,
		Cause:           cause,
	}
	c.drop()
}

// HandshakeError says how far a handshake came and what was heard last.
type HandshakeError struct {
	Gateway         identity.PublicKey
	Transport       path.Transport
	Phase           Phase // the furthest that an attempt came
	Answered        bool  // something came that knew the gateway's key
	Elapsed         time.Duration
	Reject          *wire.Reject // the last word in clear, where it was one of these
	RejectAt        time.Time    // when it came, by this side's clock
	Busy            *wire.Busy
	IndexTaken      bool  // the last word was a Collision
	BadKKTSignature bool  // a KKT response came that the identity did not sign
	Cause           error // what made it fail before its time was up
}

func (e *HandshakeError) Unwrap() error { return e.Cause }

func (e *HandshakeError) Error() string {
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
		return fmt.Sprintf("the gateway was busy for %s and says to come back in %s", after, time.Duration(e.Busy.RetryAfterMillis)*time.Millisecond)
	case e.IndexTaken:
		return fmt.Sprintf("the gateway said within %s that the handshake's index was taken, each time that another was tried: somebody on the way sends copies of this machine's packets first, or forges the answer; try again, from another network if need be", after)
	case e.BadKKTSignature:
		return fmt.Sprintf("the gateway did not prove that it is %s: its key exchange was not signed by that identity; check the URI", e.Gateway)
	case e.Answered && e.Phase == Handshaking:
		return fmt.Sprintf("the gateway answered the hello but not the handshake within %s: it does not list this client's identity, or packets of 700 bytes are lost on the way", after)
	case e.Answered:
		return fmt.Sprintf("the gateway answered the hello but its key exchange did not arrive whole within %s: packets are lost on the way", after)
	}
	return fmt.Sprintf("nobody there proved to be %s within %s: the gateway is down, %s is blocked on the way, or another identity than the one in the URI answers at this address (it then stays silent)", e.Gateway, after, strings.ToUpper(e.Transport.String()))
}

func detail(d wire.Detail) string {
	if len(d) == 0 {
		return ""
	}
	return " (" + d.String() + ")"
}
