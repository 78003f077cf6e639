package router

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	"lewes/router/handover"
	"lewes/state"
	"lewes/state/snapshot"
	"lewes/transport"
	"lewes/transport/udp"
)

// handoverPatience is how long a successor may take to load everything while nothing is served, and
// then to report that it serves. Tests shorten it.
var handoverPatience = 10 * time.Second

var (
	// ErrRefused means that the successor refused to take over; it wraps the successor's reason.
	ErrRefused = errors.New("the successor refused")
	// ErrLost means that the successor accepted the handover and then exited; all sessions are lost.
	ErrLost = errors.New("the successor accepted the handover and exited")
)

// HandedOver describes a handover.
type HandedOver struct {
	Sessions, Flows int
	Pause           time.Duration // time in which nothing was served
}

// HandOver passes everything to a successor at the other end of c, which calls TakeOver: listening
// sockets, KEM keys, handshakes, sessions, flows with their sockets, and extraFiles. Clients are not
// notified; packets that arrive meanwhile wait in the sockets. If it fails, or ctx ends, the gateway
// continues as before, unless the error is ErrLost. After success and after ErrLost the gateway is
// inactive, and Close releases its resources.
func (g *Gateway) HandOver(ctx context.Context, c *handover.Conn, extraFiles map[string]*os.File) (h HandedOver, err error) {
	broken := context.AfterFunc(ctx, c.Break)
	defer broken()
	fail := func(step string, err error) (HandedOver, error) {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return HandedOver{}, fmt.Errorf("handover: %s: %w", step, err)
	}
	if err := g.sendHello(c, extraFiles); err != nil {
		if refused := expect(c, handover.Ready); errors.Is(refused, ErrRefused) {
			err = refused // it stopped reading
		}
		return fail("sending the listening sockets", err)
	}
	if err := expect(c, handover.Ready); err != nil {
		return fail("waiting for the successor", err)
	}
	sent := make(cookies)
	for range 2 { // the second round sends the sockets opened during the first
		for i, conns := range g.flowSockets() {
			if err := sendSockets(c, sent, i, conns); err != nil {
				return fail("sending the sockets of flows", err)
			}
		}
		if err := syncSockets(c); err != nil {
			return fail("sending the sockets of flows", err)
		}
	}

	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // no collection during the pause
	g.pauseMeter()
	begun := time.Now()
	_ = c.SetDeadline(begun.Add(handoverPatience))
	g.pause()
	err = g.sendState(c, sent)
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
			s.st.thaw()
		}
		g.resume()
		g.runMeter()
		return fail("sending the sessions", err)
	}
	for _, s := range g.shards {
		h.Sessions += s.st.sessions.Len()
		h.Flows += s.st.flows.all.Len()
	}
	_ = c.SetDeadline(time.Now().Add(handoverPatience)) // after Commit there is no way back
	err = expect(c, handover.Serving)
	h.Pause = time.Since(begun)
	g.retire()
	if err != nil {
		return h, fmt.Errorf("%w: %w", ErrLost, err)
	}
	return h, nil
}

// syncSockets waits until the successor has taken over all sockets sent so far, so that it does not
// do so during the pause.
func syncSockets(c *handover.Conn) error {
	if err := c.Send(handover.Sockets, nil); err != nil {
		return err
	}
	return expect(c, handover.Ready)
}

// expect receives a frame of the given kind.
func expect(c *handover.Conn, kind handover.Kind) error {
	f, err := c.Receive()
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return errors.New("the other process exited")
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

// sendHello sends the gateway's identity and addresses, and its listening sockets.
func (g *Gateway) sendHello(c *handover.Conn, extraFiles map[string]*os.File) error {
	names := slices.Sorted(maps.Keys(extraFiles))
	w := snapshot.NewWriter(nil, time.Time{})
	defer w.Wipe()
	g.hello(names).Append(w)
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
		if err := sendFile(c, extraFiles[name]); err != nil {
			return err
		}
	}
	return nil
}

// hello returns the Hello message; names are those of extra files.
func (g *Gateway) hello(names []string) *handover.HelloMessage {
	steer := g.shards[0].steer
	m := &handover.HelloMessage{
		Identity: g.Identity(), SteerSecret: steer.Secret, Shards: steer.Shards,
		Port: g.config.Listen.Port, Addrs: g.config.Listen.Addrs,
		TCPListeners: len(g.tcpListeners()), ExtraNames: names,
	}
	for _, group := range g.listener.Groups {
		m.Groups = append(m.Groups, handover.SocketGroup{Addr: group.Addr, Steered: group.Steered, Sockets: len(group.Conns)})
	}
	return m
}

// listening returns the UDP sockets towards clients, in the order of hello's addresses.
func (g *Gateway) listening() (conns []*udp.Conn) {
	for _, group := range g.listener.Groups {
		conns = append(conns, group.Conns...)
	}
	return conns
}

// tcpListeners returns the listening TCP sockets.
func (g *Gateway) tcpListeners() (all []*net.TCPListener) {
	if g.tcp != nil {
		for _, group := range g.tcp.Groups {
			all = append(all, group.Listeners...)
		}
	}
	return all
}

// sendFile sends one descriptor.
func sendFile(c *handover.Conn, file syscall.Conn) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Control(func(fd uintptr) { sent = c.Send(handover.Sockets, nil, int(fd)) })
	return errors.Join(err, sent)
}

// flowSockets returns the sockets towards targets and other gateways, by shard.
func (g *Gateway) flowSockets() [][]*udp.Conn {
	conns := make([][]*udp.Conn, len(g.shards))
	for i, s := range g.shards {
		s.Do(func(_ time.Time, st *shardState) { conns[i] = st.flowSockets() })
	}
	return conns
}

func (st *shardState) flowSockets() (conns []*udp.Conn) {
	st.eachReturnPath(func(conn transport.Conn, _ returnPath) {
		if u, ok := conn.(*udp.Conn); ok {
			conns = append(conns, u)
		}
	})
	return conns
}

// sendSockets sends the sockets of a shard that were not sent yet, and records their cookies.
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

// sendState sends keys, shards and sessions. The gateway is paused.
func (g *Gateway) sendState(c *handover.Conn, sent cookies) error {
	for i, s := range g.shards {
		if err := sendSockets(c, sent, i, s.st.flowSockets()); err != nil {
			return err
		}
	}
	now := g.config.Clock()
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
	draining := g.draining.Load()
	snapshot.Encode(w).Bool(&draining)
	if err := c.Send(handover.Keys, w.Bytes()); err != nil {
		return err
	}
	if g.ports != nil {
		err := g.ports.Write(func(payload []byte) error { return c.Send(handover.Ports, payload) })
		if err != nil {
			return err
		}
	}
	if g.meter != nil {
		err := g.meter.Write(now, func(payload []byte) error { return c.Send(handover.Accounts, payload) })
		if err != nil {
			return err
		}
	}
	errs := make([]error, len(g.shards))
	var writers sync.WaitGroup
	for i, s := range g.shards {
		writers.Go(func() {
			errs[i] = s.st.writeState(now, sent, func(kind handover.Kind, payload []byte) error { return c.Send(kind, payload) })
		})
	}
	writers.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return c.Send(handover.End, nil)
}

// longAgo as a deadline ends every pending read.
var longAgo = time.Unix(1, 0)

// pause stops the gateway between two packets: nothing is read, sealed, sent or changed until resume
// or retire, because the caller holds every shard's lock. Packets that arrive wait in the sockets.
func (g *Gateway) pause() {
	if g.tcp != nil {
		g.tcp.Pause()
	}
	for _, in := range g.inputs {
		_ = in.conn.SetReadDeadline(longAgo)
	}
	g.readers.Wait()
	for _, s := range g.shards {
		s.Do(func(_ time.Time, st *shardState) { st.pauseReturn() })
	}
	g.returnLoops.Wait()
	for _, s := range g.shards {
		s.mu.Lock()
	}
}

// resume undoes pause.
func (g *Gateway) resume() {
	for _, s := range g.shards {
		s.st.resumeReturn()
		s.mu.Unlock()
	}
	for _, in := range g.inputs {
		_ = in.conn.SetReadDeadline(time.Time{})
	}
	for _, s := range g.shards {
		g.startReturnLoop(s)
	}
	g.startReaders()
	if g.tcp != nil {
		g.tcp.Resume()
	}
}

// retire ends pause once a successor has everything: the shards wipe their secrets and stay
// inactive.
func (g *Gateway) retire() {
	if g.meter != nil {
		g.meter.Retire()
	}
	for _, s := range g.shards {
		s.st.sessions.All((*state.Session).Wipe)
		s.st.retired = true
		s.st.timer.timer.Stop()
		s.mu.Unlock()
	}
}

// pauseReturn stops the return path. Sockets opened from then on are read after resumeReturn.
func (st *shardState) pauseReturn() {
	st.paused = true
	if st.returns != nil {
		st.returns.poller.Stop()
	}
	st.eachReturnPath(func(conn transport.Conn, _ returnPath) {
		if !polled(conn) {
			_ = conn.SetReadDeadline(longAgo)
		}
	})
}

// resumeReturn starts the return path and the timer.
func (st *shardState) resumeReturn() {
	st.paused = false
	st.eachReturnPath(func(conn transport.Conn, to returnPath) {
		if !polled(conn) {
			_ = conn.SetReadDeadline(time.Time{})
			st.startReturn(conn, to)
		}
	})
	st.timer.at = time.Time{}
	st.setTimer(st.now())
}

// polled reports whether a return loop reads the socket.
func polled(conn transport.Conn) bool {
	u, ok := conn.(*udp.Conn)
	return ok && u.Polled()
}

// eachReturnPath calls f for every socket towards a target or another gateway.
func (st *shardState) eachReturnPath(f func(transport.Conn, returnPath)) {
	st.eachFlow(func(l *flow) {
		if l.conn != nil {
			f(l.conn, l)
		}
	})
	for _, u := range st.forwarder.upstreams {
		f(u.conn, u)
	}
}
