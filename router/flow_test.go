package router

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"lewes/router/account"
	"lewes/state/wire"
	"lewes/transport"
)

// sentTo returns the payloads written to a flow's socket.
func sentTo(c *memConn) []string {
	var s []string
	for _, p := range c.take() {
		s = append(s, string(p.Data))
	}
	return s
}

// Shows R8.4.
func TestDatagramThereAndBack(t *testing.T) {
	r := newRig(t, nil)
	p := r.connect(2, clientAt)
	p.data(9, target, "question")
	p.data(9, netip.AddrPort{}, "another")
	conn := r.egress.at(target)
	if got := sentTo(conn); fmt.Sprint(got) != "[question another]" {
		t.Fatalf("the target got %q", got)
	}
	p.got = nil
	// A train of three: two of four bytes and a short last one.
	conn.fed <- []transport.Packet{{Data: []byte("aaaabbbbcc"), Segment: 4}}
	p.receive(3)
	var got []string
	for _, m := range p.got {
		d, err := wire.ParseEncryptedData(m.content)
		if err != nil || m.t != wire.TypeEncryptedData || d.FlowID != 9 || d.Flags != 0 {
			t.Fatalf("%v %+v %v", m.t, d, err)
		}
		got = append(got, string(d.Payload))
	}
	if fmt.Sprint(got) != "[aaaa bbbb cc]" {
		t.Errorf("the client got %q", got)
	}
	if s := r.shard.Stats(); s.Up.Packets != 2 || s.Down.Packets != 3 || s.Down.Bytes != 10 || s.Flows != 1 {
		t.Errorf("stats %+v", s)
	}
}

// Shows R8.12.
func TestPolicyDeniesByDefault(t *testing.T) {
	r := newRig(t, nil)
	p := r.connect(2, clientAt)
	for id, denied := range []string{"127.0.0.1:53", "10.0.0.1:53", "169.254.169.254:80", "[::1]:53", "[fe80::1]:53", "224.0.0.1:53", "[fd00::1]:1"} {
		p.data(uint16(id), netip.MustParseAddrPort(denied), "x")
		if got, want := p.closedWith(), fmt.Sprintf("%d:%d ", id, wire.FlowPolicy); got != want {
			t.Errorf("%s: closed with %q, want %q", denied, got, want)
		}
	}
	if n := len(r.egress.conns); n != 0 {
		t.Errorf("%d sockets were opened", n)
	}
}

// Shows R8.13.
func TestPolicyAppliesToResolvedAddress(t *testing.T) {
	r := newRig(t, nil)
	p := r.connect(2, clientAt)
	p.named(1, "dns.example", 53, "by name")
	p.named(1, "dns.example", 53, "again")
	waitUntil(t, func() bool { return r.egress.at(target) != nil })
	waitUntil(t, func() bool {
		r.shard.Stats()
		c := r.egress.at(target)
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.sent) == 2
	})
	if got := sentTo(r.egress.at(target)); fmt.Sprint(got) != "[by name again]" {
		t.Errorf("the target got %q", got)
	}
	for id, want := range map[uint16]string{2: "2:10 ", 3: "3:1 "} {
		name := map[uint16]string{2: "nowhere.example", 3: "private.example"}[id]
		p.got = nil
		p.named(id, name, 53, "x")
		if p.closedWith() == "" {
			p.receive(1)
		}
		if got := p.closedWith(); got != want {
			t.Errorf("%s: closed with %q, want %q", name, got, want)
		}
	}
	// The first address is denied, the second is not.
	p.named(4, "both.example", 54, "x")
	second := netip.AddrPortFrom(target.Addr(), 54)
	waitUntil(t, func() bool { return r.egress.at(second) != nil })
}

func waitUntil(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("condition not met within 20 s")
		}
	}
}

// Shows R8.6.
func TestUnknownFlowIsRejectedOncePerSecond(t *testing.T) {
	r := newRig(t, nil)
	p := r.connect(2, clientAt)
	rejected := 0
	for range 5 {
		p.data(7, netip.AddrPort{}, "x")
		if p.closedWith() == "7:3 " {
			rejected++
		}
	}
	if rejected != 1 {
		t.Errorf("rejected %d times at one time, want 1", rejected)
	}
	r.advance(time.Second)
	p.data(7, netip.AddrPort{}, "x")
	if got := p.closedWith(); got != "7:3 " {
		t.Errorf("a second later: %q", got)
	}
}

// Shows R8.7, R8.8.
func TestFlowBoundsAndConflicts(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxFlowsPerSession = 3 })
	p := r.connect(2, clientAt)
	for id := range uint16(3) {
		p.data(id, target, "x")
	}
	p.data(3, target, "x")
	if got := p.closedWith(); got != "3:4 " {
		t.Errorf("a fourth flow: %q", got)
	}
	p.data(0, netip.MustParseAddrPort("198.51.100.8:53"), "x")
	if got := p.closedWith(); got != "0:5 " {
		t.Errorf("another target: %q", got)
	}
	m := &wire.EncryptedData{FlowID: 9, Flags: wire.FlagTarget | wire.FlagEndpointIndependent, Target: wire.AddrTarget(target)}
	p.send(wire.TypeEncryptedData, m)
	if got := p.closedWith(); got != "9:1 " {
		t.Errorf("endpoint-independent: %q", got)
	}
	p.send(wire.TypeFlowClosed, &wire.FlowClosed{FlowID: 1, Reason: wire.FlowIdle})
	p.data(3, target, "x")
	if got := p.closedWith(); got != "" || r.shard.Stats().Flows != 3 {
		t.Errorf("after one was closed: %q, %d flows", got, r.shard.Stats().Flows)
	}
}

// TestLateDatagramIsNotPassedToNewFlow checks that a datagram on a discarded socket, which stays open
// a little longer, is not passed to a new flow with the same id.
func TestLateDatagramIsNotPassedToNewFlow(t *testing.T) {
	r := newRig(t, nil)
	p := r.connect(2, clientAt)
	p.data(1, target, "x")
	var first *flow
	r.shard.Do(func(time.Time, *shardState) { r.shard.st.eachFlow(func(f *flow) { first = f }) })
	p.send(wire.TypeFlowClosed, &wire.FlowClosed{FlowID: 1, Reason: wire.FlowIdle})
	p.data(1, netip.AddrPortFrom(target.Addr(), 9), "y")
	if n := r.shard.Stats().Flows; n != 1 {
		t.Fatalf("%d flows", n)
	}
	w := newWriter()
	first.handleReturn(r.now(), w, []transport.Packet{{Data: []byte("late")}})
	if len(w.packets) != 0 {
		t.Error("the datagram was passed to the new flow")
	}
	if n := r.shard.Stats().ClientFailed; n != 1 {
		t.Errorf("%d datagrams are counted as lost", n)
	}
}

// Shows R8.9.
func TestIdleFlowIsClosed(t *testing.T) {
	r := newRig(t, nil)
	p := r.connect(2, clientAt)
	p.data(1, target, "x")
	r.advance(119 * time.Second)
	p.data(1, netip.AddrPort{}, "y")
	r.advance(119 * time.Second)
	if n := r.shard.Stats().Flows; n != 1 {
		t.Fatalf("%d flows after 119 s of rest, want 1", n)
	}
	r.advance(2 * time.Second)
	p.got = nil
	for _, x := range r.socket.take() {
		p.handle(x.Data)
	}
	if got := p.closedWith(); got != "1:3 " || r.shard.Stats().Flows != 0 {
		t.Errorf("closed with %q, %d flows", got, r.shard.Stats().Flows)
	}
	select {
	case <-r.egress.at(target).closed: // when there is time
	case <-time.After(20 * time.Second):
		t.Error("the flow's socket is open")
	}
}

// refusing is an egress socket on which errors are reported.
type refusing struct {
	*memConn
	errors chan error
}

func (c *refusing) ReadBatch(p []transport.Packet) (int, error) {
	select {
	case err := <-c.errors:
		return 0, err
	case batch := <-c.fed:
		return copy(p, batch), nil
	case <-c.closed:
		return 0, net.ErrClosed
	}
}

type refusingEgress struct{ conn *refusing }

func (e refusingEgress) Dial(netip.AddrPort, account.Key) (transport.Conn, error) {
	return e.conn, nil
}

// An ICMP error, which anyone can forge, ends a flow only if a datagram draws a second one and no
// answer. A target that has answered gets a second to do so again.
//
// Shows R8.10.
func TestICMPErrorsCloseFlow(t *testing.T) {
	for name, row := range map[string]struct {
		steps string // s: datagram sent, e: error, a: answer, w: a second passes
		want  string
	}{
		"two errors without a datagram":    {"seeee", ""},
		"a datagram between":               {"sese", "1:2 "},
		"answers between":                  {"saeseasease", ""},
		"soon after an answer":             {"saesesese", ""},
		"a second after an answer":         {"saesewse", "1:2 "},
		"a rare question and forged ones":  {"saewseaewwseaewse", ""},
		"forged ones while it answers":     {"saeeeseeeaeeesaeeese", ""},
		"a second without a further error": {"saesww", ""},
	} {
		t.Run(name, func(t *testing.T) {
			conn := &refusing{newMemConn(), make(chan error)}
			r := newRig(t, func(c *Config) { c.Egress = refusingEgress{conn} })
			p := r.connect(2, clientAt)
			closed := ""
			for _, step := range row.steps {
				switch step {
				case 's':
					p.data(1, target, "x")
				case 'w':
					r.advance(time.Second)
				case 'a':
					conn.fed <- []transport.Packet{{Data: []byte("answer")}}
					p.got = nil
					p.receive(1)
				case 'e':
					r.advance(time.Millisecond)
					conn.errors <- transport.ErrRefused
					select { // the reader has passed the error on
					case conn.errors <- transport.ErrFull:
					case <-conn.closed:
					}
					r.advance(time.Millisecond)
					for _, x := range r.socket.take() {
						p.handle(x.Data)
					}
				}
				closed += p.closedWith()
				p.got = nil
			}
			if closed != row.want {
				t.Errorf("closed with %q, want %q", closed, row.want)
			}
		})
	}
}

func TestUnreachableTargetIsRefused(t *testing.T) {
	r := newRig(t, nil)
	r.egress.fail = errors.New("no route")
	p := r.connect(2, clientAt)
	p.data(1, target, "x")
	if got := p.closedWith(); got != "1:2 " {
		t.Errorf("closed with %q, want unreachable", got)
	}
}

func TestOversizedReturnIsDroppedWhole(t *testing.T) {
	r := newRig(t, nil)
	p := r.connect(2, clientAt)
	p.data(1, target, "x")
	largest := wire.MaxUDPPacket - flowOverhead
	conn := r.egress.at(target)
	conn.fed <- []transport.Packet{{Data: bytes.Repeat([]byte{1}, largest+1)}, {Data: bytes.Repeat([]byte{2}, largest)}}
	p.got = nil
	p.receive(1)
	if d, err := wire.ParseEncryptedData(p.got[0].content); err != nil || len(d.Payload) != largest || d.Payload[0] != 2 {
		t.Errorf("got %d bytes, %v", len(d.Payload), err)
	}
	if n := r.shard.Stats().TooLarge; n != 1 {
		t.Errorf("%d counted as too large, want 1", n)
	}
}

// Shows R11.5.
func TestSessionCloseDropsFlows(t *testing.T) {
	r := newRig(t, nil)
	p := r.connect(2, clientAt)
	p.data(1, target, "x")
	p.send(wire.TypeClose, &wire.Close{Reason: wire.CloseDone})
	if s := r.shard.Stats(); s.Sessions != 0 || s.Flows != 0 {
		t.Errorf("%d sessions, %d flows", s.Sessions, s.Flows)
	}
	select {
	case <-r.egress.at(target).closed: // when there is time
	case <-time.After(20 * time.Second):
		t.Error("the flow's socket is open")
	}
}

// Shows R10.4.
func TestPacketLargerThanMaxDatagramIsDropped(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Terms.MaxDatagram = 1100 })
	p := r.connect(2, clientAt)
	if got := p.session.Terms().MaxDatagram; got != 1100 {
		t.Fatalf("the client received reason %d", got)
	}
	largest := 1100 - flowOverhead - 7 // with an IPv4 target
	p.data(1, target, string(make([]byte, largest)))
	p.data(1, target, string(make([]byte, largest+1)))
	if got := r.egress.at(target).take(); len(got) != 1 || len(got[0].Data) != largest {
		t.Errorf("%d datagrams passed", len(got))
	}
	if n := r.shard.Stats().Malformed; n != 1 {
		t.Errorf("%d counted, want 1", n)
	}
}

// Shows R8.2, R8.3.
func TestMalformedFlowPacketsAreDroppedAndCounted(t *testing.T) {
	r := newRig(t, nil)
	p := r.connect(2, clientAt)
	for name, content := range map[string][]byte{
		"an unknown flag":        {1, 0, 8, 'x'},
		"independent, no target": {1, 0, 2, 'x'},
		"a target's kind":        {1, 0, 1, 5, 198, 51, 100, 7, 53, 0},
		"port 0":                 {1, 0, 1, 4, 198, 51, 100, 7, 0, 0},
		"a mapped address":       append([]byte{1, 0, 1, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, 198, 51, 100, 7, 53, 0),
		"no host name":           {1, 0, 1, 3, 3, 'a', ' ', 'b', 53, 0},
		"half a target":          {1, 0, 1, 4, 198},
	} {
		before := r.shard.Stats().Malformed
		p.send(wire.TypeEncryptedData, rawContent(content))
		if got := r.shard.Stats().Malformed - before; got != 1 || len(p.got) != 0 || len(r.egress.conns) != 0 {
			t.Errorf("%s: counted %d times, %d answers, %d sockets", name, got, len(p.got), len(r.egress.conns))
		}
	}
	before := r.shard.Stats().Malformed
	p.send(wire.TypeForwardPacket, rawContent([]byte{1, 0, 2}))
	if got := r.shard.Stats().Malformed - before; got != 1 {
		t.Errorf("a ForwardPacket with an unknown flag: counted %d times", got)
	}
}

// rawContent is the content of a message that may be malformed.
type rawContent []byte

func (r rawContent) Append(dst []byte) []byte { return append(dst, r...) }
