package udp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"lewes/state/path"
	"lewes/transport"
)

// modes are the ways that this package moves datagrams; each behaves like the
// others. On systems other than Linux all of them are the portable one.
var modes = []struct {
	name string
	Options
}{
	{"offload", Options{}},
	{"no GSO", Options{NoGSO: true}},
	{"no offload", Options{NoGSO: true, NoGRO: true}},
	{"pooled", Options{Pooled: true}},
	{"portable", Options{Portable: true}},
	{"portable pooled", Options{Portable: true, Pooled: true}},
}

var loopbacks = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}

// inEachMode runs test for every mode.
func inEachMode(t *testing.T, test func(t *testing.T, o Options)) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) { test(t, m.Options) })
	}
}

// listenOn binds addr on a port of the system's choice.
func listenOn(t testing.TB, addr netip.Addr, o Options) *Conn {
	t.Helper()
	l, err := Listen(t.Context(), Config{Addrs: []netip.AddrPort{netip.AddrPortFrom(addr, 0)}, Options: o})
	if err != nil {
		if addr.Is6() {
			t.Skipf("no IPv6 here: %v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Groups[0].Conns[0]
}

func dialTo(t testing.TB, target netip.AddrPort, o Options) *Conn {
	t.Helper()
	c, err := Dial(target, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// at returns how a socket that is bound to every address is reached at addr.
func at(addr netip.Addr, c *Conn) netip.AddrPort {
	return netip.AddrPortFrom(addr, c.LocalAddrPort().Port())
}

// datagram is one that was received.
type datagram struct {
	data []byte
	path path.Path
}

// collect reads n datagrams, copied out of their trains.
func collect(t testing.TB, c *Conn, n int) []datagram {
	t.Helper()
	got := tryCollect(t, c, n, 5*time.Second)
	if len(got) != n {
		t.Fatalf("%d datagrams arrived, want %d", len(got), n)
	}
	return got
}

// tryCollect reads until there are n datagrams or the time is up.
func tryCollect(t testing.TB, c *Conn, n int, atMost time.Duration) (got []datagram) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(atMost)); err != nil {
		t.Fatal(err)
	}
	batch := make([]transport.Packet, 32)
	for len(got) < n {
		k, err := c.ReadBatch(batch)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			t.Fatalf("read: %v", err)
		}
		if k < 1 || k > len(batch) {
			t.Fatalf("ReadBatch returned %d of %d and no error", k, len(batch))
		}
		for i := range batch[:k] {
			for d := range batch[i].Segments() {
				got = append(got, datagram{bytes.Clone(d), batch[i].Path})
			}
		}
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	return got
}

// payload returns size bytes that no other datagram of the test has.
func payload(number uint32, size int) []byte {
	b := make([]byte, size)
	r := rand.New(rand.NewPCG(uint64(number), 1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	if size >= 4 {
		binary.BigEndian.PutUint32(b, number)
	}
	return b
}

// packetsOf makes one packet for each size.
func packetsOf(p path.Path, sizes ...int) []transport.Packet {
	var packets []transport.Packet
	for i, size := range sizes {
		packets = append(packets, transport.Packet{Data: payload(uint32(i), size), Path: p})
	}
	return packets
}

// mustWrite sends all of p.
func mustWrite(t testing.TB, c *Conn, p []transport.Packet) {
	t.Helper()
	if n, err := c.WriteBatch(p); n != len(p) || err != nil {
		t.Fatalf("WriteBatch took %d of %d: %v", n, len(p), err)
	}
}

// sameDatagrams compares what arrived with what was sent, datagram by datagram.
func sameDatagrams(t testing.TB, got []datagram, sent []transport.Packet) {
	t.Helper()
	i := 0
	for k := range sent {
		for want := range sent[k].Segments() {
			if i == len(got) {
				t.Fatalf("%d datagrams arrived, more were sent", len(got))
			}
			if !bytes.Equal(got[i].data, want) {
				t.Fatalf("datagram %d (%d bytes) differs from what was sent (%d bytes)", i, len(got[i].data), len(want))
			}
			i++
		}
	}
	if i != len(got) {
		t.Fatalf("%d datagrams arrived, %d were sent", len(got), i)
	}
}

func TestExchange(t *testing.T) {
	inEachMode(t, func(t *testing.T, o Options) {
		for _, addr := range loopbacks {
			t.Run(addr.String(), func(t *testing.T) {
				everything := netip.IPv4Unspecified()
				if addr.Is6() {
					everything = netip.IPv6Unspecified()
				}
				server := listenOn(t, everything, o)
				client := dialTo(t, at(addr, server), o)

				question := packetsOf(path.Path{}, 1200, 1200, 1200, 300, 0, 1, 900)
				mustWrite(t, client, question)
				got := collect(t, server, len(question))
				sameDatagrams(t, got, question)
				for _, d := range got {
					if d.path.Peer != client.LocalAddrPort() {
						t.Errorf("came from %s, want %s", d.path.Peer, client.LocalAddrPort())
					}
					if d.path.Local != addr {
						t.Errorf("came to %s, want %s", d.path.Local, addr)
					}
					if d.path.IfIndex == 0 {
						t.Error("the interface is not told")
					}
					if d.path.Transport != path.UDP || d.path.Conn != 0 {
						t.Errorf("transport %v, connection %d", d.path.Transport, d.path.Conn)
					}
				}

				answer := packetsOf(got[0].path, 1000, 1000, 1000, 1000, 10, 0)
				mustWrite(t, server, answer)
				got = collect(t, client, len(answer))
				sameDatagrams(t, got, answer)
				for _, d := range got {
					if d.path.Peer != at(addr, server) || d.path.Local != addr {
						t.Errorf("path %+v, want from %s to %s", d.path, at(addr, server), addr)
					}
				}
			})
		}
	})
}

// A client that is connected to one address of a host sees answers from there only:
// so this shows where they leave from.
func TestAnswerLeavesFromDestinationAddress(t *testing.T) {
	inEachMode(t, func(t *testing.T, o Options) {
		server := listenOn(t, netip.IPv4Unspecified(), o)
		for _, host := range []string{"127.0.0.1", "127.0.0.2", "127.3.2.1"} {
			addr := netip.MustParseAddr(host)
			client := dialTo(t, at(addr, server), o)
			mustWrite(t, client, packetsOf(path.Path{}, 100))
			question := collect(t, server, 1)[0]
			if question.path.Local != addr {
				t.Fatalf("question to %s is said to have come to %s", addr, question.path.Local)
			}
			answer := packetsOf(question.path, 500, 500, 500, 20)
			mustWrite(t, server, answer)
			sameDatagrams(t, collect(t, client, len(answer)), answer)
		}
		if n := server.Stats().SourceDropped; n != 0 {
			t.Errorf("%d datagrams went without their address", n)
		}
	})
}

func TestBatchWithSeveralPaths(t *testing.T) {
	inEachMode(t, func(t *testing.T, o Options) {
		server := listenOn(t, netip.IPv4Unspecified(), o)
		var clients []*Conn
		var answers []transport.Packet
		for i := range 5 {
			client := dialTo(t, at(netip.AddrFrom4([4]byte{127, 0, 0, byte(1 + i)}), server), o)
			mustWrite(t, client, packetsOf(path.Path{}, 100))
			answers = append(answers, packetsOf(collect(t, server, 1)[0].path, 700+i, 700+i, 60)...)
			clients = append(clients, client)
		}
		mustWrite(t, server, answers)
		for i, client := range clients {
			sameDatagrams(t, collect(t, client, 3), answers[3*i:3*i+3])
		}
	})
}

// wireguard-go#61: an address that went away must not silence the peer.
func TestRemovedSourceAddressIsDropped(t *testing.T) {
	inEachMode(t, func(t *testing.T, o Options) {
		server := listenOn(t, netip.IPv4Unspecified(), o)
		client := listenOn(t, loopbacks[0], o)
		way := path.NewUDP(client.LocalAddrPort(), netip.MustParseAddr("203.0.113.77"), 0)
		sent := packetsOf(way, 800, 800, 800, 100, 0, 50)
		mustWrite(t, server, sent)
		sameDatagrams(t, collect(t, client, len(sent)), sent)
		s := server.Stats()
		if s.SourceDropped != uint64(len(sent)) {
			t.Errorf("SourceDropped %d, want %d", s.SourceDropped, len(sent))
		}
		if s.GSO.On != client.Stats().GSO.On {
			t.Errorf("an address that is gone was blamed on the offload: %s", s.GSO.Reason)
		}
	})
}

func TestDeadlineWakesReader(t *testing.T) {
	inEachMode(t, func(t *testing.T, o Options) {
		c := listenOn(t, loopbacks[0], o)
		got := make(chan error, 1)
		go func() {
			_, err := c.ReadBatch(make([]transport.Packet, 4))
			got <- err
		}()
		time.Sleep(20 * time.Millisecond) // let it wait; if it does not yet, the deadline holds as well
		if err := c.SetReadDeadline(time.Now()); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-got:
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("got %v, want os.ErrDeadlineExceeded", err)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("ReadBatch still waits")
		}
		if _, err := c.ReadBatch(make([]transport.Packet, 4)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("past the deadline: got %v", err)
		}
		if err := c.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		sent := packetsOf(path.Path{}, 77)
		mustWrite(t, dialTo(t, c.LocalAddrPort(), o), sent)
		sameDatagrams(t, collect(t, c, 1), sent)
	})
}

func TestCloseUnblocksCalls(t *testing.T) {
	inEachMode(t, func(t *testing.T, o Options) {
		c := listenOn(t, loopbacks[0], o)
		got := make(chan error, 1)
		go func() {
			_, err := c.ReadBatch(make([]transport.Packet, 4))
			got <- err
		}()
		time.Sleep(10 * time.Millisecond)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-got:
			if !errors.Is(err, net.ErrClosed) {
				t.Fatalf("reader got %v, want net.ErrClosed", err)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("ReadBatch still waits")
		}
		if _, err := c.ReadBatch(make([]transport.Packet, 4)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("ReadBatch: %v, want net.ErrClosed", err)
		}
		p := packetsOf(path.NewUDP(c.LocalAddrPort(), netip.Addr{}, 0), 10)
		if n, err := c.WriteBatch(p); n != 0 || !errors.Is(err, net.ErrClosed) {
			t.Errorf("WriteBatch: %d, %v, want 0, net.ErrClosed", n, err)
		}
		if err := c.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("second Close: %v, want net.ErrClosed", err)
		}
	})
}

func TestConnSurvivesRefusal(t *testing.T) {
	inEachMode(t, func(t *testing.T, o Options) {
		for _, addr := range loopbacks {
			t.Run(addr.String(), func(t *testing.T) {
				gone := listenOn(t, addr, o)
				target := gone.LocalAddrPort()
				if err := gone.Close(); err != nil {
					t.Fatal(err)
				}
				c := dialTo(t, target, o)
				if _, err := c.WriteBatch(packetsOf(path.Path{}, 100)); err != nil {
					t.Fatalf("the first datagram cannot be refused yet: %v", err)
				}
				if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
					t.Fatal(err)
				}
				if _, err := c.ReadBatch(make([]transport.Packet, 4)); !errors.Is(err, transport.ErrRefused) {
					t.Fatalf("reader got %v, want ErrRefused", err)
				}
				if n := c.Stats().AsyncErrors[Refused]; n != 1 {
					t.Errorf("AsyncErrors[Refused] %d, want 1", n)
				}

				// The writer learns as well, and sends all the same.
				_, _ = c.WriteBatch(packetsOf(path.Path{}, 100))
				n, err := c.WriteBatch(packetsOf(path.Path{}, 100, 200, 300))
				if n != 3 || !errors.Is(err, transport.ErrRefused) {
					t.Errorf("WriteBatch: %d, %v, want 3 taken and ErrRefused", n, err)
				}
				if n := c.Stats().SendErrors.Total(); n != 0 {
					t.Errorf("%d datagrams counted as not sent", n)
				}

				back, err := Listen(t.Context(), Config{Addrs: []netip.AddrPort{target}, Options: o})
				if err != nil {
					t.Skipf("another program took the port meanwhile: %v", err)
				}
				defer back.Close()
				sent := packetsOf(path.Path{}, 400, 401, 402)
				if n, _ := c.WriteBatch(sent); n != len(sent) {
					t.Fatalf("WriteBatch took %d of %d", n, len(sent))
				}
				got := collect(t, back.Groups[0].Conns[0], len(sent))
				sameDatagrams(t, got, sent)
			})
		}
	})
}

func TestTooLargeError(t *testing.T) {
	inEachMode(t, func(t *testing.T, o Options) {
		to := listenOn(t, loopbacks[0], o)
		for _, connected := range []bool{true, false} {
			from, way := dialTo(t, to.LocalAddrPort(), o), path.Path{}
			if !connected {
				from, way = listenOn(t, loopbacks[0], o), path.NewUDP(to.LocalAddrPort(), netip.Addr{}, 0)
			}
			// More than an IP packet holds, between others, of which one makes it
			// the end of a train.
			sent := packetsOf(way, 500, 500, 65508, 500, 80, 70000)
			n, err := from.WriteBatch(sent)
			var failed *transport.SendError
			if n != 4 || !errors.Is(err, transport.ErrTooLarge) || !errors.As(err, &failed) {
				t.Fatalf("WriteBatch: %d, %v, want 4 and ErrTooLarge", n, err)
			}
			if failed.Index != 2 || failed.Failed != 2 {
				t.Errorf("Index %d, Failed %d, want 2, 2", failed.Index, failed.Failed)
			}
			got := collect(t, to, 4)
			sameDatagrams(t, got, []transport.Packet{sent[0], sent[1], sent[3], sent[4]})
			if n := from.Stats().SendErrors[TooLarge]; n != 2 {
				t.Errorf("SendErrors[TooLarge] %d, want 2", n)
			}
			if s := from.Stats(); s.GSO.On != to.Stats().GSO.On {
				t.Errorf("a datagram that is too large was blamed on the offload: %s", s.GSO.Reason)
			}
		}
	})
}

func TestLargestDatagram(t *testing.T) {
	inEachMode(t, func(t *testing.T, o Options) {
		to := listenOn(t, loopbacks[0], o)
		sent := packetsOf(path.Path{}, 65507, 65507, 1)
		mustWrite(t, dialTo(t, to.LocalAddrPort(), o), sent)
		sameDatagrams(t, collect(t, to, 3), sent)
	})
}

func TestInvalidPeers(t *testing.T) {
	inEachMode(t, func(t *testing.T, o Options) {
		to := listenOn(t, loopbacks[0], o)
		from := listenOn(t, loopbacks[0], o)
		good := path.NewUDP(to.LocalAddrPort(), netip.Addr{}, 0)
		sent := packetsOf(good, 100, 100, 100, 100, 100, 100)
		sent[0].Path = path.Path{}                                                                      // nobody
		sent[2].Path.Peer = netip.MustParseAddrPort("[2001:db8::1]:9")                                  // the other family
		sent[4].Path.Peer = netip.AddrPortFrom(loopbacks[0], 0)                                         // no port
		sent[5].Path.Peer = netip.AddrPortFrom(netip.AddrFrom16(loopbacks[0].As16()), good.Peer.Port()) // IPv4-mapped: the same as IPv4
		n, err := from.WriteBatch(sent)
		var failed *transport.SendError
		if n != 3 || !errors.Is(err, transport.ErrAddress) || !errors.As(err, &failed) || failed.Index != 0 || failed.Failed != 3 {
			t.Fatalf("WriteBatch: %d, %v, want 3 taken, 3 without a usable address", n, err)
		}
		sameDatagrams(t, collect(t, to, 3), []transport.Packet{sent[1], sent[3], sent[5]})
		if n := from.Stats().SendErrors[Address]; n != 3 {
			t.Errorf("SendErrors[Address] %d, want 3", n)
		}
	})
}

func TestTrainsAreSentAsGiven(t *testing.T) {
	inEachMode(t, func(t *testing.T, o Options) {
		to := listenOn(t, loopbacks[0], o)
		from := listenOn(t, loopbacks[0], o)
		way := path.NewUDP(to.LocalAddrPort(), loopbacks[0], 0)
		train := func(number uint32, size, segment int) transport.Packet {
			return transport.Packet{Data: payload(number, size), Segment: segment, Path: way}
		}
		sent := []transport.Packet{
			train(0, 1000, 100),   // whole segments
			train(1, 450, 100),    // joins, ends short
			train(2, 200, 100),    // cannot join behind a short one
			train(3, 300, 30),     // another length
			train(4, 200*70, 200), // more datagrams than a train takes
			train(5, 1200*60, 1200),
			train(6, 7, 7), // one datagram
			train(7, 5, 0),
			train(8, 0, 10), // an empty one
		}
		total := 0
		for i := range sent {
			total += sent[i].Count()
		}
		mustWrite(t, from, sent)
		sameDatagrams(t, collect(t, to, total), sent)
		if n := from.Stats().Sent.Packets; n != uint64(total) {
			t.Errorf("%d datagrams counted, want %d", n, total)
		}
	})
}

func TestConcurrentWriters(t *testing.T) {
	inEachMode(t, func(t *testing.T, o Options) {
		const writers, batches, size = 8, 20, 10
		to := listenOn(t, loopbacks[0], o)
		from := listenOn(t, loopbacks[0], o)
		way := path.NewUDP(to.LocalAddrPort(), loopbacks[0], 0)
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for b := range batches {
					var p []transport.Packet
					for i := range size {
						number := uint32(w<<16 | b<<8 | i)
						p = append(p, transport.Packet{Data: payload(number, 100+10*w), Path: way})
					}
					if n, err := from.WriteBatch(p); n != size || err != nil {
						t.Errorf("WriteBatch: %d, %v", n, err)
					}
				}
			})
		}
		next := map[uint32]uint32{}
		for _, d := range collect(t, to, writers*batches*size) {
			number := binary.BigEndian.Uint32(d.data)
			w := number >> 16
			if !bytes.Equal(d.data, payload(number, 100+10*int(w))) {
				t.Fatalf("datagram %x of writer %d was changed on its way", number, w)
			}
			if number&0xffff < next[w] {
				t.Fatalf("datagram %x of writer %d came after %x", number, w, next[w])
			}
			next[w] = number & 0xffff
		}
		wg.Wait()
	})
}

func TestEmptyBatches(t *testing.T) {
	inEachMode(t, func(t *testing.T, o Options) {
		c := listenOn(t, loopbacks[0], o)
		if n, err := c.WriteBatch(nil); n != 0 || err != nil {
			t.Errorf("WriteBatch(nil): %d, %v", n, err)
		}
		if n, err := c.ReadBatch(nil); n != 0 || err != nil {
			t.Errorf("ReadBatch(nil): %d, %v", n, err)
		}
	})
}

func TestReadOneAtATimeLosesNothing(t *testing.T) {
	inEachMode(t, func(t *testing.T, o Options) {
		to := listenOn(t, loopbacks[0], o)
		sent := packetsOf(path.Path{}, 10, 20, 30, 40, 50, 60, 70)
		mustWrite(t, dialTo(t, to.LocalAddrPort(), o), sent)
		if err := to.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		var got []datagram
		one := make([]transport.Packet, 1)
		for len(got) < len(sent) {
			if n, err := to.ReadBatch(one); n != 1 || err != nil {
				t.Fatalf("ReadBatch: %d, %v after %d datagrams", n, err, len(got))
			}
			for d := range one[0].Segments() {
				got = append(got, datagram{data: bytes.Clone(d)})
			}
		}
		sameDatagrams(t, got, sent)
	})
}

func TestDialRejectsInvalidTargets(t *testing.T) {
	for _, target := range []string{"0.0.0.0:53", "[::]:53", "127.0.0.1:0"} {
		if c, err := Dial(netip.MustParseAddrPort(target), Options{}); !errors.Is(err, ErrInvalidTarget) {
			t.Errorf("%s: %v, %v, want ErrInvalidTarget", target, c, err)
		}
	}
	if c, err := Dial(netip.AddrPort{}, Options{}); !errors.Is(err, ErrInvalidTarget) {
		t.Errorf("no target: %v, %v, want ErrInvalidTarget", c, err)
	}
}

func TestDialFromSetsLocalAddress(t *testing.T) {
	inEachMode(t, func(t *testing.T, o Options) {
		to := listenOn(t, loopbacks[0], o)
		local := netip.MustParseAddr("127.0.0.9")
		c, err := DialFrom(netip.AddrPortFrom(local, 0), to.LocalAddrPort(), o)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		mustWrite(t, c, packetsOf(path.Path{}, 10))
		if got := collect(t, to, 1)[0].path.Peer; got != c.LocalAddrPort() || got.Addr() != local {
			t.Errorf("came from %s, want %s", got, c.LocalAddrPort())
		}
	})
}

func TestErrorsMaskAddresses(t *testing.T) {
	c := listenOn(t, loopbacks[0], Options{})
	p := packetsOf(path.NewUDP(netip.MustParseAddrPort("198.51.100.77:4000"), netip.Addr{}, 0), 70000)
	_, err := c.WriteBatch(p)
	if err == nil {
		t.Fatal("70000 bytes were sent")
	}
	if bytes.Contains([]byte(err.Error()), []byte("198.51.100.77")) {
		t.Errorf("%q has the whole address", err)
	}
}

func TestListenContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if l, err := Listen(ctx, Config{Addrs: []netip.AddrPort{netip.AddrPortFrom(loopbacks[0], 0)}}); err == nil {
		_ = l.Close()
		t.Error("Listen went on with a context that is over")
	}
}
