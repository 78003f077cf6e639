package router

import (
	"bytes"
	"sync"
	"sync/atomic"
	"time"

	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
)

// streams is how answers leave over TCP: a *tcp.ShardListener.
type streams interface {
	transport.Conn
	// End closes the connection of a path once its answers are out.
	End(path.Path)
	// Hold lets the connection of a path live for d, for an answer to come.
	Hold(p path.Path, d time.Duration) bool
}

const (
	// maxHeld is how many bytes wait for a session on TCP (section 12).
	maxHeld = 128 << 10
	// frameLength is what a packet takes on a connection beside itself.
	frameLength = 4
)

// downstream is what waits for a session that is on TCP, until a connection of it
// comes to take it along (section 10 of PROTOCOL.md): sealed packets, oldest
// first, bounded in bytes and age. Turns and pumps fill it alike.
type downstream struct {
	of     *downstreams
	client *client

	mu      sync.Mutex
	packets []transport.Packet
	notes   []note
	size    int       // of all, with their lengths
	poll    path.Path // the connection that waits for them, if one does
	watched bool      // the shard's watch looks at it when its oldest may be too old
	closed  bool

	due state.Timer[*downstream] // of the watch, which has the lock for it
}

// note is what is known of a packet that waits.
type note struct {
	came time.Time
	flow bool // it is a flow's, which has no way of its own to go
}

// downstreams is what those of a shard have in common.
type downstreams struct {
	out    streams
	now    func() time.Time
	most   int // bytes that wait for one session
	inAll  int // and for all of the shard
	oldest time.Duration

	held               atomic.Int64  // bytes
	full, old, renewed atomic.Uint64 // packets dropped by size and by age, Polls replaced

	ended downstream // stands for those of sessions that have ended

	mu      sync.Mutex
	watch   state.Deadlines[*downstream] // of the oldest that waits in each
	timer   *time.Timer
	stopped bool
}

// push adds a copy of a packet, of a flow or of the session's own. What is full gives
// its oldest up.
func (d *downstream) push(packet []byte, flow bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, now := d.of, d.of.now()
	size := len(packet) + frameLength
	d.expire(now)
	for len(d.packets) > 0 && (d.size+size > s.most || s.held.Load()+int64(size) > int64(s.inAll)) {
		d.drop(1)
		s.full.Add(1)
	}
	if d.closed || size > s.most || s.held.Load()+int64(size) > int64(s.inAll) {
		s.full.Add(1)
		return
	}
	d.packets = append(d.packets, transport.Packet{Data: bytes.Clone(packet)})
	d.notes = append(d.notes, note{now, flow})
	d.size += size
	s.held.Add(int64(size))
	if !d.watched {
		d.watched = true
		s.look(d, now)
	}
}

// drop removes the n oldest packets.
func (d *downstream) drop(n int) {
	for i := range d.packets[:n] {
		size := len(d.packets[i].Data) + frameLength
		d.size -= size
		d.of.held.Add(-int64(size))
	}
	clear(d.packets[:n])
	if d.packets, d.notes = d.packets[n:], d.notes[n:]; len(d.packets) == 0 {
		d.packets, d.notes = nil, nil
	}
}

// expire drops what is too old.
func (d *downstream) expire(now time.Time) {
	n := 0
	for n < len(d.notes) && now.Sub(d.notes[n].came) >= d.of.oldest {
		n++
	}
	d.drop(n)
	d.of.old.Add(uint64(n))
}

// send gives what waits to a connection, as far as that takes it, and returns how
// many packets it took.
func (d *downstream) send(to path.Path) int {
	for i := range d.packets {
		d.packets[i].Path = to
	}
	n := 0
	if len(d.packets) > 0 {
		n, _ = d.of.out.WriteBatch(d.packets) // what is not taken waits on
	}
	d.drop(n)
	return n
}

// take gives what waits to a connection of the session and ends it. Where nothing
// waits, the connection does, for as long as its Poll says; one that waited before
// is ended.
func (d *downstream) take(to path.Path, wait time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.expire(d.of.now())
	if d.send(to) > 0 || wait <= 0 || d.closed {
		d.of.out.End(to)
		return
	}
	if d.poll.IsValid() {
		d.of.renewed.Add(1)
		d.of.out.End(d.poll)
	}
	d.poll = path.Path{}
	if d.of.out.Hold(to, wait) {
		d.poll = to
	}
}

// deliver gives what waits to the Poll that waits for it, if there are both.
func (d *downstream) deliver() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.poll.IsValid() || len(d.packets) == 0 {
		return
	}
	d.send(d.poll)
	d.of.out.End(d.poll)
	d.poll = path.Path{}
}

// redirect gives the flows' packets to send, oldest first, as far as the session is
// somewhere else now, and forgets the session's own: they were for here. It reports
// whether nothing is left.
func (d *downstream) redirect(send func(packet []byte, to path.Path)) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.packets) > 0 {
		if packet := d.packets[0].Data; d.notes[0].flow {
			to := d.client.session.PathFor(len(packet))
			if to.Transport == path.TCP {
				return false
			}
			send(packet, to)
		}
		d.drop(1)
	}
	return true
}

// close ends it with what it holds.
func (d *downstream) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.poll.IsValid() {
		d.of.out.End(d.poll)
	}
	d.poll = path.Path{}
	d.drop(len(d.packets))
}

// empty reports whether nothing waits.
func (d *downstream) empty() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.packets) == 0
}

// init sets the bounds of a shard's share.
func (s *downstreams) init(c *TCP, shards int, now func() time.Time) {
	s.now = now
	s.most = or(c.MaxHeld, maxHeld)
	s.inAll = or(c.MaxHeldInAll, 256<<20) / max(1, shards)
	s.oldest = or(c.HeldAge, 5*time.Second)
	s.ended = downstream{of: s, closed: true}
	s.timer = time.AfterFunc(time.Hour, s.sweep)
}

// look sees to it that what d holds, since then, does not grow too old in memory.
func (s *downstreams) look(d *downstream, since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return
	}
	at := since.Add(s.oldest)
	d.due.Value = d
	s.watch.Set(&d.due, at)
	if s.watch.Next().Equal(at) {
		s.timer.Reset(max(0, at.Sub(s.now())))
	}
}

// sweep drops what is too old, wherever it is time to look.
func (s *downstreams) sweep() {
	now := s.now()
	for {
		d, ok := s.next(now)
		if !ok {
			return
		}
		d.mu.Lock()
		d.expire(now)
		if len(d.packets) > 0 {
			s.look(d, d.notes[0].came)
		} else {
			d.watched = false
		}
		quiet := !d.watched
		d.mu.Unlock()
		if quiet {
			d.leave()
		}
	}
}

// next takes the next downstream that is to be looked at. Where none is, it sets the
// timer for the one that will be.
func (s *downstreams) next(now time.Time) (*downstream, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil, false
	}
	d, ok := s.watch.Pop(now)
	if at := s.watch.Next(); !ok && !at.IsZero() {
		s.timer.Reset(at.Sub(now))
	}
	return d, ok
}

// stop ends the watch.
func (s *downstreams) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped, s.watch = true, state.Deadlines[*downstream]{}
	s.timer.Stop()
}

// downstream returns where packets of the client wait while it is on TCP. It is safe
// for pumps.
func (c *client) downstream() *downstream {
	for {
		if d := c.down.Load(); d != nil {
			return d
		}
		d := &downstream{of: &c.shard.down, client: c}
		if c.down.CompareAndSwap(nil, d) {
			return d
		}
	}
}

// leave forgets d where nothing waits and its session is not on TCP any more. What
// does wait stays until it is too old: it may be fetched yet.
func (d *downstream) leave() {
	if c := d.client; d.empty() && c.session.Path().Transport != path.TCP && c.down.CompareAndSwap(d, nil) {
		d.close()
	}
}

// turnLastWords brings what was said to a session at its end to the Poll that waits,
// and forgets the rest.
func (s *Shard) turnLastWords(c *client) {
	d := c.down.Swap(&s.down.ended)
	if d == nil {
		return
	}
	at, kept := c.session.Path(), s.output.Packets[:0]
	for _, p := range s.output.Packets {
		if at.Transport == path.TCP && p.Path == at && levelOf(p.Data) == wire.LevelTransport {
			d.push(p.Data, false)
		} else {
			kept = append(kept, p)
		}
	}
	clear(s.output.Packets[len(kept):])
	s.output.Packets = kept
	d.deliver()
	d.close()
}

func levelOf(packet []byte) wire.Level {
	h, err := wire.ParseHeader(packet)
	if err != nil {
		return wire.LevelClear
	}
	return h.Level
}
