package state

import (
	"io"
	"time"
)

// Retransmission over UDP (section 10): after 200 ms, or twice the round trip if
// that is more, then times 1.5 up to a second, each jittered by up to a tenth.
const (
	firstRetry  = 200 * time.Millisecond
	longestWait = time.Second
)

// backoff says when something goes again.
type backoff struct {
	rand io.Reader
	wait time.Duration
	at   time.Time
}

// start begins anew: the next time is one first wait from now.
func (b *backoff) start(now time.Time, rtt time.Duration) {
	b.wait = max(firstRetry, 2*rtt)
	b.at = now.Add(b.jittered())
}

// due reports whether the time has come, and plans the next.
func (b *backoff) due(now time.Time) bool {
	if now.Before(b.at) {
		return false
	}
	b.wait = min(b.wait*3/2, max(longestWait, b.wait))
	b.at = now.Add(b.jittered())
	return true
}

func (b *backoff) jittered() time.Duration {
	var r [1]byte
	if _, err := io.ReadFull(b.rand, r[:]); err != nil {
		return b.wait
	}
	return b.wait + b.wait*time.Duration(r[0])/(10*256)
}
