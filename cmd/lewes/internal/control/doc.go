// Package control is the socket by which an operator observes and steers a running gateway or client:
// JSON over HTTP/1.1 on a Unix socket, which curl --unix-socket can use as well. It knows nothing of
// gateways: their process registers what the socket serves.
//
// Whoever can connect may read. Requests that act or reveal are for root and the process's own user,
// which the kernel names (SO_PEERCRED), and each is logged.
//
//   - server.go: [Server], its endpoints and their permissions
//   - listener.go: [Listen] and the bound on connections
//   - throttle.go: the bound on the processor time of long answers
//   - client.go: [Client], for the commands
package control
