package meter

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"lewes/crypto/identity"
	"lewes/state"
	"lewes/state/ledger"
)

// Grant is bytes that an account may use until a time.
type Grant struct {
	Number  uint64 // unique within the account and rising, so that a grant is added once; 0: not numbered
	Listed  bool   // of the list of clients: an account has at most one, whose Bytes may change
	Bytes   uint64
	Used    uint64
	Expires int64 // Unix seconds; 0 means never
}

func (g *Grant) left() uint64 { return g.Bytes - min(g.Used, g.Bytes) }

func (g *Grant) expired(now time.Time) bool { return g.Expires != 0 && g.Expires <= now.Unix() }

// same reports whether both are the same grant, however much of it was used.
func (g *Grant) same(o *Grant) bool {
	return g.Listed && o.Listed || g.Number == o.Number && g.Bytes == o.Bytes && g.Expires == o.Expires
}

// byExpiry orders grants as they are used: the earliest to expire first.
func byExpiry(a, b Grant) int {
	// 0, never, becomes the largest number.
	return cmp.Or(cmp.Compare(uint64(a.Expires)-1, uint64(b.Expires)-1), cmp.Compare(a.Number, b.Number))
}

// unlimitedPool is what the pool of an unlimited account begins with, in bytes: more than is ever used.
const unlimitedPool = 1 << 62

// restTime is how long an account is kept after its last session and its last report. A registration
// that has read the account from the ledger must arrive within that time.
const restTime = time.Minute

// Ledger records usage and knows the accounts.
type Ledger interface {
	// Use records used bytes by account. It returns nil only once they are durable, and otherwise has
	// recorded none. It is called each Interval, with an empty map if nothing was used.
	Use(ctx context.Context, used map[identity.PublicKey]uint64) error
	// Grants returns the grants of an account, none if there is no such account, and whether it is unlimited.
	Grants(client identity.PublicKey) (grants []Grant, unlimited bool, err error)
}

// ErrNoLedger means that usage cannot be recorded because no ledger is open.
var ErrNoLedger = errors.New("meter: no ledger is open")

// ErrUnrecorded means that usage was not recorded for MaxUnrecorded.
var ErrUnrecorded = errors.New("meter: usage cannot be recorded")

// Config is the configuration of a Book.
type Config struct {
	Shards int
	Now    func() time.Time // the time that grants expire by
	// Serve makes the gateway carry traffic while usage cannot be recorded; otherwise it stops after
	// MaxUnrecorded.
	Serve bool
	// Notify, if set, is called by Run with what accounts are to be notified of.
	Notify func([]Notice)
	// Renew, if set, is called by Run for accounts that have used up everything or whose last grant has
	// expired, once for each, before anyone is notified. It may add grants with Update.
	Renew func([]identity.PublicKey)
	// Failing, if set, is called by Run when recording fails for the first time, and with nil when it
	// works again.
	Failing func(error)
}

// Book holds the accounts that have sessions at a gateway. It is safe for concurrent use.
type Book struct {
	config  Config
	active  atomic.Pointer[Share] // shares with a lease or used bytes
	stopped atomic.Bool
	ledger  atomic.Pointer[Ledger]

	mu       sync.Mutex
	accounts map[identity.PublicKey]*Account
	expiries state.Deadlines[*Account]
	resting  []*Account // without members
	touched  []*Account // since the last Collect
	report   report
	counters Stats
}

// Stats are the counters of a Book.
type Stats struct {
	Accounts      uint64        // present
	Used          uint64        // bytes, of limited accounts
	Unrecorded    uint64        // bytes that the ledger does not have yet
	Failed        uint64        // attempts to record that failed
	UnrecordedFor time.Duration // since the last attempt that succeeded, if one has failed since
	Stopped       bool
}

// Account is what one client may use, whatever the number of its sessions.
type Account struct {
	pool    atomic.Uint64 // bytes that are neither used nor leased
	refused atomic.Bool   // a datagram was refused because everything is used
	book    *Book
	id      identity.PublicKey
	shares  []atomic.Pointer[Share] // by shard; nil: it has had no session there

	// Guarded by book.mu.
	grants     []Grant // not expired, in the order of byExpiry
	newest     uint64  // the highest Number that it has had
	unlimited  bool
	loaded     bool
	members    int
	percent    uint8 // of the last notice
	ended      bool  // Renew was called since the last grant
	unreported uint64
	debt       uint64 // charged before the account was loaded
	isResting  bool
	touched    bool // it is in Book.touched
	restsUntil time.Time
	pinned     time.Time // until when Charge keeps it; zero: it does not
	expiry     state.Timer[*Account]
}

// NewBook returns a book without accounts.
func NewBook(config Config) *Book {
	b := &Book{config: config, accounts: make(map[identity.PublicKey]*Account)}
	b.report.pending = make(map[identity.PublicKey]uint64)
	return b
}

// SetLedger sets the ledger that usage is recorded in; nil means none for the time being.
func (b *Book) SetLedger(l Ledger) {
	if l == nil {
		b.ledger.Store(nil)
	} else {
		b.ledger.Store(&l)
	}
}

// Join adds a session of a shard to an account. The account is created if it does not exist; grants
// are those of the ledger at most a minute ago, as in Update. The owner calls Leave once.
func (b *Book) Join(shard int, client identity.PublicKey, grants []Grant, unlimited bool) *Share {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.open(client)
	a.update(grants, unlimited)
	return a.join(shard)
}

func (a *Account) join(shard int) *Share {
	s := a.shares[shard].Load()
	if s == nil {
		s = &Share{account: a}
		a.shares[shard].Store(s)
	}
	s.members++
	a.members++
	return s
}

// open returns the account of a client, a new one if there is none.
func (b *Book) open(client identity.PublicKey) *Account {
	a := b.accounts[client]
	if a == nil {
		a = &Account{book: b, id: client, shares: make([]atomic.Pointer[Share], b.config.Shards)}
		a.expiry.Value = a
		b.accounts[client] = a
	}
	return a
}

// Leave undoes Join.
func (s *Share) Leave() {
	b := s.account.book
	b.mu.Lock()
	defer b.mu.Unlock()
	s.members--
	s.account.leave(b.config.Now())
}

// leave removes a member.
func (a *Account) leave(now time.Time) {
	if a.members--; a.members == 0 {
		a.rest(now)
	}
}

// rest notes that the account may be forgotten unless it is used again.
func (a *Account) rest(now time.Time) {
	a.restsUntil = now.Add(restTime)
	if !a.isResting {
		a.isResting = true
		a.book.resting = append(a.book.resting, a)
	}
}

// Update adds the grants that an account does not have yet, if there is such an account. The used bytes
// of a grant count only where the account was not known before: afterwards nothing is used that the
// book has not counted.
func (b *Book) Update(client identity.PublicKey, grants []Grant, unlimited bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.accounts[client]; a != nil {
		a.update(grants, unlimited)
	}
}

func (a *Account) update(grants []Grant, unlimited bool) {
	now, first := a.book.config.Now(), !a.loaded
	a.loaded = true
	if unlimited != a.unlimited {
		a.unlimited = unlimited
		pool := uint64(unlimitedPool)
		if !unlimited {
			pool = a.left()
		}
		a.pool.Store(pool)
		for i := range a.shares {
			if s := a.shares[i].Load(); s != nil {
				s.takeLease() // it was of the other pool
			}
		}
	}
	added, newest := false, a.newest
	for i := range grants {
		g := grants[i]
		a.newest = max(a.newest, g.Number)
		if g.expired(now) {
			continue
		}
		if have := slices.IndexFunc(a.grants, func(o Grant) bool { return o.same(&g) }); have >= 0 && g.Listed {
			added = a.resize(&a.grants[have], g.Bytes) || added
			continue
		} else if count(a.grants, &g) >= count(grants[:i+1], &g) {
			continue
		}
		if !first && (g.Number == 0 || g.Number > newest) { // otherwise the account had it, and has used it
			g.Used = 0
		}
		a.grants = append(a.grants, g)
		added = true
		if !a.unlimited {
			a.pool.Add(g.left())
		}
	}
	if len(grants) > 0 { // the ledger drops used grants before they expire
		a.grants = slices.DeleteFunc(a.grants, func(g Grant) bool { return g.left() == 0 && count(grants, &g) == 0 })
	}
	if first || added {
		slices.SortStableFunc(a.grants, byExpiry)
		a.refused.Store(false)
		a.ended = false
		a.percent = a.usedPercent()
		a.setExpiry()
	}
	if n := a.debt; first && n > 0 {
		a.debt = 0
		a.take(n)
	}
}

// resize changes the bytes of a grant, and reports whether there are more.
func (a *Account) resize(g *Grant, size uint64) (more bool) {
	a.settle()
	before := g.left()
	g.Bytes = size
	switch after := g.left(); {
	case a.unlimited:
	case after >= before:
		a.pool.Add(after - before)
	default:
		a.shrink(before - after)
	}
	return g.left() > before
}

// shrink removes bytes from the pool and the leases.
func (a *Account) shrink(n uint64) {
	for n > 0 && !a.unlimited {
		left := a.pool.Load()
		some := min(left, n)
		if a.pool.CompareAndSwap(left, left-some) {
			if n -= some; n > 0 && !a.reclaim(nil) {
				return // they were used meanwhile
			}
		}
	}
}

// take uses n bytes, or what is left if that is less.
func (a *Account) take(n uint64) {
	for n > 0 && !a.unlimited {
		left := a.pool.Load()
		some := min(left, n)
		if a.pool.CompareAndSwap(left, left-some) {
			a.spend(some)
			if n -= some; n > 0 && !a.reclaim(nil) {
				return
			}
		}
	}
}

// count returns how many of the grants are the same as g.
func count(grants []Grant, g *Grant) (n int) {
	for i := range grants {
		if grants[i].same(g) {
			n++
		}
	}
	return n
}

func (a *Account) setExpiry() {
	at := time.Time{}
	if len(a.grants) > 0 && a.grants[0].Expires != 0 {
		at = time.Unix(a.grants[0].Expires, 0)
	}
	a.book.expiries.Set(&a.expiry, at)
}

// left returns the sum of what the grants have left.
func (a *Account) left() (sum uint64) {
	for i := range a.grants {
		sum += a.grants[i].left()
	}
	return sum
}

// spend attributes used bytes to the grants, and notes them for the report.
func (a *Account) spend(used uint64) {
	if used == 0 || a.unlimited {
		return
	}
	a.unreported += used
	a.book.counters.Used += used
	a.book.report.add(a, used)
	for i := range a.grants {
		g := &a.grants[i]
		n := min(used, g.left())
		g.Used += n
		used -= n
	}
	// The rest was used in the moment in which its grant expired.
}

// expire removes the grants that have expired, with what is left of them.
func (a *Account) expire(now time.Time) {
	for len(a.grants) > 0 && a.grants[0].expired(now) {
		a.settle()
		a.ended = false // it may be renewed
		gone := a.grants[0].left()
		a.grants = slices.Delete(a.grants, 0, 1)
		a.shrink(gone)
	}
	a.setExpiry()
}

// settle collects all shares, with their leases.
func (a *Account) settle() {
	for i := range a.shares {
		if s := a.shares[i].Load(); s != nil {
			a.spend(s.collect(true))
		}
	}
}

// Balance is what an account has left.
type Balance struct {
	Bytes     uint64
	Expires   int64 // of the last grant that has bytes left, Unix seconds; 0: never, or none is left
	Unlimited bool
}

// Balance returns what a client has left, and false if its account is not in use.
func (b *Book) Balance(client identity.PublicKey) (Balance, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.accounts[client]
	if a == nil || !a.loaded {
		return Balance{}, false
	}
	a.expire(b.config.Now())
	return a.balance(), true
}

// Unrecorded returns the bytes that a client has used and that are not in the ledger yet.
func (b *Book) Unrecorded(client identity.PublicKey) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.accounts[client]
	if a == nil {
		return 0
	}
	a.settle()
	return a.unreported
}

// free returns the bytes that are not used.
func (a *Account) free() uint64 {
	sum := a.pool.Load()
	for i := range a.shares {
		if s := a.shares[i].Load(); s != nil {
			sum += s.word.Load() & leaseMask
		}
	}
	return sum
}

func (a *Account) balance() Balance {
	if a.unlimited {
		return Balance{Unlimited: true}
	}
	all := Balance{Bytes: a.free()}
	for i := range a.grants {
		if a.grants[i].left() > 0 {
			all.Expires = a.grants[i].Expires
		}
	}
	return all
}

// Stats returns the book's counters.
func (b *Book) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.counters
	s.Accounts = uint64(len(b.accounts))
	s.Unrecorded = b.report.bytes()
	s.Stopped = b.stopped.Load()
	if !b.report.since.IsZero() {
		s.UnrecordedFor = b.config.Now().Sub(b.report.since)
	}
	return s
}

// FromLedger returns grants of a ledger.
func FromLedger(grants []ledger.Grant) []Grant {
	list := make([]Grant, len(grants))
	for i, g := range grants {
		list[i] = Grant{Number: g.Number, Listed: g.Source == ledger.SourceListed, Bytes: g.Bytes, Used: g.Used, Expires: g.Expires.Unix()}
	}
	return list
}
