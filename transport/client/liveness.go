package client

import "time"

// minResponse is the shortest time in which a challenge can follow a keepalive.
const minResponse = time.Second

const (
	// minKeepalive bounds the keepalive interval from below: no NAT in use times out sooner.
	minKeepalive = 5 * time.Second
	// growAfter is how many intervals in a row have to succeed before a longer one is tried.
	growAfter = 8
	// retryFailedAfter is how long an interval that was too long is not tried again.
	retryFailedAfter = 30 * time.Minute
)

// keepalive searches for the longest interval that the NATs on the path allow.
//
// A NAT whose mapping has timed out gives the client's next packet another address. The
// gateway then challenges the new address with a Ping of the smallest size, which it sends
// for no other reason so soon after an idle time. An interval that was too long is cut to
// two thirds. After growAfter successes it grows by a fifth, up to the bound, but not to
// one that failed in the last half hour.
type keepalive struct {
	bound    time.Duration // 0: no keepalive
	interval time.Duration // in use
	good     int           // successes in a row
	failed   time.Duration // the interval that failed last; 0: none
	failedAt time.Time

	idle     time.Duration // before the last keepalive
	answered bool          // since then
	checkAt  time.Time     // when the interval has succeeded; zero: none is being checked
}

func newKeepalive(bound time.Duration) keepalive {
	return keepalive{bound: bound, interval: bound, answered: true}
}

// sent is called when a keepalive was sent after an idle time. A challenge that arrives
// within response is about it.
func (k *keepalive) sent(now time.Time, idle, response time.Duration) {
	k.idle, k.answered, k.checkAt = idle, false, now.Add(response)
}

// challenged is called when the gateway has challenged the client's address.
func (k *keepalive) challenged(now time.Time) {
	if !k.checkAt.IsZero() && now.Before(k.checkAt) {
		k.fail(now)
	}
}

// rebound is called when a new local port got an answer and the old one did not.
func (k *keepalive) rebound(now time.Time) {
	if !k.answered {
		k.fail(now)
	}
}

func (k *keepalive) fail(now time.Time) {
	k.checkAt = time.Time{}
	k.failed, k.failedAt, k.good = k.idle, now, 0
	k.interval = min(k.interval, max(k.idle*2/3, minKeepalive))
}

// tick counts an interval that has succeeded.
func (k *keepalive) tick(now time.Time) {
	if !due(now, k.checkAt) {
		return
	}
	k.checkAt = time.Time{}
	if !k.answered {
		return
	}
	if k.failed != 0 && now.Sub(k.failedAt) >= retryFailedAfter {
		k.failed = 0
	}
	if k.good++; k.good < growAfter {
		return
	}
	k.good = 0
	longer := min(k.interval*6/5, k.bound)
	if k.failed == 0 || longer < k.failed*9/10 {
		k.interval = longer
	}
}

// previous returns the keepalive for the next sessionConn, and the round trip of the
// present one, or 0.
func (s *Session) previous() (keepalive, time.Duration) {
	c := s.conn.Load()
	if c == nil {
		return newKeepalive(s.config.Keepalive), 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.st.keepalive
	k.checkAt, k.answered = time.Time{}, true
	return k, roundTrip(c.session, c.st.client.Progress())
}
