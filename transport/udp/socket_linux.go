package udp

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// prepare sets the options of a socket before it is bound, so that they apply to its
// first datagram.
func prepare(network string, raw syscall.RawConn, o *Options, connected bool) (s setup, err error) {
	v6 := network == "udp6"
	if e := raw.Control(func(fd uintptr) {
		s, err = prepareFD(int(fd), v6, o, connected)
	}); e != nil {
		return s, e
	}
	return s, err
}

func prepareFD(fd int, v6 bool, o *Options, connected bool) (s setup, err error) {
	s.receiveBuffer = setBuffer(fd, unix.SO_RCVBUF, unix.SO_RCVBUFFORCE, bufferRequest(o.ReceiveBuffer))
	s.sendBuffer = setBuffer(fd, unix.SO_SNDBUF, unix.SO_SNDBUFFORCE, bufferRequest(o.SendBuffer))
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1)
	if err := denyBroadcast(uintptr(fd)); err != nil {
		return s, err
	}
	if !connected {
		level, opt := unix.SOL_IP, unix.IP_PKTINFO
		if v6 {
			level, opt = unix.SOL_IPV6, unix.IPV6_RECVPKTINFO
		}
		if err := unix.SetsockoptInt(fd, level, opt, 1); err != nil {
			return s, fmt.Errorf("enable packet info: %w", os.NewSyscallError("setsockopt", err))
		}
	}
	if connected && !o.Portable {
		level, opt := unix.SOL_IP, unix.IP_RECVERR
		if v6 {
			level, opt = unix.SOL_IPV6, unix.IPV6_RECVERR
		}
		// Without it errors are reported as on other systems.
		_ = unix.SetsockoptInt(fd, level, opt, 1)
	}
	if !o.Fragment {
		level, opt, probe := unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE
		if v6 {
			level, opt, probe = unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE
		}
		s.mayFragment = os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, opt, probe))
	}
	return s, nil
}

// setBuffer requests a socket buffer, first beyond the system's limit, which requires
// CAP_NET_ADMIN.
func setBuffer(fd, opt, force, size int) Buffer {
	if size > 0 && unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt, size) // read back below
	}
	granted, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, opt)
	if err != nil {
		return Buffer{Requested: size}
	}
	return Buffer{Requested: size, Granted: granted / 2} // the kernel doubles it for its overhead
}

// enableGRO sets UDP_GRO.
func enableGRO(raw syscall.RawConn) (err error) {
	return onFD(raw, func(fd int) error {
		return os.NewSyscallError("setsockopt UDP_GRO", unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1))
	})
}

// share lets other sockets of this user bind the same address (SO_REUSEPORT).
func share(raw syscall.RawConn) error {
	return onFD(raw, func(fd int) error {
		return os.NewSyscallError("setsockopt SO_REUSEPORT", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
	})
}

func onFD(raw syscall.RawConn, f func(fd int) error) (err error) {
	if e := raw.Control(func(fd uintptr) { err = f(int(fd)) }); e != nil {
		return e
	}
	return err
}

// Probe tests the offloads over loopback, once per process. Devices may still lack support,
// which shows when sending.
func Probe() Support { return probed() }

var probed = sync.OnceValue(probe)

var (
	errNotCut    = errors.New("a train was segmented incorrectly")
	errNotJoined = errors.New("datagrams were coalesced without their length")
)

// The probe: two datagrams of one length and a shorter one.
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
	// No usable loopback: rely on the options alone.
	return Support{GSO: knows(unix.UDP_SEGMENT), GRO: knows(unix.UDP_GRO)}
}

// knows returns nil if the kernel has a UDP option.
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

// train sends the datagrams as one GSO train.
func (p *prober) train() ([]byte, error) {
	data := bytes.Repeat([]byte("lewes"), probeTrain/5)
	var c control
	end := c.segment(probeSegment)
	if err := unix.Sendmsg(p.from, data, c.bytes()[:end], p.addr, 0); err != nil {
		return nil, os.NewSyscallError("sendmsg UDP_SEGMENT", err)
	}
	return data, nil
}

// receive returns the next message and the length of the datagrams coalesced in it, or 0.
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
		var a controlInfo
		parseControl(oob[:noob], &a)
		return buf[:n], a.segment, nil
	}
}

// segmentation tests GSO.
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

// joining tests GRO.
func (p *prober) joining() error {
	if err := unix.SetsockoptInt(p.to, unix.SOL_UDP, unix.UDP_GRO, 1); err != nil {
		return os.NewSyscallError("setsockopt UDP_GRO", err)
	}
	data, err := p.train()
	if err != nil {
		return nil // GRO cannot be tested without GSO; the option was accepted
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

// attach attaches the steering program to the sockets that share an address.
func (s Steer) attach(raw syscall.RawConn) error {
	program, err := s.program()
	if err != nil {
		return fmt.Errorf("assemble the steering program: %w", err)
	}
	filter := make([]unix.SockFilter, len(program))
	for i, in := range program {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	return onFD(raw, func(fd int) error {
		return os.NewSyscallError("setsockopt SO_ATTACH_REUSEPORT_CBPF", unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF,
			&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}))
	})
}

// Offsets of receiver_idx, little-endian (sections 1 and 4 of PROTOCOL.md): in the header,
// or, if that is 0 as in a ClientHello, at the start of the content.
const (
	indexOffset      = 0
	helloIndexOffset = 18
)

// program is Shard as BPF on a UDP payload. BPF loads are big-endian, so the index is
// assembled from four bytes. A load beyond the end of the packet ends the program with 0,
// the shard for such packets.
func (s Steer) program() ([]bpf.RawInstruction, error) {
	hello := loadLittleEndian(helloIndexOffset)
	program := append(loadLittleEndian(indexOffset),
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: uint8(len(hello))})
	program = append(program, hello...)
	program = append(program,
		bpf.ALUOpConstant{Op: bpf.ALUOpMul, Val: s.Secret | 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 16},
		bpf.ALUOpConstant{Op: bpf.ALUOpMod, Val: uint32(max(s.Shards, 1))},
		bpf.RetA{},
	)
	return bpf.Assemble(program)
}

// loadLittleEndian loads a little-endian u32 into A.
func loadLittleEndian(offset uint32) []bpf.Instruction {
	program := []bpf.Instruction{bpf.LoadAbsolute{Off: offset + 3, Size: 1}}
	for i := 2; i >= 0; i-- {
		program = append(program,
			bpf.ALUOpConstant{Op: bpf.ALUOpShiftLeft, Val: 8},
			bpf.TAX{},
			bpf.LoadAbsolute{Off: offset + uint32(i), Size: 1},
			bpf.ALUOpX{Op: bpf.ALUOpOr},
		)
	}
	return program
}
