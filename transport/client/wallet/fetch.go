package wallet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/tickets"
)

const (
	// MaxFetch is the largest number of tickets of one Order.
	MaxFetch = 1000
	// storeEvery is how many new tickets are stored at once. A crash before that costs nothing: the issuer
	// answers the same requests again.
	storeEvery = 16
)

// Order is an exchange of a voucher for tickets.
type Order struct {
	Gateway identity.PublicKey // the only one that will take them
	Issuer  tickets.Issuer
	Voucher tickets.Voucher
	Count   int // at most MaxFetch; 0 means all that the voucher is good for
}

// Fetch exchanges a voucher for tickets. It goes on with an unfinished Fetch of the same gateway, issuer
// and voucher if there is one, whatever its Count. It calls progress, which may be nil, with the number of new tickets in the
// wallet and how many there will be. Nothing of a voucher is lost if it fails or the process ends: its requests are
// stored before they are sent, and a repeat is free.
//
// Errors wrap ErrUnreachable, ErrVoucherUnknown, ErrUsedUp, tickets.ErrPin, tickets.ErrSecondKey and those of a
// change of the wallet.
func (w *Wallet) Fetch(ctx context.Context, o Order, progress func(got, total int)) (got int, err error) {
	s := newSession(o.Issuer, o.Voucher)
	defer s.client.CloseIdleConnections()
	if got, err = w.fetch(ctx, s, o, progress); err != nil {
		err = fmt.Errorf("wallet: tickets from %s: %w", o.Issuer.Name(), err)
	}
	return got, err
}

// Resume goes on with every unfinished Fetch.
func (w *Wallet) Resume(ctx context.Context, progress func(got, total int)) (got int, err error) {
	c, err := w.read()
	if err != nil {
		return 0, err
	}
	defer c.wipe()
	for _, f := range c.Fetches {
		o, err := f.order()
		if err != nil {
			return got, err
		}
		n, err := w.Fetch(ctx, o, progress)
		got += n
		if err != nil {
			return got, err
		}
	}
	return got, nil
}

func (f *fetch) order() (Order, error) {
	issuer, err := tickets.ParseIssuer(f.Issuer)
	return Order{identity.PublicKey(f.Gateway), issuer, tickets.Voucher(f.Voucher), 0}, err
}

func (w *Wallet) fetch(ctx context.Context, s *session, o Order, progress func(got, total int)) (got int, err error) {
	directory, err := s.directory(ctx)
	if err != nil {
		return 0, err
	}
	if err := w.remember(ctx, o.Issuer, directory); err != nil {
		return 0, err
	}
	c, err := w.read()
	if err != nil {
		return 0, err
	}
	defer func() { c.wipe() }()
	if c.fetch(o) == nil {
		if err := w.begin(ctx, s, o, directory); err != nil {
			return 0, err
		}
		c.wipe()
		if c, err = w.read(); err != nil {
			return 0, err
		}
	}
	f := c.fetch(o)
	if f == nil {
		return 0, nil // another process has finished it
	}
	return w.exchange(ctx, s, o, f, directory, progress)
}

// fetch returns the unfinished fetch for an order, or nil.
func (c *content) fetch(o Order) *fetch {
	for _, f := range c.Fetches {
		if f.Gateway == hex32(o.Gateway) && f.Issuer == o.Issuer.String() && slices.Equal(f.Voucher, o.Voucher[:]) {
			return f
		}
	}
	return nil
}

// remember checks the issuer's keys against those that it has published before, and stores them: a
// second key for one denomination and epoch would mark those who get it.
func (w *Wallet) remember(ctx context.Context, issuer tickets.Issuer, d *tickets.Directory) error {
	news := func(c *content) ([]seenKey, error) {
		var added []seenKey
		for _, k := range d.Keys {
			seen := seenKey{newKey(k, d.Epoch), hex32(issuer.Pin), int64(d.Epoch / time.Second)}
			known := false
			for _, old := range c.Keys {
				if old.Pin != seen.Pin {
					continue
				}
				if old.Length != seen.Length {
					return nil, fmt.Errorf("epochs of %d seconds instead of %d: %w", seen.Length, old.Length, tickets.ErrSecondKey)
				}
				if old.Bytes == seen.Bytes && old.Seconds == seen.Seconds && old.Epoch == seen.Epoch {
					if old.ID != seen.ID {
						return nil, fmt.Errorf("%w: it could recognize this client's tickets when they are spent\ndo not use this issuer; report it to where you bought the voucher", tickets.ErrSecondKey)
					}
					known = true
				}
			}
			if !known {
				added = append(added, seen)
			}
		}
		return added, nil
	}
	c, err := w.read()
	if err != nil {
		return err
	}
	defer c.wipe()
	if added, err := news(c); err != nil || len(added) == 0 {
		return err
	}
	return w.update(ctx, func(c *content) error {
		added, err := news(c)
		c.Keys = append(c.Keys, added...)
		return err
	})
}

func newKey(k tickets.Key, epoch time.Duration) key {
	_, until := tickets.Validity(k.Epoch, epoch)
	return key{hex32(k.Public.ID()), k.Epoch, k.Bytes, uint64(k.Seconds), until.Unix()}
}

// current returns the issuer's key for a denomination now.
func (w *Wallet) current(d *tickets.Directory, bytes uint64, seconds uint32) (tickets.Key, error) {
	for _, k := range d.Current(w.now()) {
		if k.Bytes == bytes && k.Seconds == seconds {
			return k, nil
		}
	}
	return tickets.Key{}, fmt.Errorf("the issuer has no key for tickets of %d bytes and %d seconds at %s, this machine's time", bytes, seconds, w.now().UTC().Format(time.DateTime))
}

// begin stores the secrets of the tickets that will be asked for.
func (w *Wallet) begin(ctx context.Context, s *session, o Order, d *tickets.Directory) error {
	left, err := s.balance(ctx)
	if err != nil {
		return err
	}
	n := o.Count
	switch {
	case left.Left == 0:
		return ErrUsedUp
	case o.Count > left.Left:
		return fmt.Errorf("the voucher is good for %d tickets, not for %d", left.Left, o.Count)
	case o.Count == 0:
		n = min(left.Left, MaxFetch)
	}
	if n < 1 || n > MaxFetch {
		return fmt.Errorf("%d tickets are not within 1 and %d", n, MaxFetch)
	}
	k, err := w.current(d, left.Bytes, left.Seconds)
	if err != nil {
		return err
	}
	f := &fetch{
		key: newKey(k, d.Epoch), Gateway: hex32(o.Gateway), Issuer: o.Issuer.String(),
		Voucher: slices.Clone(o.Voucher[:]), SPKI: k.Public.Encoded(),
	}
	for range n {
		f.Seeds = append(f.Seeds, newSecret())
	}
	return w.update(ctx, func(c *content) error {
		if c.fetch(o) == nil { // else another process was faster
			c.Fetches = append(c.Fetches, f)
		}
		return nil
	})
}

// exchange asks for the tickets of a fetch.
func (w *Wallet) exchange(ctx context.Context, s *session, o Order, f *fetch, d *tickets.Directory, progress func(got, total int)) (got int, err error) {
	var done []exchanged
	store := func() error {
		if len(done) == 0 {
			return nil
		}
		if err := w.store(ctx, o, done); err != nil {
			return err
		}
		for _, x := range done {
			if x.token != nil {
				got++
			}
			clear(x.token)
		}
		done = nil
		if progress != nil {
			progress(got, len(f.Seeds))
		}
		return nil
	}
	var usedUp error
	for _, seed := range f.Seeds {
		x, err := w.ask(ctx, s, f, d, seed)
		if errors.Is(err, ErrUsedUp) { // others may have been signed before
			usedUp, x = err, exchanged{seed: seed}
		} else if err != nil {
			return got, errors.Join(err, store())
		}
		if done = append(done, x); len(done) == storeEvery {
			if err := store(); err != nil {
				return got, err
			}
		}
	}
	return got, errors.Join(usedUp, store())
}

// exchanged is a seed that is done with, and its ticket.
type exchanged struct {
	seed  secret
	key   key
	token secret // nil: none
}

// ask asks for one ticket: with the key of the fetch, and, if the issuer refuses that because its epoch is
// over, with the current one.
func (w *Wallet) ask(ctx context.Context, s *session, f *fetch, d *tickets.Directory, seed secret) (exchanged, error) {
	k, err := tickets.ParsePublicKey(f.SPKI)
	if err != nil {
		return exchanged{}, err
	}
	token, err := s.ticket(ctx, k, f, seed)
	if !errors.Is(err, errRequest) {
		return exchanged{seed, f.key, token}, err
	}
	later, lerr := w.current(d, f.Bytes, uint32(f.Seconds))
	if lerr != nil || later.Epoch == f.Epoch {
		return exchanged{}, err
	}
	token, err = s.ticket(ctx, later.Public, f, seed)
	return exchanged{seed, newKey(later, d.Epoch), token}, err
}

// ticket exchanges a seed for a token.
func (s *session) ticket(ctx context.Context, k *tickets.PublicKey, f *fetch, seed secret) (secret, error) {
	challenge := tickets.Challenge(s.Name(), identity.PublicKey(f.Gateway))
	secretSeed := [tickets.SeedSize]byte(seed)
	defer clear(secretSeed[:])
	request, err := tickets.Blind(&secretSeed, k, challenge)
	if err != nil {
		return nil, err
	}
	response, err := s.sign(ctx, request)
	if err != nil {
		return nil, err
	}
	token, err := tickets.Finalize(&secretSeed, k, challenge, response)
	if err != nil {
		return nil, fmt.Errorf("the issuer's answer is no signature of its key: %w", err)
	}
	return token.Append(nil), nil
}

// store moves what was exchanged from the fetch to the tickets, and drops the fetch when it is complete.
func (w *Wallet) store(ctx context.Context, o Order, done []exchanged) error {
	ctx = context.WithoutCancel(ctx) // what has arrived is stored, whoever interrupts
	return w.update(ctx, func(c *content) error {
		stored := c.fetch(o)
		if stored == nil {
			return nil // another process has finished it
		}
		for _, x := range done {
			i := slices.IndexFunc(stored.Seeds, func(s secret) bool { return slices.Equal(s, x.seed) })
			if i < 0 {
				continue
			}
			stored.Seeds = slices.Delete(stored.Seeds, i, i+1)
			if x.token != nil {
				c.Tickets = append(c.Tickets, &ticket{key: x.key, Gateway: stored.Gateway, Issuer: stored.Issuer, Token: slices.Clone(x.token)})
			}
		}
		if len(stored.Seeds) == 0 {
			c.Fetches = slices.DeleteFunc(c.Fetches, func(g *fetch) bool { return g == stored })
		}
		return nil
	})
}
