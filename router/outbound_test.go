package router

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"lewes/state/wire"
	"lewes/transport"
)

// TestFlowKeepsNoSpaceAfterBurst sends a burst on each of many flows, one after the other. The space
// that the datagrams take is the shard's, and as large as one burst needs.
func TestFlowKeepsNoSpaceAfterBurst(t *testing.T) {
	const flows, burst = 200, 128
	r := newRig(t, nil)
	p := r.connect(2, clientAt)
	send := func(count int) {
		for id := range uint16(flows) {
			to := netip.AddrPortFrom(target.Addr(), 1000+id)
			for i := range count {
				m := &wire.EncryptedData{FlowID: id, Flags: wire.FlagTarget, Target: wire.AddrTarget(to), Payload: []byte{byte(i)}}
				if err := p.session.Send(wire.TypeEncryptedData, m, &p.out); err != nil {
					t.Fatal(err)
				}
			}
			p.run()
			if got := sentTo(r.egress.at(to)); len(got) != count || got[count-1] != string([]byte{byte(count - 1)}) {
				t.Fatalf("flow %d: %d datagrams of %d, or out of order", id, len(got), count)
			}
		}
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	send(1)
	before := heap()
	send(burst)
	if grown := int64(heap()-before) / flows; grown > 1000 {
		t.Errorf("a burst left %d bytes in each flow", grown)
	}
	if n := cap(r.shard.st.outbound.queue); n > 2*burst {
		t.Errorf("the shard has space for %d datagrams after bursts of %d", n, burst)
	}
}

// TestOutboundKeepsOrderAndBound queues more datagrams than a shard collects, alternating between two
// sockets.
func TestOutboundKeepsOrderAndBound(t *testing.T) {
	var failed uint64
	b := outbound{failed: &failed}
	outlets := [2]outlet{{conn: newMemConn()}, {conn: newMemConn()}}
	const each = 3 * maxOutbound / 2
	for i := range each {
		for j := range outlets {
			b.add(&outlets[j], fmt.Append(nil, i))
		}
		if len(b.queue) > maxOutbound {
			t.Fatalf("%d datagrams are queued", len(b.queue))
		}
	}
	b.flushOutlet(&outlets[0])
	b.flush()
	for j := range outlets {
		got := sentTo(outlets[j].conn.(*memConn))
		if len(got) != each {
			t.Fatalf("socket %d: %d datagrams of %d", j, len(got), each)
		}
		for i := range got {
			if got[i] != fmt.Sprint(i) {
				t.Fatalf("socket %d: datagram %d is %q", j, i, got[i])
			}
		}
	}
	outlets[0].conn = failingConn{newMemConn()}
	b.add(&outlets[0], nil)
	b.add(&outlets[0], nil)
	if b.flush(); failed != 2 {
		t.Errorf("%d of 2 failures counted", failed)
	}
}

// failingConn sends nothing.
type failingConn struct{ *memConn }

func (failingConn) WriteBatch(p []transport.Packet) (int, error) {
	return 0, &transport.SendError{Failed: len(p), Err: transport.ErrFull}
}
