//go:build !linux

package udp

import (
	"errors"
	"fmt"
	"syscall"
)

var errLinuxOnly = fmt.Errorf("supported on Linux only (%w)", errors.ErrUnsupported)

// Probe reports no offloads: they require Linux.
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

// grant requests a socket buffer, halving the size until it is accepted. It returns the
// accepted size or 0.
func grant(set func(int) error, size int) int {
	for ; size > 4<<10; size /= 2 {
		if set(size) == nil {
			return size
		}
	}
	return 0
}

// prepare sets the options of a socket before it is bound.
func prepare(network string, raw syscall.RawConn, o *Options, _ bool) (s setup, err error) {
	e := raw.Control(func(fd uintptr) {
		err = denyBroadcast(fd)
		if !o.Fragment {
			s.mayFragment = dontFragment(fd, network == "udp6")
		}
	})
	return s, errors.Join(e, err)
}

func share(syscall.RawConn) error            { return errLinuxOnly }
func (s Steer) attach(syscall.RawConn) error { return errLinuxOnly }

// Poller is supported on Linux only.
type Poller struct{}

// NewPoller fails.
func NewPoller() (*Poller, error) { return nil, errLinuxOnly }

// Adopt fails.
func (*Poller) Adopt(*Conn, any) error { return errLinuxOnly }

// Run fails.
func (*Poller) Run(Handler) error { return errLinuxOnly }

// Stop does nothing.
func (*Poller) Stop() {}

// Close does nothing.
func (*Poller) Close() {}

const portsSupported = false

func (*portBinding) bind(string, syscall.RawConn) error { return errLinuxOnly }
func (*Conn) discardReceived()                          {}

func checkInherit() error                      { return errLinuxOnly }
func cookieOf(syscall.RawConn) (uint64, error) { return 0, errLinuxOnly }
func (c *Conn) initInherited(*Options) error   { return errLinuxOnly }
