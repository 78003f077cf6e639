package account

// Limits are the bounds of one account beside those of every account. Zero is no bound.
type Limits struct {
	Sessions int
	Flows    int
	Rate     uint64 // payload bytes per second, of both directions together
}

// Standing is what the list of clients says of an identity.
type Standing struct {
	Admitted bool
	Listed   bool // it has an account of its own
	Limits   Limits
}
