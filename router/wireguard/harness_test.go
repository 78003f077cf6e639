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

	"go.uber.org/zap/zaptest"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"lewes/crypto/identity"
)

var (
	t0    = time.Unix(1_800_000_000, 0)
	pool4 = netip.MustParsePrefix("10.77.0.0/29") // .2 to .6 can be handed out
	pool6 = netip.MustParsePrefix("fd77::/64")
	own   = []netip.Addr{netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("fd77::1"), netip.MustParseAddr("192.0.2.1")}
)

// world is what a Device talks to: a WireGuard device and accounts in memory.
type world struct {
	mu        sync.Mutex // guards the fields below
	now       time.Time
	missing   error // of the device
	public    byte
	private   wgtypes.Key
	port      int
	on        map[wgtypes.Key]*wgtypes.Peer
	charged   map[identity.PublicKey]uint64
	empty     map[identity.PublicKey]bool // accounts without bandwidth
	chargeErr error
	forgetErr error
	forgotten []netip.Addr
	most      int            // peers in one call
	blocked   chan struct{}  // calls of the device wait for its end; nil: they do not
	late      chan time.Time // ready: calls of the device take too long
	ended     chan identity.PublicKey
	end       func(context.Context, identity.PublicKey) error
}

func (w *world) do(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

func (w *world) time() (now time.Time) {
	w.do(func() { now = w.now })
	return now
}

func (w *world) Device(string) (*wgtypes.Device, error) {
	var blocked chan struct{}
	w.do(func() { blocked = w.blocked })
	if blocked != nil {
		<-blocked
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.missing != nil {
		return nil, w.missing
	}
	d := &wgtypes.Device{PrivateKey: w.private, PublicKey: wgtypes.Key{w.public}, ListenPort: w.port}
	for _, p := range w.on {
		x := *p
		x.AllowedIPs = slices.Clone(p.AllowedIPs)
		d.Peers = append(d.Peers, x)
	}
	return d, nil
}

// ConfigureDevice does what WireGuard does: an address has one peer, the last one that got it.
func (w *world) ConfigureDevice(_ string, c wgtypes.Config) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.missing != nil {
		return w.missing
	}
	w.most = max(w.most, len(c.Peers))
	for _, x := range c.Peers {
		if x.Remove {
			delete(w.on, x.PublicKey)
			continue
		}
		p := w.on[x.PublicKey]
		if p == nil {
			p = &wgtypes.Peer{PublicKey: x.PublicKey}
			w.on[x.PublicKey] = p
		}
		if x.PresharedKey != nil {
			p.PresharedKey = *x.PresharedKey
		}
		if x.ReplaceAllowedIPs {
			p.AllowedIPs = nil
		}
		for _, n := range x.AllowedIPs {
			for _, other := range w.on {
				other.AllowedIPs = slices.DeleteFunc(other.AllowedIPs, func(o net.IPNet) bool { return prefix(o) == prefix(n) })
			}
			p.AllowedIPs = append(p.AllowedIPs, n)
		}
	}
	return nil
}

func (w *world) Charge(_ context.Context, used map[identity.PublicKey]uint64) (ended []identity.PublicKey, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for a, n := range used {
		w.charged[a] += n
		used[a] = 0
		if w.empty[a] {
			ended = append(ended, a)
		}
	}
	return ended, w.chargeErr
}

func (w *world) End(ctx context.Context, a identity.PublicKey) error {
	err := w.end(ctx, a)
	w.ended <- a
	return err
}

func (w *world) forget(a netip.Addr) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.forgetErr == nil {
		w.forgotten = append(w.forgotten, a)
	}
	return w.forgetErr
}

// bed is a Device in a world. It reads the counters only when told to.
type bed struct {
	*testing.T
	w     *world
	d     *Device
	ticks chan time.Time
	stop  func()
}

func newBed(t *testing.T, change ...func(*Config)) *bed {
	t.Helper()
	b := &bed{T: t, w: &world{
		now: t0, public: 0xdd, private: wgtypes.Key{0xdd}, port: 51820, on: make(map[wgtypes.Key]*wgtypes.Peer), charged: make(map[identity.PublicKey]uint64),
		empty: make(map[identity.PublicKey]bool), ended: make(chan identity.PublicKey, 10),
	}}
	b.start(change...)
	return b
}

// start starts a Device: the first one, or one after a restart.
func (b *bed) start(change ...func(*Config)) {
	b.Helper()
	c := Config{
		Name: "wg0", IPv4: pool4, IPv6: pool6, Endpoint: "gw.example.com", Accounts: b.w, Control: b.w,
		Log: zaptest.NewLogger(b.T), Clock: b.w.time, Own: func() ([]netip.Addr, error) { return own, nil }, Forget: b.w.forget,
	}
	for _, f := range change {
		f(&c)
	}
	d, err := New(c)
	b.must(err)
	d.loop.after = func() (late <-chan time.Time) {
		b.w.do(func() { late = b.w.late })
		return late
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	ticks := make(chan time.Time)
	running.Go(func() { d.run(ctx, ticks) })
	b.d, b.ticks, b.stop = d, ticks, func() { cancel(); running.Wait() }
	b.Cleanup(b.stop)
}

func (b *bed) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// reconcile starts the peers of a ledger.
func (b *bed) reconcile(peers ...Peer) {
	b.Helper()
	b.must(b.d.Reconcile(b.Context(), peers))
	b.tick()
}

// tick has the device read: the second tick is taken when the first one is done.
func (b *bed) tick() {
	b.ticks <- t0
	b.ticks <- t0
}

// pass lets time pass.
func (b *bed) pass(d time.Duration) {
	b.w.do(func() { b.w.now = b.w.now.Add(d) })
	b.tick()
}

// register does what a registration does: it reserves and sets.
func (b *bed) register(account, key, psk byte, standing Peer) Peer {
	b.Helper()
	p := Peer{Account: identity.PublicKey{account}, Key: Key{key}, PSK: Key{psk}}
	var err error
	p.IPv4, p.IPv6, _, err = b.d.Reserve(b.w.time(), p.Account, p.Key, &standing)
	b.must(err)
	b.must(b.d.Set(b.Context(), p))
	return p
}

// has fails the test unless the device has exactly these peers.
func (b *bed) has(peers ...Peer) {
	b.Helper()
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	for _, p := range peers {
		x := b.w.on[wgtypes.Key(p.Key)]
		if x == nil {
			b.Errorf("peer %x is missing", p.Key[0])
			continue
		}
		var got []netip.Addr
		for _, n := range x.AllowedIPs {
			got = append(got, prefix(n).Addr())
		}
		if want := slices.DeleteFunc([]netip.Addr{p.IPv4, p.IPv6}, func(a netip.Addr) bool { return !a.IsValid() }); !slices.Equal(got, want) || x.PresharedKey != wgtypes.Key(p.PSK) {
			b.Errorf("peer %x has the addresses %v and the preshared key %x, want %v and %x", p.Key[0], got, x.PresharedKey[0], want, p.PSK[0])
		}
	}
	if len(b.w.on) != len(peers) {
		b.Errorf("the device has %d peers, want %d", len(b.w.on), len(peers))
	}
}

// count adds to the counters of a peer.
func (b *bed) count(key byte, bytes int64) {
	b.w.do(func() { b.w.on[wgtypes.Key{key}].ReceiveBytes += bytes })
}

// paid fails the test unless an account was charged this much.
func (b *bed) paid(account byte, want uint64) {
	b.Helper()
	b.w.do(func() {
		if got := b.w.charged[identity.PublicKey{account}]; got != want {
			b.Errorf("account %d was charged %d bytes, want %d", account, got, want)
		}
	})
}

// exhausted fails the test unless no address is free.
func (b *bed) exhausted() {
	b.Helper()
	if v4, v6, _, err := b.d.Reserve(b.w.time(), identity.PublicKey{0xff}, Key{0xff}, nil); !errors.Is(err, ErrNoAddress) {
		b.Errorf("reserved %v %v, %v, from an exhausted pool", v4, v6, err)
	}
}
