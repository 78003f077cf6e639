// Package state is the Lewes Protocol without input and output: handshakes,
// sessions, subsessions, and the stores that hold them (sections 4 to 7 of
// transport/PROTOCOL.md).
//
// Everything here takes the time and a packet and returns packets to send and
// events. There is no goroutine, no lock, no socket and no clock inside, and
// randomness comes from a reader that the caller passes in. A test can
// therefore run thousands of handshakes a second through a simulated network and
// repeat any of them by its seed.
//
// The two ends:
//
//   - Client makes a session: it drives one or more Initiators (one handshake
//     attempt each) until one stands.
//   - Handshakes holds a gateway's Records, one for each handshake under way. A
//     Record answers a client up to its Session.
//   - Session is an established session at either end: it opens packets, starts
//     or answers subsessions, follows the peer from address to address, and says
//     by Deadline when it wants to be ticked.
//   - Sender is the sealing half of a session's current keys, the one value that
//     other goroutines may use while the owner changes the session.
//
// Time is a time.Time of the caller's clock. Only differences of it are used,
// except in the hello's and the PSQ's time stamps, which are its Unix time.
package state
