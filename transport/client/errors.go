package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"lewes/crypto/identity"
	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
	"lewes/transport/uri"
)

var (
	// ErrClosed is the error of a session that its user closed. It wraps
	// net.ErrClosed.
	ErrClosed = fmt.Errorf("lewes session: %w", net.ErrClosed)

	// ErrSilent is the end of a session with Config.NoReconnect whose gateway
	// answered no more.
	ErrSilent = errors.New("the gateway does not answer any more: it was restarted or is down, or packets are lost on the way")

	// ErrTarget is wrapped by the errors about a target that cannot be sent to.
	ErrTarget = errors.New("unusable target")
)

// errMoved tells a session that runs over a forward flow that the flow's own
// session is a new one, whose entry knows nothing of the session inside yet.
var errMoved = errors.New("the entry's session was made anew")

// EndedError is the error of a session, and of everything that was open on it,
// that has ended for another reason than Session.Close.
type EndedError struct {
	Gateway identity.PublicKey
	Err     error
}

func (e *EndedError) Error() string {
	return fmt.Sprintf("the session with gateway %s has ended: %v", e.Gateway, e.Err)
}

func (e *EndedError) Unwrap() error { return e.Err }

// Is makes every EndedError a net.ErrClosed: there is no use in trying again.
func (e *EndedError) Is(target error) bool { return target == net.ErrClosed }

// SizeError says that a datagram does not fit in one packet to its target.
type SizeError struct {
	Size  int // of the datagram, in bytes
	Limit int // the largest that fits
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("datagram of %d bytes; at most %d fit in a packet to this target", e.Size, e.Limit)
}

// Unwrap returns syscall.EMSGSIZE, as a UDP socket would.
func (e *SizeError) Unwrap() error { return syscall.EMSGSIZE }

// FlowError says why a gateway ended a flow, or would not open it.
type FlowError struct {
	// Gateway is who refused.
	Gateway identity.PublicKey
	// Target is the flow's host:port, or the next gateway's identity.
	Target string
	Reason wire.FlowReason
	// Detail is what the gateway says about it, often empty.
	Detail string

	forward bool // the flow leads to another gateway
	name    string
}

func (e *FlowError) Error() string {
	s := e.sentence()
	if e.Detail != "" {
		s += " (" + e.Detail + ")"
	}
	return s
}

func (e *FlowError) sentence() string {
	if e.forward {
		return e.forwardSentence()
	}
	switch e.Reason {
	case wire.FlowPolicy:
		return "the gateway's egress policy refuses " + e.Target
	case wire.FlowUnreachable:
		return e.Target + " is unreachable from the gateway"
	case wire.FlowIdle:
		return "the gateway has ended the flow to " + e.Target + ", which was idle or is not known to it"
	case wire.FlowBound:
		return "too many flows are open for another to " + e.Target + ": close one first"
	case wire.FlowNotRegistered:
		return "the gateway carries nothing to " + e.Target + " before this client has registered"
	case wire.FlowBandwidth:
		return "the bandwidth that this client has at the gateway is used up: nothing more goes to " + e.Target
	case wire.FlowNameNotFound:
		return "the gateway found no address for the name in " + e.Target
	}
	return "the gateway has ended the flow to " + e.Target + ": " + e.Reason.String()
}

func (e *FlowError) forwardSentence() string {
	switch e.Reason {
	case wire.FlowPolicy:
		return fmt.Sprintf("the entry gateway %s does not forward to %s: it has no such gateway in its directory", e.Gateway, e.Target)
	case wire.FlowUnreachable:
		return fmt.Sprintf("gateway %s is unreachable from the entry gateway %s", e.Target, e.Gateway)
	case wire.FlowIndexCollision:
		return fmt.Sprintf("the entry gateway %s has the receiver index in use for somebody else", e.Gateway)
	}
	return fmt.Sprintf("the entry gateway %s does not forward to %s: %s", e.Gateway, e.Target, e.Reason)
}

// Unwrap returns the error that a socket of this machine would give for a like
// reason: syscall.ECONNREFUSED, EACCES, …, or a *net.DNSError.
func (e *FlowError) Unwrap() error {
	switch e.Reason {
	case wire.FlowPolicy, wire.FlowNotRegistered:
		return syscall.EACCES
	case wire.FlowUnreachable:
		return syscall.ECONNREFUSED
	case wire.FlowBound, wire.FlowBandwidth:
		return syscall.ENOBUFS
	case wire.FlowNameNotFound:
		return &net.DNSError{Err: "no such host", Name: e.name, Server: "gateway " + e.Gateway.String(), IsNotFound: true}
	}
	return nil
}

// DialError says why no session came to stand with a gateway.
type DialError struct {
	Gateway uri.Gateway
	// Via is the gateway before it on the way, or nil.
	Via *identity.PublicKey
	// Tried are the addresses that were tried; none where the name did not
	// resolve, or the way leads through another gateway.
	Tried []netip.AddrPort
	// Over is the transport that the rest is about.
	Over path.Transport
	// Err is why, mostly a *state.HandshakeError.
	Err error
	// Underlay is the last that the network said meanwhile, or nil. Anybody can
	// forge it, so that it is never more than the likely cause.
	Underlay error
	// TCP is what came of TCP, where both transports were tried; nil otherwise.
	TCP *DialError
}

func (e *DialError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "no session with gateway %s", e.Gateway.Address())
	switch {
	case e.Via != nil:
		fmt.Fprintf(&b, " through %s", e.Via)
	case len(e.Tried) > 1 || len(e.Tried) == 1 && e.Tried[0].String() != e.Gateway.Address():
		b.WriteString(" at")
		for i, a := range e.Tried {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(" " + a.String())
		}
	}
	b.WriteString(": ")
	if e.TCP != nil {
		b.WriteString("over UDP: ")
	}
	b.WriteString(e.cause())
	if e.TCP != nil {
		fmt.Fprintf(&b, "; over TCP, port %d: %s", e.Gateway.PortForTCP(), e.TCP.cause())
	}
	return b.String()
}

// cause says why there is no session over one transport.
func (e *DialError) cause() string {
	var b strings.Builder
	port := e.Gateway.Port
	if e.Over == path.TCP {
		port = e.Gateway.PortForTCP()
	}
	fmt.Fprintf(&b, "%v", e.Err)
	switch {
	case errors.Is(e.Underlay, transport.ErrRefused):
		fmt.Fprintf(&b, "; its host answered that nothing listens on port %d, so most likely the gateway is not running there", port)
	case errors.Is(e.Underlay, transport.ErrUnreachable):
		b.WriteString("; there is no route to it from here, so most likely this machine is offline or the address is wrong")
	case errors.Is(e.Underlay, transport.ErrDenied):
		b.WriteString("; this machine does not let the packets out: look at its firewall")
	case e.Underlay != nil:
		fmt.Fprintf(&b, "; the last trouble on the way was: %v", e.Underlay)
	}
	return b.String()
}

// Unwrap returns Err, and Underlay and TCP where there are such.
func (e *DialError) Unwrap() []error {
	all := []error{e.Err}
	if e.Underlay != nil {
		all = append(all, e.Underlay)
	}
	if e.TCP != nil {
		all = append(all, e.TCP)
	}
	return all
}

// Timeout reports whether the time was up before anything else failed.
func (e *DialError) Timeout() bool {
	var h *state.HandshakeError
	return errors.As(e.Err, &h) && h.Cause == nil
}

// resolveError is what became of the first gateway's name.
func resolveError(host string, err error) error {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return fmt.Errorf("the name %s does not resolve: look whether it is spelt right in the URI (%w)", host, err)
	case errors.As(err, &dns) && dns.Timeout():
		return fmt.Errorf("resolving the name %s took too long: look at this machine's DNS and whether it is online (%w)", host, err)
	}
	return fmt.Errorf("resolving the name %s: %w", host, err)
}

// further tells which of two failed tries came further, for the one that is
// reported.
func further(a, b error) bool {
	return reached(a) > reached(b)
}

func reached(err error) int {
	var h *state.HandshakeError
	switch {
	case err == nil:
		return -1
	case !errors.As(err, &h):
		return 0
	case h.Answered:
		return 2 + int(h.Phase)
	}
	return 1
}

// waitError says that ctx was done before the gateway answered.
func (s *Session) waitError(ctx context.Context, what string) error {
	s.mu.Lock()
	down := s.lastErr
	s.mu.Unlock()
	if down != nil {
		return fmt.Errorf("%s: %w (the session is being made anew: %w)", what, ctx.Err(), down)
	}
	return fmt.Errorf("%s: %w", what, ctx.Err())
}
