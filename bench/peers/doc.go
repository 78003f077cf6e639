// Package peers tests Lewes with programs that other people wrote: a DNS server
// and dig, an HTTP/3 server and client. Gateways and forwards run as processes, as
// their users run them, everything on loopback.
//
// It is a module of its own so that what only these tests need stays out of the
// product's go.mod.
//
//	cd bench/peers && go test ./...
//
// A peer that this machine lacks skips its test, which says so.
package peers
