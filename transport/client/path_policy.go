package client

import (
	"fmt"
	"time"

	"lewes/state/path"
	"lewes/transport"
)

// Timing of the search for a path.
const (
	// The client retries UDP from TCP at growing intervals; with udpTimeout, each retry
	// ends within half a minute.
	firstUpgradePause = 5 * time.Second
	maxUpgradePause   = 25 * time.Second
	// udpTimeout and tcpTimeout are how long probes may take to answer.
	udpTimeout = 2 * time.Second
	tcpTimeout = 3 * time.Second
	// innerTimeout is how long an inner session waits for the outer one to find a path.
	innerTimeout = 5 * time.Second
	// flapping is how soon UDP has to fail again for the intervals to keep growing.
	flapping = time.Minute
	// retryInterval follows a search in which every probe failed at once: the machine is
	// offline, or nothing listens at the gateway.
	retryInterval = 500 * time.Millisecond
	// rareAfter is the outage after which searches and Pings become rarer.
	rareAfter = 5 * time.Minute
	// minAskPause is the least time between Pings because of arriving packets.
	minAskPause = 200 * time.Millisecond
	// maxStep bounds the time between the Pings of a search.
	maxStep = 400 * time.Millisecond
)

// action is a pathPolicy's request to its owner.
type action uint8

const (
	probeUDP    action = iota + 1 // open a new local port, and Ping from it
	probeTCP                      // Ping over TCP
	pingProbes                    // Ping again on each probe
	pingActive                    // Ping on the active path
	closeProbes                   // close the probes
	reconnect                     // no path answers: make a new handshake
)

// pathPolicy chooses the path of a session's packets (section 10 of PROTOCOL.md). It has no
// clock and no sockets: its owner reports events and carries out the actions.
//
// When the active path stops answering, the client asks there for a second, then probes a new
// local port, because a NAT may have dropped the mapping or the network throttles the flow, and
// TCP beside it. The first probe that answers becomes the active path, unless the old one answers
// before. From TCP, UDP is retried for as long as the session lasts.
type pathPolicy struct {
	udp, tcp bool // allowed; neither in an inner session
	on       path.Transport

	search     *pathSearch
	searchAt   time.Time     // when the next search starts; zero: never
	pause      time.Duration // before the next one
	migratedAt time.Time     // the last migration

	doubted  time.Time // since when the active path is in doubt; zero: it is not
	why      string    // it is in doubt, completing a sentence
	brokenAt time.Time // when a substitute is searched; zero: not yet, or already

	lostAt time.Time // when no path was found; zero: there is one
	pingAt time.Time // in doubt, while no search asks, or lost: the next Ping

	askedAt time.Time // the last of these Pings
}

// Reasons to doubt a path, as they complete a sentence.
const (
	unanswered = "stopped responding"
	oneWay     = "does not pass to the gateway any more, though packets arrive from it"
	denied     = "is denied by this machine, as by a firewall"
)

// pathSearch is the validation of probes.
type pathSearch struct {
	broken  bool // the active path is unresponsive; false: it is TCP, and UDP is retried
	alone   bool // there are no probes: the outer session may find a path
	tcpAt   time.Time
	pingAt  time.Time
	step    time.Duration
	until   time.Time
	waiting [2]bool // of each transport: a probe may still answer
}

// doubting reports whether the active path is in doubt or no path works.
func (p *pathPolicy) doubting() bool { return !p.doubted.IsZero() }

// lost reports whether no path was found.
func (p *pathPolicy) lost() bool { return !p.lostAt.IsZero() }

// cause returns the error of a session that no path carries.
func (p *pathPolicy) cause() error {
	if p.why == denied {
		return fmt.Errorf("%w: %w", ErrSilent, transport.ErrDenied)
	}
	return ErrSilent
}

// broken reports whether a substitute for the active path is being searched.
func (p *pathPolicy) broken() bool { return p.search != nil && p.search.broken }

// upgrading reports whether UDP is being retried from TCP.
func (p *pathPolicy) upgrading() bool { return p.search != nil && !p.search.broken }

// start is called when the session is established.
func (p *pathPolicy) start(now time.Time, on path.Transport) {
	p.on = on
	p.scheduleUpgrade(now)
}

// scheduleUpgrade sets when UDP is retried from TCP.
func (p *pathPolicy) scheduleUpgrade(now time.Time) {
	p.searchAt = time.Time{}
	if p.on == path.TCP && p.udp {
		p.searchAt = now.Add(p.nextPause())
	}
}

func (p *pathPolicy) nextPause() time.Duration {
	d := max(p.pause, firstUpgradePause)
	p.pause = min(d*3/2, maxUpgradePause)
	return d
}

// doubt is called when a Ping that was sent at since on the active path had no answer in time, or
// could not be sent. The client asks there until searchAt, then on others too. response is how long
// an answer may take.
func (p *pathPolicy) doubt(now, since, searchAt time.Time, response time.Duration, why string) []action {
	switch {
	case p.lost() || p.broken():
		return nil
	case !p.doubting():
		p.doubted, p.pingAt = since, now
	}
	p.why, p.brokenAt = why, earliest(searchAt, p.brokenAt)
	return p.tick(now, response)
}

// endSearch closes the probes, if there is a search.
func (p *pathPolicy) endSearch() []action {
	if p.search == nil {
		return nil
	}
	p.search = nil
	return []action{closeProbes}
}

func (p *pathPolicy) begin(now time.Time, response time.Duration, broken bool) []action {
	p.searchAt = time.Time{}
	s := &pathSearch{broken: broken, step: response / 3, until: now.Add(max(udpTimeout, 2*response))}
	if s.alone = !p.udp && !p.tcp; s.alone {
		s.until = now.Add(innerTimeout)
	}
	p.search = s
	s.pingAt = now.Add(s.step)
	var actions []action
	if p.udp {
		s.waiting[path.UDP] = true
		actions = append(actions, probeUDP)
	}
	if broken && p.tcp {
		if s.tcpAt = now; p.udp {
			s.tcpAt = now.Add(response)
		}
		s.until = s.tcpAt.Add(max(tcpTimeout, 2*response))
	}
	return append(actions, p.tick(now, response)...)
}

// tick does what is due.
func (p *pathPolicy) tick(now time.Time, response time.Duration) (actions []action) {
	switch s := p.search; {
	case due(now, p.brokenAt):
		p.brokenAt, p.pingAt = time.Time{}, time.Time{}
		actions = append(p.endSearch(), p.begin(now, response, true)...)
	case s != nil:
		actions = p.tickSearch(now, s)
	case due(now, p.searchAt):
		actions = p.begin(now, response, p.lost())
	}
	if due(now, p.pingAt) {
		actions = append(actions, pingActive)
		p.askedAt, p.pingAt = now, now.Add(p.pingInterval(now, response))
	}
	return actions
}

func (p *pathPolicy) tickSearch(now time.Time, s *pathSearch) (actions []action) {
	if due(now, s.tcpAt) {
		s.tcpAt = time.Time{}
		s.waiting[path.TCP] = true
		actions = append(actions, probeTCP)
	}
	if due(now, s.pingAt) {
		s.step = min(s.step*3/2, max(s.step, maxStep))
		s.pingAt = now.Add(s.step)
		actions = append(actions, pingProbes)
		if s.broken && p.lostAt.IsZero() {
			actions = append(actions, pingActive)
		}
	}
	if due(now, s.until) || !s.alone && s.tcpAt.IsZero() && s.waiting == [2]bool{} {
		p.search = nil
		actions = append(actions, closeProbes)
		if !s.broken {
			p.scheduleUpgrade(now)
			return actions
		}
		if due(now, s.until) {
			return append(actions, p.noteLost(now, p.nextPause())...)
		}
		return append(actions, p.noteLost(now, p.retryDelay(now))...)
	}
	return actions
}

// retryDelay is the time to the next search after one that ended early.
func (p *pathPolicy) retryDelay(now time.Time) time.Duration {
	if !p.lostAt.IsZero() && now.Sub(p.lostAt) >= rareAfter {
		return firstUpgradePause
	}
	return retryInterval
}

// noteLost records that no path was found and schedules the next search.
func (p *pathPolicy) noteLost(now time.Time, pause time.Duration) (actions []action) {
	if p.udp || p.tcp {
		p.searchAt = now.Add(pause)
	}
	if p.lostAt.IsZero() {
		p.lostAt = now
		p.pingAt = now.Add(p.pingInterval(now, 0))
		actions = append(actions, reconnect)
	}
	return actions
}

// pingInterval is the time between Pings on a path in doubt, or to a gateway that no path reaches.
func (p *pathPolicy) pingInterval(now time.Time, response time.Duration) time.Duration {
	switch since := now.Sub(p.lostAt); {
	case !p.lost():
		return response / 3
	case since < 10*time.Second:
		return 200 * time.Millisecond
	case since < rareAfter:
		return 400 * time.Millisecond
	}
	return time.Second
}

// failed is called when no probe of a transport is left.
func (p *pathPolicy) failed(now time.Time, t path.Transport, response time.Duration) []action {
	s := p.search
	if s == nil {
		return nil
	}
	s.waiting[t] = false
	if t == path.UDP && !s.tcpAt.IsZero() {
		s.tcpAt = now
	}
	return p.tick(now, response)
}

// arrived is called for each authentic packet on the active path. It proves nothing, but after an outage
// it is a reason to ask at once.
func (p *pathPolicy) arrived(now time.Time, response time.Duration) []action {
	if !p.lost() {
		return nil
	}
	p.pingAt = earliest(p.pingAt, p.askedAt.Add(minAskPause))
	return p.tick(now, response)
}

// answered is called when the gateway has answered, on the active path, a packet that was sent at a
// time. It ends a doubt that is not younger.
func (p *pathPolicy) answered(now, sent time.Time) (actions []action) {
	if !p.doubting() || sent.Before(p.doubted) {
		return nil
	}
	if p.broken() {
		actions = p.endSearch()
	}
	if p.lost() || actions != nil {
		p.pause = 0
		p.scheduleUpgrade(now)
	}
	p.endDoubt()
	return actions
}

func (p *pathPolicy) endDoubt() {
	p.doubted, p.brokenAt, p.lostAt, p.pingAt = time.Time{}, time.Time{}, time.Time{}, time.Time{}
}

// migrated is called when a probe has answered and become the active path. It returns the reason.
func (p *pathPolicy) migrated(now time.Time, to path.Transport) (reason string, actions []action) {
	switch {
	case p.upgrading():
		reason = "UDP works again"
	case p.on == path.TCP:
		reason = "TCP " + p.why
	case to == path.UDP:
		reason = "the local port " + p.why
	default:
		reason = "UDP " + p.why + "; on a new local port too"
	}
	if p.lostAt.IsZero() && now.Sub(p.migratedAt) >= flapping {
		p.pause = 0
	}
	p.on, p.migratedAt = to, now
	p.search = nil
	p.endDoubt()
	p.scheduleUpgrade(now)
	return reason, []action{closeProbes}
}

// deadline returns when to tick; zero means never.
func (p *pathPolicy) deadline() time.Time {
	at := earliest(p.searchAt, p.brokenAt, p.pingAt)
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
