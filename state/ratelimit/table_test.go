package ratelimit

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var start = time.Unix(1_800_000_000, 0)

func seeded(seed uint64) io.Reader {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	return rand.NewChaCha8(key)
}

func newTable(t testing.TB, rate float64, burst int) *Table {
	t.Helper()
	table, err := NewTable(start, rate, burst, seeded(1))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// Shows R12.2.
func TestRateAndBurst(t *testing.T) {
	table := newTable(t, 20, 40)
	source := netip.MustParseAddr("192.0.2.1")
	taken := 0
	for range 1000 {
		if _, ok := table.Take(start, source); ok {
			taken++
		}
	}
	if taken != 40 {
		t.Errorf("burst: %d taken, want 40", taken)
	}
	wait, ok := table.Take(start, source)
	if ok || wait <= 0 || wait > 50*time.Millisecond || table.Wait(start, source) != wait {
		t.Errorf("wait = %v, %v; want at most 50ms, false", wait, ok)
	}
	taken = 0
	for i := range 10_000 { // ten seconds
		if _, ok := table.Take(start.Add(time.Duration(i)*time.Millisecond), source); ok {
			taken++
		}
	}
	if taken < 199 || taken > 201 {
		t.Errorf("rate: %d taken in 10 s, want about 200", taken)
	}
}

func TestAddressesOfPrefixShareBucket(t *testing.T) {
	table := newTable(t, 1, 1)
	first, same, other := netip.MustParseAddr("2001:db8:1:2::1"), netip.MustParseAddr("2001:db8:1:2:ffff::9"), netip.MustParseAddr("2001:db8:1:3::1")
	if _, ok := table.Take(start, first); !ok {
		t.Fatal("first token refused")
	}
	if _, ok := table.Take(start, same); ok {
		t.Error("an address of the same /64 has its own bucket")
	}
	if _, ok := table.Take(start, other); !ok {
		t.Error("another /64 has no bucket of its own")
	}
	if _, ok := table.Take(start, netip.MustParseAddr("192.0.2.1")); !ok {
		t.Error("IPv4 source refused")
	}
	if _, ok := table.Take(start, netip.MustParseAddr("::ffff:192.0.2.1")); ok {
		t.Error("a mapped IPv4 address has its own bucket")
	}
	if _, ok := table.Take(start, netip.MustParseAddr("192.0.2.2")); !ok {
		t.Error("another /32 has no bucket of its own")
	}
}

// TestConcurrentTakesKeepTheBurst has several goroutines take the tokens of one source.
//
// Shows R12.2.
func TestConcurrentTakesKeepTheBurst(t *testing.T) {
	table := newTable(t, 20, 400)
	source := netip.MustParseAddr("192.0.2.1")
	var taken atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 200 {
				if _, ok := table.Take(start, source); ok {
					taken.Add(1)
				}
			}
		})
	}
	all.Wait()
	if got := taken.Load(); got != 400 {
		t.Errorf("%d tokens were taken, want 400", got)
	}
}

// TestCollisionsEndWithTheKey finds two sources that share a bucket. After the key is replaced they
// have buckets of their own.
//
// Shows R12.20.
func TestCollisionsEndWithTheKey(t *testing.T) {
	table := newTable(t, 1, 1)
	source := func(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}) }
	seen := map[*atomic.Int64]netip.Addr{}
	var a, b netip.Addr
	for n := 0; !a.IsValid(); n++ {
		slot := table.slot(0, source(n))
		a, b = seen[slot], source(n)
		seen[slot] = b
	}
	if _, ok := table.Take(start, a); !ok {
		t.Fatal("first token refused")
	}
	if _, ok := table.Take(start, b); ok {
		t.Fatal("the sources do not share a bucket")
	}
	if at := start.Add(renewal - time.Nanosecond); table.slot(int64(at.Sub(start)), a) != table.slot(int64(at.Sub(start)), b) {
		t.Error("the key was replaced early")
	}
	at := start.Add(renewal)
	for _, s := range []netip.Addr{a, b} {
		if _, ok := table.Take(at, s); !ok {
			t.Errorf("with another key %v finds no token", s)
		}
	}
	// Without randomness the key stays, and still limits.
	table.rand = failing{}
	if _, ok := table.Take(at.Add(renewal), a); !ok {
		t.Error("a token is refused for want of randomness")
	}
	if _, ok := table.Take(at.Add(renewal), a); ok {
		t.Error("without randomness nothing is limited")
	}
	if _, err := NewTable(start, 1, 1, failing{}); err == nil {
		t.Error("a table without a key was made")
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("no randomness") }

func TestTakeDoesNotAllocate(t *testing.T) {
	table := newTable(t, 20, 40)
	source := netip.MustParseAddr("2001:db8::1")
	if n := testing.AllocsPerRun(100, func() { table.Take(start, source) }); n != 0 {
		t.Errorf("Take allocates %v times", n)
	}
}
