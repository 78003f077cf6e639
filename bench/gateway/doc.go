// Package gateway runs a gateway as a worker, as the program runs it, with everything
// switched on: sessions, replay windows, flows, policy, metrics. Three things differ, so that
// a bench can be short and stay on one machine: loopback is allowed as a target, a source
// may make as many handshakes as it likes, and sessions are not ended for being
// idle.
package gateway
