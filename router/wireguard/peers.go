package wireguard

import (
	"crypto/subtle"
	"net"
	"net/netip"
	"time"

	"go.uber.org/zap"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"lewes/crypto/identity"
)

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
