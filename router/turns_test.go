package router

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"lewes/state"
	"lewes/state/path"
	"lewes/state/snapshot"
	"lewes/state/wire"
)

// TestTurnTimes: each turn is in one bucket, the one that its time belongs to.
func TestTurnTimes(t *testing.T) {
	var times TurnTimes
	for _, took := range []time.Duration{0, 20 * time.Microsecond, 21 * time.Microsecond, 2 * time.Millisecond, 2*time.Millisecond + 1, time.Minute} {
		times.add(took)
	}
	want := TurnTimes{Sum: time.Minute + 4*time.Millisecond + 41*time.Microsecond + 1, Longest: time.Minute}
	want.Counts = [len(TurnBounds) + 1]uint64{0: 2, 1: 1, 6: 1, 7: 1, len(TurnBounds): 1}
	if times != want {
		t.Errorf("%+v, want %+v", times, want)
	}
}

// copies makes sessions like s, each with an index of its own: as many handshakes would
// take minutes.
func copies(t testing.TB, s *state.Session, config *state.SessionConfig, now time.Time) func(index uint32) *state.Session {
	t.Helper()
	s.Freeze()
	w := snapshot.NewWriter(nil, now)
	if err := s.Write(w); err != nil {
		t.Fatal(err)
	}
	s.Thaw()
	form := w.Bytes()
	index := binary.LittleEndian.AppendUint32(nil, s.Current().Index())
	if n := bytes.Count(form, index); n != 1 {
		t.Fatalf("the index is %d times in the session's form", n)
	}
	place := bytes.Index(form, index)
	return func(index uint32) *state.Session {
		binary.LittleEndian.PutUint32(form[place:], index)
		c, err := state.ReadSession(snapshot.NewReader(form, now), config)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
}

// Sessions that are made, and that come to their end, in whatever number at once, hold up no
// turn: what is due is done in stretches, with room for datagrams in between. The
// machine may be busy, so what is asserted is how many turns it took and that
// nearly none was long; the longest is for the log.
func TestMassExpiryIsCutIntoStretches(t *testing.T) {
	const sessions = 200_000
	began := time.Now()
	var leap atomic.Int64
	clock := func() time.Time { return epoch.Add(time.Since(began) + time.Duration(leap.Load())) }
	r := newRig(t, func(c *Config) { c.MaxSessions, c.Terms.IdleTTL = sessions+10, time.Hour })
	r.mu.Lock()
	r.clock = clock
	r.mu.Unlock()
	old := r.connect(2, clientAt)
	origin := old.serverSession()
	another := copies(t, origin, &state.SessionConfig{Rand: seeded(9), Terms: origin.Terms()}, clock())

	before := r.shard.Stats()
	for made := 0; made < sessions; {
		batch := make([]*state.Session, 16)
		for i := range batch {
			batch[i] = another(rand.Uint32() | 1)
		}
		r.shard.Turn(func(time.Time) {
			for _, s := range batch {
				if r.shard.sessions.Find(s.Current().Index()) == nil {
					s.User = &client{shard: r.shard, session: s}
					r.shard.sessions.Add(s)
				}
				made++
			}
		})
	}
	making := sinceStats(r.shard.Stats(), before)
	held := r.shard.Stats().Sessions
	t.Logf("%d sessions made in %d turns: longest %v, by length %v", held, making.turns(), making.Longest, making.Counts)

	before = r.shard.Stats()
	leap.Store(int64(time.Hour + time.Minute))
	// A session that is made now lives on, and its datagrams pass meanwhile.
	young := r.connect(3, path.Path{Peer: netip.MustParseAddrPort("192.0.2.9:9")})
	started, pings := time.Now(), 0
	go r.shard.Tick()
	for left := held; left > 1; left = r.shard.Stats().Sessions {
		if time.Since(started) > 3*time.Minute {
			t.Fatalf("%d sessions are still there", left)
		}
		young.send(wire.TypePing, &wire.Ping{Data: [8]byte{1}})
		if !slices.ContainsFunc(young.got, func(m message) bool { return m.t == wire.TypePong }) {
			t.Fatal("a Ping was not answered")
		}
		pings++
		time.Sleep(time.Millisecond)
	}
	ending := sinceStats(r.shard.Stats(), before)
	t.Logf("they ended in %v, %d turns, %d pings meanwhile: longest turn %v, by length %v", time.Since(started), ending.turns(), pings, ending.Longest, ending.Counts)
	if n := ending.turns(); n < 50 {
		t.Errorf("%d turns for %d sessions: they were not cut", n, held)
	}
	long := uint64(0)
	for i, n := range ending.Counts {
		if i >= len(TurnBounds) || TurnBounds[i] > 2*time.Millisecond {
			long += n
		}
	}
	if n := ending.turns(); long*10 > n {
		t.Errorf("%d of %d turns took more than 2 ms", long, n)
	}
}

// sinceStats returns the turns since an earlier look; Longest is of all.
func sinceStats(now, before Stats) *TurnTimes {
	d := now.Turns[0]
	for i := range d.Counts {
		d.Counts[i] -= before.Turns[0].Counts[i]
	}
	d.Sum -= before.Turns[0].Sum
	return &d
}

func (t *TurnTimes) turns() (n uint64) {
	for _, c := range t.Counts {
		n += c
	}
	return n
}

// Sockets of a session that ends with many flows are closed bit by bit, and all of them.
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
