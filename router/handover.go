package router

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	"lewes/router/handover"
	"lewes/state/snapshot"
	"lewes/transport"
	"lewes/transport/udp"
)

// handOverForm is the version of everything that a gateway hands over, but for its
// sessions, which have their own.
const handOverForm = 1

// takePatience is how long a successor may take to read everything while nothing is
// served, and then to say that it serves. Tests shorten it.
var takePatience = 10 * time.Second

// maxExtras bounds the descriptors that are handed over for the gateway's owner.
const maxExtras = 64

var (
	// ErrRefused says that the successor would not take over, and why.
	ErrRefused = errors.New("the successor refuses")
	// ErrLost says that the successor took everything over and then went: the
	// sessions are lost, and clients make new ones with whoever serves next.
	ErrLost = errors.New("the successor has taken everything over and ended")
)

// bequest is what a successor is told first.
type bequest struct {
	identity identityKey
	steer    udp.Steer
	asked    []netip.AddrPort // what the predecessor's configuration has it listen on
	port     uint16
	udp      []udp.InheritedGroup
	tcp      []*net.TCPListener
	extras   map[string]*os.File

	listeners int // how many of tcp there are to be
}

// HandedOver is how a hand-over went.
type HandedOver struct {
	Sessions, Flows int
	Pause           time.Duration // that nothing was served
}

// HandOver gives everything to a successor at the other end of c, which calls
// TakeOver: listening sockets, KEM keys, handshakes, sessions with their flows and
// the flows' sockets, and the files in extras. Clients are not told; what comes
// meanwhile waits in the sockets. It fails when ctx ends, and whenever the successor
// does: the gateway then goes on as if nothing had been, unless the error is ErrLost.
// After success, and after ErrLost, the gateway does nothing any more; Close frees
// what it holds.
func (g *Gateway) HandOver(ctx context.Context, c *handover.Conn, extras map[string]*os.File) (h HandedOver, err error) {
	broken := context.AfterFunc(ctx, c.Break)
	defer broken()
	fail := func(doing string, err error) (HandedOver, error) {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return HandedOver{}, fmt.Errorf("handing over: %s: %w", doing, err)
	}
	if err := g.sendHello(c, extras); err != nil {
		if refused := expect(c, handover.Ready); errors.Is(refused, ErrRefused) {
			err = refused // it did not listen to the end
		}
		return fail("telling the successor what there is", err)
	}
	if err := expect(c, handover.Ready); err != nil {
		return fail("waiting for the successor to get ready", err)
	}
	sockets := make(cookies)
	for range 2 { // the second round brings what was opened during the first
		for i, conns := range g.flowSockets() {
			if err := sendSockets(c, sockets, i, conns); err != nil {
				return fail("passing sockets", err)
			}
		}
		if err := settled(c); err != nil {
			return fail("passing sockets", err)
		}
	}

	// The collector would take from what little the pause takes.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	begun := time.Now()
	_ = c.SetDeadline(begun.Add(takePatience))
	g.pause()
	err = g.sendState(c, sockets)
	if err == nil {
		err = expect(c, handover.Loaded)
	}
	if err == nil && !broken() {
		err = ctx.Err()
	}
	if err == nil {
		err = c.Send(handover.Commit, nil)
	}
	if err != nil {
		for _, s := range g.shards {
			s.turnThaw()
		}
		g.resume()
		return fail("passing sessions", err)
	}
	for _, s := range g.shards {
		h.Sessions += s.sessions.Len()
		h.Flows += s.flows
	}
	_ = c.SetDeadline(time.Now().Add(takePatience)) // there is no way back: it has all the time again
	err = expect(c, handover.Serving)
	h.Pause = time.Since(begun)
	g.surrender()
	if err != nil {
		return h, fmt.Errorf("%w: %w", ErrLost, err)
	}
	return h, nil
}

// settled waits until the successor has taken up all sockets that were sent, so that it
// does not do so while nothing is served.
func settled(c *handover.Conn) error {
	if err := c.Send(handover.Sockets, nil); err != nil {
		return err
	}
	return expect(c, handover.Ready)
}

// expect receives a frame that has to be of one kind.
func expect(c *handover.Conn, kind handover.Kind) error {
	f, err := c.Receive()
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return errors.New("the other process has ended")
	case err != nil:
		return err
	}
	defer f.Close()
	switch f.Kind {
	case kind:
		return nil
	case handover.Refused:
		return fmt.Errorf("%w: %s", ErrRefused, f.Payload)
	}
	return fmt.Errorf("%w: %v instead of %v", handover.ErrFrame, f.Kind, kind)
}

// sendHello says what the gateway is, and passes the sockets that it listens on.
func (g *Gateway) sendHello(c *handover.Conn, extras map[string]*os.File) error {
	names := slices.Sorted(maps.Keys(extras))
	w := g.hello(names)
	defer w.Wipe()
	if err := c.Send(handover.Hello, w.Bytes()); err != nil {
		return err
	}
	for batch := range slices.Chunk(g.listening(), udp.MaxDescriptors) {
		err := udp.Descriptors(batch, func(fds []int) error { return c.Send(handover.Sockets, nil, fds...) })
		if err != nil {
			return err
		}
	}
	for _, listener := range g.tcpListeners() {
		if err := sendFile(c, listener); err != nil {
			return err
		}
	}
	for _, name := range names {
		if err := sendFile(c, extras[name]); err != nil {
			return err
		}
	}
	return nil
}

// hello writes what the gateway is; names are those of files that go along.
func (g *Gateway) hello(names []string) *snapshot.Writer {
	w := snapshot.NewWriter(nil, g.config.Clock())
	w.Uint16(handOverForm)
	id := g.Identity()
	w.Fixed(id[:])
	steer := g.shards[0].steer
	w.Uint32(steer.Secret)
	w.Uint32(uint32(steer.Shards))
	w.Uint16(g.config.Listen.Port)
	w.Uint32(uint32(len(g.config.Listen.Addrs)))
	for _, a := range g.config.Listen.Addrs {
		w.AddrPort(a)
	}
	w.Uint32(uint32(len(g.listener.Groups)))
	for _, group := range g.listener.Groups {
		w.AddrPort(group.Addr)
		w.Bool(group.Steered)
		w.Uint32(uint32(len(group.Conns)))
	}
	w.Uint32(uint32(len(g.tcpListeners())))
	w.Uint32(uint32(len(names)))
	for _, name := range names {
		w.Blob([]byte(name))
	}
	return w
}

// listening returns the UDP sockets that the gateway listens on, in the order in which
// hello has their addresses.
func (g *Gateway) listening() (conns []*udp.Conn) {
	for _, group := range g.listener.Groups {
		conns = append(conns, group.Conns...)
	}
	return conns
}

// sendFile passes one descriptor.
func sendFile(c *handover.Conn, file syscall.Conn) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Control(func(fd uintptr) { sent = c.Send(handover.Sockets, nil, int(fd)) })
	return errors.Join(err, sent)
}

// tcpListeners returns the sockets that accept.
func (g *Gateway) tcpListeners() (all []*net.TCPListener) {
	if g.tcp != nil {
		for _, group := range g.tcp.Groups {
			all = append(all, group.Listeners...)
		}
	}
	return all
}

// flowSockets returns the sockets towards targets and other gateways, by shard.
func (g *Gateway) flowSockets() [][]*udp.Conn {
	conns := make([][]*udp.Conn, len(g.shards))
	for i, s := range g.shards {
		s.Turn(func(time.Time) { conns[i] = s.turnSockets() })
	}
	return conns
}

func (s *Shard) turnSockets() (conns []*udp.Conn) {
	s.turnEachWayBack(func(conn transport.Conn, _ returning) {
		if u, ok := conn.(*udp.Conn); ok {
			conns = append(conns, u)
		}
	})
	return conns
}

// sendSockets passes those sockets of a shard that were not passed yet, and notes
// their names.
func sendSockets(c *handover.Conn, sent cookies, shard int, conns []*udp.Conn) error {
	var fresh []*udp.Conn
	for _, conn := range conns {
		if _, ok := sent[conn]; ok {
			continue
		}
		cookie, err := conn.Cookie()
		if errors.Is(err, net.ErrClosed) {
			continue
		}
		if err != nil {
			return err
		}
		sent[conn] = cookie
		fresh = append(fresh, conn)
	}
	for batch := range slices.Chunk(fresh, udp.MaxDescriptors) {
		err := udp.Descriptors(batch, func(fds []int) error {
			return c.Send(handover.Sockets, binary.LittleEndian.AppendUint16(nil, uint16(shard)), fds...)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// sendState passes everything else. The gateway is paused.
func (g *Gateway) sendState(c *handover.Conn, sockets cookies) error {
	for i, s := range g.shards {
		if err := sendSockets(c, sockets, i, s.turnSockets()); err != nil {
			return err
		}
	}
	send := func(kind handover.Kind, payload []byte) error { return c.Send(kind, payload) }
	if err := g.write(g.config.Clock(), sockets, send); err != nil {
		return err
	}
	return c.Send(handover.End, nil)
}

// write writes all shards, side by side. The gateway is paused.
func (g *Gateway) write(now time.Time, sockets cookies, send frames) error {
	w := snapshot.NewWriter(nil, now)
	defer w.Wipe()
	if err := g.kems.Write(w); err != nil {
		return err
	}
	lead := time.Duration(0)
	if g.config.Wall != nil {
		lead = g.wall.lead(now, g.config.Wall())
	}
	w.Duration(lead)
	if err := send(handover.Keys, w.Bytes()); err != nil {
		return err
	}
	errs := make([]error, len(g.shards))
	var writers sync.WaitGroup
	for i, s := range g.shards {
		writers.Go(func() { errs[i] = s.turnWriteState(now, sockets, send) })
	}
	writers.Wait()
	return errors.Join(errs...)
}
