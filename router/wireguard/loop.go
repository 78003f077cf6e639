package wireguard

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"lewes/crypto/identity"
)

const (
	// interval is the time between two readings of the counters.
	interval = time.Second
	// share bounds the part of the time for reading the device: after it, so many times its duration pass.
	share = 4
	// maxBatch bounds the requests that change the device in one step.
	maxBatch = 256
	// maxPeersOfCall bounds the peers that one call changes: wireguard-go takes a quarter of a second for 1,000.
	maxPeersOfCall = 1024

	// restForgotten is how long an address rests whose tracked connections are deleted, restTracked one whose
	// connections may go on.
	restForgotten = 10 * time.Minute
	restTracked   = time.Hour
	// maxForget bounds the addresses whose connections are deleted in one step, maxTracked those that wait for it.
	maxForget  = 16
	maxTracked = 4096

	// lookAfter is the time between two looks at all accounts, which may have expired.
	lookAfter = time.Minute
	// silence bounds one call of the device.
	silence = 5 * time.Second
	// chargeTimeout bounds one call of Charge or End.
	chargeTimeout = 5 * time.Second
)

// request changes the peers: it sets or removes one, or replaces all.
type request struct {
	set       bool
	peer      Peer
	all       []Peer
	reconcile bool

	done chan error
	err  error
}

// loop is the state of Run's goroutine.
type loop struct {
	unpaid  map[identity.PublicKey]uint64 // bytes for the next call of Charge
	looked  time.Time                     // at all accounts
	tracked []netip.Addr                  // released addresses whose connections are to be deleted
	stopped bool                          // the peers are off the device, because Charge fails

	after   func() <-chan time.Time // bounds a call of the device
	hanging chan struct{}           // closed when a call beyond that has returned; nil: none

	running sync.WaitGroup
	ending  map[identity.PublicKey]bool // by calls of End; guarded by mu of Device
}

// Run serves the device until ctx is done, then charges what was used. It leaves the peers on the device.
func (d *Device) Run(ctx context.Context) {
	ticks := time.NewTicker(interval)
	defer ticks.Stop()
	d.run(ctx, ticks.C)
}

func (d *Device) run(ctx context.Context, ticks <-chan time.Time) {
	defer d.loop.running.Wait()
	defer close(d.done)
	if network := cmp.Or(d.config.IPv4, d.config.IPv6).Addr(); d.forget(network) { // whether it works
		d.config.Log.Debug("connections of released addresses are deleted")
	}
	d.step(ctx, nil)
	for {
		var batch []*request
		select {
		case <-ctx.Done():
			d.step(context.WithoutCancel(ctx), nil)
			return
		case <-ticks:
		case r := <-d.requests:
			batch = append(batch, r)
		}
		for more := true; more && len(batch) < maxBatch; {
			select {
			case r := <-d.requests:
				batch = append(batch, r)
			default:
				more = false
			}
		}
		select {
		case <-time.After(share * d.step(ctx, batch)):
		case <-ctx.Done():
		}
	}
}

// step reads the device, applies requests, brings the device in line, and charges the counters. It returns how
// long the first of these took.
func (d *Device) step(ctx context.Context, batch []*request) time.Duration {
	start, now := time.Now(), d.config.Clock()
	read, err := ask(d, func() (*wgtypes.Device, error) { return d.config.Control.Device(d.config.Name) })
	if err == nil {
		defer wipe(read)
		switch {
		case read.PrivateKey == (wgtypes.Key{}): // its public key would be one that everybody has
			err = errNoKey
		case read.ListenPort == 0:
			err = errNoPort
		}
	}
	own, ownErr := d.config.Own()
	err = cmp.Or(err, ownErr)
	config := d.plan(now, batch, read, err, own)
	took := time.Since(start)
	batch = slices.DeleteFunc(batch, func(r *request) bool {
		if r.reconcile {
			r.done <- nil
		}
		return r.reconcile
	})
	for some := range slices.Chunk(config, maxPeersOfCall) {
		if err != nil {
			break // the next step goes on
		}
		_, err = ask(d, func() (struct{}, error) {
			return struct{}{}, d.config.Control.ConfigureDevice(d.config.Name, wgtypes.Config{Peers: some})
		})
	}
	if d.loop.hanging == nil {
		for i := range config {
			if psk := config[i].PresharedKey; psk != nil {
				clear(psk[:])
			}
		}
	}
	err = d.finish(err)
	for _, r := range batch {
		r.done <- cmp.Or(r.err, err)
	}
	if err == nil {
		d.forgetConnections(now)
	}
	d.charge(ctx, now)
	return took
}

// Reasons why a device cannot be used, beside those of its Control.
var (
	errNoKey  = errors.New("it has no private key")
	errNoPort = errors.New("it has no port: it is down, or none is set")
	errSilent = errors.New("it does not answer")
)

// ask calls the device and bounds the wait: a stopped wireguard-go never answers. Until that call has returned,
// further ones fail.
func ask[T any](d *Device, f func() (T, error)) (result T, err error) {
	if d.loop.hanging != nil {
		select {
		case <-d.loop.hanging:
			d.loop.hanging = nil
		default:
			return result, errSilent
		}
	}
	type answer struct {
		result T
		err    error
	}
	answered, returned := make(chan answer, 1), make(chan struct{})
	go func() {
		defer close(returned)
		result, err := f()
		answered <- answer{result, err}
	}()
	select {
	case a := <-answered:
		return a.result, a.err
	case <-d.loop.after():
		d.loop.hanging = returned
		return result, errSilent
	}
}

// wipe overwrites the secrets of what was read.
func wipe(read *wgtypes.Device) {
	clear(read.PrivateKey[:])
	for i := range read.Peers {
		clear(read.Peers[i].PresharedKey[:])
	}
}

// finish notes whether the device could be used, and returns the error for requests.
func (d *Device) finish(err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	was := d.down
	d.down = err
	name := zap.String("device", d.config.Name)
	switch {
	case err == nil && was != nil:
		d.config.Log.Info("WireGuard device is up", name, zap.Uint64("peers", d.stats.Peers))
	case err != nil && (was == nil || was.Error() != err.Error()):
		d.config.Log.Error("cannot use the WireGuard device", name, zap.Error(err))
	}
	d.stats.Up = 0
	if err == nil {
		d.stats.Up = 1
	} else {
		d.stats.Failures++
	}
	return d.downLocked()
}

// forgetConnections deletes the tracked connections of released addresses.
func (d *Device) forgetConnections(now time.Time) {
	d.mu.Lock()
	n := min(len(d.loop.tracked), maxForget)
	addrs := slices.Clone(d.loop.tracked[:n])
	d.loop.tracked = slices.Delete(d.loop.tracked, 0, n)
	addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool { return d.pool.used[a].until.IsZero() }) // in use again
	d.mu.Unlock()
	for _, a := range addrs {
		if d.forget(a) {
			d.mu.Lock()
			d.pool.sooner(now.Add(restForgotten), a)
			d.mu.Unlock()
		}
	}
}

// forget deletes the tracked connections of an address, and notes whether that works.
func (d *Device) forget(a netip.Addr) bool {
	err := d.config.Forget(a)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil && !d.cannotForget {
		d.config.Log.Warn("cannot delete tracked connections; released addresses rest longer", zap.Float64("rest_seconds", restTracked.Seconds()), zap.Error(err))
	}
	d.cannotForget = err != nil
	return err == nil
}

// charge charges the counters, and ends the peers of accounts that have nothing left.
func (d *Device) charge(ctx context.Context, now time.Time) {
	l := &d.loop
	if now.Sub(l.looked) >= lookAfter {
		l.looked = now
		var idle []identity.PublicKey
		d.mu.Lock()
		for account, p := range d.byAccount {
			l.unpaid[account] += 0
			if d.config.Idle > 0 && now.Sub(p.active) >= d.config.Idle {
				idle = append(idle, account)
			}
		}
		d.mu.Unlock()
		d.end(idle)
	}
	if len(l.unpaid) == 0 && !l.stopped {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, chargeTimeout)
	defer cancel()
	ended, err := d.config.Accounts.Charge(ctx, l.unpaid)
	maps.DeleteFunc(l.unpaid, func(_ identity.PublicKey, n uint64) bool { return n == 0 })
	stop := err != nil && d.config.StopWithoutLedger
	switch {
	case stop && !l.stopped:
		d.config.Log.Error("stopping the WireGuard peers: their traffic cannot be charged", zap.Error(err))
	case !stop && l.stopped:
		d.config.Log.Info("starting the WireGuard peers again")
	}
	l.stopped = stop
	d.end(ended)
}

// end ends the peers of accounts, one after the other, beside Run: that calls Remove.
func (d *Device) end(accounts []identity.PublicKey) {
	d.mu.Lock()
	accounts = slices.DeleteFunc(slices.Clone(accounts), func(a identity.PublicKey) bool { return d.loop.ending[a] || d.byAccount[a] == nil })
	for _, a := range accounts {
		d.loop.ending[a] = true
	}
	d.mu.Unlock()
	if len(accounts) == 0 {
		return
	}
	d.loop.running.Go(func() {
		for _, a := range accounts {
			ctx, cancel := context.WithTimeout(context.Background(), chargeTimeout)
			if err := d.config.Accounts.End(ctx, a); err != nil {
				d.config.Log.Warn("cannot end the peer of an account without bandwidth; trying again", zap.Stringer("account", a), zap.Error(err))
			}
			cancel()
			d.mu.Lock()
			delete(d.loop.ending, a)
			d.mu.Unlock()
		}
	})
}

// withPort returns an endpoint with the port of the device if it has none.
func withPort(endpoint string, port int) string {
	if _, text, err := net.SplitHostPort(endpoint); err == nil && text != "0" {
		return endpoint
	}
	host, _, err := net.SplitHostPort(endpoint)
	if err != nil {
		host = endpoint
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}
