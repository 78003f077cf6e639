package udp

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"lewes/state/path"
	"lewes/transport"
)

// gathering is a Handler that keeps what it is given.
type gathering struct {
	mu     sync.Mutex
	got    map[any][][]byte
	failed map[any][]error
	rounds int
}

func newGathering() *gathering {
	return &gathering{got: map[any][][]byte{}, failed: map[any][]error{}}
}

func (g *gathering) Received(user any, batch []transport.Packet) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range batch {
		for d := range batch[i].Segments() {
			g.got[user] = append(g.got[user], bytes.Clone(d))
		}
	}
}

func (g *gathering) Failed(user any, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.failed[user] = append(g.failed[user], err)
}

func (g *gathering) Done() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rounds++
}

// until waits for something that has to come.
func (g *gathering) until(t testing.TB, what string, there func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		g.mu.Lock()
		ok := there()
		g.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// adopted returns a socket connected to target that p reads.
func adopted(t testing.TB, p *Poller, target netip.AddrPort, user any) *Conn {
	t.Helper()
	c := dialTo(t, target, Options{Pooled: true, Fragment: true})
	if err := p.Adopt(c, user); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPollerReadsManySockets(t *testing.T) {
	const conns = 300 // more than it takes from the kernel at once
	for _, addr := range loopbacks {
		g := newGathering()
		p := polling(t, g)
		server := listenOn(t, addr, Options{})
		want := map[any][]transport.Packet{}
		for i := range conns {
			c := adopted(t, p, server.LocalAddrPort(), i)
			way := path.NewUDP(c.LocalAddrPort(), addr, 0)
			// Trains, and single ones, and an empty one.
			for j, size := range []int{700, 700, 700, 90, 0, 1200} {
				want[i] = append(want[i], transport.Packet{Data: payload(uint32(8*i+j), size), Path: way})
			}
			mustWrite(t, server, want[i])
			mustWrite(t, c, packetsOf(path.Path{}, 30))
		}
		g.until(t, "what was sent", func() bool {
			for i := range conns {
				if len(g.got[i]) < len(want[i]) {
					return false
				}
			}
			return true
		})
		for i := range conns {
			for j, d := range g.got[i] {
				if j >= len(want[i]) || !bytes.Equal(d, want[i][j].Data) {
					t.Fatalf("%v: socket %d: datagram %d is not what was sent", addr, i, j)
				}
			}
		}
		collect(t, server, conns) // what they sent
	}
}

// A socket closed has nothing more to say, and one that takes its place is not taken for
// it.
func TestPollerRemovesClosedSockets(t *testing.T) {
	g := newGathering()
	p := polling(t, g)
	server := listenOn(t, loopbacks[0], Options{})
	for i := range 200 {
		c := adopted(t, p, server.LocalAddrPort(), i)
		mustWrite(t, server, []transport.Packet{{Data: fmt.Appendf(nil, "%d", i), Path: path.NewUDP(c.LocalAddrPort(), loopbacks[0], 0)}})
		if i%2 == 0 {
			g.until(t, "a datagram", func() bool { return len(g.got[i]) == 1 })
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("closed twice: %v", err)
		}
		if _, err := c.WriteBatch(packetsOf(path.Path{}, 10)); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("write after close: %v", err)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for user, datagrams := range g.got {
		for _, d := range datagrams {
			if string(d) != fmt.Sprint(user) {
				t.Errorf("socket %v was given %q", user, d)
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.polled) > 2 {
		t.Errorf("one socket at a time took %d places", len(p.polled)-1)
	}
}

// Many goroutines send on sockets that others close and open: no call may use a number
// that names another file by then.
func TestPolledSocketsCloseDuringUse(t *testing.T) {
	p := polling(t, newGathering())
	servers := []*Conn{listenOn(t, loopbacks[0], Options{}), listenOn(t, loopbacks[0], Options{})}
	var all sync.WaitGroup
	for i, server := range servers {
		all.Go(func() {
			for range 200 {
				c, err := Dial(server.LocalAddrPort(), Options{})
				if err != nil {
					t.Error(err)
					return
				}
				if err := p.Adopt(c, i); err != nil {
					t.Error(err)
					return
				}
				var sending sync.WaitGroup
				for range 3 {
					sending.Go(func() {
						for {
							if _, err := c.WriteBatch([]transport.Packet{{Data: []byte{byte(i)}}}); errors.Is(err, net.ErrClosed) {
								return
							}
						}
					})
				}
				_ = c.Close()
				sending.Wait()
			}
		})
	}
	all.Wait()
	for i, server := range servers {
		for _, d := range tryCollect(t, server, 100, 100*time.Millisecond) {
			if len(d.data) != 1 || d.data[0] != byte(i) {
				t.Errorf("server %d was sent %v", i, d.data)
			}
		}
	}
}

func TestPollerReportsRefusals(t *testing.T) {
	for _, addr := range loopbacks {
		gone := listenOn(t, addr, Options{})
		target := gone.LocalAddrPort()
		_ = gone.Close()
		g := newGathering()
		p := polling(t, g)
		c := adopted(t, p, target, "refused")
		// One that a later send is told of leaves its copy behind: a poller that does not
		// take it is woken for it for ever.
		for range 5 {
			_, _ = c.WriteBatch(packetsOf(path.Path{}, 10))
		}
		g.until(t, "a refusal", func() bool { return len(g.failed["refused"]) > 0 })
		g.mu.Lock()
		if err := g.failed["refused"][0]; !errors.Is(err, transport.ErrRefused) {
			t.Errorf("%v: %v", addr, err)
		}
		g.mu.Unlock()
		time.Sleep(20 * time.Millisecond)
		g.mu.Lock()
		rounds := g.rounds
		g.mu.Unlock()
		time.Sleep(50 * time.Millisecond)
		g.mu.Lock()
		if n := g.rounds - rounds; n > 3 {
			t.Errorf("%v: woken %d times although nothing came", addr, n)
		}
		g.mu.Unlock()
	}
}

// A Poller that was stopped leaves its sockets open, and what comes meanwhile waits.
func TestPollerRestarts(t *testing.T) {
	g := newGathering()
	p, err := NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	server := listenOn(t, loopbacks[0], Options{})
	c := adopted(t, p, server.LocalAddrPort(), "c")
	for round := range 3 {
		mustWrite(t, server, packetsOf(path.NewUDP(c.LocalAddrPort(), loopbacks[0], 0), 100))
		done := make(chan error)
		go func() { done <- p.Run(g) }()
		g.until(t, "a datagram", func() bool { return len(g.got["c"]) == round+1 })
		p.Stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	p.Close()
	p.Stop() // too late, and no harm
	if err := p.Adopt(dialTo(t, server.LocalAddrPort(), Options{}), 1); !errors.Is(err, net.ErrClosed) {
		t.Errorf("adopted after Close: %v", err)
	}
	if _, err := c.WriteBatch(packetsOf(path.Path{}, 10)); err != nil {
		t.Errorf("a socket of a closed Poller does not send: %v", err)
	}
}

func TestPollerRejectsPortableConns(t *testing.T) {
	p := polling(t, newGathering())
	server := listenOn(t, loopbacks[0], Options{})
	c := dialTo(t, server.LocalAddrPort(), Options{Portable: true})
	if err := p.Adopt(c, nil); !errors.Is(err, errors.ErrUnsupported) {
		t.Fatalf("adopted: %v", err)
	}
	mustWrite(t, server, packetsOf(path.NewUDP(c.LocalAddrPort(), loopbacks[0], 0), 100))
	collect(t, c, 1)
}

// A polled Conn that is read by hand says at once that there is nothing.
func TestPolledConnDoesNotWait(t *testing.T) {
	p, err := NewPoller() // nobody runs it
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c := adopted(t, p, listenOn(t, loopbacks[0], Options{}).LocalAddrPort(), nil)
	if n, err := c.ReadBatch(make([]transport.Packet, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d, %v", n, err)
	}
	_ = c.Close()
	if _, err := c.ReadBatch(make([]transport.Packet, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestPollerDoesNotAllocate(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates")
	}
	count := &counting{}
	p := polling(t, count)
	server := listenOn(t, loopbacks[0], Options{})
	var sent []transport.Packet
	for range 50 {
		c := adopted(t, p, server.LocalAddrPort(), count)
		sent = append(sent, packetsOf(path.NewUDP(c.LocalAddrPort(), loopbacks[0], 0), 1200, 1200, 300)...)
	}
	round := func() {
		count.expect(len(sent))
		mustWrite(t, server, sent)
		<-count.all
	}
	for range 20 {
		round()
	}
	if n := testing.AllocsPerRun(100, round); n > 0 {
		t.Errorf("%v allocations a round", n)
	}
}

// counting is a Handler that says when as many datagrams have come as it was told to expect.
type counting struct {
	mu   sync.Mutex
	left int
	all  chan struct{}
}

func (c *counting) expect(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = make(chan struct{}, 1)
	}
	c.left = n
}

func (c *counting) Received(_ any, batch []transport.Packet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range batch {
		c.left -= batch[i].Count()
	}
	if c.left == 0 {
		c.all <- struct{}{}
	}
}

func (*counting) Failed(any, error) {}
func (*counting) Done()             {}
