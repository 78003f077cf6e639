package client

import (
	"context"
	"net"
	"strconv"
	"testing"

	"lewes/state/wire"
)

// An accepted address is encoded as the same address, and package net parses it alike.
func FuzzParseDestination(f *testing.F) {
	for _, address := range []string{
		"203.0.113.7:53", "[2001:db8::1]:53", "[::ffff:203.0.113.7]:53", "dns.example.com:53", "dns.example.com.:1",
		"127.1:53", "0x7f000001:53", "[fe80::1%eth0]:53", ":53", "a:b:c", "[::]:0", "x:65536", "x:-1", "x:domain", "bücher.example:1",
	} {
		f.Add("udp", address)
		f.Add("udp4", address)
		f.Add("udp6", address)
	}
	f.Fuzz(func(t *testing.T, network, address string) {
		to, err := parseDestination(context.Background(), network, address)
		if err != nil {
			return
		}
		opening, err := to.opening()
		if err != nil {
			return
		}
		got, rest, err := wire.CutTarget(opening)
		if err != nil || len(rest) != 0 || got.String() != to.String() {
			t.Fatalf("%q is %s, and on the wire %s, %q, %v", address, to, got.String(), rest, err)
		}
		if network == "udp4" && got.Kind() == wire.TargetIPv6 || network == "udp6" && got.Kind() == wire.TargetIPv4 {
			t.Fatalf("%s for %s", to, network)
		}
		host, _, err := net.SplitHostPort(address)
		if err != nil || to.name.Host != "" && to.name.Host != host {
			t.Fatalf("%q is %s", address, to)
		}
		again, err := destinationOf(to.net())
		if err != nil || again != to {
			t.Fatalf("%s is %s as a net.Addr, %v", to, again, err)
		}
		if _, port, err := net.SplitHostPort(to.String()); err != nil || port != strconv.Itoa(int(got.Port)) {
			t.Fatalf("%s: port %s, %v", to, port, err)
		}
	})
}
