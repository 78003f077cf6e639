// Package state is the Lewes Protocol without I/O: handshakes, sessions, rekeys, and the
// tables that hold them (sections 4 to 7 of transport/PROTOCOL.md).
//
// All functions take the time and a packet and return packets to send and events. The
// package has no goroutines, locks, sockets or clock, and reads randomness from a reader in
// its configuration. A test can therefore run thousands of handshakes a second through a
// simulated network and reproduce any of them by its seed.
//
//   - Client (handshake_client.go) establishes a session by one or more attempts
//     (attempt.go).
//   - ResponderTable (respondertable.go, admission.go) holds a gateway's responders
//     (responder.go), one per handshake in progress. The tables of one gateway share the
//     bounds on strangers, GatewayBudgets (budgets.go).
//   - Session (session.go) is an established session at either end. It consists of its key
//     sets (keyset.go), rekeys (rekey_initiator.go, rekey_responder.go), the peer's path
//     (migration.go), path MTU discovery (pmtu.go) and liveness (liveness.go).
//   - Sessions (sessions.go) finds a shard's sessions by receiver index and deadline.
//   - Sender (keyset.go) is the sealing half of a key set. It and GatewayBudgets are the
//     values that several goroutines may use.
//
// Only differences of times are used, except for the time stamps of hello and PSQ, which
// are Unix times.
package state
