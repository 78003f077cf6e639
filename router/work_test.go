package router

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"lewes/router/account"
	"lewes/state/wire"
)

// TestTurns: the accounts that have tasks take turns, and within an account its sessions, whatever the
// number of tasks of each.
//
// Shows R12.9.
func TestTurns(t *testing.T) {
	var q workQueue
	entry := new(account.Account)
	busy, quiet, other := &client{account: entry}, &client{account: entry}, &client{account: new(account.Account)}
	id := func(n uint16) task { return task{flow: &flow{id: n}} }
	for n := range uint16(5) {
		q.push(busy, id(n))
	}
	q.push(quiet, id(50))
	q.push(other, id(100))
	q.push(other, id(101))
	var order []uint16
	for q.len() > 0 {
		order = append(order, q.pop().flow.id)
	}
	if want := []uint16{0, 100, 50, 101, 1, 2, 3, 4}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
	if q.accounts.len() != 0 || len(q.accounts.order) != 0 {
		t.Error("an empty queue keeps accounts")
	}
}

// TestTasksAreCharged: a session that has used its time for expensive requests has no more of them
// done until time has passed, whatever they are, while its datagrams and the requests of others pass.
//
// Shows R12.9.
func TestTasksAreCharged(t *testing.T) {
	r := newRig(t, nil)
	p, other := r.connect(2, clientAt), r.connect(3, secondAt)
	p.data(0, target, "x")
	opened := 1
	for ; opened < 10_000 && r.shard.Stats().OverBudget == 0; opened++ {
		p.data(1, target, "x")
		p.send(wire.TypeFlowClosed, &wire.FlowClosed{FlowID: 1, Reason: wire.FlowIdle})
	}
	if want := int(taskDepth / SessionShare / costFlow); opened != want+1 {
		t.Errorf("%d flows were opened, want %d", opened-1, want)
	}
	for name, ask := range map[string]func(){
		"flow":   func() { p.data(2, target, "x") },
		"name":   func() { p.named(3, "dns.example", 53, "x") },
		"KK1":    func() { p.send(wire.TypeSubsessionKK1, &wire.Part{Count: 2, Data: []byte("x")}) },
		"refuse": func() { p.send(wire.TypeSubsessionAbort, &wire.SubsessionAbort{Reason: wire.AbortIndexCollision}) },
	} {
		before := r.shard.Stats().OverBudget
		if ask(); r.shard.Stats().OverBudget != before+1 {
			t.Errorf("%s: not counted as over the budget", name)
		}
	}
	before := r.shard.Stats().Up.Packets
	p.data(0, target, "an open flow")
	other.data(1, target, "another client")
	if got := r.shard.Stats().Up.Packets - before; got != 2 {
		t.Errorf("%d datagrams passed, want 2", got)
	}
	r.advance(time.Second / 10)
	if p.data(2, target, "x"); p.clientOf().flows[2] == nil {
		t.Error("after a while the session cannot open a flow")
	}
}

// TestAccountIsCharged: sessions of one account share its time.
func TestAccountIsCharged(t *testing.T) {
	r := newRig(t, nil)
	var opened uint64
	for i := range byte(4) {
		p := r.connect(2+i, udpFrom("192.0.2.99", 5000+int(i)))
		before := r.shard.Stats().OverBudget
		for n := 0; n < 10_000 && r.shard.Stats().OverBudget == before; n++ {
			p.data(1, target, "x")
			p.send(wire.TypeFlowClosed, &wire.FlowClosed{FlowID: 1, Reason: wire.FlowIdle})
		}
		opened = r.shard.Stats().FlowsOpened
	}
	if want := uint64(taskDepth / AccountShare / costFlow); opened != want {
		t.Errorf("four sessions opened %d flows, want %d of their account", opened, want)
	}
}

// TestClosingSocketsTakesItsTurn: sessions that end with many flows do not make a batch close their
// sockets, and each new flow closes one.
//
// Shows R12.9.
func TestClosingSocketsTakesItsTurn(t *testing.T) {
	const sessions, flows = 20, 256
	r := newRig(t, func(c *Config) { c.MaxFlows = 100 * sessions * flows })
	st := &r.shard.st
	st.timer.timer.Stop()
	st.timer.timer = time.AfterFunc(time.Hour, func() {}) // closes no sockets
	var peers []*peer
	for n := range sessions {
		p := r.connect(2, udpFrom(fmt.Sprintf("192.0.2.%d", n), 7))
		for id := range uint16(flows) {
			p.data(id, target, "x")
		}
		peers = append(peers, p)
	}
	for _, p := range peers[1:] {
		p.session.Close(wire.CloseDone, "", &p.out)
		p.run()
	}
	waiting := (sessions - 1) * flows
	if len(st.discarded) != waiting {
		t.Errorf("%d sockets wait to be closed, want %d", len(st.discarded), waiting)
	}
	peers[0].send(wire.TypeFlowClosed, &wire.FlowClosed{FlowID: 0, Reason: wire.FlowIdle})
	if peers[0].data(0, target, "x"); len(st.discarded) != waiting {
		t.Errorf("%d sockets wait after one was closed and one opened", len(st.discarded))
	}
}

// TestLongRekeyMessageIsNotQueued: over TCP a KK1 may have 64 KB, of which none is kept.
//
// Shows R12.9.
func TestLongRekeyMessageIsNotQueued(t *testing.T) {
	r := newRig(t, nil)
	c := r.connect(2, clientAt).clientOf()
	st := &r.shard.st
	st.scheduler.running = true // nothing runs yet
	for size, want := range map[int]int{maxRekeyMessage: 1, maxRekeyMessage + 1: 0} {
		c.rekey = nil
		refused := st.counters.Refused
		st.queueRekey(&rxContext{now: r.now()}, c, wire.TypeSubsessionKK1, make([]byte, size))
		if len(c.rekey) != want || st.counters.Refused != refused+uint64(1-want) {
			t.Errorf("%d bytes: %d messages are queued, %d refused", size, len(c.rekey), st.counters.Refused-refused)
		}
	}
	c.rekey, st.work = nil, workQueue{}
}
