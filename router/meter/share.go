package meter

import "sync/atomic"

// MaxLease is the most that a share takes from its account at once, in bytes.
const MaxLease = 1 << 20

// leaseFraction is the part of what is left of an account that a lease takes.
const leaseFraction = 16

// A word holds the unused bytes of a lease in its low bits, and above them the bytes that were used
// since the last collection. Both change in one step, so that no byte is counted twice or not at all.
const (
	leaseBits = 24
	leaseMask = 1<<leaseBits - 1
	// usedBound is the number of used bytes in a word at which it gets no lease until it is collected.
	usedBound = 1 << 39
)

// Verdict is the result of charging a datagram.
type Verdict uint8

// The verdicts.
const (
	Charged Verdict = iota
	UsedUp          // the account has less left
	Stopped         // usage was not recorded for too long
)

// Share is what the sessions of one account in one shard draw from. It is safe for concurrent use.
type Share struct {
	word    atomic.Uint64
	account *Account
	active  atomic.Bool // it is in Book.active
	next    *Share      // in Book.active
	members int         // sessions; guarded by Book.mu

	_ [24]byte // shares of different shards use different cache lines
}

// Charge takes size bytes, and at least requires one. If it returns another verdict than Charged it has
// taken nothing. It takes no lock and does not allocate.
func (s *Share) Charge(size int) Verdict {
	n := uint64(size)
	need := max(n, 1)
	for {
		w := s.word.Load()
		if w&leaseMask < need {
			if v := s.account.lease(s, need); v != Charged {
				return v
			}
			continue
		}
		if s.word.CompareAndSwap(w, w-n+n<<leaseBits) {
			return Charged
		}
	}
}

// Check reports whether size bytes can be charged, and takes nothing.
func (s *Share) Check(size int) Verdict { return s.account.lease(s, uint64(max(size, 1))) }

// Unlimited reports whether the account has no bound.
func (s *Share) Unlimited() bool { return s.account.free() > unlimitedPool/2 }

// Left returns what the account has left, whatever the shards have leased.
func (s *Share) Left() uint64 { return s.account.free() }

// lease moves bytes from the account to one of its shares, so that the share has at least need.
func (a *Account) lease(s *Share, need uint64) Verdict {
	if a.book.stopped.Load() || s.word.Load()>>leaseBits >= usedBound {
		return Stopped
	}
	for {
		held := s.word.Load() & leaseMask
		if held >= need {
			return Charged
		}
		short, left := need-held, a.pool.Load()
		switch {
		case left >= short:
			n := max(min(MaxLease, left/leaseFraction), short)
			if a.pool.CompareAndSwap(left, left-n) {
				s.give(n)
				s.activate()
			}
		case !a.reclaim(s): // the rest may be leased to other shards
			a.refused.Store(true)
			s.activate()
			return UsedUp
		}
	}
}

// give adds bytes that were taken from the account's pool to the lease.
func (s *Share) give(n uint64) {
	for {
		w := s.word.Load()
		if w&leaseMask+n > leaseMask {
			s.account.pool.Add(n) // several others have just leased
			return
		}
		if s.word.CompareAndSwap(w, w+n) {
			return
		}
	}
}

// takeLease takes back the unused bytes of the lease.
func (s *Share) takeLease() uint64 {
	for {
		w := s.word.Load()
		if w&leaseMask == 0 {
			return 0
		}
		if s.word.CompareAndSwap(w, w&^leaseMask) {
			return w & leaseMask
		}
	}
}

// reclaim moves the leases of all shares but one to the pool, and reports whether there were any.
func (a *Account) reclaim(but *Share) bool {
	sum := uint64(0)
	for i := range a.shares {
		if s := a.shares[i].Load(); s != nil && s != but {
			sum += s.takeLease()
		}
	}
	a.pool.Add(sum)
	return sum > 0
}

// collect takes the used bytes, and all of the lease if none was used or it is due back.
func (s *Share) collect(back bool) (used uint64) {
	for {
		w := s.word.Load()
		used = w >> leaseBits
		keep := w & leaseMask
		if used == 0 || back {
			keep = 0
		}
		if s.word.CompareAndSwap(w, keep) {
			if keep == 0 {
				s.account.pool.Add(w & leaseMask)
			} else {
				s.activate()
			}
			return used
		}
	}
}

// activate makes sure that the share is collected. Whoever adds to a lease calls it afterwards.
func (s *Share) activate() {
	if !s.active.CompareAndSwap(false, true) {
		return
	}
	b := s.account.book
	for {
		s.next = b.active.Load()
		if b.active.CompareAndSwap(s.next, s) {
			return
		}
	}
}
