// Package egress opens the sockets of a gateway towards targets and other gateways, and chooses their
// local ports.
//
// The system gives a freed port to the next socket, and late answers of a target go with it to
// another client's flow towards the same target. So Ports chooses: a random port of a range, never one
// whose pair with the target is in use or was until less than 30 s ago. A late answer then reaches
// no socket, and the kernel drops it. Several sockets share a port as long as their targets differ,
// so the number of ports does not bound the number of flows.
package egress
