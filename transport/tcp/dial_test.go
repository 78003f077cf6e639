package tcp

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lewes/state/wire"
	"lewes/transport"
)

// answering runs a Listener that answers each packet with as many copies as its
// second byte says.
func answering(t testing.TB, change func(*Config)) *Listener {
	t.Helper()
	l := listening(t, change)
	var done sync.WaitGroup
	done.Go(func() {
		batch := make([]transport.Packet, 32)
		for {
			n, err := l.Shards[0].ReadBatch(batch)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			for _, p := range batch[:n] {
				for range int(p.Data[1]) {
					_, _ = l.Shards[0].WriteBatch([]transport.Packet{p})
				}
				l.Shards[0].End(p.Path)
			}
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		done.Wait()
	})
	return l
}

func dialed(t testing.TB, to netip.AddrPort, o Options) *Conn {
	t.Helper()
	c, err := Dial(to, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// asking returns a packet of n bytes that is answered by so many copies.
func asking(n int, fill, copies byte) []byte {
	p := packetOf(n, fill)
	p[1] = copies
	return p
}

func give(t testing.TB, c *Conn, packets ...[]byte) {
	t.Helper()
	var batch []transport.Packet
	for _, p := range packets {
		batch = append(batch, transport.Packet{Data: p})
	}
	if n, err := c.WriteBatch(batch); n != len(batch) || err != nil {
		t.Fatalf("%d of %d packets taken: %v", n, len(batch), err)
	}
}

// collect reads until n packets have come, or fails with the first error.
func collect(t testing.TB, c *Conn, n int) (packets [][]byte) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	batch := make([]transport.Packet, 8)
	for len(packets) < n {
		got, err := c.ReadBatch(batch)
		if err != nil {
			t.Fatalf("after %d of %d packets: %v", len(packets), n, err)
		}
		for _, p := range batch[:got] {
			packets = append(packets, append([]byte(nil), p.Data...))
		}
	}
	return packets
}

// Each packet has a connection of its own and its answers come back, of every size.
//
// Shows R10.5.
func TestDialCarriesPackets(t *testing.T) {
	l := answering(t, nil)
	c := dialed(t, l.Groups[0].Addr, Options{})
	sizes := []int{wire.MinPacket, 1452, 2044, 2045, 16 << 10, wire.MaxTCPPacket}
	for i, size := range sizes {
		give(t, c, asking(size, byte(10+i), 3))
		for _, p := range collect(t, c, 3) {
			if len(p) != size || p[0] != byte(10+i) || p[size-1] != byte(10+i) {
				t.Errorf("%d bytes came back as %d", size, len(p))
			}
		}
	}
	s := c.Stats()
	if n := uint64(len(sizes)); s.Connections != n || s.Sent.Packets != n || s.Received.Packets != 3*n || s.Failed != 0 || s.Dropped != 0 {
		t.Errorf("counted %+v", s)
	}
	if a := c.LocalAddr().(*net.TCPAddr); !a.IP.IsLoopback() || a.Port == 0 {
		t.Errorf("local address %v", a)
	}
	for _, size := range []int{0, wire.MinPacket - 1, wire.MaxTCPPacket + 1} {
		n, err := c.WriteBatch([]transport.Packet{{Data: make([]byte, size)}, {Data: asking(40, 1, 0)}})
		if failed := (*transport.SendError)(nil); n != 1 || !errors.As(err, &failed) || failed.Index != 0 || failed.Failed != 1 || !errors.Is(err, transport.ErrTooLarge) {
			t.Errorf("%d bytes: %d, %v", size, n, err)
		}
	}
}

// A train goes packet by packet.
func TestDialSplitsTrains(t *testing.T) {
	l := answering(t, nil)
	c := dialed(t, l.Groups[0].Addr, Options{})
	train := append(append(asking(50, 7, 1), asking(50, 7, 1)...), asking(40, 7, 1)...)
	if n, err := c.WriteBatch([]transport.Packet{{Data: train, Segment: 50}}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	total := 0
	for _, p := range collect(t, c, 3) {
		total += len(p)
	}
	if total != 140 {
		t.Errorf("%d bytes came back, want 140", total)
	}
}

// Send tells when the connection is over, and how.
func TestSendCallback(t *testing.T) {
	l := answering(t, nil)
	c := dialed(t, l.Groups[0].Addr, Options{})
	type end struct {
		answers int
		err     error
	}
	ends := make(chan end, 1)
	ended := func(n int, err error) { ends <- end{n, err} }
	for _, copies := range []byte{0, 1, 5} {
		if err := c.Send(asking(40, 1, copies), time.Second, ended); err != nil {
			t.Fatal(err)
		}
		if e := <-ends; e.err != nil || e.answers != int(copies) {
			t.Errorf("%d answers: %+v", copies, e)
		}
		collect(t, c, int(copies))
	}
	_ = l.Close()
	if err := c.Send(asking(40, 1, 0), time.Second, ended); err != nil {
		t.Fatal(err)
	}
	if e := <-ends; !errors.Is(e.err, transport.ErrRefused) {
		t.Errorf("with nobody there: %+v", e)
	}
	_ = c.Close()
	if err := c.Send(asking(40, 1, 0), 0, ended); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// What went wrong is told by name, without the gateway's whole address, and the Conn
// goes on.
func TestDialErrors(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	var behave atomic.Pointer[func(net.Conn)]
	go func() {
		for {
			conn, err := silent.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 100))
			(*behave.Load())(conn)
			_ = conn.Close()
		}
	}()
	at := silent.Addr().(*net.TCPAddr).AddrPort()
	patient := dialed(t, at, Options{AnswerTimeout: time.Minute})
	hasty := dialed(t, at, Options{AnswerTimeout: 100 * time.Millisecond})
	for name, row := range map[string]struct {
		behave func(net.Conn)
		want   error
	}{
		"no answer":        {func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1)) }, ErrTimeout}, // until the dialer closes it
		"broken off":       {func(conn net.Conn) { _ = conn.(*net.TCPConn).SetLinger(0) }, ErrAborted},
		"half an answer":   {func(conn net.Conn) { _, _ = conn.Write([]byte{0, 0, 0, 50, 1, 2}) }, ErrAborted},
		"half a length":    {func(conn net.Conn) { _, _ = conn.Write([]byte{0, 0}) }, ErrAborted},
		"a length of none": {func(conn net.Conn) { _, _ = conn.Write([]byte{0, 0, 0, 33}) }, ErrBadLength},
		"a huge length":    {func(conn net.Conn) { _, _ = conn.Write([]byte{255, 255, 255, 255, 0}) }, ErrBadLength},
	} {
		behave.Store(&row.behave)
		c := patient
		if row.want == ErrTimeout {
			c = hasty
		}
		give(t, c, packetOf(40, 1))
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.ReadBatch(make([]transport.Packet, 1)); !errors.Is(err, row.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_ = silent.Close()
	give(t, patient, packetOf(40, 1))
	if _, err := patient.ReadBatch(make([]transport.Packet, 1)); !errors.Is(err, transport.ErrRefused) {
		t.Errorf("nobody there: %v", err)
	}
	for _, to := range []string{"0.0.0.0:1", "127.0.0.1:0"} {
		if _, err := Dial(netip.MustParseAddrPort(to), Options{}); !errors.Is(err, ErrInvalidTarget) {
			t.Errorf("%s: %v", to, err)
		}
	}
}

// There are never more connections than allowed, the queue is bounded, and what gives
// way is counted: every packet is answered or counted, once.
func TestDialBounds(t *testing.T) {
	const packets, connections, queue = 100, 4, 10
	release := make(chan struct{})
	l := listening(t, nil)
	var served sync.WaitGroup
	served.Go(func() {
		batch := make([]transport.Packet, 32)
		<-release
		for {
			n, err := l.Shards[0].ReadBatch(batch)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			for _, p := range batch[:n] {
				l.Shards[0].End(p.Path)
			}
		}
	})
	c := dialed(t, l.Groups[0].Addr, Options{Connections: connections, Queue: queue, QueueTime: time.Minute})
	var ended, expired atomic.Int64
	for range packets {
		err := c.Send(packetOf(40, 1), 0, func(_ int, err error) {
			if errors.Is(err, ErrQueueTimeout) {
				expired.Add(1)
			}
			ended.Add(1)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "connections", func() bool { return l.Stats().Open == connections })
	close(release)
	eventually(t, "every packet has ended", func() bool { return ended.Load() == packets })
	s := c.Stats()
	if s.Connections > connections+queue || s.Connections < queue || s.Dropped != packets-s.Connections || int64(s.Dropped) != expired.Load() {
		t.Errorf("counted %+v, %d told", s, expired.Load())
	}
	_ = l.Close()
	served.Wait()
}

// A packet that waited too long for a connection is not sent any more.
func TestDialDropsOldestPackets(t *testing.T) {
	l := listening(t, nil) // never answers
	c := dialed(t, l.Groups[0].Addr, Options{Connections: 1, QueueTime: 50 * time.Millisecond, AnswerTimeout: 200 * time.Millisecond})
	errs := make(chan error, 2)
	for range 2 {
		if err := c.Send(packetOf(40, 1), 0, func(_ int, err error) { errs <- err }); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-errs; !errors.Is(err, ErrTimeout) {
		t.Errorf("the first: %v", err)
	}
	if err := <-errs; !errors.Is(err, ErrQueueTimeout) {
		t.Errorf("the second: %v", err)
	}
}

// Close sends what was written before it, breaks off what waits, and ends readers.
func TestDialClose(t *testing.T) {
	l := listening(t, nil)
	c := dialed(t, l.Groups[0].Addr, Options{})
	var readers sync.WaitGroup
	readers.Go(func() {
		if _, err := c.ReadBatch(make([]transport.Packet, 1)); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	polled := make(chan error, 1)
	_ = c.Send(packetOf(36, 1), time.Minute, func(_ int, err error) { polled <- err })
	readOne(t, l.Shards[0])
	give(t, c, packetOf(44, 2))
	var closers sync.WaitGroup // of which none cuts the other short
	for range 3 {
		closers.Go(func() { _ = c.Close() })
	}
	closers.Wait()
	if p := readOne(t, l.Shards[0]); len(p.Data) != 44 {
		t.Errorf("%d bytes came last", len(p.Data))
	}
	if err := <-polled; !errors.Is(err, net.ErrClosed) {
		t.Errorf("the poll: %v", err)
	}
	readers.Wait()
	if n, err := c.WriteBatch([]transport.Packet{{Data: packetOf(40, 1)}}); n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after Close: %d, %v", n, err)
	}
	_ = c.Close()
}

func TestDialDeadline(t *testing.T) {
	c := dialed(t, netip.MustParseAddrPort("127.0.0.1:9"), Options{})
	_ = c.SetReadDeadline(time.Unix(1, 0))
	if _, err := c.ReadBatch(make([]transport.Packet, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
}

// FuzzAnswers cuts what a gateway sends, in any pieces, as a reader of one frame after
// the other would, and takes no length that is none.
func FuzzAnswers(f *testing.F) {
	f.Add(appendFrame(appendFrame(nil, packetOf(34, 1)), packetOf(1500, 2)), uint16(3))
	f.Add([]byte{0, 0, 0, 33}, uint16(1))
	f.Add([]byte{0, 1, 0, 0, 0}, uint16(5))
	f.Add(appendFrame(nil, packetOf(3000, 7))[:2000], uint16(700))
	f.Fuzz(func(t *testing.T, data []byte, piece uint16) {
		c, err := Dial(netip.MustParseAddrPort("127.0.0.1:9"), Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		var want [][]byte
		var bad bool
		for rest := data; len(rest) >= lengthSize; {
			n, err := parseLength((*[lengthSize]byte)(rest))
			if bad = err != nil; bad || len(rest) < lengthSize+n {
				break
			}
			want, rest = append(want, rest[lengthSize:lengthSize+n]), rest[lengthSize+n:]
		}
		if len(want) > cap(c.packets) {
			t.Skip()
		}
		near, far := net.Pipe()
		go func() {
			for rest := data; len(rest) > 0; {
				n := min(len(rest), int(piece)+1)
				if _, err := far.Write(rest[:n]); err != nil {
					break
				}
				rest = rest[n:]
			}
			_ = far.Close()
		}()
		got, err := c.receive(near)
		_ = near.Close()
		if got != len(want) || bad != errors.Is(err, ErrBadLength) {
			t.Fatalf("%d packets of %d, %v", got, len(want), err)
		}
		for _, w := range want {
			b := (<-c.packets).packet
			if string(b.data) != string(w) {
				t.Fatalf("%d bytes, want %d others", len(b.data), len(w))
			}
			b.free()
		}
	})
}

// BenchmarkExchange carries packets of 1200 bytes and an answer to each, both ends in
// this process.
func BenchmarkExchange(b *testing.B) {
	for name, o := range map[string]Options{"fastopen": {}, "plain": {NoFastOpen: true}} {
		b.Run(name, func(b *testing.B) {
			l := answering(b, nil)
			o.Queue, o.QueueTime = 1<<20, time.Minute
			c := dialed(b, l.Groups[0].Addr, o)
			p := asking(1200, 1, 1)
			batch := make([]transport.Packet, 32)
			window, lost := 0, 0
			for sent, came := 0, 0; came+lost < b.N; {
				for ; sent < b.N && window < 256; sent++ {
					give(b, c, p)
					window++
				}
				n, err := c.ReadBatch(batch)
				if errors.Is(err, ErrAborted) { // one connection too many, as the gateway counts
					n = 0
					lost++
					window--
				} else if err != nil {
					b.Fatal(err)
				}
				came += n
				window -= n
			}
			b.ReportMetric(float64(lost)/float64(b.N), "lost/op")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "packets/s")
		})
	}
}
