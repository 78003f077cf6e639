package client

import (
	"time"

	"lewes/state/path"
)

// A client goes back to UDP by trying it from TCP, at growing intervals that leave
// time for a try within half a minute.
const (
	firstReturn   = 5 * time.Second
	longestReturn = 25 * time.Second
	// returnTime is how long UDP may take to answer from there.
	returnTime = 2 * time.Second
	// tcpTime is how long TCP may take to answer when it is looked for.
	tcpTime = 3 * time.Second
	// insideTime is how long a session inside another waits for that one to find a
	// way.
	insideTime = 5 * time.Second
	// flapping is how soon UDP has to fail again for the intervals to go on growing.
	flapping = time.Minute
	// searchAgain is when a search follows one in which every try failed at once: the
	// machine has no network, and the next one is to be found as soon as it is there, or
	// nothing listens where the gateway was.
	searchAgain = 500 * time.Millisecond
	// seldom is after how long without any way everything is tried less often.
	seldom = 5 * time.Minute
	// longestStep bounds the time between Pings of a search.
	longestStep = 400 * time.Millisecond
)

// action is what a policy wants done.
type action uint8

const (
	tryUDP     action = iota + 1 // open a new local port, and Ping from it
	tryTCP                       // Ping over TCP
	pingTrials                   // again, by each way that is on trial
	pingWay                      // by the way in use
	abandon                      // close the ways on trial
	giveUp                       // none of them answers: make the session anew
)

// policy decides by which way a session's packets go (section 10 of PROTOCOL.md).
// It is told what happens and says what is to be done; sockets and clock are its
// owner's.
//
// A way that fell silent is looked for a substitute: first a new local port, since
// the NAT may have forgotten the old one or somebody throttles it, then TCP beside
// it. The first that answers is taken, the old one where it is heard again. From
// TCP, UDP is tried again and again.
type policy struct {
	udp, tcp bool // may be used; neither: the session runs inside another
	on       path.Transport

	search   *search
	searchAt time.Time     // when the next begins; zero: never
	pause    time.Duration // before the next one
	movedAt  time.Time     // when packets went another way last

	lost   time.Time // when no way was found; zero: there is one
	pingAt time.Time // while lost: when the gateway is asked again
}

// search is ways on trial.
type search struct {
	broken  bool // the way in use is silent; else it is TCP
	alone   bool // there is no other: the session below may find one
	tcpAt   time.Time
	pingAt  time.Time
	step    time.Duration
	until   time.Time
	waiting [2]bool // of each transport: something may answer yet
}

// stand is told that the session stands.
func (p *policy) stand(now time.Time, on path.Transport) {
	p.on = on
	p.plan(now)
}

// plan says when UDP is tried from TCP.
func (p *policy) plan(now time.Time) {
	p.searchAt = time.Time{}
	if p.on == path.TCP && p.udp {
		p.searchAt = now.Add(p.nextPause())
	}
}

func (p *policy) nextPause() time.Duration {
	d := max(p.pause, firstReturn)
	p.pause = min(d*3/2, longestReturn)
	return d
}

// silent is told that three Pings by the way in use had no answer; within is how long
// one may take.
func (p *policy) silent(now time.Time, within time.Duration) []action {
	if !p.lost.IsZero() || p.search != nil && p.search.broken {
		return nil
	}
	var acts []action
	if p.search != nil {
		acts = append(acts, abandon)
	}
	return append(acts, p.begin(now, within, true)...)
}

// forgotten is told that the gateway is there and knows the session no more: another
// way would not help.
func (p *policy) forgotten(now time.Time) []action {
	var acts []action
	if p.search != nil {
		p.search = nil
		acts = append(acts, abandon)
	}
	return append(acts, p.miss(now, p.nextPause())...)
}

func (p *policy) begin(now time.Time, within time.Duration, broken bool) []action {
	p.searchAt = time.Time{}
	s := &search{broken: broken, step: within / 3, until: now.Add(max(returnTime, 2*within))}
	if s.alone = !p.udp && !p.tcp; s.alone {
		s.until = now.Add(insideTime)
	}
	p.search = s
	s.pingAt = now.Add(s.step)
	var acts []action
	if p.udp {
		s.waiting[path.UDP] = true
		acts = append(acts, tryUDP)
	}
	if broken && p.tcp {
		if s.tcpAt = now; p.udp {
			s.tcpAt = now.Add(within)
		}
		s.until = s.tcpAt.Add(max(tcpTime, 2*within))
	}
	return append(acts, p.tick(now, within)...)
}

// tick does what is due.
func (p *policy) tick(now time.Time, within time.Duration) (acts []action) {
	switch s := p.search; {
	case s != nil:
		acts = p.tickSearch(now, s)
	case due(now, p.searchAt):
		acts = p.begin(now, within, !p.lost.IsZero())
	}
	if due(now, p.pingAt) {
		acts = append(acts, pingWay)
		p.pingAt = now.Add(p.patience(now))
	}
	return acts
}

func (p *policy) tickSearch(now time.Time, s *search) (acts []action) {
	if due(now, s.tcpAt) {
		s.tcpAt = time.Time{}
		s.waiting[path.TCP] = true
		acts = append(acts, tryTCP)
	}
	if due(now, s.pingAt) {
		s.step = min(s.step*3/2, max(s.step, longestStep))
		s.pingAt = now.Add(s.step)
		acts = append(acts, pingTrials)
		if s.broken && p.lost.IsZero() {
			acts = append(acts, pingWay)
		}
	}
	if due(now, s.until) || !s.alone && s.tcpAt.IsZero() && s.waiting == [2]bool{} {
		p.search = nil
		acts = append(acts, abandon)
		if !s.broken {
			p.plan(now)
			return acts
		}
		if due(now, s.until) {
			return append(acts, p.miss(now, p.nextPause())...)
		}
		return append(acts, p.miss(now, p.soon(now))...)
	}
	return acts
}

// soon is the time to the next search where the last one ended before its time.
func (p *policy) soon(now time.Time) time.Duration {
	if !p.lost.IsZero() && now.Sub(p.lost) >= seldom {
		return firstReturn
	}
	return searchAgain
}

// miss notes that no way was found, and when the next search is.
func (p *policy) miss(now time.Time, pause time.Duration) (acts []action) {
	if p.udp || p.tcp {
		p.searchAt = now.Add(pause)
	}
	if p.lost.IsZero() {
		p.lost, p.pingAt = now, now.Add(p.patience(now))
		acts = append(acts, giveUp)
	}
	return acts
}

// patience is the time between Pings to a gateway that is silent by every way. The
// Reset of one that comes back after a restart is what the client waits for, and the
// Pings get rarer as it gets less likely.
func (p *policy) patience(now time.Time) time.Duration {
	switch since := now.Sub(p.lost); {
	case since < 10*time.Second:
		return 200 * time.Millisecond
	case since < seldom:
		return 400 * time.Millisecond
	}
	return time.Second
}

// failed is told that no try of a transport can answer any more.
func (p *policy) failed(now time.Time, t path.Transport, within time.Duration) []action {
	s := p.search
	if s == nil {
		return nil
	}
	s.waiting[t] = false
	if t == path.UDP && !s.tcpAt.IsZero() {
		s.tcpAt = now
	}
	return p.tick(now, within)
}

// heard is told of each authentic packet by the way in use.
func (p *policy) heard(now time.Time) (acts []action) {
	broken := p.search != nil && p.search.broken
	if !broken && p.lost.IsZero() {
		return nil
	}
	if broken {
		p.search = nil
		acts = append(acts, abandon)
	}
	p.lost, p.pingAt, p.pause = time.Time{}, time.Time{}, 0
	p.plan(now)
	return acts
}

// moved is told that a way on trial was heard, and that packets go by it now. It says
// why that is so.
func (p *policy) moved(now time.Time, to path.Transport) (why string, acts []action) {
	switch broken := p.search == nil || p.search.broken; {
	case !broken:
		why = "UDP works again"
	case p.on == path.TCP:
		why = "nothing came over TCP any more"
	case to == path.UDP:
		why = "nothing came to the local port any more"
	default:
		why = "nothing came over UDP any more, not on a new local port either"
	}
	if p.lost.IsZero() && now.Sub(p.movedAt) >= flapping {
		p.pause = 0
	}
	p.on, p.movedAt = to, now
	p.search, p.lost, p.pingAt = nil, time.Time{}, time.Time{}
	p.plan(now)
	return why, []action{abandon}
}

// deadline returns when to tick; zero means never.
func (p *policy) deadline() time.Time {
	at := earliest(p.searchAt, p.pingAt)
	if s := p.search; s != nil {
		at = earliest(at, s.tcpAt, s.pingAt, s.until)
	}
	return at
}

// due reports whether at has come; the zero Time never does.
func due(now, at time.Time) bool { return !at.IsZero() && !now.Before(at) }

// earliest returns the earliest of times, of which zero ones do not count.
func earliest(times ...time.Time) (at time.Time) {
	for _, t := range times {
		if at.IsZero() || !t.IsZero() && t.Before(at) {
			at = t
		}
	}
	return at
}
