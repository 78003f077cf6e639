package state

import "time"

// Tick does what is due: repetitions, the end of trials, of demoted generations
// and of the session itself. The owner calls it at Deadline; calling it earlier
// does nothing that is not due.
func (s *Session) Tick(now time.Time, out *Output) {
	if s.closed {
		return
	}
	s.tickLife(now, out)
	if s.closed {
		return
	}
	s.tickConfirm(now, out)
	if s.closed {
		return
	}
	s.tickRoute(now, out)
	s.tickDemoted(now, out)
	s.tickKeys(now, out)
	s.tickOffer(now, out)
	s.tickRequest(now, out)
	s.tickDoubt(now, out)
	s.tickSearch(now, out)
	s.tickKeepalive(now, out)
	s.tickCompact(now)
	s.reschedule()
}

// tickLife ends a session that was idle for too long, or whose keys are spent.
func (s *Session) tickLife(now time.Time, out *Output) {
	switch {
	case s.idleAt().IsZero():
	case !now.Before(s.idleAt()):
		s.end(ErrIdleTimeout, out)
		return
	}
	if s.current.exhausted() {
		s.end(ErrPacketLimit, out)
	}
}

func (s *Session) idleAt() time.Time {
	if s.terms.IdleTTL == 0 {
		return time.Time{}
	}
	return s.lastOpened.Add(s.terms.IdleTTL)
}

func (s *Session) tickDemoted(now time.Time, out *Output) {
	kept := s.demoted[:0]
	for _, g := range s.demoted {
		if now.Before(g.lastOpened.Add(s.demotedTTL())) {
			kept = append(kept, g)
			continue
		}
		s.remove(g, out)
	}
	clear(s.demoted[len(kept):])
	s.demoted = kept
	if len(kept) == 0 {
		s.demoted = nil
	}
}

// tickKeys starts a subsession when the keys are old or have done too much; a
// gateway asks for one.
func (s *Session) tickKeys(now time.Time, out *Output) {
	worn := s.current.needsRekey(s.rekeyPackets())
	if s.role == RoleGateway {
		if worn {
			s.RequestRekey(now, out)
		}
		return
	}
	if at := s.rekeyAt(); worn || !at.IsZero() && !now.Before(at) {
		s.Rekey(now, out)
	}
}

func (s *Session) rekeyAt() time.Time {
	if s.role != RoleClient || s.terms.RekeyAfter == 0 {
		return time.Time{}
	}
	return s.current.started.Add(s.terms.RekeyAfter)
}

// watchKeys makes sure that worn and spent keys are seen at once and not at the
// next tick.
func (s *Session) watchKeys(now time.Time) {
	if s.current.exhausted() || s.offer == nil && s.reply == nil && s.asked.IsZero() && s.current.needsRekey(s.rekeyPackets()) {
		s.scheduleAt(now)
	}
}

// tickRest lets the expanded keys of a quiet session go.
func (s *Session) tickCompact(now time.Time) {
	if s.compactAt.IsZero() || now.Before(s.compactAt) {
		return
	}
	quietSince := s.lastOpened.Add(compactAfter)
	if now.Before(quietSince) {
		s.compactAt = quietSince
		return
	}
	s.current.compact()
	for _, g := range s.demoted {
		g.compact()
	}
	s.compactAt = time.Time{}
}

// stir undoes a rest: a session that is used has to be looked at again.
func (s *Session) wake(now time.Time) {
	if s.compactAt.IsZero() {
		s.compactAt = now.Add(compactAfter)
		s.scheduleAt(s.compactAt)
	}
}

// sooner makes sure that the session is ticked at at.
func (s *Session) scheduleAt(at time.Time) {
	if s.deadline.IsZero() || at.Before(s.deadline) {
		s.deadline = at
	}
}

// plan sets the deadline to the earliest thing that may be due.
func (s *Session) reschedule() {
	if s.closed {
		return
	}
	s.deadline = time.Time{}
	for _, at := range [...]time.Time{s.idleAt(), s.quietAt(), s.compactAt, s.asked} {
		if !at.IsZero() {
			s.scheduleAt(at)
		}
	}
	if at := s.rekeyAt(); !at.IsZero() && s.offer == nil {
		s.scheduleAt(at)
	}
	for _, g := range s.demoted {
		s.scheduleAt(g.lastOpened.Add(s.demotedTTL()))
	}
	if t := s.roaming.trial; t != nil {
		s.scheduleAt(t.deadline)
		if !s.route.at.Load().validated {
			s.scheduleAt(t.next)
		}
	}
	if s.offer != nil {
		s.scheduleAt(s.offer.next)
	}
	if s.doubt != nil {
		s.scheduleAt(s.doubt.next)
	}
	if s.mtu != nil {
		s.scheduleAt(s.mtu.next)
	}
	if s.confirm != nil {
		s.scheduleAt(s.confirm.retry.at)
		s.scheduleAt(s.confirm.until)
	}
}
