package policy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Routes is the kernel's routing table, by rtnetlink. It belongs to the network namespace of the thread
// that opened it.
type Routes struct {
	changes *os.File // subscribed to changes

	mu       sync.Mutex
	queries  *os.File
	sequence uint32
	buffer   [512]byte // longer than the request and the part of the reply that is read
}

// ruleGroup6 is the multicast group of changed IPv6 rules.
const ruleGroup6 = 1 << (unix.RTNLGRP_IPV6_RULE - 1)

// OpenRoutes opens the kernel's routing table. It returns an error where the kernel does not answer.
// The caller closes it.
func OpenRoutes() (*Routes, error) {
	changes, err := openNetlink(unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR |
		unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE | unix.RTMGRP_IPV4_RULE | ruleGroup6)
	if err != nil {
		return nil, err
	}
	queries, err := openNetlink(0)
	if err != nil {
		_ = changes.Close()
		return nil, err
	}
	r := &Routes{changes: changes, queries: queries}
	if _, err := r.Route(netip.AddrFrom4([4]byte{127, 0, 0, 1})); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// openNetlink opens a socket that receives the messages of some groups.
func openNetlink(groups uint32) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}

// Close ends Wait; Route then returns errors.
func (r *Routes) Close() {
	_ = r.changes.Close()
	_ = r.queries.Close()
}

// Wait implements RouteTable. Only one call may run at a time.
func (r *Routes) Wait(ctx context.Context) error {
	if err := r.changes.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = r.changes.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var message [4096]byte // its content is not needed
	_, err := r.changes.Read(message[:])
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, unix.ENOBUFS): // changes were lost
		return nil
	default:
		return err
	}
}

// unroutable are the errors for an address to which the kernel has no route, or one that rejects packets.
var unroutable = []unix.Errno{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL, unix.EAGAIN, unix.ESRCH}

// Route implements RouteTable.
func (r *Routes) Route(addr netip.Addr) (Route, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sequence++
	if _, err := r.queries.Write(r.request(addr)); err != nil {
		return 0, err
	}
	// The kernel has queued its reply before write returns. An earlier one may precede it after an error.
	for {
		var n int
		var errno error
		if err := r.control(func(fd int) { n, errno = unix.Read(fd, r.buffer[:]) }); err != nil {
			return 0, err
		}
		if errno != nil {
			return 0, os.NewSyscallError("read", errno)
		}
		if n < unix.SizeofNlMsghdr+unix.SizeofRtMsg {
			return 0, fmt.Errorf("policy: rtnetlink reply of %d bytes", n)
		}
		if ne.Uint32(r.buffer[8:]) == r.sequence {
			return parseRoute(r.buffer[:n])
		}
	}
}

func (r *Routes) control(f func(fd int)) error {
	raw, err := r.queries.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { f(int(fd)) })
}

var ne = binary.NativeEndian

// request returns an RTM_GETROUTE.
func (r *Routes) request(addr netip.Addr) []byte {
	family := byte(unix.AF_INET6)
	if addr.Is4() {
		family = unix.AF_INET
	}
	size := addr.BitLen() / 8
	length := unix.SizeofNlMsghdr + unix.SizeofRtMsg + unix.SizeofRtAttr + size
	b := ne.AppendUint32(r.buffer[:0], uint32(length))
	b = ne.AppendUint16(b, unix.RTM_GETROUTE)
	b = ne.AppendUint16(b, unix.NLM_F_REQUEST)
	b = ne.AppendUint32(b, r.sequence)
	b = ne.AppendUint32(b, 0)                          // the sender: this socket
	b = append(b, family, byte(addr.BitLen()))         // and the length of the destination
	b = append(b, make([]byte, unix.SizeofRtMsg-2)...) // the rest is for the kernel to choose
	b = ne.AppendUint16(b, uint16(unix.SizeofRtAttr+size))
	b = ne.AppendUint16(b, unix.RTA_DST)
	return append(b, addr.AsSlice()...)
}

// parseRoute parses the reply to a request. b holds a header and 12 bytes at least.
func parseRoute(b []byte) (Route, error) {
	content := b[unix.SizeofNlMsghdr:]
	switch ne.Uint16(b[4:]) {
	case unix.RTM_NEWROUTE:
		switch content[7] { // rtm_type
		case unix.RTN_LOCAL, unix.RTN_ANYCAST:
			return RouteLocal, nil
		case unix.RTN_BROADCAST:
			return RouteBroadcast, nil
		case unix.RTN_MULTICAST:
			return RouteMulticast, nil
		}
		return RouteRemote, nil
	case unix.NLMSG_ERROR:
		errno := unix.Errno(-int32(ne.Uint32(content)))
		if slices.Contains(unroutable, errno) {
			return RouteRemote, nil
		}
		return 0, os.NewSyscallError("rtnetlink", errno)
	default:
		return 0, errors.New("policy: unexpected rtnetlink reply")
	}
}
