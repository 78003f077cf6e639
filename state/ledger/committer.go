package ledger

import (
	"time"

	bolt "go.etcd.io/bbolt"
)

// run commits the changes that wait, all at once, until the queue is closed and empty.
func (l *Ledger) run() {
	defer close(l.stopped)
	batch := make([]*change, 0, batchSize)
	for c := range l.queue {
		batch = append(batch[:0], c)
	collect:
		for len(batch) < batchSize {
			select {
			case c, ok := <-l.queue:
				if !ok {
					break collect
				}
				batch = append(batch, c)
			default:
				break collect
			}
		}
		results := make([]error, len(batch))
		if err := l.commit(batch, results); err != nil {
			for i := range results {
				results[i] = err // a refusal may be due to a change that failed
			}
		}
		for i, c := range batch {
			c.result <- results[i]
		}
	}
}

// commit applies the changes in one transaction. The results are valid if it succeeds.
func (l *Ledger) commit(batch []*change, results []error) error {
	l.changes.Add(uint64(len(batch)))
	if err, lasting := l.fault.get(); lasting {
		return err
	}
	var tx *bolt.Tx
	panicked := true
	err := guard(func() (err error) {
		if tx, err = l.db.Begin(true); err == nil {
			err = l.apply(tx, batch, results)
		}
		panicked = false
		return err
	})
	if err == nil {
		return nil
	}
	l.stuck = panicked && tx == nil || guard(func() error { // also after a panic
		if tx != nil {
			_ = tx.Rollback()
		}
		return nil
	}) != nil
	l.failures.Add(1)
	err = sentence(l.path, classify(err))
	l.fault.set(err, panicked || l.stuck || !harmless(err))
	return err
}

func (l *Ledger) apply(tx *bolt.Tx, batch []*change, results []error) error {
	t, err := newTxn(tx)
	if err != nil {
		return err
	}
	last := l.last
	for i, c := range batch {
		t.advance(c.now, c.now.Sub(last))
		if c.now.After(last) { // callers wait out of order
			last = c.now
		}
		if results[i] = c.apply(t); t.fatal != nil {
			return t.fatal
		}
	}
	if !t.dirty && t.header.clock.Sub(l.marked) < time.Minute {
		return tx.Rollback()
	}
	t.putHeader()
	if t.fatal != nil {
		return t.fatal
	}
	marked, accounts := t.header.clock, t.bucket(bucketAccounts).Sequence()
	if err := tx.Commit(); err != nil {
		return err
	}
	l.marked, l.last = marked, last
	l.accounts.Store(accounts)
	l.transactions.Add(1)
	l.fault.set(nil, false)
	return nil
}

const (
	clockSlack = time.Hour      // the largest jump forward that the ledger's clock follows at once
	clockTrust = 24 * time.Hour // of running, until it follows a larger one
)

// advance moves the ledger's clock by the time that has passed since the last change, and on to now if that is not far ahead.
func (t *txn) advance(now time.Time, elapsed time.Duration) {
	h := &t.header
	h.clock = h.clock.Add(max(elapsed, 0))
	switch jump := now.Sub(h.clock); {
	case jump <= 0:
		h.trust = time.Time{}
	case jump <= clockSlack:
		h.clock, h.trust = now, time.Time{}
	case h.trust.IsZero():
		h.trust = h.clock.Add(clockTrust)
	case !h.clock.Before(h.trust):
		h.clock, h.trust = now, time.Time{}
	}
}
