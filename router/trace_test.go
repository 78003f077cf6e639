package router

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"lewes/crypto/identity"
	"lewes/state/path"
	"lewes/state/wire"
)

// ofClient matches the sessions of a client of the rig.
func ofClient(id byte) func(identity.PublicKey, [16]byte) bool {
	want := testIdentity(id).Public()
	return func(client identity.PublicKey, _ [16]byte) bool { return client == want }
}

// take returns the events that are queued.
func (t *Trace) take() (events []TraceEvent) {
	for {
		select {
		case e, ok := <-t.Events:
			if !ok {
				return events
			}
			events = append(events, e)
		default:
			return events
		}
	}
}

var movedTo = path.Path{Peer: netip.MustParseAddrPort("203.0.113.200:4000")}

// TestTraceOfSession traces one of two sessions: its events come in order, none of the other's, and the
// trace ends with the session.
func TestTraceOfSession(t *testing.T) {
	core, logged := observer.New(zap.DebugLevel)
	r := newRig(t, func(c *Config) { c.Logger = zap.New(core) })
	p, other := r.connect(2, clientAt), r.connect(3, clientAt)
	trace, err := r.whole.Trace(t.Context(), ofClient(2))
	if err != nil {
		t.Fatal(err)
	}
	if trace.Session.Identity != testIdentity(2).Public() || !trace.At.Equal(r.now()) {
		t.Errorf("%+v", trace.Session)
	}
	if _, err := r.whole.Trace(t.Context(), ofClient(2)); !errors.Is(err, ErrTraced) {
		t.Errorf("a second trace: %v", err)
	}
	other.data(1, target, "x")
	p.data(1, target, "secret payload")
	p.named(2, "private.example", 53, "x")
	eventually(t, "the lookup ends", func() bool { return r.shard.Stats().FlowsRefused == 1 })
	p.send(wire.TypeFlowClosed, &wire.FlowClosed{FlowID: 1})
	p.data(3, netip.AddrPort{}, "x")
	p.at = movedTo
	p.data(4, target, "x")
	r.advance(4 * time.Second) // after the validation of that address
	p.at = path.NewTCP(movedTo.Peer, netip.Addr{}, 1)
	p.data(4, target, "x")
	r.whole.CloseSessions(t.Context(), ofClient(2))
	var got []string
	for _, e := range trace.take() {
		got = append(got, fmt.Sprintf("%s %d %s %s", e.Kind, e.Flow, e.Target.String(), e.Reason))
		if e.Lost != 0 || e.At.Before(trace.At) || e.At.After(r.now()) {
			t.Errorf("%+v", e)
		}
	}
	of := func(kind TraceKind, flow int, to string, reason wire.FlowReason) string {
		return fmt.Sprintf("%s %d %s %s", kind, flow, to, reason)
	}
	none := (&wire.Target{}).String()
	want := []string{
		of(TraceFlowOpened, 1, target.String(), 0), of(TraceFlowRefused, 2, "private.example:53", wire.FlowPolicy), of(TraceFlowClosed, 1, target.String(), 0),
		of(TraceFlowRefused, 3, none, wire.FlowIdle), of(TraceFlowOpened, 4, target.String(), 0), of(TraceMoved, 0, none, 0),
		of(TraceTransportChanged, 0, none, 0), of(TraceClosed, 0, none, 0),
	}
	slices.Sort(got[min(4, len(got)):]) // the packet that opens a flow may move the session before or after
	slices.Sort(want[4:])
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if _, open := <-trace.Events; open {
		t.Error("the trace goes on after the session's end")
	}
	if _, err := r.whole.Trace(t.Context(), ofClient(2)); !errors.Is(err, ErrNoSession) {
		t.Errorf("a trace of a closed session: %v", err)
	}
	messages := make(map[string]int)
	for _, line := range logged.All() {
		messages[line.Level.String()+" "+line.Message]++
		text := fmt.Sprint(line.ContextMap())
		for _, secret := range []string{"secret payload", "private.example", target.Addr().String(), clientAt.Peer.Addr().String(), movedTo.Peer.Addr().String()} {
			if strings.Contains(text, secret) {
				t.Errorf("%q is in the log: %s %s", secret, line.Message, text)
			}
		}
	}
	for message, n := range map[string]int{"info refused a flow": 1, "debug refused a flow": 1, "info a client has another address": 1, "info a client fell back to TCP": 1} {
		if messages[message] != n {
			t.Errorf("%d lines %q of %v", messages[message], message, messages)
		}
	}
}

func TestTraceNamesOneSession(t *testing.T) {
	r := newRig(t, nil)
	r.connect(2, clientAt)
	r.connect(2, movedTo)
	if _, err := r.whole.Trace(t.Context(), ofClient(2)); !errors.Is(err, ErrManySessions) {
		t.Errorf("two sessions: %v", err)
	}
	if _, err := r.whole.Trace(t.Context(), ofClient(3)); !errors.Is(err, ErrNoSession) {
		t.Errorf("no session: %v", err)
	}
}

// TestTraceWithSlowReader has more events than wait for a reader: the others are counted in the next one.
func TestTraceWithSlowReader(t *testing.T) {
	r := newRig(t, nil)
	p := r.connect(2, clientAt)
	trace, err := r.whole.Trace(t.Context(), ofClient(2))
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxTraceEvents + 7 {
		p.data(uint16(i), netip.AddrPort{}, "x")
	}
	if n := len(trace.take()); n != maxTraceEvents {
		t.Errorf("%d events queued", n)
	}
	p.data(1, netip.AddrPort{}, "x")
	if events := trace.take(); len(events) != 1 || events[0].Lost != 7 {
		t.Errorf("%+v", events)
	}
	trace.Close()
	p.data(1, netip.AddrPort{}, "x")
	if events := trace.take(); len(events) != 0 {
		t.Errorf("%d events after Close", len(events))
	}
	if again, err := r.whole.Trace(t.Context(), ofClient(2)); err != nil {
		t.Error(err)
	} else {
		again.Close()
	}
}
