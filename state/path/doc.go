// Package path names the way that a packet came and that its answer takes: the
// peer's address and port, the local address and interface it reached us on, the
// transport, and over TCP the connection.
//
// A Path is a small comparable value: a map key, compared with ==, copied
// freely. What prints it never shows a whole client address.
package path
