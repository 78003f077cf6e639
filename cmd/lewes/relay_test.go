package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"lewes/state/wire"
	"lewes/transport/client"
)

// fakeFlow is a flow whose target is the test.
type fakeFlow struct {
	net.Conn
	number int
	up     chan []byte
	down   chan []byte // what Read gives
	fail   chan error
	once   sync.Once
	closed chan struct{}
}

func (f *fakeFlow) Write(b []byte) (int, error) {
	select {
	case <-f.closed:
		return 0, net.ErrClosed
	case f.up <- bytes.Clone(b):
		return len(b), nil
	}
}

func (f *fakeFlow) Read(b []byte) (int, error) {
	select {
	case <-f.closed:
		return 0, net.ErrClosed
	case err := <-f.fail:
		return 0, err
	case d := <-f.down:
		return copy(b, d), nil
	}
}

func (f *fakeFlow) Close() error {
	f.once.Do(func() { close(f.closed) })
	return nil
}

func (f *fakeFlow) isClosed() bool {
	select {
	case <-f.closed:
		return true
	default:
		return false
	}
}

// fakeDialer opens fakeFlows; at most bound at a time, where that is not 0.
type fakeDialer struct {
	mu    sync.Mutex
	flows []*fakeFlow
	bound int
}

func (d *fakeDialer) DialContext(_ context.Context, network, address string) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	open := 0
	for _, f := range d.flows {
		if !f.isClosed() {
			open++
		}
	}
	if d.bound > 0 && open >= d.bound {
		return nil, &net.OpError{Op: "dial", Net: network, Err: &client.FlowError{Target: address, Reason: wire.FlowBound}}
	}
	f := &fakeFlow{number: len(d.flows), up: make(chan []byte, 100), down: make(chan []byte, 100), fail: make(chan error, 1), closed: make(chan struct{})}
	d.flows = append(d.flows, f)
	return f, nil
}

// flow waits for the flow with a number.
func (d *fakeDialer) flow(t *testing.T, number int) *fakeFlow {
	t.Helper()
	eventually(t, fmt.Sprintf("flow %d", number), func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(d.flows) > number
	})
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.flows[number]
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s within %v", what, patience)
		}
	}
}

// testRelay runs a relay to the end of the test.
func testRelay(t *testing.T, d *fakeDialer, change func(*relay)) *relay {
	t.Helper()
	r, err := newRelay(t.Context(), mapping{local: netip.AddrPortFrom(loopback, 0), target: "192.0.2.1:53"}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	r.dialer, r.siblings = d, []*relay{r}
	if change != nil {
		change(r)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		for _, f := range d.flows {
			// Another relay that shares the dialer ends at the same time.
			eventually(t, fmt.Sprintf("end of flow %d", f.number), f.isClosed)
		}
		goleak.VerifyNone(t, goleak.IgnoreCurrent())
	})
	return r
}

func say(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

func hears(t *testing.T, f *fakeFlow, want string) {
	t.Helper()
	select {
	case got := <-f.up:
		if string(got) != want {
			t.Fatalf("flow %d carries %q, want %q", f.number, got, want)
		}
	case <-time.After(patience):
		t.Fatalf("flow %d carries nothing, want %q", f.number, want)
	}
}

func TestRelayKeepsPeersApart(t *testing.T) {
	d := new(fakeDialer)
	r := testRelay(t, d, nil)
	anna, ben := localSocket(t, r.addr()), localSocket(t, r.addr())
	say(t, anna, "from anna")
	hears(t, d.flow(t, 0), "from anna")
	say(t, ben, "from ben")
	hears(t, d.flow(t, 1), "from ben")
	d.flow(t, 0).down <- []byte("to anna")
	d.flow(t, 1).down <- []byte("to ben")
	for conn, want := range map[net.Conn]string{anna: "to anna", ben: "to ben"} {
		buffer := make([]byte, 100)
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(buffer); err != nil || string(buffer[:n]) != want {
			t.Errorf("got %q, %v; want %q", buffer[:n], err, want)
		}
	}
	eventually(t, "count", func() bool { return r.up.Load() == 2 && r.down.Load() == 2 && r.lost.Load() == 0 })
}

// TestRelayBound: beyond the bound the peer gives way with whom nothing passed for
// longest, in either direction.
func TestRelayBound(t *testing.T) {
	for _, row := range []struct {
		name string
		peer int // bound of the relay
		flow int // bound of the session
	}{{"of the relay", 3, 0}, {"of the session", 100, 3}} {
		t.Run(row.name, func(t *testing.T) {
			d := &fakeDialer{bound: row.flow}
			r := testRelay(t, d, func(r *relay) { r.maxPeers = row.peer })
			var peers []net.Conn
			for i := range 3 {
				peers = append(peers, localSocket(t, r.addr()))
				say(t, peers[i], "first")
				hears(t, d.flow(t, i), "first")
			}
			say(t, peers[0], "again") // now 1 is the quietest of those who sent
			hears(t, d.flow(t, 0), "again")
			d.flow(t, 1).down <- []byte("answer") // but is answered, and 2 is quietest
			eventually(t, "answer", func() bool { return r.down.Load() == 1 })
			say(t, localSocket(t, r.addr()), "one more")
			hears(t, d.flow(t, 3), "one more")
			if got := []bool{d.flow(t, 0).isClosed(), d.flow(t, 1).isClosed(), d.flow(t, 2).isClosed()}; !slices.Equal(got, []bool{false, false, true}) {
				t.Errorf("closed are %v, want the third alone", got)
			}
			// Who gave way comes back with another flow.
			say(t, peers[2], "back")
			hears(t, d.flow(t, 4), "back")
		})
	}
}

// TestRelaysShareABound: a mapping whose session has no flow left takes the quietest
// of another mapping.
func TestRelaysShareABound(t *testing.T) {
	d := &fakeDialer{bound: 2}
	first := testRelay(t, d, nil)
	second := testRelay(t, d, func(r *relay) {
		r.siblings = append(r.siblings, first)
	})
	early, late := localSocket(t, first.addr()), localSocket(t, first.addr())
	say(t, early, "early")
	hears(t, d.flow(t, 0), "early")
	say(t, late, "late")
	hears(t, d.flow(t, 1), "late")
	say(t, localSocket(t, second.addr()), "of the second")
	hears(t, d.flow(t, 2), "of the second")
	if !d.flow(t, 0).isClosed() || d.flow(t, 1).isClosed() {
		t.Error("it was not the quietest that gave way")
	}
}

// TestRelayWithoutRoom: where nobody can give way, a datagram is lost and that is all.
func TestRelayWithoutRoom(t *testing.T) {
	d := &fakeDialer{bound: 1}
	if _, err := d.DialContext(t.Context(), "udp", "of another session's"); err != nil {
		t.Fatal(err)
	}
	r := testRelay(t, d, nil)
	conn := localSocket(t, r.addr())
	say(t, conn, "lost")
	eventually(t, "loss", func() bool { return r.lost.Load() == 1 })
	_ = d.flow(t, 0).Close()
	say(t, conn, "kept")
	hears(t, d.flow(t, 1), "kept")
}

func TestRelayForgetsIdlePeers(t *testing.T) {
	t.Run("in time", func(t *testing.T) {
		d := new(fakeDialer)
		r := testRelay(t, d, func(r *relay) { r.idle = 40 * time.Millisecond })
		say(t, localSocket(t, r.addr()), "once")
		eventually(t, "end of the quiet flow", d.flow(t, 0).isClosed)
	})
	t.Run("and no others", func(t *testing.T) {
		d := new(fakeDialer)
		r := testRelay(t, d, nil)
		for i, text := range []string{"long ago", "answered", "asking"} {
			say(t, localSocket(t, r.addr()), text)
			hears(t, d.flow(t, i), text)
		}
		d.flow(t, 1).down <- []byte("answer")
		eventually(t, "answer", func() bool { return r.down.Load() == 1 })
		r.mu.Lock()
		for _, p := range r.peers {
			if p.conn != d.flows[2] { // two of them sent nothing for long
				p.lastUp = p.lastUp.Add(-2 * r.idle)
			}
		}
		r.mu.Unlock()
		r.dropIdle(time.Now())
		if got := []bool{d.flow(t, 0).isClosed(), d.flow(t, 1).isClosed(), d.flow(t, 2).isClosed()}; !slices.Equal(got, []bool{true, false, false}) {
			t.Errorf("closed are %v, want the first alone", got)
		}
	})
}

// TestRelayFollowsFlowErrors: what ends a flow, what does not, and what ends all.
func TestRelayFollowsFlowErrors(t *testing.T) {
	flowError := func(reason wire.FlowReason) error {
		return &net.OpError{Op: "read", Err: &client.FlowError{Target: "192.0.2.1:53", Reason: reason}}
	}
	t.Run("unreachable", func(t *testing.T) {
		d := new(fakeDialer)
		r := testRelay(t, d, nil)
		conn := localSocket(t, r.addr())
		say(t, conn, "first")
		hears(t, d.flow(t, 0), "first")
		d.flow(t, 0).fail <- flowError(wire.FlowUnreachable)
		say(t, conn, "second")
		hears(t, d.flow(t, 0), "second") // the same flow
	})
	t.Run("name not found", func(t *testing.T) {
		d := new(fakeDialer)
		r := testRelay(t, d, nil)
		conn := localSocket(t, r.addr())
		say(t, conn, "first")
		hears(t, d.flow(t, 0), "first")
		d.flow(t, 0).fail <- flowError(wire.FlowNameNotFound)
		eventually(t, "end of the flow", d.flow(t, 0).isClosed)
		say(t, conn, "second")
		hears(t, d.flow(t, 1), "second") // another try
	})
	t.Run("policy", func(t *testing.T) {
		d := new(fakeDialer)
		r, err := newRelay(t.Context(), mapping{local: netip.AddrPortFrom(loopback, 0), target: "192.0.2.1:53"}, zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		r.dialer = d
		ended := make(chan error, 1)
		go func() { ended <- r.run(t.Context()) }()
		say(t, localSocket(t, r.addr()), "first")
		d.flow(t, 0).fail <- flowError(wire.FlowPolicy)
		var refused *client.FlowError
		if err := <-ended; !errors.As(err, &refused) || refused.Reason != wire.FlowPolicy {
			t.Errorf("got %v", err)
		}
		if !d.flow(t, 0).isClosed() {
			t.Error("the flow is open after the end")
		}
	})
}
