package udp

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Probe tries the offloads out over loopback, once a process. That a kernel can do
// it says nothing of the devices: those that cannot are found out by sending.
func Probe() Support { return probed() }

var probed = sync.OnceValue(probe)

var (
	errNotCut    = errors.New("a train arrived in other pieces than it was to be cut in")
	errNotJoined = errors.New("datagrams arrived joined, without their length")
)

// What is sent to find out: two datagrams of one length and a shorter one.
const (
	probeSegment = 100
	probeTrain   = 250
)

func probe() Support {
	for _, p := range []prober{{family: unix.AF_INET}, {family: unix.AF_INET6}} {
		if p.open() == nil {
			defer p.close()
			return Support{GSO: p.segmentation(), GRO: p.joining()}
		}
	}
	// No loopback to try it on: what the kernel says must do.
	return Support{GSO: knows(unix.UDP_SEGMENT), GRO: knows(unix.UDP_GRO)}
}

// knows says whether the kernel has a UDP option.
func knows(opt int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		if fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return os.NewSyscallError("socket", err)
		}
	}
	defer func() { _ = unix.Close(fd) }()
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_UDP, opt, 1))
}

// prober is a pair of sockets on loopback.
type prober struct {
	family   int
	from, to int
	addr     unix.Sockaddr
}

func (p *prober) open() (err error) {
	p.from, p.to = -1, -1
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if p.to, err = unix.Socket(p.family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	var loopback unix.Sockaddr = &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	if p.family == unix.AF_INET6 {
		loopback = &unix.SockaddrInet6{Addr: [16]byte{15: 1}}
	}
	if err = unix.Bind(p.to, loopback); err != nil {
		return err
	}
	if p.addr, err = unix.Getsockname(p.to); err != nil {
		return err
	}
	timeout := unix.NsecToTimeval(200e6)
	if err = unix.SetsockoptTimeval(p.to, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return err
	}
	if p.from, err = unix.Socket(p.family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	return unix.Sendto(p.from, []byte{0}, 0, p.addr) // is loopback up at all?
}

func (p *prober) close() {
	for _, fd := range []int{p.from, p.to} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// train sends the three datagrams as one message.
func (p *prober) train() ([]byte, error) {
	data := bytes.Repeat([]byte("lewes"), probeTrain/5)
	var c control
	end := c.segment(probeSegment)
	if err := unix.Sendmsg(p.from, data, c.bytes()[:end], p.addr, 0); err != nil {
		return nil, os.NewSyscallError("sendmsg UDP_SEGMENT", err)
	}
	return data, nil
}

// receive returns the next message and the length of the datagrams joined in it, 0 if
// the kernel names none.
func (p *prober) receive() ([]byte, int, error) {
	buf, oob := make([]byte, bufferSize), make([]byte, 8*receiveControlWords)
	for {
		n, noob, _, _, err := unix.Recvmsg(p.to, buf, oob, 0)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, 0, os.NewSyscallError("recvmsg", err)
		case n == 1: // from open
			continue
		}
		var a ancillary
		parseControl(oob[:noob], &a)
		return buf[:n], a.segment, nil
	}
}

// segmentation says whether a train is cut as it should be.
func (p *prober) segmentation() error {
	data, err := p.train()
	if err != nil {
		return err
	}
	for len(data) > 0 {
		want := data[:min(len(data), probeSegment)]
		got, _, err := p.receive()
		if err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("%w: one of %d bytes", errNotCut, len(got))
		}
		data = data[len(want):]
	}
	return nil
}

// joining says whether what arrives joined tells so.
func (p *prober) joining() error {
	if err := unix.SetsockoptInt(p.to, unix.SOL_UDP, unix.UDP_GRO, 1); err != nil {
		return os.NewSyscallError("setsockopt UDP_GRO", err)
	}
	data, err := p.train()
	if err != nil {
		return nil // without segmentation there is nothing to try it on; the option was taken
	}
	for len(data) > 0 {
		got, segment, err := p.receive()
		if err != nil {
			return err
		}
		if len(got) > probeSegment && segment != probeSegment || !bytes.HasPrefix(data, got) {
			return fmt.Errorf("%w: %d bytes, length %d", errNotJoined, len(got), segment)
		}
		data = data[len(got):]
	}
	return nil
}
