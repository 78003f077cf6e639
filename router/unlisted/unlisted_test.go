package unlisted

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"lewes/crypto/identity"
)

var epoch = time.Unix(1_700_000_000, 0)

func key(n int) (id identity.PublicKey) {
	binary.LittleEndian.PutUint64(id[:], uint64(n)+1)
	return id
}

func TestRepeatedTriesAreOneEntry(t *testing.T) {
	var b Book
	if _, added := b.Add(epoch, key(1), netip.MustParseAddr("192.0.2.7")); !added {
		t.Error("the first try is no new entry")
	}
	b.Add(epoch.Add(1), key(2), netip.MustParseAddr("::ffff:192.0.2.8"))
	e, added := b.Add(epoch.Add(2), key(1), netip.MustParseAddr("2001:db8:1:2::3"))
	want := Entry{key(1), netip.MustParsePrefix("2001:db8:1::/48"), epoch, epoch.Add(2), 2}
	if e != want || added {
		t.Errorf("%+v, new: %v; want %+v", e, added, want)
	}
	all := b.All(epoch.Add(3))
	if len(all) != 2 || all[0] != want || all[1].Source != netip.MustParsePrefix("192.0.2.0/24") {
		t.Errorf("%+v", all)
	}
}

func TestEntriesExpire(t *testing.T) {
	var b Book
	b.Add(epoch, key(1), netip.MustParseAddr("192.0.2.7"))
	b.Add(epoch.Add(time.Minute), key(2), netip.MustParseAddr("192.0.2.7"))
	if n := len(b.All(epoch.Add(Lifetime - 1))); n != 2 {
		t.Errorf("%d entries before the hour is over", n)
	}
	if all := b.All(epoch.Add(Lifetime)); len(all) != 1 || all[0].Identity != key(2) {
		t.Errorf("%+v", all)
	}
}

// TestOneSourceDisplacesItself: the identities of one network do not displace those of another.
func TestOneSourceDisplacesItself(t *testing.T) {
	var b Book
	b.Add(epoch, key(0), netip.MustParseAddr("198.51.100.1"))
	for i := range 3 * MaxEntries {
		b.Add(epoch.Add(time.Duration(i)), key(i+1), netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
	}
	all := b.All(epoch)
	if len(all) != MaxPerSource+1 || all[len(all)-1].Identity != key(0) {
		t.Errorf("%d entries, the oldest %+v", len(all), all[len(all)-1])
	}
	for i := range 3 * MaxEntries {
		b.Add(epoch, key(i+10_000), netip.AddrFrom4([4]byte{10, byte(i), byte(i >> 8), 1}))
	}
	if all := b.All(epoch); len(all) != MaxEntries || all[0].Identity != key(3*MaxEntries-1+10_000) {
		t.Errorf("%d entries", len(all))
	}
}
