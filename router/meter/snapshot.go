package meter

import (
	"time"

	"lewes/crypto/identity"
	"lewes/state/snapshot"
)

// Bounds of a snapshot.
const (
	maxGrants  = 1 << 10 // of one account
	grantSize  = 4*8 + 1 // bytes
	frameBytes = 64 << 10
)

// Write passes the accounts to send, in pieces of about 64 KiB, for Read. Nothing may be charged
// meanwhile, and Run must have returned. Usage that the ledger does not have yet is part of it: if another
// book reads the snapshot, this one has to Retire.
func (b *Book) Write(now time.Time, send func(payload []byte) error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := snapshot.NewWriter(make([]byte, 0, frameBytes), now)
	flush := func() error {
		err := send(w.Bytes())
		w.Wipe()
		return err
	}
	for _, a := range b.accounts {
		a.settle()
		w.Part(func() { a.code(snapshot.Encode(w)) })
		if w.Len() >= frameBytes {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if w.Len() > 0 {
		return flush()
	}
	return nil
}

// Retire leaves the usage in a snapshot to the book that has read it. What is charged afterwards is this
// book's to record.
func (b *Book) Retire() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.report.pending)
	for _, a := range b.accounts {
		a.unreported = 0
	}
}

// Read adds the accounts of a piece of a snapshot. They are kept for a minute, until Rejoin.
func (b *Book) Read(now time.Time, payload []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := snapshot.NewReader(payload, now)
	for r.Len() > 0 && r.Err() == nil {
		one := r.Part()
		c := snapshot.Decode(one)
		var client identity.PublicKey
		c.Fixed(client[:])
		c.Check(b.accounts[client] == nil, "account twice")
		if c.Err() != nil {
			return c.Err()
		}
		a := b.open(client)
		a.codeRest(c)
		if err := one.End(); err != nil {
			delete(b.accounts, client)
			return err
		}
		a.pool.Store(unlimitedPool)
		if !a.unlimited {
			a.pool.Store(a.left())
		}
		if a.unreported > 0 {
			b.report.add(a, a.unreported)
		}
		if !a.pinned.IsZero() {
			a.members++
		}
		a.setExpiry()
		a.rest(now)
	}
	return r.Err()
}

func (a *Account) code(c *snapshot.Codec) {
	c.Fixed(a.id[:])
	a.codeRest(c)
}

// codeRest codes an account after its client.
func (a *Account) codeRest(c *snapshot.Codec) {
	c.Bool(&a.loaded)
	c.Bool(&a.unlimited)
	snapshot.Byte(c, &a.percent)
	c.Bool(&a.ended)
	c.Uint64(&a.unreported)
	c.Uint64(&a.debt)
	c.Time(&a.pinned)
	n := c.Count(len(a.grants), maxGrants, grantSize)
	if c.Decoding() {
		a.grants = make([]Grant, n)
	}
	for i := range a.grants {
		g := &a.grants[i]
		expires := uint64(g.Expires)
		for _, v := range [...]*uint64{&g.Number, &g.Bytes, &g.Used, &expires} {
			c.Uint64(v)
		}
		g.Expires = int64(expires)
		c.Bool(&g.Listed)
		a.newest = max(a.newest, g.Number)
	}
}

// Rejoin adds a session of a shard to an account of a snapshot. It returns nil if there is none.
func (b *Book) Rejoin(shard int, client identity.PublicKey) *Share {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.accounts[client]; a != nil {
		return a.join(shard)
	}
	return nil
}
