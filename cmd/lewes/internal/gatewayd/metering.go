package gatewayd

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"lewes/cmd/lewes/internal/config"
	"lewes/crypto/identity"
	"lewes/router"
	"lewes/router/meter"
	"lewes/state/ledger"
)

// metering returns the router's configuration of the count of bandwidth, nil if nothing is counted.
func (r *registration) metering(c *config.Config) *router.Metering {
	if r == nil {
		return nil
	}
	return &router.Metering{
		MixNode: c.Registration.MixAddr(),
		Serve:   c.Registration.OnFailure == config.OnFailureServe,
		Renew:   r.renew,
	}
}

// count begins to count in the book of the gateway.
func (r *registration) count(book *meter.Book) {
	if r == nil {
		return
	}
	r.book.Store(book)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.setBookLedger()
}

// setBookLedger gives the book its ledger once there are both. r.mu is held.
func (r *registration) setBookLedger() {
	if book := r.book.Load(); book != nil && r.ledger != nil {
		book.SetLedger(bookLedger{r.ledger, r.unlimited, r.log})
	}
}

// closeBook records what the device has charged since the gateway has ended or was handed over. r.mu is held.
func (r *registration) closeBook() {
	book := r.book.Load()
	if book == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), meter.MaxUnrecorded)
	defer cancel()
	if err := book.Flush(ctx); err != nil {
		r.log.Error("cannot record the last bandwidth that peers have used", zap.Error(err))
	}
	book.SetLedger(nil)
}

// unlimited reports whether nothing of a client is counted.
func (r *registration) unlimited(client identity.PublicKey) bool {
	standing := r.standing(client)
	return r.access == config.RegistrationOpen || r.access == config.RegistrationListed && standing.Listed && standing.Limits.Bytes == 0
}

const (
	renewAtOnce  = 64               // clients, whose grants become durable together
	renewTimeout = 10 * time.Second // of all
)

// renew gives clients of the list, who have nothing left, the bandwidth of their next period if it has
// begun, or what the list allows by now.
func (r *registration) renew(clients []identity.PublicKey) {
	book := r.book.Load()
	if r.access != config.RegistrationListed || book == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), renewTimeout)
	defer cancel()
	var running sync.WaitGroup
	slots := make(chan struct{}, renewAtOnce)
	for _, client := range clients {
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			grants, _, err := r.Renew(ctx, client)
			if err != nil {
				r.log.Error("cannot record the bandwidth of a client's next period", zap.Error(err))
				return
			}
			book.Update(client, meter.FromLedger(grants), r.unlimited(client))
		})
	}
	running.Wait()
}

// relimit applies changed limits of the list to the accounts that are in use.
func (r *registration) relimit(clients []identity.PublicKey) {
	if r == nil {
		return
	}
	book := r.book.Load()
	if book == nil {
		return
	}
	var present []identity.PublicKey
	for _, client := range clients {
		if _, ok := book.Balance(client); ok {
			present = append(present, client)
		}
	}
	r.renew(present)
}

// bookLedger is the ledger of a book of accounts.
type bookLedger struct {
	*ledger.Ledger
	unlimited func(identity.PublicKey) bool
	log       *zap.Logger
}

// Use implements meter.Ledger.
func (l bookLedger) Use(ctx context.Context, used map[identity.PublicKey]uint64) error {
	err := l.Ledger.Use(ctx, used, time.Now())
	if errors.Is(err, ledger.ErrDamaged) && l.Err() == nil {
		l.log.Error("an account in the ledger is damaged; what it has used is not recorded", zap.Error(err))
		return nil // that of the others is
	}
	return err
}

// Grants implements meter.Ledger.
func (l bookLedger) Grants(client identity.PublicKey) ([]meter.Grant, bool, error) {
	a, _, err := l.Account(client)
	return meter.FromLedger(a.Grants), l.unlimited(client), err
}
