package router

import (
	"net/netip"
	"testing"
	"time"

	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
)

// TestAddressThatWasLeftIsNotFlooded has a client keep its session by packets from spoofed sources
// that answer no Ping, while its target sends much: once the first validation is over, the gateway
// sends little, and nothing of the flow, to the address that the client left.
//
// Shows R6.17, R12.5.
func TestAddressThatWasLeftIsNotFlooded(t *testing.T) {
	r := newRig(t, nil)
	left := clientAt
	p := r.connect(2, left)
	p.data(1, target, "give me a stream")
	in := 0
	spoof := func(round int) {
		m := &wire.EncryptedData{FlowID: 1, Payload: []byte("go on")}
		if err := p.session.Send(wire.TypeEncryptedData, m, &p.out); err != nil {
			t.Fatal(err)
		}
		from := path.Path{Peer: netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(round)}), 7)}
		for _, x := range p.out.Packets {
			in += len(x.Data)
			r.shard.Receive(r.now(), []transport.Packet{{Data: x.Data, Path: from}}, nil)
		}
		p.out.Reset()
	}
	spoof(0)
	r.advance(4 * time.Second)
	r.socket.take()
	const burst = 8
	flooded, toLeft, all := 0, 0, 0
	for round := range 40 {
		r.advance(15 * time.Second)
		spoof(1 + round)
		var batch []transport.Packet
		for range burst {
			batch = append(batch, transport.Packet{Data: make([]byte, 1100)})
		}
		r.egress.at(target).fed <- batch
		flooded += burst
		eventually(t, "the flow's datagrams are dropped", func() bool { return r.shard.Stats().Unvalidated == uint64(flooded) })
		for _, x := range r.socket.take() {
			if all += len(x.Data); x.Path == left {
				toLeft += len(x.Data)
			}
		}
	}
	if all > 3*in || toLeft > in*3/2 {
		t.Errorf("for %d bytes %d were sent, %d of them to the address that was left", in, all, toLeft)
	}
}
