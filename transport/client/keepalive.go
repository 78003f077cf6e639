package client

import "time"

const (
	// shortestKeepalive is what the keepalive is not lowered below: no NAT in use
	// forgets sooner.
	shortestKeepalive = 5 * time.Second
	// longerAfter is how many silences have to pass well before a longer one is tried.
	longerAfter = 8
	// forgetAfter is how long a silence that was too long is remembered.
	forgetAfter = 30 * time.Minute
)

// keepalive finds the longest that a session may stay quiet without the NATs on the
// way forgetting it.
//
// A NAT that has forgotten gives the client's next packet another address. The
// gateway sees the session move and asks the new address by a Ping of the smallest
// size, which is sent for nothing else so soon after a silence: that is how the client
// knows. A silence that was too long makes the keepalive two thirds of it. After some
// that went well it grows by a fifth, up to the bound, but not to what was too long
// within half an hour.
type keepalive struct {
	bound   time.Duration // 0: there is no keepalive
	longest time.Duration // in use
	good    int           // silences in a row that went well
	bad     time.Duration // too long; 0: none is known
	badAt   time.Time

	silence time.Duration // before the last Ping
	heard   bool          // something has come since
	judgeAt time.Time     // when it has gone well; zero: nothing to judge
}

func newKeepalive(bound time.Duration) keepalive {
	return keepalive{bound: bound, longest: bound, heard: true}
}

// pinged is told of a Ping after a silence, and how long to wait for a sign that it
// was too long.
func (k *keepalive) pinged(now time.Time, silence, within time.Duration) {
	k.silence, k.heard, k.judgeAt = silence, false, now.Add(within)
}

// asked is told that the gateway has sent a small Ping.
func (k *keepalive) asked(now time.Time) {
	if k.judgeAt.IsZero() || !now.Before(k.judgeAt) {
		return
	}
	k.tooLong(now, k.silence)
}

// reopened is told that a new local port was heard where the old one was not.
func (k *keepalive) reopened(now time.Time) {
	if !k.heard {
		k.tooLong(now, k.silence)
	}
}

func (k *keepalive) tooLong(now time.Time, silence time.Duration) {
	k.judgeAt = time.Time{}
	k.bad, k.badAt, k.good = silence, now, 0
	k.longest = min(k.longest, max(silence*2/3, shortestKeepalive))
}

// tick judges a silence that has gone well.
func (k *keepalive) tick(now time.Time) {
	if !due(now, k.judgeAt) {
		return
	}
	k.judgeAt = time.Time{}
	if !k.heard {
		return
	}
	if k.bad != 0 && now.Sub(k.badAt) >= forgetAfter {
		k.bad = 0
	}
	if k.good++; k.good < longerAfter {
		return
	}
	k.good = 0
	longer := min(k.longest*6/5, k.bound)
	if k.bad == 0 || longer < k.bad*9/10 {
		k.longest = longer
	}
}
