package wireguard

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"lewes/crypto/identity"
)

// TestSetAgainKeepsThePeer: a registration that is repeated must not remove the peer that it reports.
func TestSetAgainKeepsThePeer(t *testing.T) {
	b := newBed(t)
	b.reconcile()
	first := b.register(1, 1, 7, Peer{})
	b.has(first)
	b.must(b.d.Set(t.Context(), first))
	b.has(first)
	// After a new session the preshared key is another one, and the address is the same.
	again := b.register(1, 1, 8, first)
	if again.IPv4 != first.IPv4 || again.IPv6 != first.IPv6 {
		t.Errorf("registering again gave %v %v instead of %v %v", again.IPv4, again.IPv6, first.IPv4, first.IPv6)
	}
	b.has(again)
}

// TestNewKeyReplacesTheOldOne: one account has one peer, and what the old one used is charged.
//
// Shows R9.32.
func TestNewKeyReplacesTheOldOne(t *testing.T) {
	b := newBed(t)
	b.reconcile()
	first := b.register(1, 1, 7, Peer{})
	b.count(1, 1000)
	second := b.register(1, 2, 8, first)
	b.has(second)
	b.tick()
	b.paid(1, 1000)
	if slices.Contains(b.w.forgotten, second.IPv4) {
		t.Errorf("connections of %v were deleted, which is in use", second.IPv4)
	}
}

// TestKeyMovesToItsProver: a key that another account registers moves in one step, and the account that had it
// can no longer remove it.
//
// Shows R9.32.
func TestKeyMovesToItsProver(t *testing.T) {
	b := newBed(t)
	b.reconcile()
	first := b.register(1, 1, 7, Peer{})
	b.count(1, 300)
	moved := b.register(2, 1, 8, Peer{})
	b.has(moved)
	b.tick()
	b.paid(1, 300)
	b.count(1, 40)
	b.must(b.d.Remove(t.Context(), first))
	b.has(moved)
	b.tick()
	b.paid(2, 40)
	if moved.IPv4 == first.IPv4 {
		t.Errorf("both accounts have %v", first.IPv4)
	}
}

// TestAddressesDoNotLeak registers and removes as often as there are addresses, many times.
func TestAddressesDoNotLeak(t *testing.T) {
	b := newBed(t)
	b.reconcile()
	for range 10 {
		for i := range byte(5) {
			p := b.register(1, i+1, 7, Peer{})
			if i == 4 {
				_, _, release, err := b.d.Reserve(t0, identity.PublicKey{2}, Key{9}, nil)
				if !errors.Is(err, ErrNoAddress) || release != nil {
					t.Fatalf("reserved while 4 addresses rest and one is in use: %v", err)
				}
			}
			b.must(b.d.Remove(t.Context(), p))
			b.must(b.d.Remove(t.Context(), p))
		}
		b.has()
		b.pass(restForgotten)
	}
	if s := b.d.Stats(); s.Resting != 0 || s.Exhausted != 10 {
		t.Errorf("%+v after all have rested", s)
	}
}

// TestReservationIsUndone: a registration that ends before it is stored leaves no trace.
func TestReservationIsUndone(t *testing.T) {
	b := newBed(t)
	b.reconcile()
	for range 20 {
		_, _, release, err := b.d.Reserve(t0, identity.PublicKey{1}, Key{1}, nil)
		b.must(err)
		release()
		release()
	}
	b.has()
}

// TestEveryAddressOnce reserves from all sides at once: no address of the device or of the machine, no address of
// a network or broadcast, none twice.
//
// Shows R9.34.
func TestEveryAddressOnce(t *testing.T) {
	b := newBed(t)
	b.reconcile()
	var (
		mu      sync.Mutex
		got     []string
		running sync.WaitGroup
	)
	for i := range byte(20) {
		running.Go(func() {
			v4, v6, _, err := b.d.Reserve(t0, identity.PublicKey{i + 1}, Key{i + 1}, nil)
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, v4.String()+" "+v6.String())
			}
		})
	}
	running.Wait()
	slices.Sort(got)
	want := []string{"10.77.0.2 fd77::2", "10.77.0.3 fd77::3", "10.77.0.4 fd77::4", "10.77.0.5 fd77::5", "10.77.0.6 fd77::6"}
	if !slices.Equal(got, want) {
		t.Errorf("reserved %q, want %q", got, want)
	}
}

// TestPoolBounds checks which prefixes can be a pool, and their first and last addresses.
func TestPoolBounds(t *testing.T) {
	for _, c := range []struct {
		v4, v6      string
		first, last string // "": refused
	}{
		{"10.0.0.0/24", "", "10.0.0.1", "10.0.0.254"},
		{"10.0.0.0/30", "fd00::/64", "10.0.0.1", "10.0.0.2"},
		{"", "fd00::/126", "fd00::1", "fd00::3"},
		{"10.0.0.0/8", "", "10.0.0.1", "10.2.0.0"}, // MaxPeers
		{"", "fd00::/64", "fd00::1", "fd00::2:0"},
		{"10.0.0.0/31", "", "", ""},
		{"10.0.0.0/32", "", "", ""},
		{"", "fd00::/128", "", ""},
		{"10.0.0.1/24", "", "", ""},
		{"", "", "", ""},
	} {
		var v4, v6 netip.Prefix
		if c.v4 != "" {
			v4 = netip.MustParsePrefix(c.v4)
		}
		if c.v6 != "" {
			v6 = netip.MustParsePrefix(c.v6)
		}
		p, err := newPool(v4, v6)
		if err != nil {
			if c.first != "" {
				t.Errorf("pool %s %s: %v", c.v4, c.v6, err)
			}
			continue
		}
		addr := func(offset uint32) string {
			a, b := p.at(offset)
			if a.IsValid() {
				return a.String()
			}
			return b.String()
		}
		if addr(1) != c.first || addr(p.last) != c.last {
			t.Errorf("pool %s %s has addresses from %s to %s, want %s to %s", c.v4, c.v6, addr(1), addr(p.last), c.first, c.last)
		}
	}
}

// TestReleasedAddressRests: 10 min where its connections are deleted, an hour where they cannot be.
//
// Shows R9.34.
func TestReleasedAddressRests(t *testing.T) {
	for _, c := range []struct {
		err  error
		rest time.Duration
	}{{nil, 10 * time.Minute}, {errors.New("operation not permitted"), time.Hour}} {
		b := newBed(t, func(c *Config) { c.IPv4, c.IPv6 = netip.MustParsePrefix("10.77.0.0/30"), netip.Prefix{} }) // one address
		b.w.do(func() { b.w.forgetErr = c.err })
		b.reconcile()
		p := b.register(1, 1, 7, Peer{})
		b.w.do(func() { b.w.forgotten = nil })
		b.must(b.d.Remove(t.Context(), p))
		b.tick()
		if c.err == nil && !slices.Equal(b.w.forgotten, []netip.Addr{p.IPv4}) {
			t.Errorf("connections of %v were deleted, want those of %v", b.w.forgotten, p.IPv4)
		}
		if got := b.d.RestTime(); got != c.rest {
			t.Errorf("an address rests for %v, want %v", got, c.rest)
		}
		b.pass(c.rest - time.Second)
		b.exhausted()
		b.pass(2 * time.Second)
		if again := b.register(2, 2, 7, Peer{}); again.IPv4 != p.IPv4 {
			t.Errorf("after its rest %v is not handed out, but %v", p.IPv4, again.IPv4)
		}
	}
}

// TestRestart: the ledger's peers are completed and corrected, their addresses are not handed out, and what they
// used before is not charged again.
//
// Shows R9.35.
func TestRestart(t *testing.T) {
	b := newBed(t)
	b.reconcile()
	same, changed, missing := b.register(1, 1, 7, Peer{}), b.register(2, 2, 7, Peer{}), b.register(3, 3, 7, Peer{})
	b.count(1, 5000)
	b.stop()
	b.paid(1, 5000) // the last charge
	b.count(1, 70)  // while no gateway runs
	b.w.do(func() { delete(b.w.on, wgtypes.Key{3}) })
	changed.PSK = Key{9}

	b.start()
	if _, _, _, err := b.d.Reserve(t0, identity.PublicKey{4}, Key{4}, nil); err == nil {
		t.Error("reserved before the ledger was read")
	}
	b.reconcile(same, changed, missing)
	b.has(same, changed, missing)
	b.count(1, 200)
	b.tick()
	b.paid(1, 5200)
	a, c := b.register(4, 4, 7, Peer{}), b.register(5, 5, 7, Peer{})
	b.has(same, changed, missing, a, c)
	b.exhausted()
	if got := b.register(1, 1, 7, same); got.IPv4 != same.IPv4 {
		t.Errorf("an account that registers again after a restart gets %v instead of %v", got.IPv4, same.IPv4)
	}
}

// TestRestGoesOnAfterRestart: an address that rests in the ledger is not handed out before its time.
func TestRestGoesOnAfterRestart(t *testing.T) {
	b := newBed(t, func(c *Config) { c.IPv4, c.IPv6 = netip.MustParsePrefix("10.77.0.0/30"), netip.Prefix{} })
	b.d.Rest(identity.PublicKey{1}, netip.MustParseAddr("10.77.0.2"), t0.Add(time.Minute))
	b.reconcile()
	b.exhausted()
	b.pass(time.Minute)
	b.register(2, 2, 7, Peer{})
}

// TestRemovingGoesOnAfterRestart: a peer that was about to be removed goes, and its address rests.
func TestRemovingGoesOnAfterRestart(t *testing.T) {
	b := newBed(t)
	b.reconcile()
	p := b.register(1, 1, 7, Peer{})
	b.stop()
	b.start()
	b.reconcile()
	b.must(b.d.Remove(t.Context(), p))
	b.has()
	for i := range byte(4) {
		if q := b.register(i+2, i+2, 7, Peer{}); q.IPv4 == p.IPv4 {
			t.Errorf("%v is handed out without a rest", p.IPv4)
		}
	}
	b.exhausted()
}

// TestPeersOfOthersAreLeftAlone: neither they nor their addresses are touched, at the start and later.
//
// Shows R9.35.
func TestPeersOfOthersAreLeftAlone(t *testing.T) {
	b := newBed(t)
	foreign := func(key byte, prefixes ...string) Peer {
		x := &wgtypes.Peer{PublicKey: wgtypes.Key{key}, PresharedKey: wgtypes.Key{key}}
		p := Peer{Key: Key{key}, PSK: Key{key}}
		for _, s := range prefixes {
			_, n, err := net.ParseCIDR(s)
			b.must(err)
			x.AllowedIPs = append(x.AllowedIPs, *n)
			p.IPv4 = prefix(*n).Addr()
		}
		b.w.do(func() { b.w.on[x.PublicKey] = x })
		return p
	}
	site := foreign(0xf0, "10.77.0.4/31")
	laptop := foreign(0xf1, "10.77.0.2/32")
	b.reconcile()
	mine := b.register(1, 1, 7, Peer{})
	b.has(site, laptop, mine)
	if s := b.d.Stats(); s.Foreign != 2 || s.Peers != 1 {
		t.Errorf("%+v with two prefixes of others", s)
	}

	// Whoever proves the key of such a peer does not get it.
	if _, _, _, err := b.d.Reserve(t0, identity.PublicKey{2}, laptop.Key, nil); !errors.Is(err, ErrForeignPeer) {
		t.Errorf("reserved for a peer of others: %v", err)
	}
	if err := b.d.Set(t.Context(), Peer{Account: identity.PublicKey{2}, Key: laptop.Key, PSK: Key{7}, IPv4: netip.MustParseAddr("10.77.0.6")}); !errors.Is(err, ErrForeignPeer) {
		t.Errorf("set a peer of others: %v", err)
	}
	b.has(site, laptop, mine)

	// The operator gives another peer the address of an account: it is not taken back.
	b.must(b.w.ConfigureDevice("", wgtypes.Config{Peers: []wgtypes.PeerConfig{{
		PublicKey: wgtypes.Key{0xf2}, AllowedIPs: []net.IPNet{{IP: mine.IPv4.AsSlice(), Mask: net.CIDRMask(32, 32)}},
	}}}))
	b.tick()
	taken := Peer{Key: Key{0xf2}, IPv4: mine.IPv4}
	b.has(site, laptop, taken, Peer{Key: mine.Key, PSK: mine.PSK, IPv6: mine.IPv6})
	b.must(b.d.Remove(t.Context(), mine))
	b.has(site, laptop, taken)
}

// TestOldBackup: the device has a peer that the restored ledger does not know. It stays, and so does its address.
func TestOldBackup(t *testing.T) {
	b := newBed(t)
	b.reconcile()
	unknown := b.register(1, 1, 7, Peer{})
	b.stop()
	b.start()
	b.reconcile()
	for i := range byte(4) {
		if p := b.register(i+2, i+2, 7, Peer{}); p.IPv4 == unknown.IPv4 {
			t.Errorf("%v is handed out twice", p.IPv4)
		}
	}
	b.exhausted()
	if s := b.d.Stats(); s.Foreign == 0 {
		t.Error("the unknown peer is not counted")
	}
}

// TestDamagedLedger: of two peers with one address or key the first one counts, and an address of the machine is
// never a peer's.
func TestDamagedLedger(t *testing.T) {
	b := newBed(t)
	v4 := netip.MustParseAddr("10.77.0.3")
	first := Peer{Account: identity.PublicKey{1}, Key: Key{1}, PSK: Key{1}, IPv4: v4}
	gateway := Peer{Account: identity.PublicKey{4}, Key: Key{4}, PSK: Key{4}, IPv4: own[0]}
	b.reconcile(
		first, gateway,
		Peer{Account: identity.PublicKey{2}, Key: Key{2}, IPv4: v4},
		Peer{Account: identity.PublicKey{3}, Key: Key{1}, IPv4: netip.MustParseAddr("10.77.0.5")},
	)
	b.tick()
	gateway.IPv4 = netip.Addr{}
	b.has(first, gateway)
}

// TestDeviceIsMissing: registrations fail with the device's name until it appears, at the start and later; then
// all peers are back.
func TestDeviceIsMissing(t *testing.T) {
	b := newBed(t, func(c *Config) { c.Name = "wg7" })
	absent := errors.New("file does not exist")
	b.w.do(func() { b.w.missing = absent })
	b.tick()
	old := Peer{Account: identity.PublicKey{1}, Key: Key{1}, PSK: Key{1}, IPv4: netip.MustParseAddr("10.77.0.5")}
	b.reconcile(old)
	_, _, _, err := b.d.Reserve(t0, identity.PublicKey{2}, Key{2}, nil)
	if !errors.Is(err, absent) || err.Error() != "wireguard: device wg7: file does not exist" {
		t.Errorf("reserved on a missing device: %v", err)
	}
	if s := b.d.Stats(); s.Up != 0 || s.Failures == 0 {
		t.Errorf("%+v with a missing device", s)
	}
	b.w.do(func() { b.w.missing = nil })
	b.tick()
	b.has(old)
	second := b.register(2, 2, 7, Peer{})
	b.count(1, 10)
	b.tick()

	// It goes and comes back without peers, with counters from zero.
	b.w.do(func() { b.w.missing = absent })
	b.tick()
	if err := b.d.Set(t.Context(), second); !errors.Is(err, absent) {
		t.Errorf("set on a missing device: %v", err)
	}
	b.w.do(func() { b.w.missing = nil; clear(b.w.on) })
	b.tick()
	b.has(old, second)
	b.count(1, 12)
	b.tick()
	b.paid(1, 22)
	if b.d.Err() != nil || b.d.Stats().Up != 1 {
		t.Errorf("%v, %+v when the device is back", b.d.Err(), b.d.Stats())
	}
}

// TestManyPeersAreSetInPieces: a call with all of them would take a device of wireguard-go half a minute.
func TestManyPeersAreSetInPieces(t *testing.T) {
	b := newBed(t)
	var all []Peer
	for i := range maxPeersOfCall + 100 {
		x, y := byte(i>>8), byte(i)
		all = append(all, Peer{Account: identity.PublicKey{1, x, y}, Key: Key{1, x, y}, IPv4: netip.AddrFrom4([4]byte{10, 77, x, y})})
	}
	b.reconcile(all...)
	if n := len(b.w.on); n != len(all) || b.w.most > maxPeersOfCall {
		t.Errorf("%d of %d peers are set, at most %d in one call", n, len(all), b.w.most)
	}
}

// TestUnfinishedDevice: without a key, whose public one everybody would have, or a port, it is not used.
func TestUnfinishedDevice(t *testing.T) {
	b := newBed(t)
	b.reconcile()
	for _, c := range []struct {
		key  wgtypes.Key
		port int
		want error
	}{{port: 51820, want: errNoKey}, {key: wgtypes.Key{1}, want: errNoPort}} {
		b.w.do(func() { b.w.private, b.w.port = c.key, c.port })
		b.tick()
		if _, _, _, err := b.d.Reserve(t0, identity.PublicKey{1}, Key{1}, nil); !errors.Is(err, c.want) {
			t.Errorf("key %v, port %d: %v", c.key[0], c.port, err)
		}
	}
}

// TestDeviceHangs: requests fail instead of waiting, and the device is used again once it answers.
func TestDeviceHangs(t *testing.T) {
	b := newBed(t)
	b.reconcile()
	p := b.register(1, 1, 7, Peer{})
	blocked, late := make(chan struct{}), make(chan time.Time)
	close(late)
	b.w.do(func() { b.w.blocked, b.w.late = blocked, late })
	for range 3 { // one call hangs, the others do not begin
		if err := b.d.Set(t.Context(), p); !errors.Is(err, errSilent) {
			t.Errorf("set on a device that hangs: %v", err)
		}
	}
	if b.d.Err() == nil || b.d.Stats().Up != 0 {
		t.Errorf("%v, %+v with a device that hangs", b.d.Err(), b.d.Stats())
	}
	b.w.do(func() { b.w.blocked, b.w.late = nil, nil })
	close(blocked)
	for b.d.Set(t.Context(), p) != nil { // until the call has returned
	}
	b.has(p)
}

// TestUsedUpAccountLosesItsPeer: End is called once, and what it removes is gone.
//
// Shows R9.36.
func TestUsedUpAccountLosesItsPeer(t *testing.T) {
	b := newBed(t)
	b.reconcile()
	p, other := b.register(1, 1, 7, Peer{}), b.register(2, 2, 7, Peer{})
	b.w.end = func(ctx context.Context, _ identity.PublicKey) error { return b.d.Remove(ctx, p) }
	b.w.do(func() { b.w.empty[p.Account] = true })
	b.count(1, 1000)
	b.tick()
	if got := <-b.w.ended; got != p.Account {
		t.Errorf("ended %v", got)
	}
	b.has(other)
	b.paid(1, 1000)

	// An account that expires without traffic is noticed as well.
	b.w.end = func(ctx context.Context, _ identity.PublicKey) error { return b.d.Remove(ctx, other) }
	b.w.do(func() { b.w.empty[other.Account] = true })
	b.pass(lookAfter)
	<-b.w.ended
	b.has()
}

// TestIdlePeerEnds: where nothing is charged, a peer without traffic gives its address back.
func TestIdlePeerEnds(t *testing.T) {
	b := newBed(t, func(c *Config) { c.Idle = 24 * time.Hour })
	b.reconcile()
	p, other := b.register(1, 1, 7, Peer{}), b.register(2, 2, 7, Peer{})
	b.w.end = func(ctx context.Context, _ identity.PublicKey) error { return b.d.Remove(ctx, p) }
	b.pass(23 * time.Hour)
	b.has(p, other)
	b.count(2, 1)
	b.tick()
	b.pass(time.Hour)
	if got := <-b.w.ended; got != p.Account {
		t.Errorf("ended %v", got)
	}
	b.has(other)
}

// TestLedgerFails: the peers are off the device until it works again, if that is configured.
func TestLedgerFails(t *testing.T) {
	for _, stop := range []bool{true, false} {
		b := newBed(t, func(c *Config) { c.StopWithoutLedger = stop })
		b.reconcile()
		p := b.register(1, 1, 7, Peer{})
		b.w.do(func() { b.w.chargeErr = errors.New("no space left on device") })
		b.count(1, 100)
		b.tick()
		b.tick()
		if stop {
			b.has()
		} else {
			b.has(p)
		}
		b.w.do(func() { b.w.chargeErr = nil })
		b.tick()
		b.tick()
		b.has(p)
		b.paid(1, 100)
		b.count(1, 7)
		b.tick()
		b.paid(1, 107)
	}
}

// TestRequestsEndWithRun: nobody waits for a Device that has stopped.
func TestRequestsEndWithRun(t *testing.T) {
	b := newBed(t)
	b.stop()
	if err := b.d.Set(t.Context(), Peer{}); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	b.start()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.stop()
	if err := b.d.Remove(ctx, Peer{}); err == nil {
		t.Error("removed without a device")
	}
}

// TestData gives clients the device's key and, where the configuration has none, its port.
func TestData(t *testing.T) {
	for endpoint, want := range map[string]string{
		"gw.example.com": "gw.example.com:51820", "gw.example.com:443": "gw.example.com:443", "[2001:db8::1]:0": "[2001:db8::1]:51820", "2001:db8::1": "[2001:db8::1]:51820",
	} {
		b := newBed(t, func(c *Config) { c.Endpoint = endpoint })
		b.reconcile()
		if key, got := b.d.Data(); got != want || key != (Key{0xdd}) {
			t.Errorf("%s: %s and key %x", endpoint, got, key)
		}
	}
}
