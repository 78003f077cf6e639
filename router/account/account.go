package account

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"lewes/crypto/identity"
	"lewes/state/ratelimit"
	"lewes/state/snapshot"
)

// Resource is what a gateway has a limited number of.
type Resource uint8

// The resources.
const (
	Sessions Resource = iota
	Flows             // to targets: each has a socket
	Forwards          // flows to other gateways
	Lookups           // names being resolved
	Claims            // index bindings at other gateways
	resources
)

// Bounds is a number of each resource.
type Bounds [resources]int

// Key names an account.
type Key struct {
	kind kind
	id   [32]byte
}

type kind uint8

const (
	listed kind = iota // an identity of the list of clients
	prefix             // of a source address
	entry              // a gateway of the directory
)

// Listed returns the key of a listed client.
func Listed(id identity.PublicKey) Key { return Key{listed, id} }

// Source returns the key of the clients at an address that no list names: one IPv4 address or one
// IPv6 /56, or a gateway of the directory with all clients behind it.
func Source(addr netip.Addr, gateway bool) Key {
	k, bits := Key{kind: prefix}, 56
	if addr.Unmap().Is4() {
		bits = 32
	}
	if gateway {
		k.kind, bits = entry, addr.Unmap().BitLen()
	}
	a := ratelimit.Prefix(addr, bits).As16()
	copy(k.id[:], a[:])
	return k
}

// Snapshot codes a key.
func (k *Key) Snapshot(c *snapshot.Codec) {
	snapshot.Byte(c, &k.kind)
	c.Fixed(k.id[:])
	c.Check(k.kind <= entry, "account of kind %d", k.kind)
}

// Entry reports whether the account is that of a gateway of the directory with all clients behind it.
func (k Key) Entry() bool { return k.kind == entry }

// Book holds a gateway's accounts. It is safe for concurrent use.
type Book struct {
	bounds func() (gateway, account Bounds)
	limits func(identity.PublicKey) Limits // of a listed client
	inUse  [resources]atomic.Int64

	mu       sync.Mutex
	accounts map[Key]*Account
	resting  []resting // oldest first
}

// resting is an account whose last session has left.
type resting struct {
	account *Account
	until   time.Time
}

// restingTime is how long an account is kept after its last session: longer than any budget takes
// to fill, so that a new session does not renew the budgets; but for a rate of less than a few
// datagrams in that time.
const restingTime = 10 * time.Second

// NewBook returns a book with the bounds of the gateway in total and of every account beside its
// share (0 is no bound).
func NewBook(bounds func() (gateway, account Bounds), limits func(identity.PublicKey) Limits) *Book {
	return &Book{bounds: bounds, limits: limits, accounts: make(map[Key]*Account)}
}

// InUse returns how much of a resource all accounts hold.
func (b *Book) InUse(r Resource) int { return int(b.inUse[r].Load()) }

// allows reports whether an account may hold this much of a resource while this much of it is in
// use: no more than its own bound, and no more than half of what is left. One account alone thus
// gets a third, and the next one always finds room.
func (b *Book) allows(r Resource, key Key, held, inUse int) bool {
	gateway, account := b.bounds()
	if key.kind == listed {
		own := b.limits(key.id)
		if n := [resources]int{Sessions: own.Sessions, Flows: own.Flows}[r]; n > 0 && held > n {
			return false
		}
	}
	return inUse <= gateway[r] && (account[r] == 0 || held <= account[r]) && (held == 1 || held <= (gateway[r]-inUse)/2)
}

// Join adds a session to the account of a key. The owner calls Leave once.
func (b *Book) Join(now time.Time, key Key) *Account {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sweep(now)
	a := b.accounts[key]
	if a == nil {
		a = &Account{book: b, key: key}
		b.accounts[key] = a
		a.refresh()
	}
	a.members++
	return a
}

// Refresh applies changed limits of listed clients to their accounts.
func (b *Book) Refresh(changed []identity.PublicKey) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range changed {
		if a := b.accounts[Listed(id)]; a != nil {
			a.refresh()
		}
	}
}

// sweep forgets the accounts that have rested.
func (b *Book) sweep(now time.Time) {
	for len(b.resting) > 0 && !now.Before(b.resting[0].until) {
		a := b.resting[0].account
		b.resting[0] = resting{}
		b.resting = b.resting[1:]
		switch a.rests = false; {
		case a.members > 0:
		case now.Before(a.restsUntil): // it had a session in between
			b.rest(a)
		default:
			delete(b.accounts, a.key)
		}
	}
}

func (b *Book) rest(a *Account) {
	a.rests = true
	b.resting = append(b.resting, resting{a, a.restsUntil})
}

// Account is what one client, or one source of unlisted clients, holds. It is safe for concurrent
// use.
type Account struct {
	book *Book
	key  Key
	held [resources]atomic.Int32
	rate atomic.Uint64 // payload bytes per second; 0: no limit

	Queued atomic.Int64 // bytes that wait for sessions on TCP

	Work   Budget // time of shards
	Hellos Budget // inner ClientHellos
	bytes  Budget // payload

	// Guarded by book.mu.
	members    int
	rests      bool // it is in book.resting
	restsUntil time.Time
}

// Leave undoes Join.
func (a *Account) Leave(now time.Time) {
	b := a.book
	b.mu.Lock()
	defer b.mu.Unlock()
	if a.members--; a.members == 0 {
		if a.restsUntil = now.Add(restingTime); !a.rests {
			b.rest(a)
		}
	}
	b.sweep(now)
}

// Key returns the account's key.
func (a *Account) Key() Key { return a.key }

// Held returns how much of a resource the account holds.
func (a *Account) Held(r Resource) int { return int(a.held[r].Load()) }

// Take takes one of a resource, and reports false if a bound is reached.
func (a *Account) Take(r Resource) bool {
	a.Force(r)
	if a.book.allows(r, a.key, a.Held(r), a.book.InUse(r)) {
		return true
	}
	a.Release(r)
	return false
}

// Force takes one of a resource whatever the bounds are: for what a predecessor has handed over.
func (a *Account) Force(r Resource) {
	a.held[r].Add(1)
	a.book.inUse[r].Add(1)
}

// Release returns one of a resource.
func (a *Account) Release(r Resource) {
	a.held[r].Add(-1)
	a.book.inUse[r].Add(-1)
}

// rateDepth is the time whose bytes an account with a rate may send at once.
const rateDepth = time.Second

// Pass reports whether size bytes of payload may pass at the account's rate. It takes them from the
// budget, which must be full for more than a second's worth.
func (a *Account) Pass(now time.Time, size int) bool {
	rate := a.rate.Load()
	if rate == 0 {
		return true
	}
	refill := time.Duration(float64(size) / float64(rate) * float64(time.Second))
	return a.bytes.Take(now, refill, max(refill, rateDepth))
}

// Limited reports whether the account has a rate.
func (a *Account) Limited() bool { return a.rate.Load() != 0 }

func (a *Account) refresh() {
	if a.key.kind == listed {
		a.rate.Store(a.book.limits(a.key.id).Rate)
	}
}
