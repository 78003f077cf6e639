package ledger

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"lewes/crypto/identity"
)

// BenchmarkSpend measures durable spends a second on a disk, of one caller and of 128.
//
//	go test ./state/ledger -run '^$' -bench Spend
func BenchmarkSpend(b *testing.B) {
	for _, callers := range []int{1, 128} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			dir, err := os.MkdirTemp(disk, "ledger-")
			if err != nil {
				b.Fatal(err)
			}
			defer os.RemoveAll(dir)
			l := open(b, filepath.Join(dir, "ledger"))
			defer l.Close()
			spendMany(b, l, callers, b.N, b.ResetTimer)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "spends/s")
		})
	}
}

// spendMany spends n tickets, each of an account of its own.
func spendMany(t testing.TB, l *Ledger, callers, n int, begin func()) {
	var next atomic.Int64
	done := make(chan error)
	begin()
	for range callers {
		go func() {
			for {
				i := int(next.Add(1))
				if i > n {
					done <- nil
					return
				}
				e := numbered("", 0)
				copy(e.Request[1:], fmt.Sprintf("%09d", i))
				e.Ticket.Spent, e.Account = e.Request, identity.PublicKey(e.Request)
				if _, err := l.Commit(context.Background(), e); err != nil {
					done <- err
					return
				}
			}
		}()
	}
	for range callers {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// BenchmarkOpen opens a ledger with 100,000 accounts, each with a spent ticket.
//
//	go test ./state/ledger -run '^$' -bench Open -benchtime 3x -benchmem
func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "ledger")
	l := open(b, path)
	spendMany(b, l, 256, 100_000, func() {})
	_ = l.Close()
	info, _ := os.Stat(path)
	b.ResetTimer()
	for range b.N {
		l := open(b, path)
		accounts := 0
		if err := l.Accounts(func(Account) error { accounts++; return nil }); err != nil || accounts != 100_000 {
			b.Fatal(accounts, err)
		}
		_ = l.Close()
	}
	b.ReportMetric(float64(info.Size())/1e6, "MB-file")
}

// BenchmarkUse charges 10,000 of 100,000 accounts in one transaction, as a busy gateway does each second.
func BenchmarkUse(b *testing.B) {
	l := open(b, filepath.Join(b.TempDir(), "ledger"))
	spendMany(b, l, 256, 100_000, func() {})
	used := map[identity.PublicKey]uint64{}
	_ = l.Accounts(func(a Account) error {
		if len(used) < 10_000 && a.ID[9]%10 == 0 {
			used[a.ID] = 1
		}
		return nil
	})
	b.ResetTimer()
	for range b.N {
		use(b, l, start, used)
	}
}

// BenchmarkSync measures the floor of one caller: the two syncs of a transaction.
func BenchmarkSync(b *testing.B) {
	f, err := os.CreateTemp(disk, "ledger-")
	if err != nil {
		b.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	page := make([]byte, 4096)
	for i := range b.N {
		for n := range 2 {
			if _, err := f.WriteAt(page, int64((i+n)%256)*4096); err != nil {
				b.Fatal(err)
			}
			if err := f.Sync(); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "transactions/s")
}
