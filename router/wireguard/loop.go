package wireguard

import (
	"cmp"
	"context"
	"crypto/subtle"
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

// plan takes over what was read, applies requests, and returns what brings the device in line. failed is the
// error of reading.
func (d *Device) plan(now time.Time, batch []*request, read *wgtypes.Device, failed error, own []netip.Addr) (c []wgtypes.PeerConfig) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stats.Resting = uint64(d.pool.sweep(now))
	var on map[Key]*wgtypes.Peer
	if failed == nil {
		on = d.readLocked(now, read)
	}
	for _, r := range batch {
		switch {
		case r.reconcile:
			d.reconcileLocked(now, r.all)
		case !r.set:
			d.removeLocked(now, &r.peer)
		case d.foreign[r.peer.Key]:
			r.err = ErrForeignPeer
		default:
			d.setLocked(now, &r.peer)
		}
	}
	d.stats.Peers = uint64(len(d.peers))
	if failed != nil || !d.reconciled {
		return c
	}
	d.othersLocked(own, on)
	for key := range d.gone {
		if on[key] == nil {
			delete(d.gone, key)
			continue
		}
		c = append(c, wgtypes.PeerConfig{PublicKey: wgtypes.Key(key), Remove: true, UpdateOnly: true})
	}
	for key, p := range d.peers {
		x := on[key]
		if x == nil {
			p.counted = 0
		} else if p.counted == uncounted {
			p.counted = total(x)
		}
		switch {
		case d.loop.stopped && x != nil:
			c = append(c, wgtypes.PeerConfig{PublicKey: wgtypes.Key(key), Remove: true, UpdateOnly: true})
		case d.loop.stopped:
		default:
			allowed := d.allowedLocked(p)
			if x == nil || subtle.ConstantTimeCompare(x.PresharedKey[:], p.PSK[:]) != 1 || !allowed.are(x.AllowedIPs) {
				psk := wgtypes.Key(p.PSK)
				c = append(c, wgtypes.PeerConfig{PublicKey: wgtypes.Key(key), PresharedKey: &psk, ReplaceAllowedIPs: true, AllowedIPs: allowed.networks()})
			}
		}
	}
	return c
}

func total(x *wgtypes.Peer) uint64 { return uint64(x.ReceiveBytes) + uint64(x.TransmitBytes) }

// readLocked takes over the device's key and port, the keys of others, and the counters. It returns the peers.
func (d *Device) readLocked(now time.Time, read *wgtypes.Device) map[Key]*wgtypes.Peer {
	if d.public != (Key{}) && d.public != Key(read.PublicKey) {
		d.config.Log.Error("the key of the WireGuard device has changed; clients have to register again", zap.String("device", d.config.Name))
	}
	d.public, d.port = Key(read.PublicKey), read.ListenPort
	on := make(map[Key]*wgtypes.Peer, len(read.Peers))
	clear(d.foreign)
	for i := range read.Peers {
		x := &read.Peers[i]
		key := Key(x.PublicKey)
		on[key] = x
		p := d.peers[key]
		switch {
		case p == nil && !d.gone[key]:
			d.foreign[key] = true
		case p == nil || p.counted == uncounted:
		default:
			used := total(x) - p.counted
			if total(x) < p.counted { // it was removed and added again
				used = total(x)
			}
			p.counted = total(x)
			if used > 0 {
				p.active = now
				d.loop.unpaid[p.Account] += used
				d.stats.Bytes += used
			}
		}
	}
	return on
}

// othersLocked keeps the addresses of this machine and of the peers of others out of the pool.
func (d *Device) othersLocked(own []netip.Addr, on map[Key]*wgtypes.Peer) {
	others, ranges, inPool := make(map[netip.Addr]bool, len(own)), []netip.Prefix(nil), uint64(0)
	for _, a := range own {
		others[a.Unmap()] = true
	}
	for key, x := range on {
		if d.peers[key] != nil || d.gone[key] {
			continue
		}
		for _, n := range x.AllowedIPs {
			p := prefix(n)
			if p.Bits() == 0 || !p.Overlaps(d.pool.v4) && !p.Overlaps(d.pool.v6) {
				continue // a default route claims no address
			}
			inPool++
			if p.IsSingleIP() {
				others[p.Addr()] = true
			} else {
				ranges = append(ranges, p)
			}
		}
	}
	if inPool > d.stats.Foreign {
		d.config.Log.Warn("peers of others have addresses of the pool, which are not handed out",
			zap.String("device", d.config.Name), zap.Uint64("prefixes", inPool))
	}
	d.pool.others, d.pool.ranges, d.stats.Foreign = others, ranges, inPool
}

// allowed are the addresses of a peer; either may be missing.
type allowed [2]netip.Addr

// allowedLocked returns the addresses of a peer that do not belong to others.
func (d *Device) allowedLocked(p *peer) (a allowed) {
	for i, x := range [...]netip.Addr{p.IPv4, p.IPv6} {
		if x.IsValid() && !d.pool.others[x] {
			a[i] = x
		}
	}
	return a
}

// are reports whether the allowed IPs of a peer are these. It is called for each peer every second.
func (a allowed) are(on []net.IPNet) bool {
	for _, n := range on {
		p := prefix(n)
		switch {
		case p.IsSingleIP() && p.Addr() == a[0]:
			a[0] = netip.Addr{}
		case p.IsSingleIP() && p.Addr() == a[1]:
			a[1] = netip.Addr{}
		default:
			return false
		}
	}
	return a == allowed{}
}

// networks returns the form of package wgtypes.
func (a allowed) networks() (all []net.IPNet) {
	for _, x := range a {
		if x.IsValid() {
			all = append(all, net.IPNet{IP: x.AsSlice(), Mask: net.CIDRMask(x.BitLen(), x.BitLen())})
		}
	}
	return all
}

func prefix(n net.IPNet) netip.Prefix {
	a, _ := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	a = a.Unmap()
	return netip.PrefixFrom(a, ones-(bits-a.BitLen())).Masked()
}

// setLocked makes a peer the only one of its account, and the account the only one of its key.
func (d *Device) setLocked(now time.Time, p *Peer) {
	counted := uint64(0)
	if d.gone[p.Key] {
		counted = uncounted
	}
	if had := d.peers[p.Key]; had != nil {
		counted = had.counted
	}
	for _, earlier := range []*peer{d.peers[p.Key], d.byAccount[p.Account]} {
		if earlier != nil {
			d.dropLocked(earlier)
			for _, a := range []netip.Addr{earlier.IPv4, earlier.IPv6} {
				if a != p.IPv4 && a != p.IPv6 {
					d.restLocked(now, earlier.Account, a)
				}
			}
		}
	}
	delete(d.gone, p.Key)
	d.addLocked(&peer{*p, counted, now})
}

func (d *Device) addLocked(p *peer) {
	d.peers[p.Key], d.byAccount[p.Account] = p, p
	d.pool.take(p.Account, p.IPv4, p.IPv6)
}

// dropLocked forgets a peer, which then goes from the device.
func (d *Device) dropLocked(p *peer) {
	delete(d.peers, p.Key)
	delete(d.byAccount, p.Account)
	d.gone[p.Key] = true
	clear(p.PSK[:])
}

// removeLocked drops a peer if its key has not moved, and lets its addresses rest.
func (d *Device) removeLocked(now time.Time, p *Peer) {
	switch had := d.peers[p.Key]; {
	case had == nil: // of an earlier process
		d.gone[p.Key] = true
		delete(d.foreign, p.Key)
	case had.Account == p.Account:
		d.dropLocked(had)
		d.restLocked(now, had.Account, had.IPv4, had.IPv6)
	}
	kept := d.byAccount[p.Account]
	for _, a := range []netip.Addr{p.IPv4, p.IPv6} {
		if kept == nil || a != kept.IPv4 && a != kept.IPv6 {
			d.restLocked(now, p.Account, a)
		}
	}
}

func (d *Device) restLocked(now time.Time, account identity.PublicKey, addrs ...netip.Addr) {
	resting := d.pool.rest(account, now.Add(restTracked), addrs...)
	d.loop.tracked = append(d.loop.tracked, resting[:min(len(resting), maxTracked-len(d.loop.tracked))]...)
}

// reconcileLocked replaces all peers. Where two have an account, a key or an address in common, which a damaged
// ledger may contain, the first one counts.
func (d *Device) reconcileLocked(now time.Time, all []Peer) {
	d.reconciled = true
	keep := make(map[Key]bool, len(all))
	accounts, addrs := make(map[identity.PublicKey]bool, len(all)), make(map[netip.Addr]bool, 2*len(all))
	valid := all[:0]
	for _, p := range all {
		if keep[p.Key] || accounts[p.Account] || addrs[p.IPv4] || addrs[p.IPv6] {
			d.config.Log.Error("a peer of the ledger has the key or an address of another one, and is left out", zap.Stringer("account", p.Account))
			continue
		}
		keep[p.Key], accounts[p.Account] = true, true
		for _, a := range []netip.Addr{p.IPv4, p.IPv6} {
			if a.IsValid() {
				addrs[a] = true
			}
		}
		valid = append(valid, p)
	}
	for key, p := range d.peers {
		if !keep[key] {
			d.dropLocked(p)
			d.restLocked(now, p.Account, p.IPv4, p.IPv6)
		}
	}
	for i := range valid {
		p := &valid[i]
		if d.peers[p.Key] == nil {
			d.gone[p.Key] = true // it may be on the device since an earlier process
		}
		delete(d.foreign, p.Key)
		d.setLocked(now, p)
	}
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
