package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"lewes/state"
	"lewes/state/wire"
	"lewes/transport"
)

var (
	// ErrClosed is the error of a session that the application has closed. It wraps net.ErrClosed.
	ErrClosed = fmt.Errorf("client: session: %w", net.ErrClosed)

	// ErrSilent is the error of a session whose gateway stopped responding.
	ErrSilent = errors.New("the gateway stopped responding: it was restarted, is down, or packets are lost")

	// ErrTarget is wrapped by the errors about an invalid target.
	ErrTarget = errors.New("client: invalid target")
)

// errOuterReplaced is reported to a session that runs over another one when that has
// reconnected: its entry doesn't know the inner session's index yet.
var errOuterReplaced = errors.New("client: outer session replaced")

// EndedError is the error of a session, and of its flows, that has ended for another
// reason than Session.Close.
type EndedError struct {
	Gateway PublicKey
	Err     error
}

func (e *EndedError) Error() string {
	return fmt.Sprintf("session with gateway %s ended: %v", e.Gateway, e.Err)
}

func (e *EndedError) Unwrap() error { return e.Err }

// Is makes every EndedError a net.ErrClosed.
func (e *EndedError) Is(target error) bool { return target == net.ErrClosed }

// SizeError is the error of a datagram that exceeds the flow's limit.
type SizeError struct {
	Target string // host:port
	Size   int    // of the datagram, in bytes
	Limit  int    // of the flow, in bytes
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("dropped a %d-byte datagram for %s: the limit is %d", e.Size, e.Target, e.Limit)
}

// Unwrap returns syscall.EMSGSIZE, as of a UDP socket.
func (e *SizeError) Unwrap() error { return syscall.EMSGSIZE }

// FlowError is the error of a flow that the gateway has closed or refused.
type FlowError struct {
	Gateway PublicKey
	// Target is the flow's host:port, or the next gateway's identity.
	Target string
	Reason FlowReason
	// Detail is the gateway's explanation, often empty.
	Detail string

	forward bool   // the target is a gateway
	name    string // of the target; "" if it is an address
}

// flowErrors are the formats of FlowErrors, for their targets.
var flowErrors = map[FlowReason]string{
	ReasonPolicy:         "gateway policy denies %s",
	ReasonUnreachable:    "%s is unreachable from the gateway",
	ReasonLimit:          "too many flows to open one to %s",
	ReasonIndexCollision: "receiver index in use for %s",
	ReasonNotRegistered:  "gateway carries nothing to %s before the client has registered",
	ReasonBandwidth:      "bandwidth at the gateway used up for %s",
	ReasonNameNotFound:   "gateway found no address for %s",
}

func (e *FlowError) Error() string {
	target := e.Target
	if e.forward {
		target = fmt.Sprintf("gateway %s at entry %s", e.Target, e.Gateway)
	}
	format, known := flowErrors[e.Reason]
	switch {
	case e.Timeout():
		return fmt.Sprintf("gateway's resolver did not answer for %s", target)
	case e.forward && e.Reason == ReasonNameNotFound:
		return fmt.Sprintf("entry does not know the address of %s yet: its name cannot be resolved there", target)
	case e.forward && e.Reason == ReasonPolicy:
		return fmt.Sprintf("entry does not forward: %s is not in its directory", target) // Detail repeats it
	case !known:
		target, format = e.Reason.String(), "gateway closed the flow to "+target+": %s"
	}
	s := fmt.Sprintf(format, target)
	if e.Detail != "" {
		s += " (" + e.Detail + ")"
	}
	return s
}

// Unwrap returns the error that a local socket would give for a like reason, such as
// syscall.ECONNREFUSED or a *net.DNSError.
func (e *FlowError) Unwrap() error {
	switch e.Reason {
	case ReasonPolicy, ReasonNotRegistered:
		return syscall.EACCES
	case ReasonUnreachable:
		return syscall.ECONNREFUSED
	case ReasonLimit, ReasonBandwidth:
		return syscall.ENOBUFS
	case ReasonNameNotFound:
		dns := &net.DNSError{Err: "no such host", Name: e.name, Server: "gateway " + e.Gateway.String(), IsNotFound: true}
		if e.Timeout() {
			dns.Err, dns.IsNotFound, dns.IsTimeout = "resolver did not answer", false, true
		}
		return dns
	}
	return nil
}

// Timeout reports whether the gateway's resolver did not answer.
func (e *FlowError) Timeout() bool {
	return e.Reason == ReasonNameNotFound && e.Detail == wire.DetailResolverTimeout
}

// Temporary makes FlowError a net.Error.
func (e *FlowError) Temporary() bool { return e.Timeout() }

// Step is a step of making a session.
type Step uint8

const (
	StepResolve   Step = iota // resolving the gateway's name
	StepHello                 // an answer from the holder of the gateway's key
	StepKey                   // the gateway's KEM key
	StepHandshake             // the session
	StepRegister              // the registration, with a gateway that takes tickets
)

// DialError is the error of Dial and of a reconnect.
type DialError struct {
	Gateway Gateway
	// Via is the entry before Gateway, or nil.
	Via *PublicKey
	// Tried lists the addresses that were tried: none if the name did not resolve, or
	// Gateway is reached through an entry.
	Tried []netip.AddrPort
	// Transport is the one that the rest is about.
	Transport Transport
	// Err is the cause.
	Err error
	// Underlay is the network's last error, or nil. Anyone can forge it, so that it is
	// at most a likely cause.
	Underlay error
	// TCP is the error over TCP if both transports were tried; else nil.
	TCP *DialError
}

// Error returns a line for the fault; with two transports, a line for each.
func (e *DialError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "no session with gateway %s", e.Gateway.Address())
	switch {
	case e.Via != nil:
		fmt.Fprintf(&b, " through %s", e.Via)
	case len(e.Tried) > 1 || len(e.Tried) == 1 && e.Tried[0].String() != e.Gateway.Address():
		for i, a := range e.Tried {
			b.WriteString([]string{" at ", ", "}[min(i, 1)] + a.String())
		}
	}
	if e.TCP == nil {
		return b.String() + ": " + e.cause(nil)
	}
	return b.String() + "\nover UDP: " + e.cause(e.TCP) + fmt.Sprintf("\nover TCP, port %d: ", e.Gateway.PortForTCP()) + e.TCP.cause(e)
}

// cause describes the error of one transport, with the possible causes that the other one, unless it is
// nil, does not rule out.
func (e *DialError) cause(other *DialError) string {
	var h *state.HandshakeError
	if !errors.As(e.Err, &h) {
		return e.Err.Error() + e.networkCause("\n")
	}
	if network := e.networkCause("; "); !h.TimedOut() || network != "" {
		return h.Symptom() + network
	}
	var o *state.HandshakeError
	if other != nil {
		errors.As(other.Err, &o)
	}
	known := o != nil && o.Answered // the gateway is up and has the URI's identity
	var causes []string
	add := func(possible bool, cause string) {
		if possible {
			causes = append(causes, cause)
		}
	}
	silent := h.Answered && h.Phase == state.Handshaking
	add(silent && !e.Gateway.Open && !e.Gateway.Tickets, "it does not list this client's identity")
	add(silent && e.Transport != TCP && (o == nil || !o.Answered || o.Phase != state.Handshaking), "packets of 700 bytes are lost")
	add(h.Answered && !silent, "packets are lost")
	add(!h.Answered && !known, "the gateway is down")
	add(!h.Answered && e.Via == nil, strings.ToUpper(e.Transport.String())+" is blocked on the way")
	add(!h.Answered && !known, "another identity than the one in the URI answers at this address")
	switch n := len(causes); n {
	case 0:
		return h.Symptom()
	case 1:
		return h.Symptom() + ": " + causes[0]
	default:
		return h.Symptom() + ": " + strings.Join(causes[:n-1], ", ") + " or " + causes[n-1]
	}
}

// networkCause returns the cause that the network's error suggests, after a separator, or "".
func (e *DialError) networkCause(separator string) string {
	switch {
	case errors.Is(e.Underlay, transport.ErrRefused):
		return fmt.Sprintf("%slikely cause: nothing listens on port %d of its host", separator, portFor(e.Gateway, e.Transport))
	case errors.Is(e.Underlay, transport.ErrUnreachable):
		return separator + "likely cause: no route to it; this machine is offline or the address is wrong"
	case errors.Is(e.Underlay, transport.ErrDenied):
		return separator + "likely cause: this machine's firewall"
	case e.Underlay != nil:
		return fmt.Sprintf("%slast network error: %v", separator, e.Underlay)
	}
	return ""
}

// portFor returns the gateway's port for a transport.
func portFor(g Gateway, t Transport) uint16 {
	if t == TCP {
		return g.PortForTCP()
	}
	return g.Port
}

// Unwrap returns Err, and Underlay and TCP unless they are nil.
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

// Is makes a timeout a context.DeadlineExceeded, whether ctx or Config.Timeout was missed,
// as with net.Dialer.
func (e *DialError) Is(target error) bool {
	return target == context.DeadlineExceeded && e.Timeout()
}

// Timeout reports whether the time was up before anything else failed.
func (e *DialError) Timeout() bool {
	var h *state.HandshakeError
	if errors.As(e.Err, &h) {
		return h.Cause == nil
	}
	var timeout net.Error
	return errors.As(e.Err, &timeout) && timeout.Timeout()
}

// Temporary makes DialError a net.Error.
func (e *DialError) Temporary() bool { return e.Timeout() }

// Step returns the step that failed.
func (e *DialError) Step() Step {
	var h *state.HandshakeError
	var r *registrationError
	switch {
	case errors.As(e.Err, &r):
		return StepRegister
	case errors.As(e.Err, &h) && h.Answered && h.Reject == nil && h.Busy == nil:
		if h.Phase < state.Handshaking {
			return StepKey
		}
		return StepHandshake
	case h == nil && e.Via == nil && len(e.Tried) == 0:
		return StepResolve
	}
	return StepHello
}

// Unlisted reports whether the gateway answered the hello and then fell silent, as it does
// for an identity that it doesn't admit.
func (e *DialError) Unlisted() bool {
	var h *state.HandshakeError
	return errors.As(e.Err, &h) && h.Phase == state.Handshaking && h.Reject == nil && h.Busy == nil && h.Cause == nil
}

// resolveError is the error of resolving the first gateway's name.
func resolveError(host string, err error) error {
	var dns *net.DNSError
	switch {
	case errors.Is(err, context.DeadlineExceeded) || errors.As(err, &dns) && dns.Timeout():
		return fmt.Errorf("timeout resolving %s: check this machine's DNS and network: %w", host, err)
	case dns != nil && dns.IsNotFound:
		return fmt.Errorf("no address for %s: check the URI: %w", host, err)
	}
	return fmt.Errorf("resolving %s: %w", host, err)
}

// progress returns how far a failed try got, to report the one that got furthest.
func progress(err error) int {
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
