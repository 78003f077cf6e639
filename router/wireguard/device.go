package wireguard

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"lewes/crypto/identity"
	"lewes/crypto/wgkey"
)

// Errors of Set. Others are those of the device.
var (
	// ErrForeignPeer means that the device has a peer with this key that is not one of a Device.
	ErrForeignPeer = errors.New("wireguard: the device has a peer with this key that this gateway did not add")
	// ErrClosed means that Run has ended.
	ErrClosed = errors.New("wireguard: closed")
)

// Key is a WireGuard key.
type Key = wgkey.Key

// Peer is a peer of the device.
type Peer struct {
	Account    identity.PublicKey // that pays for it
	Key        Key
	PSK        Key
	IPv4, IPv6 netip.Addr // either may be missing
}

// Accounts pay for the traffic of peers.
type Accounts interface {
	// Charge charges bytes to accounts and returns those that have nothing left. An account without bytes is
	// only looked at. It sets the bytes that it takes to 0; the others are part of the next call. An error means
	// that usage has not been recorded for too long.
	Charge(ctx context.Context, used map[identity.PublicKey]uint64) (ended []identity.PublicKey, err error)
	// End ends the peer of an account, which calls Device.Remove.
	End(ctx context.Context, account identity.PublicKey) error
}

// Control reads and changes WireGuard devices: a *wgctrl.Client. It may block.
type Control interface {
	Device(name string) (*wgtypes.Device, error)
	ConfigureDevice(name string, config wgtypes.Config) error
}

// Config configures a Device. All fields but StopWithoutLedger and Idle are required, and of the prefixes one.
type Config struct {
	Name       string // of the network device
	IPv4, IPv6 netip.Prefix
	Endpoint   string // host:port for clients; port 0 or none: that of the device
	Identity   *identity.PrivateKey

	Accounts Accounts
	// StopWithoutLedger takes the peers off the device while Charge fails.
	StopWithoutLedger bool
	// Idle is the time without traffic after which a peer ends: where nothing else ends it. 0: none.
	Idle time.Duration

	Control Control
	Log     *zap.Logger
	Clock   func() time.Time
	// Own returns the addresses of this machine.
	Own func() ([]netip.Addr, error)
	// Forget deletes the tracked connections of an address; nil stands for those of Linux.
	Forget func(netip.Addr) error
}

// Device is a WireGuard device with the peers of accounts. Its methods are safe for concurrent use; those that
// change the device need Run.
type Device struct {
	config   Config
	requests chan *request
	done     chan struct{} // closed when Run has returned

	mu         sync.Mutex // guards the fields below
	pool       *pool
	peers      map[Key]*peer
	byAccount  map[identity.PublicKey]*peer
	gone       map[Key]bool // removed, but maybe still on the device
	foreign    map[Key]bool // peers of others, as last read
	public     Key          // the zero key: not yet read
	port       int
	down       error // why the device cannot be used; nil: it can
	reconciled bool
	// cannotForget means that tracked connections cannot be deleted.
	cannotForget bool
	stats        Stats

	loop loop // of Run's goroutine
}

// peer is a peer that belongs on the device.
type peer struct {
	Peer
	counted uint64    // bytes, as last read from the device; uncounted
	active  time.Time // the last traffic that was seen, or the last Set
}

// uncounted is the counter of a peer that may have been on the device before.
const uncounted = math.MaxUint64

// New returns a Device. It does not need the network device to exist; Run awaits that.
func New(config Config) (*Device, error) {
	if config.Forget == nil {
		config.Forget = forgetConnections
	}
	pool, err := newPool(config.IPv4, config.IPv6)
	if err != nil {
		return nil, err
	}
	d := &Device{
		config: config, pool: pool, requests: make(chan *request), done: make(chan struct{}),
		peers: make(map[Key]*peer), byAccount: make(map[identity.PublicKey]*peer), gone: make(map[Key]bool), foreign: make(map[Key]bool), down: errNotRead,
	}
	d.loop.unpaid, d.loop.ending = make(map[identity.PublicKey]uint64), make(map[identity.PublicKey]bool)
	d.loop.after = func() <-chan time.Time { return time.After(silence) }
	return d, nil
}

var (
	errNotRead       = errors.New("not read yet")
	errNotReconciled = errors.New("the peers of the ledger are not read yet")
)

// Proves reports whether a proof shows that its sender owns a key (section 9), in constant time.
func (d *Device) Proves(key, exporter Key, proof []byte) bool {
	return wgkey.Verify(d.config.Identity, &key, &exporter, proof)
}

// PSK returns the preshared key of a client's key and the device (R9.6).
func (d *Device) PSK(key, exporter Key) Key {
	d.mu.Lock()
	public := d.public
	d.mu.Unlock()
	return wgkey.PresharedKey(&exporter, &key, &public)
}

// Data returns what clients need to know of the device: its key, and where it receives packets.
func (d *Device) Data() (public Key, endpoint string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.public, withPort(d.config.Endpoint, d.port)
}

// Name returns the name of the network device.
func (d *Device) Name() string { return d.config.Name }

// Err returns nil, or why the device cannot be used.
func (d *Device) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.downLocked()
}

func (d *Device) downLocked() error {
	down := d.down
	if down == nil && !d.reconciled {
		down = errNotReconciled
	}
	if down == nil {
		return nil
	}
	return fmt.Errorf("wireguard: device %s: %w", d.config.Name, down)
}

// Reserve returns addresses for a peer of an account: those of its standing peer, or free ones if there is none,
// or if both its key and the pool have changed. They are in use until release is called, which undoes a
// reservation before Set, or until the peer is removed. The error is ErrNoAddress, ErrForeignPeer for a key of a
// peer of others, or that of Err.
func (d *Device) Reserve(now time.Time, account identity.PublicKey, key Key, standing *Peer) (v4, v6 netip.Addr, release func(), err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.downLocked(); err != nil {
		return v4, v6, nil, err
	}
	if d.foreign[key] {
		return v4, v6, nil, ErrForeignPeer
	}
	if standing != nil && d.keepsLocked(account, key, standing) {
		return standing.IPv4, standing.IPv6, func() {}, nil
	}
	if v4, v6, err = d.pool.reserve(now, account); err != nil {
		d.stats.Exhausted++
		return v4, v6, nil, err
	}
	return v4, v6, sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.pool.release(account, v4, v6)
	}), nil
}

// keepsLocked reports whether an account's standing peer keeps its addresses with a key.
func (d *Device) keepsLocked(account identity.PublicKey, key Key, standing *Peer) bool {
	if d.fits(account, standing.IPv4, d.pool.v4) && d.fits(account, standing.IPv6, d.pool.v6) {
		return true
	}
	return key == standing.Key && d.byAccount[account] != nil // as the ledger has it
}

// fits reports whether an address is what an account would get of a prefix.
func (d *Device) fits(account identity.PublicKey, a netip.Addr, of netip.Prefix) bool {
	if !of.IsValid() {
		return !a.IsValid()
	}
	return of.Contains(a) && d.pool.holds(account, a) && !d.pool.others[a]
}

// Rest keeps an address out of use until a time, after a restart: one that an account had released before.
func (d *Device) Rest(account identity.PublicKey, a netip.Addr, until time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pool.rest(account, until, a)
}

// RestTime returns how long a released address rests: less where its tracked connections can be deleted.
func (d *Device) RestTime() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cannotForget {
		return restTracked
	}
	return restForgotten
}

// Set puts a peer on the device, or changes it. In the same step the account's earlier peer goes, if it has
// another key, and a key that another account had moves to this one. It is idempotent. After an error of the
// device the peer stays wanted, and is set when the device can be used again.
func (d *Device) Set(ctx context.Context, p Peer) error {
	return d.do(ctx, &request{set: true, peer: p})
}

// Remove takes a peer off the device, unless its key has moved to another account. It is idempotent. Its
// addresses rest before they are handed out again.
func (d *Device) Remove(ctx context.Context, p Peer) error {
	return d.do(ctx, &request{peer: p})
}

// Reconcile makes peers, all those of the ledger, the ones on the device: it adds and corrects them, and removes
// others only if they were Set before. It returns before that has happened, which may take until the device can be
// used.
func (d *Device) Reconcile(ctx context.Context, peers []Peer) error {
	return d.do(ctx, &request{all: slices.Clone(peers), reconcile: true})
}

// do passes a request to Run.
func (d *Device) do(ctx context.Context, r *request) error {
	r.done = make(chan error, 1)
	select {
	case d.requests <- r:
	case <-d.done:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
