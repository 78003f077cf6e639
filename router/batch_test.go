package router

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/state"
	"lewes/state/path"
	"lewes/state/snapshot"
	"lewes/state/wire"
)

// TestBatchTimes checks that each batch is counted in the bucket of its duration.
func TestBatchTimes(t *testing.T) {
	var times BatchTimes
	for _, took := range []time.Duration{0, 20 * time.Microsecond, 21 * time.Microsecond, 2 * time.Millisecond, 2*time.Millisecond + 1, time.Minute} {
		times.add(took)
	}
	want := BatchTimes{Sum: time.Minute + 4*time.Millisecond + 41*time.Microsecond + 1, Longest: time.Minute}
	want.Counts = [len(BatchBounds) + 1]uint64{0: 2, 1: 1, 6: 1, 7: 1, len(BatchBounds): 1}
	if times != want {
		t.Errorf("%+v, want %+v", times, want)
	}
}

// copies returns a function that copies s with another index: as many handshakes would take
// minutes.
func copies(t testing.TB, s *state.Session, config *state.SessionConfig, now time.Time) func(index uint32) *state.Session {
	another := copiesOf(t, s, config, now)
	return func(index uint32) *state.Session { return another(index, s.Peer(), 0) }
}

// copiesOf returns a function that copies s with another index and client, and moves all its times
// to the past.
func copiesOf(t testing.TB, s *state.Session, config *state.SessionConfig, now time.Time) func(index uint32, peer identity.PublicKey, age time.Duration) *state.Session {
	t.Helper()
	s.Freeze()
	w := snapshot.NewWriter(nil, now)
	if err := s.Write(w); err != nil {
		t.Fatal(err)
	}
	s.Thaw()
	form := w.Bytes()
	place := func(of []byte) int {
		if n := bytes.Count(form, of); n != 1 {
			t.Fatalf("%x is %d times in the session's form", of, n)
		}
		return bytes.Index(form, of)
	}
	id := s.Peer()
	indexAt, peerAt := place(binary.LittleEndian.AppendUint32(nil, s.Current().Index())), place(id[:])
	return func(index uint32, peer identity.PublicKey, age time.Duration) *state.Session {
		binary.LittleEndian.PutUint32(form[indexAt:], index)
		copy(form[peerAt:], peer[:])
		c, err := state.ReadSession(snapshot.NewReader(form, now.Add(-age)), config)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
}

// TestMassExpiryIsSliced lets 20,000 sessions expire at once. Each reading of the virtual clock takes
// 100 us, so a slice of 1 ms allows a bounded number of sessions per batch. A session that is still
// in use is served between any two batches.
func TestMassExpiryIsSliced(t *testing.T) {
	const (
		sessions = 20_000
		reading  = 100 * time.Microsecond
		perBatch = dueAtOnce * int(slice/reading+1)
	)
	r := newRig(t, func(c *Config) { c.MaxSessions, c.Terms.IdleTTL = sessions+10, time.Hour })
	origin := r.connect(2, clientAt).serverSession()
	another := copies(t, origin, &state.SessionConfig{Rand: seeded(9), Terms: origin.Terms()}, r.now())
	r.shard.Do(func(_ time.Time, st *shardState) {
		for n := range uint32(sessions) {
			if s := another(n<<1 | 1); st.sessions.Find(s.Current().Index()) == nil {
				st.newClient(epoch, s, st.accountKey(s))
				st.sessions.Add(s)
			}
		}
		st.timer.timer.Stop()
		st.timer.timer = time.AfterFunc(time.Hour, func() {}) // the test ticks, the timer does not
	})
	r.mu.Lock()
	r.time = r.time.Add(time.Hour + time.Minute)
	r.mu.Unlock()
	young := r.connect(3, path.Path{Peer: netip.MustParseAddrPort("192.0.2.9:9")})
	r.shard.now = r.slowClock(reading)
	batches := 0
	for held := int(r.shard.Stats().Sessions); held > 1; batches++ {
		r.shard.Tick()
		left := int(r.shard.Stats().Sessions)
		if ended := held - left; ended < 1 || ended > perBatch {
			t.Fatalf("batch %d ended %d sessions, want 1 to %d", batches, ended, perBatch)
		}
		held = left
		if batches%50 == 0 {
			young.send(wire.TypePing, &wire.Ping{Data: [8]byte{1}})
			if !slices.ContainsFunc(young.got, func(m message) bool { return m.t == wire.TypePong }) {
				t.Fatal("a Ping between two batches was not answered")
			}
		}
	}
	if batches < sessions/perBatch {
		t.Errorf("%d batches for %d sessions", batches, sessions)
	}
}

// TestDiscardedSocketsAreClosed checks that all sockets of a session with many flows are closed in the end.
func TestDiscardedSocketsAreClosed(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxFlowsPerSession = 200 })
	p := r.connect(2, clientAt)
	for i := range uint16(200) {
		p.data(i, netip.AddrPortFrom(target.Addr(), 1000+i), "x")
	}
	p.send(wire.TypeClose, &wire.Close{Reason: wire.CloseDone})
	for i := range uint16(200) {
		select {
		case <-r.egress.at(netip.AddrPortFrom(target.Addr(), 1000+i)).closed:
		case <-time.After(20 * time.Second):
			t.Fatalf("socket %d is open", i)
		}
	}
}
