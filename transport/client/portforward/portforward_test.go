package portforward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lewes/state/ratelimit"
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
		return nil, &net.OpError{Op: "dial", Net: network, Err: &client.FlowError{Target: address, Reason: client.ReasonLimit}}
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

const patience = 20 * time.Second

var mapping = Mapping{Local: netip.MustParseAddrPort("127.0.0.1:0"), Target: "192.0.2.1:53"}

// listen returns a Forwarder of one port or more.
func listen(t *testing.T, ports int) *Forwarder {
	t.Helper()
	f, err := Listen(t.Context(), slices.Repeat([]Mapping{mapping}, ports), nil)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// run runs a Forwarder until the end of the test.
func run(t *testing.T, f *Forwarder, d *fakeDialer) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx, d) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		for _, flow := range d.flows {
			eventually(t, fmt.Sprintf("end of flow %d", flow.number), flow.isClosed)
		}
		goleak.VerifyNone(t, goleak.IgnoreCurrent())
	})
}

// start runs a Forwarder of one port until the end of the test.
func start(t *testing.T, d *fakeDialer, change func(*port)) *port {
	t.Helper()
	f := listen(t, 1)
	if change != nil {
		change(f.ports[0])
	}
	run(t, f, d)
	return f.ports[0]
}

func (p *port) addr() string { return p.local.LocalAddr().String() }

// localSocket returns a local program's socket.
func localSocket(t *testing.T, to string) net.Conn {
	t.Helper()
	conn, err := net.Dial("udp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func send(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, f *fakeFlow, want string) {
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

func TestPeersHaveSeparateFlows(t *testing.T) {
	d := new(fakeDialer)
	r := start(t, d, nil)
	anna, ben := localSocket(t, r.addr()), localSocket(t, r.addr())
	send(t, anna, "from anna")
	expect(t, d.flow(t, 0), "from anna")
	send(t, ben, "from ben")
	expect(t, d.flow(t, 1), "from ben")
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

// TestFullPortEvicts: a port or session at its bound evicts the peer that was inactive longest, in either
// direction, and those that wait for their first answer after all others.
func TestFullPortEvicts(t *testing.T) {
	for _, bound := range []struct {
		name string
		peer int // of the port
		flow int // of the session
	}{{"of the port", 3, 0}, {"of the session", 100, 3}} {
		for _, row := range []struct {
			name     string
			answered []int // in this order
			stale    []int // asked long ago
			evicted  int
		}{
			{"all wait", nil, nil, 1}, // which has asked first
			{"all answered", []int{2, 1, 0}, nil, 2},
			{"one answered", []int{0}, nil, 0},
			{"two answered", []int{2, 0}, nil, 2},
			{"one waits in vain", []int{0, 1}, []int{2}, 2},
		} {
			t.Run(bound.name+"/"+row.name, func(t *testing.T) {
				d := &fakeDialer{bound: bound.flow}
				r := start(t, d, func(r *port) { r.maxPeers = bound.peer })
				var peers []net.Conn
				for i := range 3 {
					peers = append(peers, localSocket(t, r.addr()))
					send(t, peers[i], "first")
					expect(t, d.flow(t, i), "first")
				}
				send(t, peers[0], "again") // 1 is now the first to have sent
				expect(t, d.flow(t, 0), "again")
				for n, i := range row.answered {
					d.flow(t, i).down <- []byte("answer")
					eventually(t, "answer", func() bool { return r.down.Load() == uint64(n+1) })
				}
				r.mu.Lock()
				for _, p := range r.peers {
					if slices.Contains(row.stale, p.conn.(*fakeFlow).number) {
						p.active.Add(-int64(answerWait))
					}
				}
				r.mu.Unlock()
				send(t, localSocket(t, r.addr()), "one more")
				expect(t, d.flow(t, 3), "one more")
				for i := range 3 {
					if d.flow(t, i).isClosed() != (i == row.evicted) {
						t.Errorf("flow %d is closed: %v", i, d.flow(t, i).isClosed())
					}
				}
				// The evicted peer gets another flow.
				send(t, peers[row.evicted], "back")
				expect(t, d.flow(t, 4), "back")
			})
		}
	}
}

// TestGatewayRefusesFlow: the flow that the gateway refuses for want of room gets it from another, and the
// datagram is sent again; from then on the room is made before.
func TestGatewayRefusesFlow(t *testing.T) {
	d := new(fakeDialer)
	r := start(t, d, nil)
	for i := range 3 {
		send(t, localSocket(t, r.addr()), "question")
		expect(t, d.flow(t, i), "question")
		if i < 2 {
			d.flow(t, i).down <- []byte("answer")
			eventually(t, "answer", func() bool { return r.down.Load() == uint64(i+1) })
		}
	}
	d.flow(t, 2).fail <- &net.OpError{Op: "read", Err: &client.FlowError{Target: mapping.Target, Reason: client.ReasonLimit}}
	expect(t, d.flow(t, 3), "question")
	send(t, localSocket(t, r.addr()), "another")
	expect(t, d.flow(t, 4), "another")
	for i, want := range []bool{true, true, true, false, false} {
		if d.flow(t, i).isClosed() != want {
			t.Errorf("flow %d is closed: %v", i, !want)
		}
	}
	if n := r.lost.Load(); n != 0 {
		t.Errorf("%d lost", n)
	}
}

// TestFailuresAreCounted: the first failure of a kind is logged at once, the others once a minute with
// their number; a datagram's size makes no kind.
func TestFailuresAreCounted(t *testing.T) {
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(&text, nil))
	var l failureLog
	now := time.Unix(1_000_000, 0)
	logged := func() int { defer text.Reset(); return strings.Count(text.String(), "forwarding failed") }
	for i := range 50 {
		l.add(now, log, "a", &client.SizeError{Target: "a", Size: 2000 + i, Limit: 1300})
	}
	l.add(now, log, "a", errors.New("another"))
	if n := logged(); n != 2 {
		t.Errorf("%d lines for 51 failures of two kinds", n)
	}
	l.flush(now.Add(ratelimit.RepeatInterval-1), log, "a")
	if n := logged(); n != 0 {
		t.Errorf("%d lines within the minute", n)
	}
	l.flush(now.Add(ratelimit.RepeatInterval), log, "a")
	if !strings.Contains(text.String(), "times=49") || !strings.Contains(text.String(), "2049-byte") || logged() != 1 {
		t.Errorf("after the minute: %s", text.String())
	}
	for i := range 100 {
		l.add(now, log, "a", fmt.Errorf("kind %d", i))
	}
	if len(l.kinds) > maxFailureKinds+1 {
		t.Errorf("%d kinds", len(l.kinds))
	}
	for range 3 {
		now = now.Add(2 * ratelimit.RepeatInterval)
		l.flush(now, log, "a")
	}
	if len(l.kinds) != 0 {
		t.Errorf("%d kinds after quiet minutes", len(l.kinds))
	}
}

// TestFullSessionEvictsAcrossPorts: a port may evict the peer of another port.
func TestFullSessionEvictsAcrossPorts(t *testing.T) {
	d := &fakeDialer{bound: 2}
	f := listen(t, 2)
	run(t, f, d)
	first, second := f.ports[0], f.ports[1]
	early, late := localSocket(t, first.addr()), localSocket(t, first.addr())
	send(t, early, "early")
	expect(t, d.flow(t, 0), "early")
	send(t, late, "late")
	expect(t, d.flow(t, 1), "late")
	send(t, localSocket(t, second.addr()), "of the second")
	expect(t, d.flow(t, 2), "of the second")
	if !d.flow(t, 0).isClosed() || d.flow(t, 1).isClosed() {
		t.Error("another than the least active peer was evicted")
	}
}

// TestDatagramDroppedWithoutFlow: if no peer can be evicted, the datagram is lost.
func TestDatagramDroppedWithoutFlow(t *testing.T) {
	d := &fakeDialer{bound: 1}
	if _, err := d.DialContext(t.Context(), "udp", "of another session's"); err != nil {
		t.Fatal(err)
	}
	r := start(t, d, nil)
	conn := localSocket(t, r.addr())
	send(t, conn, "lost")
	eventually(t, "loss", func() bool { return r.lost.Load() == 1 })
	_ = d.flow(t, 0).Close()
	send(t, conn, "kept")
	expect(t, d.flow(t, 1), "kept")
}

func TestIdlePeersExpire(t *testing.T) {
	t.Run("in time", func(t *testing.T) {
		d := new(fakeDialer)
		r := start(t, d, func(r *port) { r.idle = 40 * time.Millisecond })
		send(t, localSocket(t, r.addr()), "once")
		eventually(t, "end of the quiet flow", d.flow(t, 0).isClosed)
	})
	t.Run("and no others", func(t *testing.T) {
		d := new(fakeDialer)
		r := start(t, d, nil)
		for i, text := range []string{"long ago", "answered", "asking"} {
			send(t, localSocket(t, r.addr()), text)
			expect(t, d.flow(t, i), text)
		}
		r.mu.Lock()
		for _, p := range r.peers {
			if p.conn != d.flows[2] { // two have not sent for long
				p.active.Add(-2 * int64(r.idle))
			}
		}
		r.mu.Unlock()
		d.flow(t, 1).down <- []byte("answer")
		eventually(t, "answer", func() bool { return r.down.Load() == 1 })
		r.dropIdle(time.Now())
		if got := []bool{d.flow(t, 0).isClosed(), d.flow(t, 1).isClosed(), d.flow(t, 2).isClosed()}; !slices.Equal(got, []bool{true, false, false}) {
			t.Errorf("closed are %v, want the first alone", got)
		}
	})
}

// TestFlowErrors: which errors end the flow, and which the port.
func TestFlowErrors(t *testing.T) {
	flowError := func(reason client.FlowReason) error {
		return &net.OpError{Op: "read", Err: &client.FlowError{Target: "192.0.2.1:53", Reason: reason}}
	}
	t.Run("unreachable", func(t *testing.T) {
		d := new(fakeDialer)
		r := start(t, d, nil)
		conn := localSocket(t, r.addr())
		send(t, conn, "first")
		expect(t, d.flow(t, 0), "first")
		d.flow(t, 0).fail <- flowError(client.ReasonUnreachable)
		send(t, conn, "second")
		expect(t, d.flow(t, 0), "second") // the same flow
	})
	t.Run("name not found", func(t *testing.T) {
		d := new(fakeDialer)
		r := start(t, d, nil)
		conn := localSocket(t, r.addr())
		send(t, conn, "first")
		expect(t, d.flow(t, 0), "first")
		d.flow(t, 0).fail <- flowError(client.ReasonNameNotFound)
		eventually(t, "end of the flow", d.flow(t, 0).isClosed)
		send(t, conn, "second")
		expect(t, d.flow(t, 1), "second") // another try
	})
	t.Run("policy", func(t *testing.T) {
		d := new(fakeDialer)
		f := listen(t, 1)
		ended := make(chan error, 1)
		go func() { ended <- f.Run(t.Context(), d) }()
		send(t, localSocket(t, f.ports[0].addr()), "first")
		d.flow(t, 0).fail <- flowError(client.ReasonPolicy)
		var refused *client.FlowError
		if err := <-ended; !errors.As(err, &refused) || refused.Reason != client.ReasonPolicy {
			t.Errorf("got %v", err)
		}
		if !d.flow(t, 0).isClosed() {
			t.Error("the flow is open after the end")
		}
	})
}
