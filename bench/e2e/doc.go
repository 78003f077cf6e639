// Package e2e tests the real program over bad networks: gateway processes and the client
// library, in a process of its own, in a network of package network, over its link, which blocks,
// loses, delays, rebinds and goes down.
//
//	go test ./bench/e2e -v          # as root
//	go test ./bench/e2e -v -long    # with outages of minutes
//	go test ./bench/e2e -v -run UDP # some of them
//
// A test logs the client's events and losses. The measured times of all tests are printed as a
// table at the end, beside their targets, and fail nothing: until the first datagram where UDP
// is blocked, until the client is back on UDP, until datagrams flow after a restart.
package e2e
