// Package e2e has the tests of the world at its worst: the real program as gateway, and
// the client library in a process of its own, each on a machine of package netns, with a
// link of package link between them that blocks, loses, delays, forgets and goes away.
//
//	go test ./bench/e2e -v                # a minute, as root
//	go test ./bench/e2e -v -world.long    # with the times of the real world: five minutes
//	go test ./bench/e2e -v -run UDP       # some of them
//
// Each test says what the client noticed, how long it took and what was lost. The
// figures of all come as a table at the end: how long until the first datagram is through
// where UDP is blocked, until the client is back on UDP that works again, until
// datagrams flow after the gateway was killed and started again.
//
// The tests are here and not beside the program because they are no test of a package:
// they need the program, the library, the link and machines, and nothing of the
// program's own insides.
package e2e
