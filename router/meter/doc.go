// Package meter counts the bandwidth of registered clients (section 9 of PROTOCOL.md).
//
// An account has grants of bytes. Each shard with sessions of an account takes a lease of its bytes,
// and charges datagrams to the lease alone, without a lock. Once a second the Book collects what was
// used, reports it to the ledger, and takes back the leases that were not used.
//
//	grants ──► Account.pool ──lease──► Share ──charge──► used ──collect──► grants, ledger
//
// At every moment the bytes in the pool, in leases and used are together what was granted. If the
// process is killed, the ledger lacks what was used since the last report.
package meter
