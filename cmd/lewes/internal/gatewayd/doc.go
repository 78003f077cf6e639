// Package gatewayd runs a gateway as a process: it turns a configuration into a router, announces
// when it is ready, reloads the configuration, hands over to a successor, and shuts down.
//
//   - process.go: [Process], from start to shutdown
//   - settings.go: the router's configuration, from the gateway's
//   - access.go: the list of clients
//   - reload.go: SIGHUP
//   - upgrade.go: SIGUSR2, the live handover
//   - control.go, status.go, sessions.go: the control socket
//   - advertise.go: the URIs that a gateway prints
//   - notify.go, logger.go: systemd and the log
package gatewayd
