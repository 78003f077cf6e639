package router

import (
	"time"

	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
)

// visitor is a connection whose packet belonged to a session: at the end of the
// turn it takes along what waits for that.
type visitor struct {
	client *client
	path   path.Path
	wait   time.Duration // that its Poll asked for, until there is an answer
}

// turnVisit notes that an authentic packet of a session came. Only TCP has a
// connection that waits for what follows from it.
func (s *Shard) turnVisit(t *state.Session, from path.Path, wait time.Duration) {
	if from.Transport == path.TCP && s.down.out != nil {
		s.visitors = append(s.visitors, visitor{t.User.(*client), from, wait})
	}
}

// turnPoll handles a Poll and returns how long its connection waits.
func (s *Shard) turnPoll(content []byte, from path.Path) time.Duration {
	m, err := wire.ParsePoll(content)
	switch {
	case err != nil:
		s.counters.Malformed++
		return 0
	case from.Transport != path.TCP:
		s.counters.Misplaced++
		return 0
	}
	s.counters.Polls++
	return min(time.Duration(m.WaitMillis)*time.Millisecond, or(s.config.TCP.PollWait, 10*time.Second))
}

// turnStream sends one answer over TCP. What belongs to a session goes out on a
// connection of this turn, or waits for the next; everything else is the answer to
// the packet that came on just this connection, which it ends.
func (s *Shard) turnStream(p *state.Packet) {
	if s.down.out == nil {
		s.counters.ClientFailed++
		return
	}
	if h, err := wire.ParseHeader(p.Data); err == nil && h.Level == wire.LevelTransport {
		if g := s.sessions.Find(h.ReceiverIdx); g != nil {
			s.turnSessionStream(g.Session().User.(*client), p)
			return
		}
	}
	if !s.turnWrite(p.Data, p.Path) {
		s.counters.ClientFailed++
		return
	}
	s.ending = append(s.ending, p.Path)
}

// turnSessionStream sends a packet of a session: on the connection that it is for,
// if that came in this turn, else on another that did.
func (s *Shard) turnSessionStream(c *client, p *state.Packet) {
	var on *visitor
	for i := range s.visitors {
		if v := &s.visitors[i]; v.client == c && (on == nil || v.path == p.Path) {
			on = v
		}
	}
	if on != nil && s.turnWrite(p.Data, on.path) {
		on.wait = 0
		return
	}
	d := c.downstream()
	d.push(p.Data, false)
	s.pushed = append(s.pushed, d)
}

func (s *Shard) turnWrite(packet []byte, to path.Path) bool {
	s.answers = append(s.answers[:0], transport.Packet{Data: packet, Path: to})
	_, err := s.down.out.WriteBatch(s.answers)
	return err == nil
}

// turnStreams ends the connections of this turn: each with its answers, or with what
// waits for its session.
func (s *Shard) turnStreams() {
	for _, v := range s.visitors {
		if d := v.client.down.Load(); d != nil || v.wait > 0 {
			v.client.downstream().take(v.path, v.wait)
		} else {
			s.down.out.End(v.path)
		}
	}
	for _, d := range s.pushed {
		d.deliver()
	}
	for _, p := range s.ending {
		s.down.out.End(p)
	}
	clear(s.visitors)
	clear(s.pushed)
	s.visitors, s.pushed, s.ending = s.visitors[:0], s.pushed[:0], s.ending[:0]
}

// turnReturned is called when a session's client has answered over UDP: what its
// flows left waiting on TCP goes there, as far as it fits.
func (s *Shard) turnReturned(t *state.Session) {
	c, ok := t.User.(*client)
	if !ok || t.Path().Transport == path.TCP {
		return
	}
	d := c.down.Load()
	if d == nil {
		return
	}
	if d.redirect(func(packet []byte, to path.Path) {
		if !t.Fits(len(packet)) {
			s.counters.TooLarge++
			return
		}
		s.output.Packets = append(s.output.Packets, state.Packet{Data: packet, Path: to})
	}) {
		d.leave()
	}
}

// turnMoved forgets what a session had on TCP once it is there no more.
func (s *Shard) turnMoved(t *state.Session) {
	if c, ok := t.User.(*client); ok && t.Path().Transport != path.TCP {
		if d := c.down.Load(); d != nil {
			d.leave()
		}
	}
}
