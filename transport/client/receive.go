package client

import (
	"errors"
	"net"
	"os"
	"time"

	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
)

const (
	// readBatch is how many packets, trains of them mostly, one read takes.
	readBatch = 16
	// longestPause is how long reading waits when it brings nothing but errors.
	longestPause = 200 * time.Millisecond
)

// serve reads by a way until it is closed or the session is over.
func (l *link) serve(w *way) {
	pause := time.Duration(0)
	for {
		n, err := w.conn.ReadBatch(w.reading)
		l.mu.Lock()
		now := time.Now()
		l.take(now, w, w.reading[:n])
		if err != nil {
			l.wayFailed(now, w, err)
		}
		l.tick(now)
		l.settle(now)
		over, due := l.ended != nil, w.armed
		closed := over || errors.Is(err, net.ErrClosed)
		var ways []*way
		if over {
			ways = l.all()
		}
		l.mu.Unlock()
		for _, w := range ways {
			_ = w.conn.Close()
		}
		if over {
			l.s.troubled()
		}
		if closed {
			return
		}
		if pause = nextPause(pause, n, err); pause > 0 {
			wait(l.quit, pause, due)
		}
	}
}

// nextPause returns how long to wait before the next read, where reads bring
// errors and nothing else.
func nextPause(last time.Duration, n int, err error) time.Duration {
	switch {
	case err == nil || n > 0:
		return 0
	case errors.Is(err, os.ErrDeadlineExceeded):
		return last
	}
	return min(max(2*last, time.Millisecond), longestPause)
}

// wait waits for so long, but not longer than until due, unless that is zero.
func wait(quit <-chan struct{}, pause time.Duration, due time.Time) {
	if !due.IsZero() {
		pause = min(pause, time.Until(due))
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-quit:
	case <-timer.C:
	}
}

// take handles what came.
func (l *link) take(now time.Time, w *way, packets []transport.Packet) {
	for i := range packets {
		p := &packets[i]
		if p.Count() == 1 {
			l.handle(now, w, p.Data, p.Path)
			continue
		}
		for datagram := range p.Segments() {
			l.handle(now, w, datagram, p.Path)
		}
	}
}

// handle handles one packet. What it is of no use for, is dropped and counted.
func (l *link) handle(now time.Time, w *way, p []byte, from path.Path) {
	if len(p) > wire.MaxUDPPacket && w.path.Transport == path.UDP || l.accept(now, w, p, from) != nil {
		l.stats.dropped++
	}
}

func (l *link) accept(now time.Time, w *way, p []byte, from path.Path) error {
	if l.session == nil {
		err := l.client.Handle(now, p, &l.out)
		l.stand()
		return err
	}
	h, err := wire.ParseHeader(p)
	if err != nil {
		return err
	}
	switch h.Level {
	case wire.LevelTransport:
		g := l.byIndex[h.ReceiverIdx]
		if g == nil {
			return state.ErrStale
		}
		t, content, err := g.OpenParsed(now, h, p, from, &l.out)
		if err != nil {
			return err
		}
		l.heard(now, w)
		if t == wire.TypePing && l.leaving(w) {
			return nil
		}
		if t == wire.TypePing && len(p) == wire.MinPingPacket {
			l.keepalive.asked(now)
			l.session.SetKeepalive(now, l.keepalive.longest)
		}
		return l.message(now, g, t, content, from)
	case wire.LevelClear:
		return l.clear(now, h, p)
	}
	return state.ErrStale
}

// message handles what an opened packet holds.
func (l *link) message(now time.Time, g *state.KeySet, t wire.Type, content []byte, from path.Path) error {
	switch t {
	case wire.TypeEncryptedData:
		m, err := wire.ParseEncryptedData(content)
		if err != nil {
			return err
		}
		if m.Flags != 0 {
			return wire.ErrFlags // no flow of another kind was opened
		}
		return l.deliver(now, m.FlowID, false, m.Payload)
	case wire.TypeForwardPacket:
		m, err := wire.ParseForwardPacket(content)
		if err != nil {
			return err
		}
		return l.deliver(now, m.FlowID, true, m.Inner)
	case wire.TypeFlowClosed:
		m, err := wire.ParseFlowClosed(content)
		if err != nil {
			return err
		}
		if f := l.s.flows.find(m.FlowID); f != nil {
			f.gatewayClosed(&m)
		}
		return nil
	case wire.TypePong:
		l.ponged(content)
	}
	return l.session.Control(now, g, t, content, from, &l.out)
}

// deliver gives a payload to its flow. A gateway that sends on a flow that is
// closed here is told so.
func (l *link) deliver(now time.Time, id uint16, forward bool, payload []byte) error {
	f := l.s.flows.find(id)
	if f == nil {
		if l.s.flows.straggler(id, l.s.at(now)) {
			_ = l.session.Send(wire.TypeFlowClosed, &wire.FlowClosed{FlowID: id, Reason: wire.FlowIdle}, &l.out)
		}
		return state.ErrStale
	}
	if f.to.forward() != forward {
		return state.ErrUnexpectedMessage
	}
	f.receive(l, now, payload)
	return nil
}

// clear handles a packet in clear. Once the session stands there is one that says
// anything, and it is a hint: Reset (section 11 of PROTOCOL.md).
func (l *link) clear(now time.Time, h wire.Header, p []byte) error {
	if !l.s.mac.Verify(p) {
		return state.ErrMAC1
	}
	t, content, err := wire.ParseBody(wire.Body(p))
	if err != nil {
		return err
	}
	if t != wire.TypeReset || h.ReceiverIdx != l.session.Current().Index() {
		return state.ErrStale
	}
	if _, err := wire.ParseReset(content); err != nil {
		return err
	}
	l.saidLost(now)
	return nil
}
