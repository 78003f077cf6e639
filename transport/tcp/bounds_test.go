package tcp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
)

// soon is a time that a test may wait for.
const soon = 400 * time.Millisecond

// closedAfter returns how long after start the gateway closes a connection without
// a word, by its end of stream or by breaking it off.
func closedAfter(t testing.TB, conn net.Conn, start time.Time) time.Duration {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	n, err := conn.Read(make([]byte, 1))
	if n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d bytes came: %v", n, err)
	}
	return time.Since(start)
}

// within fails if a connection was closed before low.
func within(t testing.TB, what string, d, low time.Duration) {
	t.Helper()
	if d < low-10*time.Millisecond {
		t.Errorf("%s: closed after %v, want %v", what, d, low)
	}
}

// TestLengths: what is no length of a packet closes the connection at once, and what
// is the least or the greatest does not.
//
// Shows R10.6.
func TestLengths(t *testing.T) {
	l := listening(t, func(c *Config) { c.ReceiveTimeout = time.Minute })
	bad := []uint32{0, 1, 33, 65_536, 1 << 24, 1<<32 - 1, 0x47455420 /* GET */}
	for _, n := range bad {
		conn := dialTo(t, l)
		start := time.Now()
		if _, err := conn.Write(binary.BigEndian.AppendUint32(nil, n)); err != nil {
			t.Fatal(err)
		}
		within(t, "length of no packet", closedAfter(t, conn, start), 0)
	}
	if s := l.Stats(); s.BadLength != uint64(len(bad)) || s.Received.Packets != 0 {
		t.Errorf("counted %+v", s)
	}
	for _, n := range []int{wire.MinPacket, wire.MaxTCPPacket} {
		send(t, dialTo(t, l), packetOf(n, 1))
		if p := readOne(t, l.Shards[0]); len(p.Data) != n {
			t.Errorf("of %d bytes came %d", n, len(p.Data))
		}
	}
}

// TestStreamEndsAtBadLength: what follows a bad length stays in the kernel, so the peer is
// broken off.
//
// Shows R10.6.
func TestStreamEndsAtBadLength(t *testing.T) {
	l := listening(t, nil)
	conn := dialTo(t, l)
	_, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, 1<<31), make([]byte, 30_000)...))
	if err == nil { // else it was broken off in the middle
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		_, err = conn.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection ended with %v, not broken off", err)
	}
}

// TestReceiveTimeoutIsAbsolute sends packets byte by byte: one that is complete in time is
// received, and received bytes do not extend the time.
//
// Shows R12.4.
func TestReceiveTimeoutIsAbsolute(t *testing.T) {
	if DefaultReceiveTimeout != 5*time.Second {
		t.Errorf("the default timeout is %v", DefaultReceiveTimeout)
	}
	frame := appendFrame(nil, packetOf(wire.MaxTCPPacket, 7))
	short := appendFrame(nil, packetOf(wire.MinPacket, 7))
	patient := listening(t, func(c *Config) { c.ReceiveTimeout = time.Minute })
	quick := dialTo(t, patient)
	for _, b := range short {
		if _, err := quick.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	if p := readOne(t, patient.Shards[0]); !bytes.Equal(p.Data, short[lengthSize:]) {
		t.Error("a packet sent byte by byte arrived changed")
	}
	l := listening(t, func(c *Config) { c.ReceiveTimeout = 100 * time.Millisecond })
	var senders sync.WaitGroup
	for range 5 {
		slow := dialTo(t, l)
		senders.Go(func() { // sends much longer than the timeout, until it is closed
			for _, b := range frame {
				if _, err := slow.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
			t.Error("the whole packet was accepted")
		})
	}
	senders.Wait()
	eventually(t, "five timeouts counted", func() bool { return l.Stats().ReceiveTimeouts == 5 })
}

// TestUnansweredConnectionsCloseAlike compares a connection that sends nothing with one whose packet nobody
// answers: both see nothing, and are closed after the same time.
func TestUnansweredConnectionsCloseAlike(t *testing.T) {
	l := listening(t, func(c *Config) { c.ReceiveTimeout = time.Second })
	start := time.Now()
	idle, unanswered, late := dialTo(t, l), dialTo(t, l), dialTo(t, l)
	send(t, unanswered, packetOf(100, 1))
	readOne(t, l.Shards[0])
	go func() {
		time.Sleep(700 * time.Millisecond)
		_, _ = late.Write(appendFrame(nil, packetOf(100, 2)))
	}()
	readOne(t, l.Shards[0])
	a, b, c := closedAfter(t, idle, start), closedAfter(t, unanswered, start), closedAfter(t, late, start)
	for _, d := range []time.Duration{a, b, c} {
		within(t, "silence", d, time.Second)
	}
	eventually(t, "all counted", func() bool {
		s := l.Stats()
		return s.Open == 0 && s.ReceiveTimeouts == 1 && s.Unanswered == 2
	})
}

// TestHalfClosedConnection: a peer that ends its stream behind its packet gets its answers, one
// that does so earlier is closed.
func TestHalfClosedConnection(t *testing.T) {
	l := listening(t, func(c *Config) { c.ReceiveTimeout = time.Minute })
	for _, sent := range []int{0, 2, lengthSize, 50} {
		conn := dialTo(t, l)
		if _, err := conn.Write(appendFrame(nil, packetOf(100, 1))[:sent]); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_ = conn.CloseWrite()
		within(t, "half closed", closedAfter(t, conn, start), 0)
	}
	if s := l.Stats(); s.Aborted != 4 {
		t.Errorf("counted %+v", s)
	}
	conn := dialTo(t, l)
	send(t, conn, packetOf(100, 1))
	_ = conn.CloseWrite()
	p := readOne(t, l.Shards[0])
	time.Sleep(20 * time.Millisecond)
	if _, err := l.Shards[0].WriteBatch([]transport.Packet{{Data: packetOf(40, 2), Path: p.Path}}); err != nil {
		t.Fatal(err)
	}
	l.Shards[0].End(p.Path)
	if got := frames(t, conn); len(got) != 1 || len(got[0]) != 40 {
		t.Errorf("%d answers came", len(got))
	}
}

// TestAbortedConnection resets connections at each stage; nothing of them stays.
func TestAbortedConnection(t *testing.T) {
	l := listening(t, func(c *Config) { c.ReceiveTimeout = time.Minute })
	frame := appendFrame(nil, packetOf(5000, 1))
	for _, sent := range []int{0, 2, lengthSize, 3000} {
		conn := dialTo(t, l)
		if _, err := conn.Write(frame[:sent]); err != nil {
			t.Fatal(err)
		}
		eventually(t, "accepted", func() bool { return l.Stats().Open == 1 })
		_ = conn.SetLinger(0)
		_ = conn.Close()
		eventually(t, "gone", func() bool { return l.Stats().Open == 0 })
	}
	conn := dialTo(t, l)
	send(t, conn, frame[lengthSize:])
	p := readOne(t, l.Shards[0])
	_ = conn.SetLinger(0)
	_ = conn.Close()
	// Answers to it are written until the system says that nobody is there.
	for range 3 {
		_, _ = l.Shards[0].WriteBatch([]transport.Packet{{Data: packetOf(60_000, 2), Path: p.Path}})
		time.Sleep(10 * time.Millisecond)
	}
	l.Shards[0].End(p.Path)
	eventually(t, "gone", func() bool { return l.Stats().Open == 0 })
	if used := l.budget.used.Load(); used != int64(classes[1]) { // the reader has the last packet yet
		t.Errorf("%d bytes are still held", used)
	}
	if len(l.places.holders) != 0 {
		t.Errorf("sources %v", l.places.holders)
	}
}

// dialFrom connects from an address of loopback.
func dialFrom(t testing.TB, host byte, l *Listener) (*net.TCPConn, error) {
	conn, err := net.DialTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, host)}, net.TCPAddrFromAddrPort(l.Groups[0].Addr))
	if err == nil {
		t.Cleanup(func() { _ = conn.Close() })
	}
	return conn, err
}

// refused makes a connection that is to be closed at once, which may be before its
// making is over.
func refused(t testing.TB, host byte, l *Listener) {
	t.Helper()
	conn, err := dialFrom(t, host, l)
	if errors.Is(err, syscall.ECONNRESET) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	closedAfter(t, conn, time.Now())
}

// authenticated sends a packet on a connection and marks that as authenticated.
func authenticated(t testing.TB, conn net.Conn, l *Listener) {
	t.Helper()
	send(t, conn, packetOf(50, 1))
	p := readOne(t, l.Shards[0]).Path
	l.Shards[0].Authenticated(p, p)
}

// evicted checks that a connection is reset.
func evicted(t testing.TB, conn net.Conn) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection ended with %v", err)
	}
}

// TestMaxPerSource opens one connection more than a source may have: the oldest that has not
// authenticated is reset, whatever it has sent. Once all have, the new one is.
//
// Shows R12.4, R12.10.
func TestMaxPerSource(t *testing.T) {
	if DefaultMaxPerSource != 64 {
		t.Errorf("%d connections a source by default", DefaultMaxPerSource)
	}
	l := listening(t, func(c *Config) { c.ReceiveTimeout, c.MaxPerSource = time.Minute, 4 })
	from := func(host byte) *net.TCPConn {
		t.Helper()
		conn, err := dialFrom(t, host, l)
		if err != nil {
			t.Skipf("this system has no second loopback address: %v", err)
		}
		return conn
	}
	accepted := uint64(0)
	next := func(host byte) *net.TCPConn {
		t.Helper()
		conn := from(host)
		accepted++
		eventually(t, "it is accepted", func() bool { return l.Stats().Accepted == accepted })
		return conn
	}
	other := next(3)
	first := next(2)
	authenticated(t, first, l)
	silent, unanswered, partial := next(2), next(2), next(2)
	send(t, unanswered, packetOf(51, 1))
	readOne(t, l.Shards[0])
	_, _ = partial.Write([]byte{0, 0})
	for _, victim := range []*net.TCPConn{silent, unanswered, partial} {
		conn := next(2)
		evicted(t, victim)
		authenticated(t, conn, l)
	}
	if s := l.Stats(); s.EvictedSource != 3 || s.RefusedSource != 0 || s.Open != 5 || s.Aborted+s.Unanswered+s.WriteErrors != 0 {
		t.Errorf("counted %+v", s)
	}
	refused(t, 2, l)
	if s := l.Stats(); s.EvictedSource != 3 || s.RefusedSource != 1 || s.Open != 5 {
		t.Errorf("counted %+v", s)
	}
	authenticated(t, other, l) // it is there
	l.Shards[0].End(path.Path{Conn: 2})
	eventually(t, "one is closed", func() bool { return l.Stats().Open == 4 })
	authenticated(t, next(2), l)
}

// TestMaxConnections does the same with all connections: the source with most of them loses its
// oldest.
//
// Shows R12.4, R12.10.
func TestMaxConnections(t *testing.T) {
	if DefaultMaxConnections != 10_000 {
		t.Errorf("%d connections by default", DefaultMaxConnections)
	}
	l := listening(t, func(c *Config) { c.MaxConnections, c.ReceiveTimeout = 5, time.Minute })
	lone, err := dialFrom(t, 3, l)
	if err != nil {
		t.Skipf("this system has no second loopback address: %v", err)
	}
	eventually(t, "it is accepted", func() bool { return l.Stats().Accepted == 1 })
	var open []*net.TCPConn
	for n := range 10 {
		open = append(open, dialTo(t, l))
		eventually(t, "it is accepted", func() bool { return l.Stats().Accepted == uint64(2+n) })
	}
	for _, conn := range open[:6] {
		evicted(t, conn)
	}
	if s := l.Stats(); s.EvictedFull != 6 || s.RefusedFull != 0 || s.Open != 5 {
		t.Errorf("counted %+v", s)
	}
	authenticated(t, lone, l) // it is there
	for _, conn := range open[6:] {
		authenticated(t, conn, l)
	}
	refused(t, 4, l)
	if s := l.Stats(); s.EvictedFull != 6 || s.RefusedFull != 1 || s.Open != 5 {
		t.Errorf("counted %+v", s)
	}
}

// TestLargePacketsLeaveRoomForSmall: whatever large packets hold, a quarter is left for those
// that would fit a datagram.
func TestLargePacketsLeaveRoomForSmall(t *testing.T) {
	m := bufferBudget{limit: 1 << 20}
	for class := len(classes) - 1; class > 0; class-- {
		for {
			if _, err := m.acquire(class); err != nil {
				break
			}
		}
	}
	small := 0
	for {
		if _, err := m.acquire(0); err != nil {
			break
		}
		small++
	}
	if want := 1 << 20 / 4 / classes[0]; small < want {
		t.Errorf("room for %d small packets, want %d", small, want)
	}
	if used := m.used.Load(); used > m.limit {
		t.Errorf("%d bytes are held, of %d", used, m.limit)
	}
}

// TestReceiveBudget announces large packets: nothing is held before the length,
// little before the bytes, and all together no more than the bound.
func TestReceiveBudget(t *testing.T) {
	l := listening(t, func(c *Config) { c.MaxReceiving, c.ReceiveTimeout = 2*(classes[0]+classes[1]), time.Minute })
	used := func(want int) func() bool {
		return func() bool { return l.budget.used.Load() == int64(want) }
	}
	frame := appendFrame(nil, packetOf(wire.MaxTCPPacket, 1))
	a, b := dialTo(t, l), dialTo(t, l)
	_, _ = a.Write(frame[:3])
	eventually(t, "both accepted", func() bool { return l.Stats().Open == 2 })
	time.Sleep(10 * time.Millisecond)
	if l.budget.used.Load() != 0 {
		t.Error("a buffer is held before the length is there")
	}
	_, _ = a.Write(frame[3:100])
	eventually(t, "the smallest buffer", used(classes[0]))
	_, _ = a.Write(frame[100:3000])
	eventually(t, "a larger one", used(classes[1]))
	_, _ = b.Write(frame[:100])
	eventually(t, "the smallest beside it", used(classes[0]+classes[1]))
	start := time.Now()
	_, _ = b.Write(frame[100:3000])
	closedAfter(t, b, start)
	if s := l.Stats(); s.RefusedMemory != 1 {
		t.Errorf("counted %+v", s)
	}
	_ = a.Close()
	eventually(t, "nothing", used(0))
}

// TestWriteTimeout has a peer that does not read what it is sent.
func TestWriteTimeout(t *testing.T) {
	l := listening(t, func(c *Config) { c.WriteTimeout, c.MaxAnswer = soon, 16<<20 })
	conn := dialTo(t, l)
	_ = conn.SetReadBuffer(4 << 10)
	send(t, conn, packetOf(50, 1))
	p := readOne(t, l.Shards[0])
	start := time.Now()
	for range 200 {
		if _, err := l.Shards[0].WriteBatch([]transport.Packet{{Data: packetOf(60_000, 2), Path: p.Path}}); err != nil {
			t.Fatal(err)
		}
	}
	l.Shards[0].End(p.Path)
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("writing to a peer that does not read took %c", took)
	}
	eventually(t, "cut off", func() bool { s := l.Stats(); return s.Open == 0 && s.WriteTimeouts == 1 })
}

// TestMaxAnswer fills a connection's queue: what does not fit is refused, all that
// follows in the batch too, and what fitted comes.
func TestMaxAnswer(t *testing.T) {
	l := listening(t, func(c *Config) { c.MaxAnswer = 3000 })
	conn := dialTo(t, l)
	send(t, conn, packetOf(50, 1))
	p := readOne(t, l.Shards[0])
	c := l.conns.find(p.Path)
	c.mu.Lock() // so that nothing of it is sent meanwhile
	var queued int
	for queued = 0; c.enqueueOne(&transport.Packet{Data: packetOf(996, byte(queued))}) == nil; queued++ {
	}
	c.mu.Unlock()
	if queued != 3 {
		t.Errorf("%d packets of 1000 bytes fit 3000", queued)
	}
	n, err := l.Shards[0].WriteBatch([]transport.Packet{
		{Data: packetOf(10, 1), Path: p.Path},
		{Data: packetOf(50, 2), Path: p.Path},
	})
	var failed *transport.SendError
	if n != 0 || !errors.As(err, &failed) || failed.Index != 0 || failed.Failed != 2 || !errors.Is(err, transport.ErrTooLarge) {
		t.Errorf("of no packet and one behind it %d were taken: %v", n, err)
	}
	l.Shards[0].End(p.Path)
	if got := frames(t, conn); len(got) != 3 {
		t.Errorf("%d answers came", len(got))
	}
}

// TestHold prolongs a connection, twice, and lets it end.
func TestHold(t *testing.T) {
	l := listening(t, func(c *Config) { c.ReceiveTimeout = 50 * time.Millisecond })
	conn := dialTo(t, l)
	send(t, conn, packetOf(50, 1))
	p := readOne(t, l.Shards[0])
	if !l.Shards[0].Hold(p.Path, time.Minute) || !l.Shards[0].Hold(p.Path, soon) {
		t.Fatal("the connection is not there")
	}
	start := time.Now()
	within(t, "held", closedAfter(t, conn, start), soon)
	if l.Shards[0].Hold(p.Path, time.Minute) {
		t.Error("a connection that is closed is held")
	}
	eventually(t, "counted", func() bool { s := l.Stats(); return s.HoldTimeouts == 1 && s.Unanswered == 0 })
}

// TestCloseSendsQueuedAnswers ends a listener with answers queued, connections idle and
// half a packet received.
func TestCloseSendsQueuedAnswers(t *testing.T) {
	l := listening(t, func(c *Config) { c.ReceiveTimeout = time.Minute })
	answered, idle, half, held := dialTo(t, l), dialTo(t, l), dialTo(t, l), dialTo(t, l)
	send(t, answered, packetOf(50, 1))
	p := readOne(t, l.Shards[0])
	send(t, held, packetOf(50, 1))
	l.Shards[0].Hold(readOne(t, l.Shards[0]).Path, time.Minute)
	_, _ = half.Write(appendFrame(nil, packetOf(5000, 1))[:3000])
	eventually(t, "all accepted", func() bool { return l.Stats().Open == 4 })
	if _, err := l.Shards[0].WriteBatch([]transport.Packet{{Data: packetOf(60, 2), Path: p.Path}}); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_ = l.Close()
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("closing took %v", took)
	}
	if got := frames(t, answered); len(got) != 1 {
		t.Errorf("%d answers came", len(got))
	}
	for _, conn := range []net.Conn{idle, half, held} {
		closedAfter(t, conn, start)
	}
	if _, err := l.Shards[0].ReadBatch(make([]transport.Packet, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("reading from what is closed: %v", err)
	}
	if _, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(l.Groups[0].Addr)); err == nil {
		t.Error("a connection was accepted after the end")
	}
}

// TestReadDeadline is what transport.Conn says of it.
func TestReadDeadline(t *testing.T) {
	l := listening(t, nil)
	i, batch := l.Shards[0], make([]transport.Packet, 4)
	for range 3 {
		_ = i.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		for range 2 {
			if _, err := i.ReadBatch(batch); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("past the deadline: %v", err)
			}
		}
	}
	_ = i.SetReadDeadline(time.Time{})
	for range 3 {
		send(t, dialTo(t, l), packetOf(40, 1))
	}
	for got := 0; got < 3; {
		n, err := i.ReadBatch(batch)
		if err != nil {
			t.Fatal(err)
		}
		got += n
	}
	done := make(chan error)
	go func() {
		_, err := i.ReadBatch(batch)
		done <- err
	}()
	_ = i.SetReadDeadline(time.Now().Add(time.Minute))
	_ = i.SetReadDeadline(time.Now().Add(-time.Second))
	if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a deadline that has passed: %v", err)
	}
}

// TestMaxUnread has peers that do not read what they are sent: together they hold no more than the
// bound, and the one with most is reset first. Others get their answers.
//
// Shows R12.11.
func TestMaxUnread(t *testing.T) {
	const limit = 2 << 20
	l := listening(t, func(c *Config) { c.MaxUnread, c.MaxAnswer, c.WriteTimeout = limit, 1<<20, time.Minute })
	s := l.Shards[0]
	used := func() int {
		l.unread.mu.Lock()
		defer l.unread.mu.Unlock()
		return l.unread.used
	}
	greedy := func() path.Path {
		conn := dialTo(t, l)
		_ = conn.SetReadBuffer(4 << 10)
		send(t, conn, packetOf(50, 1))
		to := readOne(t, s).Path
		_ = l.conns.find(to).conn.SetWriteBuffer(4 << 10)
		return to
	}
	// fill writes until a connection holds n bytes beside those in the kernel.
	fill := func(to path.Path, n int) {
		c := l.conns.find(to)
		for c != nil {
			l.unread.mu.Lock()
			held := c.unread
			l.unread.mu.Unlock()
			if held >= n || c.evicted.Load() {
				return
			}
			if _, err := s.WriteBatch([]transport.Packet{{Data: packetOf(30_000, 2), Path: to}}); err != nil {
				return
			}
		}
	}
	firstPath := greedy()
	fill(firstPath, 100_000)
	mostPath := greedy()
	fill(mostPath, 600_000)
	for n := 0; l.Stats().EvictedUnread == 0; n++ {
		if n == 100 {
			t.Fatalf("nothing was reset; %d bytes are held", used())
		}
		fill(greedy(), 100_000)
		if n := used(); n > limit {
			t.Fatalf("%d bytes are held, of %d", n, limit)
		}
	}
	if !l.conns.find(firstPath).isOpen() || l.conns.find(mostPath).isOpen() {
		t.Error("the connection with most was not the first to be reset")
	}
	conn := dialTo(t, l)
	send(t, conn, packetOf(50, 1))
	p := readOne(t, s)
	if _, err := s.WriteBatch([]transport.Packet{{Data: packetOf(60, 2), Path: p.Path}}); err != nil {
		t.Fatal(err)
	}
	s.End(p.Path)
	if got := frames(t, conn); len(got) != 1 {
		t.Errorf("%d answers came", len(got))
	}
	_ = l.Close()
	if n := used(); n != 0 || len(l.unread.conns) != 0 {
		t.Errorf("%d bytes are held by %d connections after the end", n, len(l.unread.conns))
	}
}

// isOpen reports whether a connection has not been evicted; nil is none.
func (c *serverConn) isOpen() bool { return c != nil && !c.evicted.Load() }
