package router

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"lewes/state/wire"
	"lewes/transport"
)

// TestShortageIsNotUnreachable lets Dial fail for what the machine lacks: the client gets FlowClosed 4
// with the reason, and the log one line a minute with the count.
//
// Shows R8.29.
func TestShortageIsNotUnreachable(t *testing.T) {
	core, logged := observer.New(zap.WarnLevel)
	r := newRig(t, func(c *Config) {
		c.Logger = zap.New(core)
		withDirectory(t)(c)
	})
	p := r.connect(2, clientAt)
	id := uint16(0)
	for errno, lacking := range map[syscall.Errno]string{
		syscall.EMFILE: "file descriptors", syscall.ENFILE: "file descriptors",
		syscall.ENOBUFS: "memory for sockets", syscall.ENOMEM: "memory for sockets",
		syscall.EADDRNOTAVAIL: "local ports",
	} {
		r.egress.fail = fmt.Errorf("dial: %w (%w)", transport.ErrFull, errno)
		for _, forward := range []bool{false, true} {
			id++
			if forward {
				p.forward(id, &exitID, inner(uint32(id), false))
			} else {
				p.data(id, target, "x")
			}
			if got, want := p.closedWith(), fmt.Sprintf("%d:%d ", id, wire.FlowBound); got != want {
				t.Fatalf("%v: closed with %q, want %q", errno, got, want)
			}
			if c, _ := wire.ParseFlowClosed(p.got[0].content); !strings.HasSuffix(c.Detail.String(), lacking) {
				t.Errorf("%v: the detail is %q", errno, c.Detail)
			}
		}
	}
	if n := logged.Len(); n != 1 {
		t.Errorf("%d lines within a minute", n)
	}
	r.advance(time.Minute)
	p.data(100, target, "x")
	lines := logged.TakeAll()
	if n := len(lines); n != 2 {
		t.Fatalf("%d lines, want another after a minute", n)
	}
	if got := lines[1].ContextMap()["refused"]; got != uint64(id) {
		t.Errorf("the second line counts %v sockets, want %d", got, id)
	}
	r.egress.fail = fmt.Errorf("dial: %w (%w)", transport.ErrUnreachable, syscall.ENETUNREACH)
	p.data(101, target, "x")
	if got := p.closedWith(); got != "101:2 " || logged.Len() != 0 {
		t.Errorf("a target without a route: closed with %q, %d lines", got, logged.Len())
	}
}

// TestAnsweredFlowToDNSEndsEarly closes a flow to port 53 10 s after the answer to its last datagram,
// and any other after the idle time.
//
// Shows R8.30.
func TestAnsweredFlowToDNSEndsEarly(t *testing.T) {
	r := newRig(t, nil)
	p := r.connect(2, clientAt)
	other := netip.AddrPortFrom(target.Addr(), 5353)
	unanswered := netip.MustParseAddrPort("198.51.100.8:53")
	p.data(1, target, "question")
	p.data(2, other, "question")
	p.data(3, unanswered, "question")
	flows := func() uint64 { return r.shard.Stats().Flows }
	answer := func(to netip.AddrPort, n int) {
		r.egress.at(to).fed <- []transport.Packet{{Data: []byte(strings.Repeat("answer", n)), Segment: 6}}
		r.socket.waitFor(t, n)
	}
	r.advance(11 * time.Second)
	answer(target, 1)
	answer(other, 1)
	r.advance(9 * time.Second)
	if n := flows(); n != 3 {
		t.Fatalf("%d flows 9 s after the answers", n)
	}
	p.data(1, netip.AddrPort{}, "second question")
	p.data(1, netip.AddrPort{}, "third question")
	answer(target, 1)
	r.advance(15 * time.Second)
	if n := flows(); n != 3 {
		t.Fatalf("%d flows while an answer is due", n)
	}
	answer(target, 1)
	r.advance(10*time.Second - 1)
	if n := flows(); n != 3 {
		t.Fatalf("%d flows just before the end", n)
	}
	r.advance(1)
	p.got = nil
	for _, x := range r.socket.take() {
		p.handle(x.Data)
	}
	if got := p.closedWith(); got != "1:3 " {
		t.Errorf("10 s after the last answer: closed with %q", got)
	}
	r.advance(120 * time.Second)
	if n := flows(); n != 0 {
		t.Errorf("%d flows at the end", n)
	}
}
