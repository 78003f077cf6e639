//go:build !linux

package udp

// Poller receives from any number of sockets in one goroutine, on Linux alone: NewPoller
// makes none here.
type Poller struct{}

// NewPoller fails on systems other than Linux.
func NewPoller() (*Poller, error) { return nil, errLinuxOnly }

// Adopt fails: there is no Poller.
func (*Poller) Adopt(*Conn, any) error { return errLinuxOnly }

// Run fails: there is no Poller.
func (*Poller) Run(Handler) error { return errLinuxOnly }

// Stop does nothing.
func (*Poller) Stop() {}

// Close does nothing.
func (*Poller) Close() {}
