// Package wireguard gives registered clients a peer of an existing WireGuard device, of the kernel or
// of wireguard-go: the addresses of a pool, the peers themselves, and their traffic, which is charged
// to the accounts (section 9 of PROTOCOL.md).
//
//	d, err := wireguard.New(config)   // the device may appear later
//	go d.Run(ctx)
//	err = d.Reconcile(ctx, peers)     // those of the ledger
//	v4, v6, release, err := d.Reserve(now, account, key, nil)
//	err = d.Set(ctx, peer)            // in the same step the account's earlier peer goes
//
// The files: device.go (the methods), loop.go (the one goroutine that talks to the device), peers.go (the peers
// that belong on it, and what brings it in line), pool.go (addresses), conntrack.go (connections of released
// addresses), host.go (forwarding and NAT), stats.go.
//
// A peer belongs to this package if Reconcile or Set named it. All others on the device are left
// alone, and their addresses are never handed out.
package wireguard
