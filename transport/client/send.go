package client

import (
	"errors"
	"time"

	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
)

// faultInterval is how often writers look into errors of the underlay.
const faultInterval = 100 * time.Millisecond

// write seals a packet of a flow and sends it. It takes no lock.
func (l *link) write(p *outgoing) error {
	for tries := 0; ; tries++ {
		err := l.session.Sender().Seal(p.data)
		if err == nil {
			break
		}
		// The keys may have been replaced, and wiped, since they were taken.
		if tries > 0 || !errors.Is(err, state.ErrClosed) {
			return errDown
		}
	}
	l.sent()
	w := l.way.Load()
	if w.path.Transport == path.UDP && l.session.NeedsMTUProbe(len(p.data)) {
		l.search(len(p.data))
	}
	p.batch[0] = transport.Packet{Data: p.data, Path: w.path}
	n, err := w.conn.WriteBatch(p.batch[:])
	if err == nil {
		return nil
	}
	l.writerFailed(w, err, len(p.data))
	if n == 1 {
		return nil // the error is about an earlier packet
	}
	return err
}

// search makes the session find out whether packets of size bytes pass.
func (l *link) search(size int) {
	_ = l.with(func(now time.Time) {
		l.session.Fits(size)
		l.session.MaybeProbeMTU(now, &l.out)
	})
}

// writerFailed lets the session know of an error that a writer met with a packet of
// size bytes: now and then, or always where it is about the size.
func (l *link) writerFailed(w *way, err error, size int) {
	if errors.Is(err, transport.ErrTooLarge) {
		_ = l.with(func(now time.Time) { l.session.TooLarge(now, size, &l.out) })
		return
	}
	now := int64(l.s.at(time.Now()))
	last := l.lastFault.Load()
	if last != 0 && now-last < int64(faultInterval) || !l.lastFault.CompareAndSwap(last, now) {
		return
	}
	_ = l.with(func(now time.Time) { l.wayFailed(now, w, err) })
}

// sendFlowClosed tells the gateway that a flow is not needed any more.
func (l *link) sendFlowClosed(id uint16) {
	p := outgoings.Get().(*outgoing)
	m := wire.FlowClosed{FlowID: id, Reason: wire.FlowIdle}
	b := wire.Begin(p.buf[:0], 0, wire.LevelTransport, 0, wire.TypeFlowClosed)
	p.data = wire.Finish(m.Append(b))
	_ = l.write(p)
	p.free()
}
