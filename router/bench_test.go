package router

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"lewes/state"
	"lewes/state/wire"
	"lewes/transport"
	"lewes/transport/udp"
)

// train is a GSO train of sealed datagrams of one flow. It is sealed anew for each use, because
// packets are opened in place.
type train struct {
	batch  []transport.Packet
	sealed func()
}

// newTrain returns n datagrams of a flow of p. sealed seals them anew.
func newTrain(p *peer, flow uint16, n, size int) *train {
	payload := bytes.Repeat([]byte{7}, size)
	packet := flowOverhead + size
	t := &train{batch: []transport.Packet{{Data: make([]byte, n*packet), Segment: packet, Path: p.at}}}
	t.sealed = func() {
		buffer := t.batch[0].Data
		for i := range n {
			b := wire.Begin(buffer[:i*packet], 0, wire.LevelTransport, 0, wire.TypeEncryptedData)
			b = append(b, byte(flow), byte(flow>>8), 0)
			b = wire.Finish(append(b, payload...))
			if err := p.session.Sender().Seal(b[i*packet:]); err != nil {
				p.r.t.Fatal(err)
			}
		}
	}
	return t
}

// quiet returns a rig with one open flow whose sockets count packets and store nothing. The bandwidth of
// its client is counted if counts is set.
func quiet(tb testing.TB, counts bool) (*rig, *peer) {
	r := metered(tb, func(c *Config) { c.Registration.Required = false })
	p := r.connect(2, clientAt)
	if counts {
		p.enroll(wire.ModeRelay, grant(1<<62))
	}
	p.data(1, target, "open")
	r.egress.at(target).drop, r.socket.drop = true, true
	return r, p
}

func TestDatagramPathDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates: run without -race")
	}
	r, p := quiet(t, true)
	up := newTrain(p, 1, 32, 1200)
	up.sealed()
	r.shard.Receive(epoch, up.batch, nil)
	allocs := testing.AllocsPerRun(100, func() {
		up.sealed()
		r.shard.Receive(epoch, up.batch, nil)
	})
	if allocs != 0 {
		t.Errorf("32 datagrams to a target: %v allocations", allocs)
	}
	if got := r.egress.at(target).count; got < 32*100 {
		t.Errorf("%d datagrams arrived", got)
	}
	down := []transport.Packet{{Data: make([]byte, 32*1200), Segment: 1200}}
	c := p.serverSession().User.(*client)
	back := func() {
		w := writers.Get().(*writer)
		for payload := range down[0].Segments() {
			w.flowPacket(c, wire.TypeEncryptedData, 1, payload)
		}
		w.flush(r.shard.shardEnv)
		writers.Put(w)
	}
	back()
	if allocs := testing.AllocsPerRun(100, back); allocs != 0 {
		t.Errorf("32 datagrams to a client: %v allocations", allocs)
	}
}

// BenchmarkRouter passes datagrams through a shard without sockets: header, session, replay
// window, AEAD, flow, and back; also with their bandwidth counted.
func BenchmarkRouter(b *testing.B) {
	for _, size := range []int{64, 1200, 1400} {
		for _, counts := range []bool{false, true} {
			name := fmt.Sprint(size)
			if counts {
				name += "/counted"
			}
			b.Run("up/"+name, func(b *testing.B) { benchmarkUp(b, size, counts) })
			b.Run("down/"+name, func(b *testing.B) { benchmarkDown(b, size, counts) })
		}
	}
}

func benchmarkUp(b *testing.B, size int, counts bool) {
	const n = 32
	r, p := quiet(b, counts)
	up := newTrain(p, 1, n, size)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for done := 0; done < b.N; done += n {
		b.StopTimer()
		up.sealed()
		b.StartTimer()
		r.shard.Receive(epoch, up.batch, nil)
	}
}

func benchmarkDown(b *testing.B, size int, counts bool) {
	const n = 32
	r, p := quiet(b, counts)
	down := transport.Packet{Data: make([]byte, n*size), Segment: size}
	c := p.serverSession().User.(*client)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for done := 0; done < b.N; done += n {
		w := writers.Get().(*writer)
		for payload := range down.Segments() {
			w.flowPacket(c, wire.TypeEncryptedData, 1, payload)
		}
		w.flush(r.shard.shardEnv)
		writers.Put(w)
	}
}

// BenchmarkMisrouted compares GSO trains that arrive at another shard's socket with trains that
// arrive at their own: the difference is the cost of forwarding between shards.
func BenchmarkMisrouted(b *testing.B) {
	const n = 32
	for _, misrouted := range []bool{false, true} {
		name := "own"
		if misrouted {
			name = "misrouted"
		}
		b.Run(name, func(b *testing.B) {
			r, p := quiet(b, false)
			own := r.shard
			own.steer = udp.Steer{Secret: 1, Shards: 2}
			own.id = own.steer.Shard(p.session.Current().Index())
			g := r.whole
			other, err := newShard(g, 1-own.id, own.steer, g.handshakeConfig(), oneSocket{r.socket})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(other.close)
			g.shards = []*Shard{own, other}
			at := own
			if misrouted {
				at = other
			}
			up := newTrain(p, 1, n, 64)
			var over []transport.Packet
			b.ReportAllocs()
			for done := 0; done < b.N; done += n {
				b.StopTimer()
				up.sealed()
				b.StartTimer()
				if over = at.Receive(epoch, up.batch, over[:0]); len(over) > 0 {
					g.forwardToShards(over)
				}
			}
			if n := own.Stats().Misrouted; misrouted != (n > 0) {
				b.Fatalf("%d packets were misrouted", n)
			}
		})
	}
}

// BenchmarkManySessions opens datagrams of sessions drawn from among many, a batch of one of
// each at a time: the packets are forged, which costs the same up to the tag.
func BenchmarkManySessions(b *testing.B) {
	for _, sessions := range []int{100, 200_000} {
		b.Run(fmt.Sprint(sessions), func(b *testing.B) {
			r := newRig(b, func(c *Config) { c.MaxSessions = sessions + 10 })
			origin := r.connect(2, clientAt).serverSession()
			another := copies(b, origin, &state.SessionConfig{Rand: seeded(9), Terms: origin.Terms()}, epoch)
			indexes := make([]uint32, sessions)
			for i := range indexes {
				indexes[i] = rand.Uint32() | 1
				if s := another(indexes[i]); r.shard.st.sessions.Find(indexes[i]) == nil {
					r.shard.st.newClient(epoch, s, r.shard.accountKey(s))
					r.shard.st.sessions.Add(s)
				}
			}
			batch := make([]transport.Packet, batchSize)
			for i := range batch {
				batch[i] = transport.Packet{Data: make([]byte, 64), Path: clientAt}
			}
			receive := func(next func() uint32) {
				for i := range batch {
					binary.LittleEndian.PutUint32(batch[i].Data, next())
					binary.LittleEndian.PutUint64(batch[i].Data[4:], wire.Counter(wire.LevelTransport, 1))
				}
				r.shard.Receive(epoch, batch, nil)
			}
			for i := 0; i < sessions; { // each key is expanded by its first packet
				receive(func() uint32 { i++; return indexes[i%sessions] })
			}
			runtime.GC()
			before := r.shard.Stats().Forged
			b.ReportAllocs()
			b.ResetTimer()
			for done := 0; done < b.N; done += len(batch) {
				receive(func() uint32 { return indexes[rand.IntN(sessions)] })
			}
			if n := r.shard.Stats().Forged - before; n < uint64(b.N) {
				b.Fatalf("%d of %d were looked at", n, b.N)
			}
		})
	}
}
