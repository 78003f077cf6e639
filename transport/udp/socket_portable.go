//go:build !linux

package udp

import (
	"errors"
	"fmt"
	"syscall"
)

var errLinuxOnly = fmt.Errorf("exists on Linux alone (%w)", errors.ErrUnsupported)

// Probe says that there are no offloads: they exist on Linux alone.
func Probe() Support { return Support{GSO: errLinuxOnly, GRO: errLinuxOnly} }

func newBatcher(c *Conn, o *Options) (batcher, error) {
	c.disableGSO(errLinuxOnly.Error())
	c.gro.Reason = errLinuxOnly.Error()
	c.receiveBuffer = Buffer{Requested: bufferRequest(o.ReceiveBuffer)}
	c.receiveBuffer.Granted = grant(c.udp.SetReadBuffer, c.receiveBuffer.Requested)
	c.sendBuffer = Buffer{Requested: bufferRequest(o.SendBuffer)}
	c.sendBuffer.Granted = grant(c.udp.SetWriteBuffer, c.sendBuffer.Requested)
	c.emitSetup(setup{receiveBuffer: c.receiveBuffer, sendBuffer: c.sendBuffer})
	return newPortable(c, o)
}

// grant asks for a socket buffer, and for half as much where that is refused. It
// returns what was accepted, 0 for nothing.
func grant(set func(int) error, size int) int {
	for ; size > 4<<10; size /= 2 {
		if set(size) == nil {
			return size
		}
	}
	return 0
}

// prepare sets what a socket needs before it is bound.
func prepare(network string, raw syscall.RawConn, o *Options, _ bool) (s setup, err error) {
	if o.Fragment {
		return s, nil
	}
	e := raw.Control(func(fd uintptr) { s.mayFragment = dontFragment(fd, network == "udp6") })
	return s, e
}

// share and attach: no other system spreads datagrams over sockets by a program.

func share(syscall.RawConn) error            { return errLinuxOnly }
func (s Steer) attach(syscall.RawConn) error { return errLinuxOnly }

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

func checkInherit() error                      { return ErrNoInheritance }
func cookieOf(syscall.RawConn) (uint64, error) { return 0, ErrNoInheritance }
func (c *Conn) initInherited(*Options) error   { return ErrNoInheritance }
