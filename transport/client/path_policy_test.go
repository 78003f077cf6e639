package client

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"lewes/state/path"
)

// at0 is when tests of the pathPolicy begin.
var at0 = time.Unix(1_800_000_000, 0)

// step is an action of a pathPolicy, and its time.
type step struct {
	at   time.Duration
	acts []action
}

// run ticks a pathPolicy at its deadlines, until a time after at0.
func run(p *pathPolicy, until time.Duration, within time.Duration) (steps []step) {
	for {
		at := p.deadline()
		if at.IsZero() || at.Sub(at0) > until {
			return steps
		}
		if acts := p.tick(at, within); len(acts) > 0 {
			steps = append(steps, step{at.Sub(at0), acts})
		}
	}
}

// when returns the times of an action.
func when(steps []step, a action) (times []time.Duration) {
	for _, s := range steps {
		if slices.Contains(s.acts, a) {
			times = append(times, s.at)
		}
	}
	return times
}

func TestPolicyProbesPaths(t *testing.T) {
	const within = 300 * time.Millisecond
	p := pathPolicy{udp: true, tcp: true}
	p.start(at0, path.UDP)
	if !p.deadline().IsZero() {
		t.Error("it wants to be ticked while UDP works")
	}
	steps := []step{{0, p.doubt(at0, at0, at0, within, unanswered)}}
	if again := p.doubt(at0, at0, at0, within, unanswered); len(again) != 0 {
		t.Errorf("silent again: %v", again)
	}
	steps = append(steps, run(&p, time.Minute, within)...)
	if at := when(steps, probeUDP); at[0] != 0 {
		t.Errorf("new ports at %v", at)
	}
	if at := when(steps, probeTCP); at[0] != within {
		t.Errorf("TCP at %v", at)
	}
	if at := when(steps, reconnect); len(at) != 1 || at[0] != within+tcpTimeout {
		t.Errorf("gave up at %v", at)
	}
	// A gateway that is away is asked five times a second, then half as often.
	asked := when(steps, pingActive)
	after := func(from, to time.Duration) (n int) {
		for _, at := range asked {
			if at > from && at <= to {
				n++
			}
		}
		return n
	}
	if n := after(4*time.Second, 9*time.Second); n < 24 || n > 26 {
		t.Errorf("%d Pings in five seconds", n)
	}
	if n := after(20*time.Second, 30*time.Second); n < 24 || n > 26 {
		t.Errorf("%d Pings in ten seconds, later", n)
	}
	// Other ways are looked for again, less and less often.
	searches := when(steps, probeUDP)[1:]
	if len(searches) < 3 || searches[0] > 10*time.Second {
		t.Errorf("searched again at %v", searches)
	}
	for i := 2; i < len(searches); i++ {
		if searches[i]-searches[i-1] < searches[i-1]-searches[i-2] {
			t.Errorf("searched again at %v", searches)
		}
	}
	// It responds: no further actions.
	if acts := p.answered(at0.Add(time.Minute), at0.Add(time.Minute)); len(p.answered(at0.Add(time.Minute), at0.Add(time.Minute))) != 0 || slices.Contains(acts, reconnect) || !p.deadline().IsZero() {
		t.Errorf("heard: %v, then %v", acts, p.deadline())
	}
}

func TestPolicyWithOneTransport(t *testing.T) {
	const within = 300 * time.Millisecond
	for name, row := range map[string]struct {
		p     pathPolicy
		never action
	}{
		"UDP alone": {pathPolicy{udp: true}, probeTCP},
		"TCP alone": {pathPolicy{tcp: true}, probeUDP},
	} {
		p := row.p
		on := path.UDP
		if p.tcp {
			on = path.TCP
		}
		p.start(at0, on)
		steps := append([]step{{0, p.doubt(at0, at0, at0, within, unanswered)}}, run(&p, 10*time.Minute, within)...)
		if at := when(steps, row.never); len(at) != 0 {
			t.Errorf("%s: the other one at %v", name, at)
		}
		if at := when(steps, reconnect); len(at) != 1 || at[0] > 4*time.Second {
			t.Errorf("%s: gave up at %v", name, at)
		}
	}
	var inside pathPolicy
	inside.start(at0, path.UDP)
	steps := append([]step{{0, inside.doubt(at0, at0, at0, within, unanswered)}}, run(&inside, time.Minute, within)...)
	if len(when(steps, probeUDP))+len(when(steps, probeTCP)) != 0 || !slices.Equal(when(steps, reconnect), []time.Duration{innerTimeout}) {
		t.Errorf("inside another session: %v", steps)
	}
}

// Once every probe has failed, the search ends without waiting.
func TestPolicyFailedProbes(t *testing.T) {
	p := pathPolicy{udp: true, tcp: true}
	p.start(at0, path.UDP)
	_ = p.doubt(at0, at0, at0, 10*time.Second, unanswered)
	now := at0.Add(time.Millisecond)
	if acts := p.failed(now, path.UDP, time.Second); !slices.Equal(acts, []action{probeTCP}) {
		t.Errorf("UDP refused: %v", acts)
	}
	if acts := p.failed(now, path.TCP, time.Second); !slices.Equal(acts, []action{closeProbes, reconnect}) {
		t.Errorf("TCP refused: %v", acts)
	}
}

// UDP is retried from TCP at growing intervals; a return takes less than half a minute from
// when UDP works again.
// Offline, every probe fails at once. The next network is found within a second, minutes
// later too; after hours, probes are rarer.
func TestPolicyOffline(t *testing.T) {
	const within = 300 * time.Millisecond
	p := pathPolicy{udp: true, tcp: true}
	p.start(at0, path.UDP)
	var tries []time.Duration
	var follow func(now time.Time, acts []action)
	follow = func(now time.Time, acts []action) {
		for _, a := range acts {
			switch a {
			case probeUDP:
				tries = append(tries, now.Sub(at0))
				follow(now, p.failed(now, path.UDP, within))
			case probeTCP:
				follow(now, p.failed(now, path.TCP, within))
			}
		}
	}
	follow(at0, p.doubt(at0, at0, at0, within, unanswered))
	for at := p.deadline(); at.Sub(at0) < 10*time.Minute; at = p.deadline() {
		follow(at, p.tick(at, within))
	}
	early, late := 0, 0
	for i, at := range tries[1:] {
		switch gap := at - tries[i]; {
		case at < rareAfter && gap != retryInterval, at >= rareAfter+firstUpgradePause && gap != firstUpgradePause:
			t.Errorf("tries at %v and %v", tries[i], at)
		case at < rareAfter:
			early++
		default:
			late++
		}
	}
	if early < 290 || late < 50 {
		t.Errorf("%d tries in the first five minutes, %d in the next", early, late)
	}
	if p.pause != 0 {
		t.Errorf("the next search that takes its time is followed by a pause of %v", p.pause)
	}
}

func TestPolicyReturnsToUDP(t *testing.T) {
	p := pathPolicy{udp: true, tcp: true}
	p.start(at0, path.TCP)
	tries := when(run(&p, 10*time.Minute, 300*time.Millisecond), probeUDP)
	last := time.Duration(0)
	for i, at := range tries {
		gap := at - last
		if i == 0 && gap != firstUpgradePause || gap > maxUpgradePause+udpTimeout || gap >= 30*time.Second {
			t.Errorf("tries at %v", tries)
			break
		}
		last = at
	}
	if n := len(tries); n < 20 || n > 30 {
		t.Errorf("%d tries in ten minutes", n)
	}
}

// world is two transports that fail and recover at random.
type world struct {
	works [2]bool
	since [2]time.Time // it does
	trial [2]bool      // a way over it is on trial
}

// Against transports that fail and recover at random, the pathPolicy never uses one that is
// disallowed or down, gives up only if both are down, returns to UDP within half a minute,
// and ends all its searches.
func TestPolicyUnderRandomLoss(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		p := pathPolicy{udp: r.IntN(4) > 0, tcp: r.IntN(4) > 0}
		if !p.udp && !p.tcp {
			continue
		}
		on := path.UDP
		if !p.udp {
			on = path.TCP
		}
		w := world{works: [2]bool{true, true}, since: [2]time.Time{at0, at0}}
		p.start(at0, on)
		within := max(300*time.Millisecond, time.Duration(r.IntN(800))*time.Millisecond)
		var silentFor time.Duration
		for now, end := at0, at0.Add(20*time.Minute); now.Before(end); now = now.Add(20 * time.Millisecond) {
			for i := range w.works {
				if r.IntN(3000) == 0 { // each minute or so
					if w.works[i] = !w.works[i]; w.works[i] {
						w.since[i] = now
					}
				}
			}
			var acts []action
			if at := p.deadline(); !at.IsZero() && !now.Before(at) {
				acts = p.tick(now, within)
			}
			// The way in use: traffic, and three Pings where it is not answered.
			if w.works[p.on] {
				silentFor = 0
				acts = append(acts, p.answered(now, now)...)
			} else if silentFor += 20 * time.Millisecond; silentFor == 500*time.Millisecond {
				acts = append(acts, p.doubt(now, now, now.Add(minDoubt), within, unanswered)...)
			}
			w.follow(acts)
			for i := range w.works {
				if w.trial[i] && w.works[i] && r.IntN(5) == 0 { // an answer
					to := path.Transport(i)
					why, acts := p.migrated(now, to)
					if why == "" {
						t.Fatalf("seed %d: it does not say why", seed)
					}
					w.follow(acts)
					silentFor = 0
				}
			}
			steady := func(i path.Transport, d time.Duration) bool { return w.works[i] && now.Sub(w.since[i]) >= d }
			switch at := p.deadline(); {
			case p.on == path.UDP && !p.udp, p.on == path.TCP && !p.tcp:
				t.Fatalf("seed %d: on %s, which is not allowed", seed, p.on)
			case !at.IsZero() && at.Before(now.Add(-time.Second)):
				t.Fatalf("seed %d: it waits for what is past", seed)
			case p.search != nil && now.Sub(p.search.until) > time.Second:
				t.Fatalf("seed %d: a search does not end", seed)
			case !p.lostAt.IsZero() && (p.udp && steady(path.UDP, 35*time.Second) || p.tcp && steady(path.TCP, 35*time.Second)):
				t.Fatalf("seed %d, after %s: lost while something works", seed, now.Sub(at0))
			case p.udp && p.on == path.TCP && steady(path.UDP, 30*time.Second) && steady(path.TCP, 30*time.Second):
				t.Fatalf("seed %d, after %s: still on TCP", seed, now.Sub(at0))
			}
		}
	}
}

func (w *world) follow(acts []action) {
	for _, a := range acts {
		switch a {
		case probeUDP:
			w.trial[path.UDP] = true
		case probeTCP:
			w.trial[path.TCP] = true
		case closeProbes:
			w.trial = [2]bool{}
		}
	}
}
