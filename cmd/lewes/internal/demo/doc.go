// Package demo runs a client, an entry gateway, an exit gateway and an echo target in one process, over
// loopback, and checks with witnesses at their sockets which party saw what.
//
//   - report.go: [Run] and its [Report]
//   - parties.go: the parties
//   - witness.go: the observations at their sockets, and the claims
//   - traffic.go: the datagrams
package demo
