package meter

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lewes/crypto/identity"
)

var epoch = time.Unix(1_800_000_000, 0)

func client(n byte) identity.PublicKey { return identity.PublicKey{n} }

// memLedger is a Ledger in memory.
type memLedger struct {
	mu     sync.Mutex
	grants map[identity.PublicKey][]Grant
	now    func() time.Time
	fail   error
	sum    map[identity.PublicKey]uint64 // of all that was recorded
}

func newLedger(now func() time.Time) *memLedger {
	return &memLedger{grants: make(map[identity.PublicKey][]Grant), sum: make(map[identity.PublicKey]uint64), now: now}
}

func (l *memLedger) Use(_ context.Context, used map[identity.PublicKey]uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return l.fail
	}
	for id, n := range used {
		l.sum[id] += n
		all := l.grants[id]
		for i := range all {
			if !all[i].expired(l.now()) {
				some := min(n, all[i].left())
				all[i].Used += some
				n -= some
			}
		}
	}
	return nil
}

func (l *memLedger) Grants(id identity.PublicKey) ([]Grant, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.grants[id]), false, l.fail
}

func (l *memLedger) add(id identity.PublicKey, g Grant) []Grant {
	l.mu.Lock()
	defer l.mu.Unlock()
	g.Number = uint64(len(l.grants[id]) + 1)
	l.grants[id] = append(l.grants[id], g)
	slices.SortStableFunc(l.grants[id], byExpiry)
	return slices.Clone(l.grants[id])
}

// bench is a book of two shards with a virtual clock and a ledger.
type bench struct {
	*Book
	now    time.Time
	ledger *memLedger
}

func newBench() *bench {
	b := &bench{now: epoch}
	b.ledger = newLedger(func() time.Time { return b.now })
	b.open()
	return b
}

// open begins a new book, as after the end of the process.
func (b *bench) open() {
	b.Book = NewBook(Config{Shards: 2, Now: func() time.Time { return b.now }})
	b.SetLedger(b.ledger)
}

// second lets a second pass, and records usage.
func (b *bench) second() ([]Notice, []identity.PublicKey) {
	b.now = b.now.Add(Interval)
	notices, ended := b.Collect(b.now)
	if used := b.take(b.now); used != nil {
		b.recorded(b.now, b.use(context.Background(), used))
	}
	return notices, ended
}

// words returns the used and the leased bytes of all shares.
func (a *Account) words() (used, leased uint64) {
	for i := range a.shares {
		if s := a.shares[i].Load(); s != nil {
			used += s.word.Load() >> leaseBits
			leased += s.word.Load() & leaseMask
		}
	}
	return used, leased
}

// total returns all bytes that a client has used and that were not lost by the end of a process.
func (b *bench) total(id identity.PublicKey) uint64 {
	sum := b.ledger.sum[id] + b.report.pending[id] + b.report.inFlight[id]
	if a := b.accounts[id]; a != nil {
		used, _ := a.words()
		sum += used
	}
	return sum
}

func (b *bench) left(t *testing.T, n byte) uint64 {
	t.Helper()
	have, ok := b.Balance(client(n))
	if !ok {
		t.Fatal("no such account")
	}
	return have.Bytes
}

func bytes(n uint64) []Grant { return []Grant{{Bytes: n}} }

// TestLease: a lease is a sixteenth of what is left and at most a MiB, and returns once it was unused
// for a second.
func TestLease(t *testing.T) {
	for _, c := range []struct{ grant, lease uint64 }{{16 << 10, 1 << 10}, {1 << 30, MaxLease}, {1000, 100}} {
		b := newBench()
		s := b.Join(0, client(1), bytes(c.grant), false)
		if v := s.Charge(100); v != Charged {
			t.Fatal(v)
		}
		if got := s.word.Load() & leaseMask; got != c.lease-100 {
			t.Errorf("of %d bytes %d are leased after 100 were used, want %d", c.grant, got, c.lease-100)
		}
		b.second()
		b.second()
		if got := s.word.Load(); got != 0 || s.account.pool.Load() != c.grant-100 {
			t.Errorf("after a second without a datagram the share has %#x and the account %d bytes", got, s.account.pool.Load())
		}
		if got := b.ledger.sum[client(1)]; got != 100 {
			t.Errorf("%d bytes were recorded, want 100", got)
		}
	}
}

// TestShardsShareAnAccount: sessions in two shards use up one account to the last byte, whatever the
// other one has leased, and a grant that one of them brings serves both.
func TestShardsShareAnAccount(t *testing.T) {
	b := newBench()
	one, two := b.Join(0, client(1), bytes(10_000), false), b.Join(1, client(1), bytes(10_000), false)
	sum := 0
	for i := 0; one.Charge(100) == Charged; i++ {
		if sum += 100; i%3 == 0 && two.Charge(100) == Charged {
			sum += 100
		}
	}
	if sum != 10_000 || two.Charge(1) != UsedUp || two.Charge(0) != UsedUp {
		t.Errorf("%d bytes of 10,000 were used before the end", sum)
	}
	b.Update(client(1), []Grant{{Bytes: 10_000, Used: 10_000}, {Number: 2, Bytes: 500}}, false)
	if one.Charge(250) != Charged || two.Charge(250) != Charged || one.Charge(1) != UsedUp {
		t.Error("the new grant does not serve both shards")
	}
}

// TestWarnings: an account is notified once at each percentage, and again after another grant.
func TestWarnings(t *testing.T) {
	b := newBench()
	s := b.Join(0, client(1), bytes(1000), false)
	expect := func(charge int, percent uint8, usedUp bool) {
		t.Helper()
		s.Charge(charge)
		notices, _ := b.second()
		got := Notice{}
		if len(notices) > 0 {
			got = notices[0]
		}
		if got.Percent != percent || got.UsedUp != usedUp {
			t.Errorf("after %d more bytes: %d %%, used up %v; want %d, %v", charge, got.Percent, got.UsedUp, percent, usedUp)
		}
	}
	expect(799, 0, false)
	expect(1, 80, false)
	expect(10, 0, false)
	expect(140, 95, false)
	expect(0, 0, false)
	expect(50, 100, true)
	expect(0, 0, true)
	b.Update(client(1), []Grant{{Bytes: 1000}, {Number: 1, Bytes: 4000}}, false)
	expect(3000, 80, false)
	expect(900, 95, false)
	expect(101, 100, true) // 100 are left
	expect(100, 0, false)
}

// TestExpiry: what is left of a grant goes when it expires, leases included, and the account is used
// up after its last one.
func TestExpiry(t *testing.T) {
	b := newBench()
	soon, late := epoch.Unix()+60, epoch.Unix()+90
	s := b.Join(0, client(1), []Grant{{Number: 1, Bytes: 500, Expires: late}, {Number: 2, Bytes: 1000, Expires: soon}}, false)
	s.Charge(100)
	if have, _ := b.Balance(client(1)); have.Bytes != 1400 || have.Expires != late {
		t.Errorf("%+v at the start", have)
	}
	b.now = epoch.Add(60 * time.Second)
	b.second()
	if have, _ := b.Balance(client(1)); have.Bytes != 500 || have.Expires != late {
		t.Errorf("%+v after one grant has expired, want what the other has", have)
	}
	s.Charge(200)
	b.now = epoch.Add(90 * time.Second)
	notices, ended := b.second()
	if len(notices) != 1 || !notices[0].UsedUp || len(ended) != 1 || s.Charge(1) != UsedUp || b.left(t, 1) != 0 {
		t.Errorf("%+v and %d bytes after the last grant has expired", notices, b.left(t, 1))
	}
	if _, ended = b.second(); len(ended) != 0 {
		t.Error("an account ends twice")
	}
	if got := b.ledger.sum[client(1)]; got != 300 {
		t.Errorf("%d bytes were recorded, want 300", got)
	}
}

// TestEndsAgain: an account that was used up ends once more when its grant expires, since its next period
// may have begun.
func TestEndsAgain(t *testing.T) {
	b := newBench()
	s := b.Join(0, client(1), []Grant{{Listed: true, Bytes: 100, Expires: epoch.Unix() + 60}}, false)
	s.Charge(100)
	if _, ended := b.second(); len(ended) != 1 {
		t.Error("used up, and not ended")
	}
	if _, ended := b.second(); len(ended) != 0 {
		t.Error("ended twice in its period")
	}
	b.now = epoch.Add(time.Minute)
	notices, ended := b.second()
	if len(ended) != 1 || len(notices) != 0 {
		t.Errorf("after the period: ended %v, notices %v", ended, notices)
	}
	b.Update(client(1), []Grant{{Listed: true, Bytes: 100, Expires: epoch.Unix() + 120}}, false)
	if s.Charge(100) != Charged {
		t.Error("the next period has nothing")
	}
}

// TestStops: when nothing is recorded for ten seconds, nothing is charged until it works again; with
// Serve everything goes on. Nothing that was used is lost.
func TestStops(t *testing.T) {
	for _, serve := range []bool{false, true} {
		b := newBench()
		b.config.Serve = serve
		s := b.Join(0, client(1), bytes(1<<30), false)
		b.ledger.fail = errors.New("disk full")
		sum := uint64(0)
		for i := range 20 {
			got := s.Charge(1000)
			if want := i <= 10 || serve; (got == Charged) != want {
				t.Errorf("serve %v, second %d: %v", serve, i, got)
			}
			if got == Charged {
				sum += 1000
			}
			b.second()
		}
		if stats := b.Stats(); stats.Stopped == serve || stats.Unrecorded != sum || stats.Failed == 0 {
			t.Errorf("%+v after %d bytes", stats, sum)
		}
		b.ledger.fail = nil
		b.second()
		if got := b.ledger.sum[client(1)]; got != sum || s.Charge(1) != Charged || b.Stats().Stopped {
			t.Errorf("%d of %d bytes were recorded", got, sum)
		}
	}
}

// TestUnlimited: an account without bound is never used up, and gets one when the list says so.
func TestUnlimited(t *testing.T) {
	b := newBench()
	s := b.Join(0, client(1), nil, true)
	for range 100 {
		if s.Charge(60_000) != Charged {
			t.Fatal("used up")
		}
	}
	if have, _ := b.Balance(client(1)); !have.Unlimited {
		t.Errorf("%+v", have)
	}
	b.second()
	if b.Stats().Unrecorded != 0 || len(b.ledger.sum) != 0 {
		t.Error("usage without a bound was recorded")
	}
	b.Update(client(1), bytes(1000), false)
	if s.Charge(1001) != UsedUp || s.Charge(1000) != Charged {
		t.Error("the bound is not 1,000 bytes")
	}
	b.Update(client(1), nil, true)
	if s.Charge(1<<20) != Charged {
		t.Error("still bounded")
	}
}

// TestListed: the grant of the list of clients changes its size with the list and counts from what was
// used, and used grants that the ledger has dropped are dropped.
func TestListed(t *testing.T) {
	b := newBench()
	listed := func(n uint64) []Grant { return []Grant{{Listed: true, Bytes: n, Expires: epoch.Unix() + 100}} }
	s := b.Join(0, client(1), listed(1000), false)
	s.Charge(600)
	for _, c := range []struct{ size, left uint64 }{{1000, 400}, {2000, 1400}, {700, 100}, {500, 0}, {800, 200}} {
		b.Update(client(1), listed(c.size), false)
		if got := b.left(t, 1); got != c.left {
			t.Errorf("%d bytes are left of %d, want %d", got, c.size, c.left)
		}
	}
	for n := range uint64(500) {
		b.Update(client(1), append(listed(600), Grant{Number: n, Bytes: 10}), false)
		if s.Charge(10) != Charged || s.Charge(1) != UsedUp {
			t.Fatalf("grant %d is not ten bytes", n)
		}
		b.second()
	}
	if n := len(b.accounts[client(1)].grants); n > 2 {
		t.Errorf("%d grants are kept", n)
	}
}

// TestForgets: an account is kept for a minute after its last session and its last record, so that a
// registration that has read the ledger meanwhile does not bring back what was used.
func TestForgets(t *testing.T) {
	b := newBench()
	grants := b.ledger.add(client(1), Grant{Bytes: 1000})
	s := b.Join(0, client(1), grants, false)
	s.Charge(400)
	s.Leave()
	if got := b.Join(0, client(1), grants, false); got != s || b.left(t, 1) != 600 {
		t.Errorf("%d bytes after a return, want 600", b.left(t, 1))
	}
	s.Leave()
	b.ledger.fail = errors.New("disk full")
	for range 5 {
		b.second()
	}
	b.now = b.now.Add(time.Hour)
	b.second()
	if _, ok := b.Balance(client(1)); !ok {
		t.Fatal("forgotten before its usage was recorded")
	}
	b.ledger.fail = nil
	b.second()
	for range 58 {
		b.second()
	}
	if _, ok := b.Balance(client(1)); !ok {
		t.Error("forgotten within a minute of its last record")
	}
	for range 3 {
		b.second()
	}
	if b.Stats().Accounts != 0 || len(b.resting) != 0 || b.expiries.Len() != 0 {
		t.Error("never forgotten")
	}
	if now, _, _ := b.ledger.Grants(client(1)); now[0].Used != 400 {
		t.Errorf("%d bytes were recorded, want 400", now[0].Used)
	}
}

// TestChargeIsRepeatedAfterErrors: an account that cannot be read does not make others pay twice.
func TestChargeIsRepeatedAfterErrors(t *testing.T) {
	b := newBench()
	b.ledger.add(client(1), Grant{Bytes: 1000})
	b.ledger.add(client(2), Grant{Bytes: 1000})
	if _, err := b.Charge(t.Context(), map[identity.PublicKey]uint64{client(1): 0}); err != nil {
		t.Fatal(err)
	}
	used := map[identity.PublicKey]uint64{client(1): 100, client(2): 100}
	b.ledger.fail = errors.New("damaged")
	for range 3 {
		if _, err := b.Charge(t.Context(), used); err == nil {
			t.Error("no error while an account cannot be read")
		}
	}
	b.ledger.fail = nil
	if ended, err := b.Charge(t.Context(), used); len(ended) != 0 || err != nil {
		t.Error(ended, err)
	}
	for n := byte(1); n <= 2; n++ {
		if got := b.left(t, n); got != 900 {
			t.Errorf("client %d has %d bytes left, want 900", n, got)
		}
	}
}

// TestGrantThatReturns: a grant that an account had before has what the ledger knows of it: it arrives after a later
// list without it, or the clock had jumped ahead for a while.
func TestGrantThatReturns(t *testing.T) {
	b := newBench()
	one := Grant{Number: 1, Bytes: 1000, Expires: epoch.Unix() + 3600}
	two := Grant{Number: 2, Bytes: 500, Expires: epoch.Unix() + 7200}
	s := b.Join(0, client(1), []Grant{one}, false)
	s.Charge(1000)
	b.second()
	b.Update(client(1), []Grant{two}, false)
	one.Used = 1000
	b.Update(client(1), []Grant{one}, false)
	if got := b.left(t, 1); got != 500 {
		t.Errorf("%d bytes are left, want 500", got)
	}
	b.now = epoch.Add(3 * time.Hour)
	if got := b.left(t, 1); got != 0 {
		t.Errorf("%d bytes are left of expired grants", got)
	}
	b.now = epoch.Add(time.Minute)
	two.Used = 100
	b.Update(client(1), []Grant{one, two}, false)
	if got := b.left(t, 1); got != 400 {
		t.Errorf("%d bytes are left once the clock is right, want 400", got)
	}
}

// TestChargeStops: while usage cannot be recorded, a device is told to stop as sessions do.
func TestChargeStops(t *testing.T) {
	b := newBench()
	b.ledger.add(client(1), Grant{Bytes: 1000})
	b.Join(0, client(1), bytes(1000), false)
	for range MaxUnrecorded/Interval + 1 {
		if _, err := b.Charge(t.Context(), map[identity.PublicKey]uint64{client(1): 1}); err != nil {
			t.Fatal(err)
		}
		b.ledger.fail = errors.New("no space left on device")
		b.second()
	}
	b.second()
	if _, err := b.Charge(t.Context(), map[identity.PublicKey]uint64{client(1): 1}); !errors.Is(err, ErrUnrecorded) {
		t.Errorf("%v, want %v", err, ErrUnrecorded)
	}
	b.ledger.fail = nil
	b.second()
	if _, err := b.Charge(t.Context(), map[identity.PublicKey]uint64{client(1): 1}); err != nil {
		t.Error(err)
	}
}

// TestCharge: what a device has counted is charged to accounts that have no session, too.
func TestCharge(t *testing.T) {
	b := newBench()
	b.ledger.add(client(1), Grant{Bytes: 1000, Expires: epoch.Unix() + 100})
	charge := func(n uint64, ends bool) {
		t.Helper()
		ended, err := b.Charge(t.Context(), map[identity.PublicKey]uint64{client(1): n})
		if err != nil || len(ended) == 1 != ends {
			t.Errorf("ended %v: %v", ended, err)
		}
	}
	b.ledger.fail = errors.New("damaged")
	if _, err := b.Charge(t.Context(), map[identity.PublicKey]uint64{client(1): 300}); err == nil {
		t.Error("no error while the ledger cannot be read")
	}
	b.ledger.fail = nil
	charge(0, false)
	if got := b.left(t, 1); got != 700 {
		t.Errorf("%d bytes are left, want 700", got)
	}
	s := b.Join(1, client(1), nil, false)
	s.Charge(10)
	charge(600, false)
	charge(600, true) // the lease of the share is part of the 90 that are left
	b.second()
	if got := b.ledger.sum[client(1)]; got != 1000 {
		t.Errorf("%d bytes were recorded, want all of 1,000", got)
	}
	s.Leave()
	b.ledger.add(client(2), Grant{Bytes: 1000, Expires: epoch.Unix() + 100})
	two := map[identity.PublicKey]uint64{client(2): 0}
	if ended, err := b.Charge(t.Context(), two); len(ended) != 0 || err != nil {
		t.Error(ended, err)
	}
	b.now = epoch.Add(100 * time.Second)
	if ended, _ := b.Charge(t.Context(), two); len(ended) != 1 {
		t.Error("a peer outlives its grant")
	}
	b.now = b.now.Add(pinTime)
	b.second()
	b.now = b.now.Add(restTime)
	b.second()
	if n := b.Stats().Accounts; n != 0 {
		t.Errorf("%d accounts are kept that nobody charges", n)
	}
}

// TestSnapshotIsChecked: a snapshot that was cut or changed is an error or other accounts, and never a panic.
func TestSnapshotIsChecked(t *testing.T) {
	b := newBench()
	b.Join(0, client(1), []Grant{{Number: 1, Bytes: 1000, Expires: epoch.Unix() + 60}, {Listed: true, Bytes: 5}}, false).Charge(10)
	b.Join(1, client(2), nil, true)
	var whole []byte
	if err := b.Write(epoch, func(p []byte) error { whole = append(whole, p...); return nil }); err != nil {
		t.Fatal(err)
	}
	read := func(p []byte) error {
		next := NewBook(b.config)
		err := next.Read(epoch, p)
		next.Collect(epoch)
		next.Stats()
		return err
	}
	readable := 0
	for i := range whole {
		if read(whole[:i]) == nil {
			readable++
		}
		changed := slices.Clone(whole)
		changed[i] ^= 0xff
		_ = read(changed)
	}
	if readable != 2 || read(whole) != nil || read(append(whole, whole...)) == nil {
		t.Errorf("%d beginnings can be read, want none and the first account; the whole: %v", readable, read(whole))
	}
}

// TestBook: whatever happens in whatever order, an account never uses more than it was granted, nothing
// is refused while it is left, and the ledger has each used byte once, but for those that were not
// recorded when the process was killed.
//
// Shows R9.22.
func TestBook(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBench()
		shares := make(map[[2]byte]*Share) // by client and shard
		used := make(map[identity.PublicKey]uint64)
		granted := make(map[identity.PublicKey]uint64)
		killed := make(map[identity.PublicKey]uint64) // bytes that the ledger did not have
		expires := rapid.Bool().Draw(t, "expires")
		who := func(t *rapid.T) byte { return byte(rapid.IntRange(1, 2).Draw(t, "client")) }
		where := func(t *rapid.T) byte { return byte(rapid.IntRange(0, 1).Draw(t, "shard")) }
		join := func(id, shard byte) {
			if shares[[2]byte{id, shard}] == nil {
				grants, _, _ := b.ledger.Grants(client(id))
				shares[[2]byte{id, shard}] = b.Join(int(shard), client(id), grants, false)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"join": func(t *rapid.T) {
				if b.ledger.fail == nil {
					join(who(t), where(t))
				}
			},
			"leave": func(t *rapid.T) {
				key := [2]byte{who(t), where(t)}
				if s := shares[key]; s != nil {
					s.Leave()
					delete(shares, key)
				}
			},
			"grant": func(t *rapid.T) {
				if b.ledger.fail != nil {
					return
				}
				id, g := who(t), Grant{Bytes: uint64(rapid.IntRange(1, 100_000).Draw(t, "bytes"))}
				if expires {
					g.Expires = b.now.Unix() + int64(rapid.IntRange(1, 20).Draw(t, "seconds"))
				}
				granted[client(id)] += g.Bytes
				b.Update(client(id), b.ledger.add(client(id), g), false)
			},
			"charge": func(t *rapid.T) {
				id := who(t)
				s, size := shares[[2]byte{id, where(t)}], rapid.IntRange(0, 3000).Draw(t, "size")
				if s == nil {
					return
				}
				left, _ := b.Balance(client(id))
				switch s.Charge(size) {
				case Charged:
					used[client(id)] += uint64(size)
				case UsedUp:
					if left.Bytes >= uint64(max(size, 1)) {
						t.Fatalf("%d bytes were refused while %d are left", size, left.Bytes)
					}
				case Stopped:
					if !b.stopped.Load() {
						t.Fatal("stopped without a reason")
					}
				}
			},
			"device": func(t *rapid.T) {
				id, n := who(t), uint64(rapid.IntRange(0, 3000).Draw(t, "bytes"))
				if b.ledger.fail != nil {
					return
				}
				before := b.total(client(id))
				_, err := b.Charge(context.Background(), map[identity.PublicKey]uint64{client(id): n})
				if err != nil && !errors.Is(err, ErrUnrecorded) {
					t.Fatal(err)
				}
				used[client(id)] += b.total(client(id)) - before
			},
			"second": func(*rapid.T) { b.second() },
			"minutes": func(*rapid.T) {
				b.now = b.now.Add(5 * time.Minute)
				b.second()
			},
			"fail": func(t *rapid.T) {
				b.ledger.fail = nil
				if rapid.Bool().Draw(t, "fails") {
					b.ledger.fail = errors.New("disk full")
				}
			},
			"kill": func(*rapid.T) {
				b.ledger.fail = nil
				for id := range used {
					killed[id] = used[id] - b.ledger.sum[id]
				}
				clear(shares)
				b.open()
			},
			"handover": func(t *rapid.T) {
				old := b.Book
				b.open()
				if err := old.Write(b.now, func(p []byte) error { return b.Read(b.now, slices.Clone(p)) }); err != nil {
					t.Fatal(err)
				}
				old.Retire()
				if err := old.Flush(context.Background()); err != nil && b.ledger.fail == nil {
					t.Fatal(err)
				}
				for key := range shares {
					if shares[key] = b.Rejoin(int(key[1]), client(key[0])); shares[key] == nil {
						t.Fatal("an account with a session was not handed over")
					}
				}
			},
			"": func(t *rapid.T) {
				for id, n := range used {
					if n > granted[id]+killed[id] {
						t.Fatalf("%d bytes of %d were used", n, granted[id])
					}
				}
				for _, a := range b.accounts {
					uncollected, leased := a.words()
					if a.loaded && a.pool.Load()+leased+uncollected != a.left() {
						t.Fatalf("%d in the pool, %d leased, %d used: want together %d", a.pool.Load(), leased, uncollected, a.left())
					}
				}
			},
		})
		b.ledger.fail = nil
		b.second()
		b.second()
		for id, n := range used {
			if got := b.ledger.sum[id] + killed[id]; got != n {
				t.Fatalf("%d bytes were recorded or killed, want %d", got, n)
			}
		}
	})
}
