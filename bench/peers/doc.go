// Package peers tests Lewes with other programs and libraries: dnsmasq and dig, an HTTP/3
// server and client, miekg/dns and quic-go. Gateways and forwards run as processes, or in
// the test for the examples of the client library, all on loopback.
//
// It is a module of its own so that the dependencies of these tests stay out of the
// product's go.mod.
//
//	cd bench/peers && go test ./...
//
// A peer that this machine lacks skips its test, which says so.
package peers
