package client_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"lewes/state/wire"
	"lewes/transport/client"
)

// Shows R8.5.
func TestTargetUntilAnswer(t *testing.T) {
	connected(t, func(t *testing.T, w *world, s *client.Session, c net.Conn) {
		w.g.answer = func(arrival) ([][]byte, wire.FlowReason) { return nil, 0 }
		named := func() string {
			time.Sleep(100 * time.Millisecond)
			var s strings.Builder
			for _, a := range w.g.arrivals() {
				if a.named {
					s.WriteString("target ")
				} else {
					s.WriteString("id ")
				}
			}
			return s.String()
		}
		// Nothing comes back: the target goes for 3 s.
		for range 4 {
			write(t, c, "x")
			time.Sleep(900 * time.Millisecond)
		}
		time.Sleep(time.Second)
		write(t, c, "x")
		if got := named(); got != "target target target target id " {
			t.Errorf("without an answer: %s", got)
		}
		// Something comes back: the id is enough from then on.
		c = flowTo(t, s, "203.0.113.8:53")
		write(t, c, "x")
		write(t, c, "x")
		time.Sleep(100 * time.Millisecond)
		w.g.with(func() { w.g.answer = nil })
		exchange(t, c, "y")
		exchange(t, c, "y")
		if got := named(); got != "target target target id " {
			t.Errorf("with an answer: %s", got)
		}
	})
}

// A flow that the gateway closed as idle opens again with the next Write.
func TestFlowReopensAfterIdleClose(t *testing.T) {
	connected(t, func(t *testing.T, w *world, _ *client.Session, c net.Conn) {
		exchange(t, c, "before")
		w.g.with(func() { clear(w.g.flows) })
		write(t, c, "lost") // answered by FlowClosed 3
		time.Sleep(time.Second)
		exchange(t, c, "after")
		// Told of it beforehand, nothing is lost.
		w.g.with(func() { w.g.closeFlow(w.g.only(), w.g.seen[0].id, wire.FlowIdle, "idle for 120 s") })
		time.Sleep(time.Second)
		exchange(t, c, "at once")
		for _, a := range w.g.arrivals() {
			if want := a.payload != "lost"; a.named != want {
				t.Errorf("%q with a target: %v", a.payload, a.named)
			}
		}
	})
}

// A flow whose id the gateway has for another target gets another id.
func TestFlowIDCollisionPicksAnotherID(t *testing.T) {
	connected(t, func(t *testing.T, w *world, s *client.Session, c net.Conn) {
		write(t, c, "first")
		time.Sleep(100 * time.Millisecond)
		id := w.g.arrivals()[0].id
		w.g.with(func() { w.g.closeFlow(w.g.only(), id, wire.FlowOtherTarget, "") })
		time.Sleep(100 * time.Millisecond)
		write(t, c, "second")
		time.Sleep(100 * time.Millisecond)
		if a := w.g.arrivals(); len(a) != 1 || a[0].id == id || !a[0].named {
			t.Errorf("the datagram after it: %+v", a)
		}
		if n := s.Stats().Flows; n != 1 {
			t.Errorf("%d flows", n)
		}
	})
}

func TestUnreachableTargetIsReportedOnce(t *testing.T) {
	connected(t, func(t *testing.T, w *world, _ *client.Session, c net.Conn) {
		refuse := func(arrival) ([][]byte, wire.FlowReason) { return nil, wire.FlowUnreachable }
		w.g.answer = refuse
		write(t, c, "hello")
		_, err := c.Read(make([]byte, 9))
		var flow *client.FlowError
		var op *net.OpError
		if !errors.As(err, &op) || op.Op != "read" || !errors.As(err, &flow) || flow.Reason != client.ReasonUnreachable || !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("read: %v", err)
		}
		if !strings.Contains(err.Error(), "203.0.113.7:53 is unreachable from the gateway (as the test says)") {
			t.Errorf("the error: %v", err)
		}
		// It is reported once.
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := c.Read(make([]byte, 9)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the second read: %v", err)
		}
		// A later Write opens the flow again, with its target.
		w.g.with(func() { w.g.answer, w.g.seen = nil, nil })
		exchange(t, c, "again")
		if a := w.g.arrivals(); !a[0].named {
			t.Error("not opened again")
		}
		// A later datagram cancels the report.
		w.g.with(func() { w.g.answer = refuse })
		write(t, c, "no")
		time.Sleep(100 * time.Millisecond)
		w.g.with(func() { w.g.answer = nil })
		write(t, c, "yes")
		time.Sleep(100 * time.Millisecond)
		expect(t, c, "yes")
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := c.Read(make([]byte, 9)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read after an answer: %v", err)
		}
	})
}

// A refusal is permanent for the flow.
func TestRefusedFlowStaysRefused(t *testing.T) {
	for reason, row := range map[wire.FlowReason]struct {
		words string
		is    error
	}{
		wire.FlowPolicy:        {"gateway policy denies 203.0.113.7:53", fs.ErrPermission},
		wire.FlowBound:         {"too many flows", syscall.ENOBUFS},
		wire.FlowNotRegistered: {"registered", syscall.EACCES},
		wire.FlowBandwidth:     {"bandwidth", syscall.ENOBUFS},
		wire.FlowReason(77):    {"reason 77", nil},
	} {
		connected(t, func(t *testing.T, w *world, _ *client.Session, c net.Conn) {
			w.g.answer = func(a arrival) ([][]byte, wire.FlowReason) {
				if a.payload == "fine" {
					return [][]byte{[]byte("answer")}, 0
				}
				return nil, reason
			}
			write(t, c, "fine")
			write(t, c, "no")
			time.Sleep(100 * time.Millisecond)
			expect(t, c, "answer") // what came before is not lost
			for range 2 {
				_, err := c.Read(make([]byte, 9))
				_, err2 := c.Write([]byte("more"))
				for _, err := range []error{err, err2} {
					var flow *client.FlowError
					if !errors.As(err, &flow) || flow.Reason != client.FlowReason(reason) || flow.Detail != "as the test says" || !strings.Contains(err.Error(), row.words) || row.is != nil && !errors.Is(err, row.is) {
						t.Errorf("%s: %v", reason, err)
					}
				}
			}
			if a := w.g.arrivals(); len(a) != 2 {
				t.Errorf("%s: %d datagrams came", reason, len(a))
			}
		})
	}
}

func TestNameNotFound(t *testing.T) {
	connected(t, func(t *testing.T, w *world, s *client.Session, _ net.Conn) {
		w.g.answer = func(arrival) ([][]byte, wire.FlowReason) { return nil, wire.FlowNameNotFound }
		c := flowTo(t, s, "nobody.example:53")
		write(t, c, "hello")
		_, err := c.Read(make([]byte, 9))
		var dns *net.DNSError
		if !errors.As(err, &dns) || !dns.IsNotFound || dns.Name != "nobody.example" {
			t.Errorf("read: %v", err)
		}
	})
}

func TestFlowLimit(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.dial(w.config())
		defer w.closes(s)
		var conns []net.Conn
		for i := range client.MaxFlows {
			conns = append(conns, flowTo(t, s, fmt.Sprintf("203.0.113.7:%d", i+1)))
		}
		_, err := s.DialContext(t.Context(), "udp", "203.0.113.7:999")
		var flow *client.FlowError
		if !errors.As(err, &flow) || flow.Reason != client.ReasonLimit || !strings.Contains(err.Error(), "too many flows") {
			t.Errorf("one flow too many: %v", err)
		}
		if err := conns[0].Close(); err != nil {
			t.Error(err)
		}
		exchange(t, flowTo(t, s, "203.0.113.7:999"), "hello")
	})
}

// A flow without answers names its target for three seconds.
//
// Shows R8.5.
func TestTargetNamedForThreeSeconds(t *testing.T) {
	connected(t, func(t *testing.T, w *world, _ *client.Session, c net.Conn) {
		w.g.with(func() { w.g.answer = func(arrival) ([][]byte, wire.FlowReason) { return nil, 0 } })
		for _, pause := range []time.Duration{0, 1500 * time.Millisecond, 1450 * time.Millisecond, 100 * time.Millisecond, time.Second} {
			time.Sleep(pause)
			write(t, c, "x")
		}
		time.Sleep(time.Second)
		var named []bool
		for _, a := range w.g.arrivals() {
			named = append(named, a.named)
		}
		if got := fmt.Sprint(named); got != "[true true true false false]" {
			t.Errorf("datagrams that name their target: %s; want those of the first three seconds", got)
		}
	})
}
