package account

import "time"

// Limits are the bounds of one account beside those of every account. Zero is no bound.
type Limits struct {
	Sessions int
	Flows    int
	Rate     uint64 // payload bytes per second, of both directions together
	// Bytes is what the client may use in each Period, in bytes, where registration is on. Both are 0, or
	// none is.
	Bytes   uint64
	Period  time.Duration
	Expires time.Time // the client is not admitted from then on; zero: always
}

// Expired reports whether the client is not admitted any more.
func (l *Limits) Expired(now time.Time) bool { return !l.Expires.IsZero() && !now.Before(l.Expires) }

// Standing is what the list of clients says of an identity.
type Standing struct {
	Admitted bool
	Listed   bool // it has an account of its own
	Limits   Limits
}
