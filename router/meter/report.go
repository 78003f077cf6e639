package meter

import (
	"context"
	"slices"
	"time"

	"lewes/crypto/identity"
)

const (
	// Interval is how often usage is collected and recorded.
	Interval = time.Second
	// MaxUnrecorded is how long usage may stay unrecorded before a gateway stops carrying traffic, unless
	// it is configured to serve.
	MaxUnrecorded = 10 * time.Second
	// pinTime is how long Charge keeps an account without sessions that is not charged again.
	pinTime = 3 * time.Minute
)

// warnings are the percentages of its grants at which an account is notified.
var warnings = [...]uint8{80, 90, 95, 100}

// Notice is what the sessions of an account are to be notified of.
type Notice struct {
	Client  identity.PublicKey
	Percent uint8 // of its grants that are used: 80, 90, 95 or 100; 0: as before
	UsedUp  bool  // a datagram was refused, or nothing is left: flows end
	Balance Balance
}

// report is usage on its way to the ledger. It is guarded by Book.mu.
type report struct {
	pending  map[identity.PublicKey]uint64
	inFlight map[identity.PublicKey]uint64 // nil: none
	since    time.Time                     // of the first attempt that has not succeeded; zero: none
	failing  bool
}

func (r *report) add(a *Account, used uint64) { r.pending[a.id] += used }

func (r *report) bytes() (sum uint64) {
	for _, n := range r.pending {
		sum += n
	}
	for _, n := range r.inFlight {
		sum += n
	}
	return sum
}

// Collect takes what was used from the shares, takes back unused leases, and removes expired grants. It
// returns what accounts are to be notified of, and which of them have ended. One goroutine calls it
// once per Interval.
func (b *Book) Collect(now time.Time) (notices []Notice, ended []identity.PublicKey) {
	b.stopIfUnrecorded(now)
	stopped := b.stopped.Load()
	for s := b.active.Swap(nil); s != nil; {
		next := s.next
		s.active.Store(false) // a lease from now on activates it again
		b.mu.Lock()
		s.account.spend(s.collect(stopped))
		s.account.touch()
		b.mu.Unlock()
		s = next
	}
	for b.expireNext(now) {
	}
	for {
		b.mu.Lock()
		a, ok := b.nextTouched()
		if !ok {
			b.mu.Unlock()
			break
		}
		n, end := a.notice()
		b.mu.Unlock()
		if n.Percent != 0 || n.UsedUp {
			notices = append(notices, n)
		}
		if end {
			ended = append(ended, a.id)
		}
	}
	b.sweep(now)
	return notices, ended
}

// expireNext removes the expired grants of an account, and reports whether there was one.
func (b *Book) expireNext(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	a, ok := b.expiries.Pop(now)
	if ok {
		a.expire(now)
		a.touch()
	}
	return ok
}

// touch makes Collect look whether the account is to be notified.
func (a *Account) touch() {
	if !a.touched {
		a.touched = true
		a.book.touched = append(a.book.touched, a)
	}
}

// nextTouched returns an account that was touched.
func (b *Book) nextTouched() (*Account, bool) {
	last := len(b.touched) - 1
	if last < 0 {
		return nil, false
	}
	a := b.touched[last]
	b.touched[last] = nil
	b.touched = b.touched[:last]
	a.touched = false
	return a, true
}

// usedPercent returns the highest of warnings that the account has reached, or 0.
func (a *Account) usedPercent() (reached uint8) {
	if a.unlimited {
		return 0
	}
	total, left := 0.0, float64(a.left())
	for i := range a.grants {
		total += float64(a.grants[i].Bytes)
	}
	for _, w := range warnings {
		if left == 0 || w < 100 && (total-left)*100 >= total*float64(w) {
			reached = w
		}
	}
	return reached
}

// notice returns what the account is to be notified of, and whether it has just ended.
func (a *Account) notice() (n Notice, ended bool) {
	percent, refused := a.usedPercent(), a.refused.Swap(false)
	if refused {
		percent = 100
	}
	n = Notice{Client: a.id, UsedUp: refused || percent == 100 && a.percent < 100}
	if percent > a.percent {
		a.percent, n.Percent = percent, percent
	}
	if n.Percent != 0 || n.UsedUp {
		n.Balance = a.balance()
	}
	ended = percent == 100 && !a.ended
	a.ended = a.ended || ended
	return n, ended
}

// sweep forgets the accounts that have rested.
func (b *Book) sweep(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.resting = slices.DeleteFunc(b.resting, func(a *Account) bool {
		if !a.pinned.IsZero() && !now.Before(a.pinned) {
			a.pinned = time.Time{}
			a.leave(now)
		}
		switch {
		case a.members > 0 && a.pinned.IsZero():
			a.isResting = false
			return true
		case a.members > 0 || a.unreported > 0 || now.Before(a.restsUntil) || a.inUse():
			return false
		}
		delete(b.accounts, a.id)
		b.expiries.Set(&a.expiry, time.Time{})
		return true
	})
}

// inUse reports whether a share has to be collected.
func (a *Account) inUse() bool {
	for i := range a.shares {
		if s := a.shares[i].Load(); s != nil && (s.active.Load() || s.word.Load() != 0) {
			return true
		}
	}
	return false
}

// take returns the usage to record now, or nil while a record is under way.
func (b *Book) take(now time.Time) map[identity.PublicKey]uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := &b.report
	if r.inFlight != nil {
		return nil
	}
	r.inFlight, r.pending = r.pending, make(map[identity.PublicKey]uint64, len(r.pending))
	if r.since.IsZero() {
		r.since = now
	}
	return r.inFlight
}

// recorded ends the record of what take returned. It reports whether failing has changed.
func (b *Book) recorded(now time.Time, err error) (changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := &b.report
	for client, n := range r.inFlight {
		if err != nil {
			r.pending[client] += n
		} else if a := b.accounts[client]; a != nil {
			if a.unreported -= n; a.members == 0 {
				a.rest(now)
			}
		}
	}
	r.inFlight = nil
	changed = r.failing != (err != nil)
	r.failing = err != nil
	if err != nil {
		b.counters.Failed++
		return changed
	}
	r.since = time.Time{}
	b.stopped.Store(false)
	return changed
}

// stopIfUnrecorded stops all charging if usage has been unrecorded for too long.
func (b *Book) stopIfUnrecorded(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if since := b.report.since; !since.IsZero() && now.Sub(since) >= MaxUnrecorded && !b.config.Serve {
		b.stopped.Store(true)
	}
}

// use records usage in the ledger, if there is one.
func (b *Book) use(ctx context.Context, used map[identity.PublicKey]uint64) error {
	l := b.ledger.Load()
	switch {
	case l != nil:
		return (*l).Use(ctx, used)
	case len(used) > 0:
		return ErrNoLedger
	}
	return nil
}

// Run collects and records usage until ctx is done. Then it waits for a record that is under way.
func (b *Book) Run(ctx context.Context) {
	ticker := time.NewTicker(Interval)
	defer ticker.Stop()
	done := make(chan error, 1)
	busy := false
	// A record that has begun goes on when ctx ends: whether a canceled one is durable would be unknown.
	recording := context.WithoutCancel(ctx)
	for {
		select {
		case <-ticker.C:
			now := b.config.Now()
			notices, ended := b.Collect(now)
			if len(ended) > 0 && b.config.Renew != nil {
				b.config.Renew(ended)
				notices = slices.DeleteFunc(notices, func(n Notice) bool {
					have, ok := b.Balance(n.Client)
					return ok && (have.Unlimited || have.Bytes > n.Balance.Bytes)
				})
			}
			if len(notices) > 0 && b.config.Notify != nil {
				b.config.Notify(notices)
			}
			if used := b.take(now); used != nil {
				busy = true
				go func() { done <- b.use(recording, used) }()
			}
		case err := <-done:
			busy = false
			b.finish(err)
		case <-ctx.Done():
			if busy {
				b.finish(<-done)
			}
			return
		}
	}
}

func (b *Book) finish(err error) {
	if b.recorded(b.config.Now(), err) && b.config.Failing != nil {
		b.config.Failing(err)
	}
}

// Flush records what was used so far. The owner calls it after Run has returned and nothing is charged
// any more.
func (b *Book) Flush(ctx context.Context) error {
	now := b.config.Now()
	b.Collect(now)
	used := b.take(now)
	if used == nil {
		return nil
	}
	err := b.use(ctx, used)
	b.finish(err)
	return err
}

// Charge charges bytes that were counted elsewhere, such as by a WireGuard device, and returns the
// clients that have nothing left. Accounts that are not in use are read from the ledger, and kept while
// they are charged again within three minutes; 0 bytes are sufficient for that. If a client has less
// left, that is used up. The bytes in used become 0, as they are taken, also where an error means that an account
// could not be read: they are charged once it can be. ErrUnrecorded means that traffic is to stop.
func (b *Book) Charge(_ context.Context, used map[identity.PublicKey]uint64) (ended []identity.PublicKey, err error) {
	now := b.config.Now()
	for client, n := range used {
		left, failed := b.charge(now, client, n)
		used[client] = 0
		if failed != nil {
			err = failed
		} else if !left {
			ended = append(ended, client)
		}
	}
	if err == nil && b.stopped.Load() {
		err = ErrUnrecorded
	}
	return ended, err
}

// charge charges one account, and reports whether it has anything left.
func (b *Book) charge(now time.Time, client identity.PublicKey, n uint64) (left bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.open(client)
	if a.pinned.IsZero() {
		a.members++
	}
	a.pinned = now.Add(pinTime)
	a.rest(now) // so that sweep looks at it
	if !a.loaded {
		a.debt += n
		n = 0
		b.mu.Unlock()
		grants, unlimited, err := b.grants(client)
		b.mu.Lock()
		if err != nil {
			return false, err
		}
		a.update(grants, unlimited)
	}
	a.expire(now)
	a.take(n)
	return a.unlimited || a.balance().Bytes > 0, nil
}

// Refresh adds the grants that an account has in the ledger, if the account is in use.
func (b *Book) Refresh(client identity.PublicKey) error {
	grants, unlimited, err := b.grants(client)
	if err == nil {
		b.Update(client, grants, unlimited)
	}
	return err
}

// grants reads an account's grants from the ledger.
func (b *Book) grants(client identity.PublicKey) ([]Grant, bool, error) {
	l := b.ledger.Load()
	if l == nil {
		return nil, false, ErrNoLedger
	}
	return (*l).Grants(client)
}
