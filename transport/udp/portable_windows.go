package udp

import (
	"errors"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/windows"

	"lewes/state/path"
	"lewes/transport"
)

// portable is the batcher for Windows, where golang.org/x/net has no batches: one datagram per
// call. The system chooses the source address on a wildcard socket, and Options.Pooled is ignored.
type portable struct {
	c             *Conn
	buf           []byte
	localCounters localCounters
}

func newPortable(c *Conn, _ *Options) (batcher, error) {
	return &portable{c: c, buf: make([]byte, bufferSize)}, nil
}

func (b *portable) read(p []transport.Packet) (int, error) {
	defer b.localCounters.flush(&b.c.counters.received)
	c := b.c
	for {
		b.localCounters.calls++
		n, from, err := c.udp.ReadFromUDPAddrPort(b.buf)
		var e syscall.Errno
		switch {
		case errors.As(err, &e) && errorKind(e) == TooLarge:
			c.counters.truncated.Add(1)
			continue
		case errors.As(err, &e):
			c.counters.asyncErrors[errorKind(e)].Add(1)
			return 0, c.readError(e)
		case err != nil:
			return 0, unwrapNetError(err)
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		q := transport.Packet{Data: b.buf[:n:n]}
		switch {
		case c.peer == nil:
			q.Path = path.NewUDP(from, c.fixed(), 0)
		case !c.checkPeer || from == c.peer.Peer:
			q.Path = *c.peer
		default:
			c.counters.unexpectedSource.Add(1)
			continue
		}
		p[0] = q
		b.localCounters.batch[0]++
		b.localCounters.message(1, n)
		return 1, nil
	}
}

// fixed returns the bound address, or the zero Addr for a wildcard.
func (c *Conn) fixed() netip.Addr {
	if c.local.Addr().IsUnspecified() {
		return netip.Addr{}
	}
	return c.local.Addr()
}

func (b *portable) write(p []transport.Packet) (int, error) {
	var r writeResult
	c := b.c
	defer func() { r.flush(c.counters) }()
	for gsoBatcher := newGSOBatcher(p, c.peer != nil, 1); gsoBatcher.more(); {
		one := gsoBatcher.next(1)
		q := &p[one.from.packet]
		a := sendAttempt{connected: c.peer != nil, segments: 1}
		for {
			r.calls++
			err := b.send(q, q.Data[one.from.offset:one.from.offset+one.bytes])
			if err == nil {
				r.batch[0]++
				r.message(1, one.bytes)
				break
			}
			var e syscall.Errno
			if !errors.As(err, &e) {
				return 0, unwrapNetError(err)
			}
			if classifySendError(e, &a) != actionRetry {
				r.fail(c.counters, one.from.packet, one.last(), 1, e)
				break
			}
			a.retries++
			r.addAsync(c.counters, e)
		}
	}
	return r.result(p, c.peer)
}

func (b *portable) send(q *transport.Packet, data []byte) error {
	if b.c.peer != nil {
		_, err := b.c.udp.Write(data)
		return err
	}
	addr := q.Path.Peer.Addr().Unmap()
	if !addr.IsValid() || q.Path.Peer.Port() == 0 || addr.Is6() != b.c.v6 {
		return windows.WSAEDESTADDRREQ
	}
	_, err := b.c.udp.WriteToUDPAddrPort(data, netip.AddrPortFrom(addr, q.Path.Peer.Port()))
	return err
}

// denyBroadcast clears SO_BROADCAST, which package net sets: a datagram to a broadcast address fails.
func denyBroadcast(fd uintptr) error {
	return os.NewSyscallError("setsockopt SO_BROADCAST", windows.SetsockoptInt(windows.Handle(fd), windows.SOL_SOCKET, windows.SO_BROADCAST, 0))
}

// From ws2ipdef.h; both families have the same number.
const optDontFragment = 14

func dontFragment(fd uintptr, v6 bool) error {
	level := windows.IPPROTO_IP
	if v6 {
		level = windows.IPPROTO_IPV6
	}
	return os.NewSyscallError("setsockopt", windows.SetsockoptInt(windows.Handle(fd), level, optDontFragment, 1))
}
