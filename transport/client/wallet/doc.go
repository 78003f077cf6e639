// Package wallet keeps a client's tickets and the accounts that they pay for (section 9 of
// PROTOCOL.md) in one file.
//
// The file is what makes a payment safe: everything that the client must not forget is on disk
// before anybody else learns of it. Blinding secrets are stored before the issuer is asked, so that
// a crash costs no voucher. A ticket is bound to one registration before the gateway sees it, and
// stays bound: a retry after a lost answer or a crash spends the same ticket for the same
// registration, which the gateway answers by the first result.
//
// Several processes may use one wallet. Each change takes a lock, reads the file, and replaces it
// atomically. A copy of the file on another machine shares its tickets, and each can be spent once
// only: do not copy wallets.
package wallet
