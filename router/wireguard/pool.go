package wireguard

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"lewes/crypto/identity"
)

// MaxPeers bounds the peers of a pool. The counters of all are read every second.
const MaxPeers = 1 << 17

// ErrNoAddress means that every address of the pool is in use or rests.
var ErrNoAddress = errors.New("wireguard: no address is free")

// pool hands out pairs of addresses with the same offset in both prefixes, or single ones if there is
// one prefix. The first address of a prefix and the last one of IPv4 are never handed out.
type pool struct {
	v4, v6 netip.Prefix // not valid: none of this family
	last   uint32       // offset

	used   map[netip.Addr]use
	others map[netip.Addr]bool // of this machine and of peers of others
	ranges []netip.Prefix      // of peers of others
	next   uint32              // offset: the one handed out longest ago
	full   time.Time           // no address is free before
}

// use is the use of an address.
type use struct {
	account identity.PublicKey
	until   time.Time // not zero: it is released, and rests until then
}

func newPool(v4, v6 netip.Prefix) (*pool, error) {
	if !v4.IsValid() && !v6.IsValid() {
		return nil, errors.New("wireguard: no addresses for peers")
	}
	p := &pool{v4: v4, v6: v6, last: MaxPeers, used: make(map[netip.Addr]use), next: 1}
	for _, x := range []netip.Prefix{v4, v6} {
		if !x.IsValid() {
			continue
		}
		if x != x.Masked() {
			return nil, fmt.Errorf("wireguard: %v is not a network, that is %v", x, x.Masked())
		}
		if host := x.Addr().BitLen() - x.Bits(); host < 17 {
			p.last = min(p.last, 1<<host-1)
		}
	}
	if v4.IsValid() && v4.Addr().BitLen()-v4.Bits() <= 17 {
		p.last = min(p.last, 1<<(32-v4.Bits())-2) // without the broadcast address
	}
	if p.last < 1 || p.last > MaxPeers {
		return nil, fmt.Errorf("wireguard: no address of %v %v can be handed out", v4, v6)
	}
	return p, nil
}

// at returns the addresses at an offset.
func (p *pool) at(offset uint32) (v4, v6 netip.Addr) { return add(p.v4, offset), add(p.v6, offset) }

func add(prefix netip.Prefix, offset uint32) netip.Addr {
	if !prefix.IsValid() {
		return netip.Addr{}
	}
	b := prefix.Addr().AsSlice()
	for i := len(b) - 1; offset > 0; i-- {
		offset += uint32(b[i])
		b[i] = byte(offset)
		offset >>= 8
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// reserve takes addresses that are free for an account.
func (p *pool) reserve(now time.Time, account identity.PublicKey) (v4, v6 netip.Addr, err error) {
	if now.Before(p.full) {
		return v4, v6, ErrNoAddress
	}
	for range p.last {
		v4, v6 = p.at(p.next)
		if p.next++; p.next > p.last {
			p.next = 1
		}
		if p.free(now, v4) && p.free(now, v6) {
			p.take(account, v4, v6)
			return v4, v6, nil
		}
	}
	p.full = now.Add(time.Second) // the search is long
	return netip.Addr{}, netip.Addr{}, ErrNoAddress
}

// free reports whether an address can be handed out. One that is not valid can.
func (p *pool) free(now time.Time, a netip.Addr) bool {
	u, used := p.used[a]
	if used && (u.until.IsZero() || now.Before(u.until)) || p.others[a] {
		return false
	}
	return !slices.ContainsFunc(p.ranges, func(x netip.Prefix) bool { return x.Contains(a) })
}

// take marks addresses as in use by an account until they are released.
func (p *pool) take(account identity.PublicKey, addrs ...netip.Addr) {
	for _, a := range addrs {
		if a.IsValid() {
			p.used[a] = use{account: account}
		}
	}
}

// holds reports whether an account has an address.
func (p *pool) holds(account identity.PublicKey, a netip.Addr) bool {
	u, used := p.used[a]
	return used && u.until.IsZero() && u.account == account
}

// rest releases the addresses of an account, which may be handed out again from a time on. It returns those
// that the account had, or that were free. Others, and those that rest already, stay as they are.
func (p *pool) rest(account identity.PublicKey, until time.Time, addrs ...netip.Addr) (resting []netip.Addr) {
	for _, a := range addrs {
		u, used := p.used[a]
		if a.IsValid() && (!used || u.account == account && u.until.IsZero()) {
			p.used[a] = use{account, until}
			resting = append(resting, a)
		}
	}
	return resting
}

// release undoes a reservation that was never used.
func (p *pool) release(account identity.PublicKey, addrs ...netip.Addr) {
	for _, a := range addrs {
		if p.holds(account, a) {
			delete(p.used, a)
		}
	}
	p.full = time.Time{}
}

// sooner lets an address rest until a time at most.
func (p *pool) sooner(until time.Time, a netip.Addr) {
	if u, used := p.used[a]; used && until.Before(u.until) {
		u.until = until
		p.used[a] = u
	}
}

// sweep forgets the addresses that have rested, and returns how many still do.
func (p *pool) sweep(now time.Time) (resting int) {
	for a, u := range p.used {
		switch {
		case u.until.IsZero():
		case now.Before(u.until):
			resting++
		default:
			delete(p.used, a)
			p.full = time.Time{}
		}
	}
	return resting
}
