package meter

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lewes/crypto/identity"
)

// TestConcurrentCharging: sessions of one account in several shards, in both directions, use up what it
// was granted to the last byte and no more, while usage is collected and grants are added.
func TestConcurrentCharging(t *testing.T) {
	const shards, each, first, more = 4, 2, 4 << 20, 1 << 20
	now := func() time.Time { return epoch }
	b, ledger := NewBook(Config{Shards: shards, Now: now}), newLedger(now)
	b.SetLedger(ledger)
	var sum atomic.Uint64
	var charging, others sync.WaitGroup
	for i := range shards {
		s := b.Join(i, client(1), bytes(first), false)
		for j := range each {
			r := rand.New(rand.NewPCG(uint64(i), uint64(j)))
			charging.Go(func() {
				refused := 0
				for refused < 100 { // grants are added meanwhile
					if n := r.IntN(1500); s.Charge(n) == Charged {
						sum.Add(uint64(n))
					} else {
						refused++
						runtime.Gosched()
					}
				}
			})
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	others.Go(func() {
		for ctx.Err() == nil {
			b.Collect(epoch)
			if used := b.take(epoch); used != nil {
				b.recorded(epoch, b.use(ctx, used))
			}
			b.Balance(client(1))
			runtime.Gosched()
		}
	})
	granted := uint64(first)
	for n := range uint64(8) {
		b.Update(client(1), []Grant{{Number: n + 1, Bytes: more}}, false)
		granted += more
		runtime.Gosched()
	}
	charging.Wait()
	stop()
	others.Wait()
	s := b.Join(0, client(1), nil, false)
	for s.Charge(1) == Charged {
		sum.Add(1)
	}
	if err := b.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := sum.Load(); got != granted || ledger.sum[client(1)] != granted {
		t.Errorf("%d bytes were used and %d recorded, want all of %d", got, ledger.sum[client(1)], granted)
	}
}

// TestConcurrentExpiry: grants that expire while several shards use them leave exactly the others.
func TestConcurrentExpiry(t *testing.T) {
	for range 20 {
		var at atomic.Int64
		at.Store(epoch.Unix())
		now := func() time.Time { return time.Unix(at.Load(), 0) }
		b := NewBook(Config{Shards: 2, Now: now})
		grants := []Grant{{Bytes: 1 << 30, Expires: epoch.Unix() + 1}, {Bytes: 100_000}}
		var sum atomic.Uint64
		var charging sync.WaitGroup
		for i := range 2 {
			s := b.Join(i, client(1), grants, false)
			charging.Go(func() {
				for s.Charge(1000) == Charged {
					if at.Load() != epoch.Unix() {
						sum.Add(1000)
					}
				}
			})
		}
		at.Add(1)
		b.Collect(now())
		charging.Wait()
		b.Collect(now())
		// Datagrams of the moment of the expiry count for either grant.
		if used := b.Stats().Used; sum.Load() > used || b.accounts[client(1)].left() > 1000 {
			t.Errorf("%d bytes were used, %d are left", used, b.accounts[client(1)].left())
		}
	}
}

// TestRun: usage is recorded each second, the last of it at the end, a renewed account is not told that it
// was used up, and the owner is told when recording
// fails and works again.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failures, endings, notices int
		b := NewBook(Config{
			Shards: 1, Now: time.Now,
			Failing: func(error) { failures++ },
			Notify:  func(n []Notice) { notices += len(n) },
		})
		b.config.Renew = func(ids []identity.PublicKey) {
			endings++
			b.Update(ids[0], []Grant{{Number: 2, Bytes: 500}}, false)
		}
		ledger := newLedger(time.Now)
		s := b.Join(0, client(1), bytes(1000), false)
		ctx, stop := context.WithCancel(t.Context())
		var runs sync.WaitGroup
		runs.Go(func() { b.Run(ctx) })
		s.Charge(700)
		time.Sleep(Interval * 3 / 2)
		synctest.Wait()
		if failures != 1 || b.Stats().Unrecorded != 700 {
			t.Errorf("%d failures without a ledger; %+v", failures, b.Stats())
		}
		b.SetLedger(ledger)
		s.Charge(300)
		time.Sleep(Interval)
		synctest.Wait()
		if failures != 2 || ledger.sum[client(1)] != 1000 || notices != 0 || endings != 1 {
			t.Errorf("%d recorded, %d failures, %d notices, %d endings", ledger.sum[client(1)], failures, notices, endings)
		}
		if s.Charge(100) != Charged {
			t.Error("the account was not renewed")
		}
		stop()
		runs.Wait()
		if err := b.Flush(t.Context()); err != nil || ledger.sum[client(1)] != 1100 {
			t.Errorf("%d recorded at the end: %v", ledger.sum[client(1)], err)
		}
	})
}

func TestChargeDoesNotAllocate(t *testing.T) {
	b := NewBook(Config{Shards: 1, Now: time.Now})
	s := b.Join(0, client(1), bytes(1<<40), false)
	if n := testing.AllocsPerRun(1000, func() { s.Charge(10_000) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCharge(b *testing.B) {
	book := NewBook(Config{Shards: 2, Now: time.Now})
	s := book.Join(0, client(1), nil, true)
	b.Run("one", func(b *testing.B) {
		for b.Loop() {
			s.Charge(1200)
			s.word.And(leaseMask)
		}
	})
	b.Run("both directions", func(b *testing.B) {
		b.SetParallelism(1)
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				s.Charge(1200)
				s.word.And(leaseMask)
			}
		})
	})
}

// BenchmarkAccounts loads 100,000 accounts with a session each, hands them over, and collects them: idle, and all
// in use.
func BenchmarkAccounts(b *testing.B) {
	const n = 100_000
	fill := func() *Book {
		book := NewBook(Config{Shards: 2, Now: time.Now})
		for i := range n {
			id := identity.PublicKey{byte(i), byte(i >> 8), byte(i >> 16)}
			book.Join(i%2, id, []Grant{{Number: 1, Bytes: 10 << 30, Expires: 2_000_000_000 + int64(i)}}, false)
		}
		return book
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	book := fill()
	runtime.GC()
	runtime.ReadMemStats(&after)
	perAccount := float64(after.HeapAlloc-before.HeapAlloc) / n
	b.Run("load", func(b *testing.B) {
		for b.Loop() {
			fill()
		}
		b.ReportMetric(perAccount, "B/account")
	})
	b.Run("handover", func(b *testing.B) {
		for b.Loop() {
			next := NewBook(book.config)
			if err := book.Write(epoch, func(p []byte) error { return next.Read(epoch, p) }); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, active := range []int{0, n} {
		b.Run(fmt.Sprintf("collect/%d", active), func(b *testing.B) {
			book.SetLedger(newLedger(time.Now))
			i := 0
			for b.Loop() {
				b.StopTimer()
				i = 0
				for _, a := range book.accounts {
					if i++; i > active {
						break
					}
					for j := range a.shares {
						if s := a.shares[j].Load(); s != nil {
							s.Charge(1200)
						}
					}
				}
				b.StartTimer()
				book.Collect(time.Now())
				if used := book.take(time.Now()); used != nil {
					book.recorded(time.Now(), nil)
				}
			}
		})
	}
	runtime.KeepAlive(book)
}
