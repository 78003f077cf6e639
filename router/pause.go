package router

import (
	"time"

	"lewes/transport"
	"lewes/transport/udp"
)

// longAgo as a deadline ends every read that waits.
var longAgo = time.Unix(1, 0)

// pause stops the gateway between two packets. Nothing is read from then on, so that
// what comes waits in the sockets; nothing is sealed, sent or changed either, for
// the caller has every shard's turn until resume or surrender.
func (g *Gateway) pause() {
	if g.tcp != nil {
		g.tcp.Pause()
	}
	for _, f := range g.feeds {
		_ = f.conn.SetReadDeadline(longAgo)
	}
	g.readers.Wait()
	for _, s := range g.shards {
		s.Turn(func(time.Time) { s.turnPause() })
	}
	g.pumps.Wait()
	for _, s := range g.shards {
		s.mu.Lock()
	}
}

// resume undoes pause.
func (g *Gateway) resume() {
	for _, s := range g.shards {
		s.turnResume()
		s.mu.Unlock()
	}
	for _, f := range g.feeds {
		_ = f.conn.SetReadDeadline(time.Time{})
	}
	for _, s := range g.shards {
		g.startReturning(s)
	}
	g.startReaders()
	if g.tcp != nil {
		g.tcp.Resume()
	}
}

// surrender ends pause once everything is a successor's: the shards do nothing any
// more, and have forgotten their secrets.
func (g *Gateway) surrender() {
	for _, s := range g.shards {
		s.sessions.All(wipeSession)
		s.gone = true
		s.alarm.Stop()
		s.mu.Unlock()
	}
}

// turnPause ends what brings back what targets and other gateways answer. For
// sockets that are opened from then on it begins with turnResume.
func (s *Shard) turnPause() {
	s.paused = true
	if s.returns != nil {
		s.returns.poller.Stop()
	}
	s.turnEachWayBack(func(conn transport.Conn, _ returning) {
		if !polled(conn) {
			_ = conn.SetReadDeadline(longAgo)
		}
	})
}

// polled reports whether a shard's loop reads a socket.
func polled(conn transport.Conn) bool {
	u, ok := conn.(*udp.Conn)
	return ok && u.Polled()
}

// turnEachWayBack calls f with the sockets by which something comes back to clients,
// and with what it comes back to.
func (s *Shard) turnEachWayBack(f func(transport.Conn, returning)) {
	s.turnEachFlow(func(l *flow) {
		if l.conn != nil {
			f(l.conn, l)
		}
	})
	for _, n := range s.nexts {
		f(n.conn, n)
	}
}

// turnResume has everything brought back again, and looks at the time.
func (s *Shard) turnResume() {
	s.paused = false
	s.turnEachWayBack(func(conn transport.Conn, to returning) {
		if !polled(conn) {
			_ = conn.SetReadDeadline(time.Time{})
			s.turnReturn(conn, to)
		}
	})
	s.alarmAt = time.Time{}
	s.turnAlarm(s.now())
}
