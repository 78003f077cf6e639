// Package registrar carries out Registers (section 9 of PROTOCOL.md) outside the shards. Each runs through
// one order of steps, in which everything that can refuse comes before the ticket is spent:
//
//	 1  parse         the message, its mode, its time
//	 2  checkAccess   the list of clients
//	 3  checkProof    of the WireGuard key
//	 4  reserve       the account is locked and read, addresses are reserved in memory
//	 5  checkKey      whether a ticket is needed; its key, epoch and floor
//	 6  checkSpent    spent by this same request: on to 9
//	 7  verify        the ticket's signature
//	 8  commit        one transaction: spent, grant, attachment "adding"
//	 9  setDevice     the WireGuard peer
//	10  finish        attachment "on"
//	11                the answer
//
// A process that ends after 8 leaves an attachment that Recover completes at the next start, and a repeat of
// the Register has the result of the first.
package registrar
