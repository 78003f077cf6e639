package ratelimit

import (
	"net/netip"
	"testing"
	"time"
)

var start = time.Unix(1_800_000_000, 0)

// Shows R12.2.
func TestRateAndBurst(t *testing.T) {
	table := NewTable(start, 20, 40, 1)
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
	if ok || wait <= 0 || wait > 50*time.Millisecond {
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
	table := NewTable(start, 1, 1, 7)
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

func TestTakeDoesNotAllocate(t *testing.T) {
	table := NewTable(start, 20, 40, 1)
	source := netip.MustParseAddr("2001:db8::1")
	if n := testing.AllocsPerRun(100, func() { table.Take(start, source) }); n != 0 {
		t.Errorf("Take allocates %v times", n)
	}
}
