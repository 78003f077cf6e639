// Lewes is a datagram gateway and its client, in one program.
//
//	lewes demo                                     run a client, two gateways and a target on this machine
//	lewes gateway                                  run a gateway
//	lewes forward --gateway URI 5353=9.9.9.9:53    forward a local UDP port through a gateway
//
// gateway.go, forward.go, probe.go and clients.go hold a command each, commands.go the short ones. The
// exit codes are 0 for success, 1 for a failure, described on standard error, and 2 for an error in the
// command line.
package main
