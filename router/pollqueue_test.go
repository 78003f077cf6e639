package router

import (
	"net/netip"
	"testing"
	"time"

	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
)

// TestPollQueueTimer: a packet is forgotten on time though its session was looked at
// before it was due, and others came in between.
func TestPollQueueTimer(t *testing.T) {
	r := newRig(t, nil)
	s := &r.shard.queues
	c := r.connect(2, clientAt).clientOf()
	first, second := &pollQueue{all: s, client: c}, &pollQueue{all: s, client: c}
	first.push([]byte("gone by then"), true)
	first.drop(1)
	r.advance(10 * time.Millisecond)
	first.push([]byte("due soon"), true)
	r.advance(s.maxAge - 20*time.Millisecond)
	second.push([]byte("due later"), true)
	r.advance(10 * time.Millisecond)
	s.expireDue()
	r.advance(10 * time.Millisecond)
	s.expireDue()
	if !first.empty() || second.empty() {
		t.Errorf("of what is due soon nothing is left: %v, of what is due later: %v", first.empty(), second.empty())
	}
	r.advance(s.maxAge)
	s.expireDue()
	if !second.empty() || s.held.Load() != 0 {
		t.Errorf("%d bytes are held", s.held.Load())
	}
}

// TestNoDatagramToTCPPath checks that packets for a session on TCP are dropped if the gateway no longer
// serves TCP: its TCP address is no UDP address.
func TestNoDatagramToTCPPath(t *testing.T) {
	r := newRig(t, nil)
	p := r.connect(2, clientAt)
	p.data(1, target, "x")
	p.at = path.NewTCP(clientAt.Peer, clientAt.Local, 1)
	p.send(wire.TypePing, &wire.Ping{})
	if c := p.clientOf(); c.session.Path().Transport != path.TCP {
		t.Fatalf("the session is on %v", c.session.Path())
	}
	r.socket.take()
	w := newWriter()
	for _, f := range p.clientOf().flows {
		f.handleReturn(r.now(), w, []transport.Packet{{Data: []byte("answer")}})
	}
	w.flush(r.shard.shardEnv)
	if sent := r.socket.take(); len(sent) != 0 {
		t.Errorf("%d datagrams went to %v", len(sent), sent[0].Path)
	}
	if n := r.shard.Stats().ClientFailed; n == 0 {
		t.Error("the drop is not counted")
	}
}

// clientOf returns the shard's state of a peer.
func (p *peer) clientOf() *client {
	g := p.r.shard.st.sessions.Find(p.session.Current().Index())
	return g.Session().User.(*client)
}

// TestPollQueuesOfAccountLeaveRoom has many sessions of one account queue all that they may, beside a
// session of another account: that one's packets find room.
//
// Shows R12.5.
func TestPollQueuesOfAccountLeaveRoom(t *testing.T) {
	r := newRig(t, nil)
	s := &r.shard.queues
	const one = 1000
	s.maxQueue, s.maxQueues = 10*one, 90*one
	packet := make([]byte, one-frameLength)
	fill := func(identity byte, at path.Path) (held int) {
		before := s.held.Load()
		q := r.connect(identity, at).clientOf().pollQueue()
		for range 20 {
			q.push(packet, true)
		}
		return int(s.held.Load()-before) / one
	}
	all := 0
	for n := range byte(10) {
		at := clientAt
		at.Peer = netip.AddrPortFrom(at.Peer.Addr(), 2000+uint16(n))
		all += fill(2+n, at)
	}
	if all != 30 {
		t.Errorf("one account has %d packets queued of 90", all)
	}
	other := clientAt
	other.Peer = netip.MustParseAddrPort("192.0.2.99:1")
	if n := fill(20, other); n != 10 {
		t.Errorf("another one has %d, want the 10 of a session", n)
	}
	r.advance(s.maxAge)
	s.expireDue()
	if n := s.held.Load(); n != 0 {
		t.Errorf("%d bytes are held in the end", n)
	}
}
