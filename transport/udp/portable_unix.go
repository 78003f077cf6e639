//go:build unix

package udp

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"lewes/state/path"
	"lewes/transport"
)

// portable is the batcher for every Unix: golang.org/x/net, without offloads. Without a
// system call for several messages, x/net moves one at a time.
type portable struct {
	c *Conn
	batchConn

	// Used by the reader only.
	pooled        bool
	slots         int
	recv          *portableReceiver // nil while a pooled Conn waits
	readable      func(fd uintptr) bool
	localCounters localCounters
}

// batchConn is an ipv4.PacketConn or an ipv6.PacketConn, whose Message is the same type.
type batchConn interface {
	ReadBatch(ms []ipv4.Message, flags int) (int, error)
	WriteBatch(ms []ipv4.Message, flags int) (int, error)
}

func newPortable(c *Conn, o *Options) (batcher, error) {
	b := &portable{c: c, pooled: o.Pooled, slots: o.batch(), readable: readable}
	var err error
	if c.v6 {
		pc := ipv6.NewPacketConn(c.udp)
		err = pc.SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, c.peer == nil)
		b.batchConn = pc
	} else {
		pc := ipv4.NewPacketConn(c.udp)
		err = pc.SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, c.peer == nil)
		b.batchConn = pc
	}
	if err != nil && c.peer == nil {
		return nil, err
	}
	if !b.pooled {
		b.recv = newPortableReceiver(b.slots)
	}
	return b, nil
}

// portableReceiver holds the buffers of a ReadBatch.
type portableReceiver struct {
	messages []ipv4.Message
}

func newPortableReceiver(slots int) *portableReceiver {
	r := &portableReceiver{messages: make([]ipv4.Message, slots)}
	for i := range r.messages {
		r.messages[i].Buffers = [][]byte{make([]byte, bufferSize)}
		r.messages[i].OOB = make([]byte, 8*16)
	}
	return r
}

// pooledPortableBatch is the batch size of a pooled Conn.
const pooledPortableBatch = 1

var portableReceivers = sync.Pool{New: func() any { return newPortableReceiver(pooledPortableBatch) }}

func (b *portable) read(p []transport.Packet) (int, error) {
	defer b.localCounters.flush(&b.c.counters.received)
	for {
		n, err := b.take(len(p))
		b.localCounters.calls++
		if err != nil {
			var e syscall.Errno
			switch {
			case b.pooled && errors.Is(err, syscall.EAGAIN):
				continue
			case errors.As(err, &e):
				b.c.counters.asyncErrors[errorKind(e)].Add(1)
				return 0, b.c.readError(e)
			}
			b.release()
			return 0, unwrapNetError(err)
		}
		b.localCounters.batch[bucket(n)]++
		if n = b.deliver(p, n); n > 0 {
			return n, nil
		}
	}
}

// take receives up to n messages. A pooled Conn waits without buffers.
func (b *portable) take(n int) (int, error) {
	flags := 0
	if b.pooled {
		b.release()
		if err := b.c.raw.Read(b.readable); err != nil {
			return 0, err
		}
		b.recv = portableReceivers.Get().(*portableReceiver)
		flags = unix.MSG_DONTWAIT
	}
	return b.ReadBatch(b.recv.messages[:min(n, len(b.recv.messages))], flags)
}

func (b *portable) release() {
	if b.pooled && b.recv != nil {
		portableReceivers.Put(b.recv)
		b.recv = nil
	}
}

func (b *portable) deliver(p []transport.Packet, got int) (n int) {
	c := b.c
	for _, m := range b.recv.messages[:got] {
		if m.Flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
			c.counters.truncated.Add(1)
			continue
		}
		if c.checkPeer && peerOf(m.Addr) != c.peer.Peer {
			c.counters.unexpectedSource.Add(1)
			continue
		}
		q := &p[n]
		n++
		*q = transport.Packet{Data: m.Buffers[0][:m.N:m.N]}
		if c.peer != nil {
			q.Path = *c.peer
		} else {
			q.Path = b.path(&m)
		}
		b.localCounters.message(1, m.N)
	}
	return n
}

// path returns the path of a message.
func (b *portable) path(m *ipv4.Message) path.Path {
	var dst net.IP
	var ifIndex int
	if b.c.v6 {
		var cm ipv6.ControlMessage
		if cm.Parse(m.OOB[:m.NN]) == nil {
			dst, ifIndex = cm.Dst, cm.IfIndex
		}
	} else {
		var cm ipv4.ControlMessage
		if cm.Parse(m.OOB[:m.NN]) == nil {
			dst, ifIndex = cm.Dst, cm.IfIndex
		}
	}
	local, _ := netip.AddrFromSlice(dst)
	if local.IsMulticast() {
		local = netip.Addr{}
	}
	return path.NewUDP(peerOf(m.Addr), local, uint32(ifIndex))
}

// peerOf returns the source address of a message, or the zero AddrPort.
func peerOf(a net.Addr) netip.AddrPort {
	from, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	addr := from.AddrPort().Addr().Unmap()
	if zone := addr.Zone(); zone != "" {
		addr = addr.WithZone(zoneName(zoneIndex(zone)))
	}
	return netip.AddrPortFrom(addr, uint16(from.Port))
}

// portableSender holds the messages of one WriteBatch.
type portableSender struct {
	messages [maxMessages]ipv4.Message
	addrs    [maxMessages]net.UDPAddr
	runs     [maxMessages]gsoMessage
	writeResult
}

var portableSenders = sync.Pool{New: func() any {
	s := new(portableSender)
	for i := range s.messages {
		s.messages[i].Buffers = make([][]byte, 1)
	}
	return s
}}

func (b *portable) write(p []transport.Packet) (int, error) {
	s := portableSenders.Get().(*portableSender)
	defer func() {
		for i := range s.messages {
			s.messages[i].Buffers[0], s.messages[i].OOB = nil, nil
		}
		s.writeResult = writeResult{}
		portableSenders.Put(s)
	}()
	gsoBatcher := newGSOBatcher(p, b.c.peer != nil, 1)
	var err error
	for gsoBatcher.more() && err == nil {
		err = b.flush(s, b.fill(s, &gsoBatcher))
	}
	s.writeResult.flush(b.c.counters)
	if err != nil {
		return 0, err
	}
	return s.result(p, b.c.peer)
}

// fill prepares as many messages as fit and returns their number.
func (b *portable) fill(s *portableSender, gsoBatcher *gsoBatcher) (n int) {
	for n < maxMessages && gsoBatcher.more() {
		r := gsoBatcher.next(1)
		q := &gsoBatcher.packets[r.from.packet]
		m := &s.messages[n]
		m.Addr, m.OOB = nil, nil
		if b.c.peer == nil {
			addr := q.Path.Peer.Addr().Unmap()
			if !addr.IsValid() || q.Path.Peer.Port() == 0 || addr.Is6() != b.c.v6 {
				s.fail(b.c.counters, r.from.packet, r.last(), r.segments, syscall.EDESTADDRREQ)
				continue
			}
			s.addrs[n] = net.UDPAddr{IP: addr.AsSlice(), Port: int(q.Path.Peer.Port()), Zone: zoneOf(addr, q.Path.IfIndex)}
			m.Addr = &s.addrs[n]
			m.OOB = sourceControl(&q.Path, b.c.v6)
		}
		m.Buffers[0] = q.Data[r.from.offset : r.from.offset+r.bytes]
		s.runs[n] = r
		n++
	}
	return n
}

// zoneOf returns the zone of a peer, by default the interface if it is link-local.
func zoneOf(peer netip.Addr, ifIndex uint32) string {
	if peer.Zone() == "" && peer.Is6() && peer.IsLinkLocalUnicast() && ifIndex != 0 {
		return zoneName(ifIndex)
	}
	return peer.Zone()
}

// sourceControl returns the control message with the source address, nil for none.
func sourceControl(p *path.Path, v6 bool) []byte {
	local := p.Local
	switch {
	case !local.IsValid() || local.IsUnspecified() || local.Is6() != v6:
		return nil
	case v6:
		return (&ipv6.ControlMessage{Src: local.AsSlice(), IfIndex: int(p.IfIndex)}).Marshal()
	}
	cm := ipv4.ControlMessage{Src: local.AsSlice(), IfIndex: int(p.IfIndex)}
	if runtime.GOOS == "darwin" || runtime.GOOS == "ios" {
		cm.IfIndex = 0 // there the interface would determine the address
	}
	return cm.Marshal()
}

// flush sends the first n messages of s. It fails only if the socket is closed.
func (b *portable) flush(s *portableSender, n int) error {
	for k := 0; k < n; {
		sent, e, err := b.try(s, k, n)
		switch {
		case err != nil:
			return err
		case e != 0:
			if err := b.refused(s, k, e); err != nil {
				return err
			}
			k++
		default:
			k += sent
		}
	}
	return nil
}

// try sends messages i to j-1. e is the error of the first; err means that the socket is closed.
func (b *portable) try(s *portableSender, i, j int) (n int, e syscall.Errno, err error) {
	for {
		s.calls++
		n, err = b.WriteBatch(s.messages[i:j], unix.MSG_DONTWAIT)
		switch {
		case err == nil:
			s.batch[bucket(n)]++
			for k := i; k < i+n; k++ {
				s.message(1, s.runs[k].bytes)
			}
			return n, 0, nil
		case errors.Is(err, syscall.EINTR):
		case errors.As(err, &e):
			return 0, e, nil
		default:
			return 0, 0, unwrapNetError(err)
		}
	}
}

// refused handles message k, which the system refused with e.
func (b *portable) refused(s *portableSender, k int, e syscall.Errno) error {
	c, r := b.c, &s.runs[k]
	a := sendAttempt{connected: c.peer != nil, source: s.messages[k].OOB != nil, segments: 1}
	sourceDropped := false
	var pending syscall.Errno
	for {
		switch classifySendError(e, &a) {
		case actionRetry:
			pending = e
			a.retries++
		case actionDropSource:
			s.messages[k].OOB = nil
			a.source, sourceDropped = false, true
		case actionWait:
			if s.waitLeft(c.sendWait, time.Now()) <= 0 {
				s.fail(c.counters, r.from.packet, r.last(), 1, e)
				return nil
			}
			time.Sleep(time.Millisecond)
		default:
			s.fail(c.counters, r.from.packet, r.last(), 1, e)
			return nil
		}
		n, next, err := b.try(s, k, k+1)
		if err != nil {
			return err
		}
		if n == 1 {
			break
		}
		e = next
	}
	if pending != 0 {
		s.addAsync(c.counters, pending)
	}
	if sourceDropped {
		s.sourceDropped++
	}
	return nil
}

// denyBroadcast clears SO_BROADCAST, which package net sets: a datagram to a broadcast address fails.
func denyBroadcast(fd uintptr) error {
	return os.NewSyscallError("setsockopt SO_BROADCAST", unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 0))
}

// readable reports whether fd has a datagram or an error queued.
func readable(fd uintptr) bool { return poll(fd, unix.POLLIN, 0) }

func poll(fd uintptr, events int16, milliseconds int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
	for {
		n, err := unix.Poll(fds, milliseconds)
		if err != unix.EINTR {
			return n > 0
		}
	}
}
