package flood

import (
	"encoding/binary"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

const (
	ipv4Header = 20
	ipv6Header = 40
	udpHeader  = 8
	udp        = 17
)

// rawSocket sends UDP datagrams from any source address.
type rawSocket struct {
	four, six int
	packet    [2048]byte
}

func openRaw() (*rawSocket, error) {
	r := new(rawSocket)
	var err error
	if r.four, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW); err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if r.six, err = unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW); err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	for _, fd := range []int{r.four, r.six} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20); err != nil {
			return nil, os.NewSyscallError("setsockopt SO_SNDBUFFORCE", err)
		}
	}
	return r, nil
}

func (r *rawSocket) close() {
	_ = unix.Close(r.four)
	_ = unix.Close(r.six)
}

// send sends one datagram; from and to are of one family.
func (r *rawSocket) send(from, to netip.AddrPort, payload []byte) error {
	if to.Addr().Is4() {
		return r.send4(from, to, payload)
	}
	p := r.packet[:ipv6Header+udpHeader+len(payload)]
	clear(p[:ipv6Header])
	p[0] = 0x60
	binary.BigEndian.PutUint16(p[4:], uint16(udpHeader+len(payload)))
	p[6], p[7] = udp, 64
	source, target := from.Addr().As16(), to.Addr().As16()
	copy(p[8:], source[:])
	copy(p[24:], target[:])
	putUDP(p[ipv6Header:], from, to, payload)
	// The checksum covers a pseudo header of both addresses, the length and the protocol.
	sum := checksum(checksum(udp+uint32(udpHeader+len(payload)), p[8:40]), p[ipv6Header:])
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(p[ipv6Header+6:], ^uint16(sum))
	return os.NewSyscallError("sendto", unix.Sendto(r.six, p, 0, &unix.SockaddrInet6{Addr: target}))
}

func (r *rawSocket) send4(from, to netip.AddrPort, payload []byte) error {
	p := r.packet[:ipv4Header+udpHeader+len(payload)]
	clear(p[:ipv4Header])
	p[0] = 0x45
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	p[8], p[9] = 64, udp
	source, target := from.Addr().As4(), to.Addr().As4()
	copy(p[12:], source[:])
	copy(p[16:], target[:])
	putUDP(p[ipv4Header:], from, to, payload) // without a sum, as IPv4 allows
	return os.NewSyscallError("sendto", unix.Sendto(r.four, p, 0, &unix.SockaddrInet4{Addr: target}))
}

func putUDP(p []byte, from, to netip.AddrPort, payload []byte) {
	binary.BigEndian.PutUint16(p, from.Port())
	binary.BigEndian.PutUint16(p[2:], to.Port())
	binary.BigEndian.PutUint16(p[4:], uint16(udpHeader+len(payload)))
	p[6], p[7] = 0, 0
	copy(p[udpHeader:], payload)
}

// checksum adds the words of b to the sum of the Internet protocols.
func checksum(sum uint32, b []byte) uint32 {
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	return sum
}

// sniffed is a captured datagram.
type sniffed struct {
	from    netip.AddrPort
	payload []byte
}

// sniffer captures datagrams sent from this machine over IPv4 to one UDP port.
type sniffer struct {
	fd   int
	port uint16
}

// openSniffer listens on every device.
func openSniffer(port uint16) (*sniffer, error) {
	// Only sockets for all protocols receive outgoing packets.
	network := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(network))
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}); err != nil {
		return nil, os.NewSyscallError("setsockopt SO_RCVTIMEO", err)
	}
	return &sniffer{fd, port}, nil
}

func (s *sniffer) close() { _ = unix.Close(s.fd) }

// next returns the next datagram, or nil after 100 ms without one. Of a GSO train, which the
// kernel has not segmented yet, it returns the first, of segment bytes.
func (s *sniffer) next(segment int) *sniffed {
	var frame [2048]byte
	for {
		n, err := unix.Read(s.fd, frame[:])
		if err != nil {
			return nil
		}
		p := frame[:n]
		if len(p) < ipv4Header+udpHeader || p[0] != 0x45 || p[9] != udp {
			continue
		}
		u := p[ipv4Header:]
		if binary.BigEndian.Uint16(u[2:]) != s.port {
			continue
		}
		size := min(int(binary.BigEndian.Uint16(u[4:]))-udpHeader, segment, len(u)-udpHeader)
		if size <= 0 {
			continue
		}
		return &sniffed{
			from:    netip.AddrPortFrom(netip.AddrFrom4([4]byte(p[12:16])), binary.BigEndian.Uint16(u)),
			payload: append([]byte(nil), u[udpHeader:udpHeader+size]...),
		}
	}
}
