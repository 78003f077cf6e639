// Lewes is a gateway for datagrams and the client to it, in one program.
//
//	lewes demo                                     see it work, on this machine alone
//	lewes gateway                                  run a gateway
//	lewes forward --gateway URI 5353=9.9.9.9:53    send what comes to a local port through one
//
// Each command has a file of its own, and shows examples with --help. Scripts can
// rely on the exit code: 0 it worked, 1 it failed, and the last line on standard
// error says at what, 2 the command line was wrong.
package main
