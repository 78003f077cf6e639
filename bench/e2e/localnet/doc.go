// Localnet is a network on one machine in which to try lewes, or to test a release: a client behind
// a NAT, an entry, an exit, and a target that answers DNS and HTTP/3. Run it by deploy/localnet,
// which builds it.
//
// The process that runs up holds everything: namespaces without names, which end with the
// processes in them, a link in user space, gateways that are killed when it ends, and a folder of
// temporary files. The other commands reach it over a Unix socket.
package main
