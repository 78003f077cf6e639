// Package ledger is the durable memory of a gateway: accounts with their grants and attachments, spent
// tickets, results of registrations, and the addresses of WireGuard peers. It is one file of go.etcd.io/bbolt.
//
//	l, err := ledger.Open(path, ledger.Options{Gateway: key.Public(), Now: time.Now()})
//	receipt, err := l.Commit(ctx, ledger.Entry{Account: client, Request: request, Ticket: &ticket, Grant: &grant, Now: time.Now()})
//	if errors.Is(err, ledger.ErrSpent) { … }
//
// # Transactions
//
// One goroutine commits. It takes all waiting changes into one transaction, so that many callers share
// its two syncs; a change that is refused leaves the others of its transaction alone. A method
// that changes the ledger returns after the sync. When its context ends first, the change may still
// happen; repeating an Entry is safe, because a ticket that was spent with the same Request is Repeated.
//
// # Damage
//
// bbolt has checksums on its two meta pages only, and panics on damage elsewhere. Each value here carries a
// CRC-32C over its bucket, key and content, Open verifies the structure of all pages, and bbolt runs under recover
// with faults turned into panics, so that a damaged, foreign or newer file is an error, and is left as it is. After a failed sync, or a
// panic, the content of the disk is uncertain: the ledger then refuses all changes until it is opened
// again. A full disk fails only the changes that meet it.
//
// The file FILE.boot holds the id of the last run. A ledger that lacks it is a restored backup (Ledger.Restored),
// and a missing ledger with such a file is not silently replaced by an empty one.
//
// # Time
//
// Callers pass the time. Ledger time, which decides about deletion, follows it but never goes back, and
// follows a jump forward of more than an hour only after it has stood for a day of running. Spent tickets take more than a
// clock: the list of a key is dropped when the key has ended and its issuer has signed a ticket of a later
// epoch that began by then. The end of the list is then the durable floor, below which tickets are refused, so that
// no jump of the clock makes a spent ticket good again.
//
// The interface has put-if-absent (Commit), reservations that expire, and sums, and no concept of the
// engine, so that a shared store can take its place.
package ledger
