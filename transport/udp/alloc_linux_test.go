package udp

import (
	"net/netip"
	"runtime"
	"testing"
	"time"

	"lewes/state/path"
	"lewes/transport"
)

// Both directions, over sockets, in steady state.
func TestNoAllocations(t *testing.T) {
	for _, m := range modes {
		if m.Portable {
			continue // golang.org/x/net makes an address for each message
		}
		for _, addr := range loopbacks {
			t.Run(m.name+" "+addr.String(), func(t *testing.T) {
				to, from := listenOn(t, addr, m.Options), listenOn(t, addr, m.Options)
				connected := dialTo(t, to.LocalAddrPort(), m.Options)
				way := path.NewUDP(to.LocalAddrPort(), addr, 1)
				sent := packetsOf(way, 1200, 1200, 1200, 1200, 600, 80, 0, 80)
				batch := make([]transport.Packet, 32)
				exchange := func(c *Conn) func() {
					return func() {
						if n, err := c.WriteBatch(sent); n != len(sent) || err != nil {
							t.Fatalf("WriteBatch: %d, %v", n, err)
						}
						for left := len(sent); left > 0; {
							n, err := to.ReadBatch(batch)
							if err != nil {
								t.Fatal(err)
							}
							for i := range batch[:n] {
								left -= batch[i].Count()
							}
						}
					}
				}
				for name, c := range map[string]*Conn{"one to many": from, "connected": connected} {
					run := exchange(c)
					for range 20 {
						run()
					}
					if n := testing.AllocsPerRun(200, run); n != 0 {
						t.Errorf("%s: %v allocations a round, want 0", name, n)
					}
				}
			})
		}
	}
}

func TestWaitingPooledConnHoldsNoBuffer(t *testing.T) {
	c := listenOn(t, loopbacks[0], Options{Pooled: true})
	from := dialTo(t, c.LocalAddrPort(), Options{})
	m := c.io.(*mmsg)
	if m.recv != nil {
		t.Fatal("a fresh Conn holds buffers")
	}
	batch := make([]transport.Packet, 8)
	for range 3 {
		mustWrite(t, from, packetsOf(path.Path{}, 100))
		if _, err := c.ReadBatch(batch); err != nil {
			t.Fatal(err)
		}
		if m.recv == nil {
			t.Fatal("the packets that were just read are in no buffer")
		}
		done := make(chan error)
		go func() {
			_, err := c.ReadBatch(batch)
			done <- err
		}()
		time.Sleep(10 * time.Millisecond)
		// The reader's own field is not for others to read while it runs: a deadline
		// ends its wait, after which it stands still.
		if err := c.SetReadDeadline(time.Now()); err != nil {
			t.Fatal(err)
		}
		<-done
		if m.recv != nil {
			t.Fatal("a Conn that waited in vain holds buffers")
		}
		if err := c.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPooledConnAdaptsBatchSize(t *testing.T) {
	c := listenOn(t, loopbacks[0], Options{Pooled: true, NoGRO: true})
	from := dialTo(t, c.LocalAddrPort(), Options{NoGSO: true})
	m := c.io.(*mmsg)
	mustWrite(t, from, packetsOf(path.Path{}, bytesOf(60, 50)...))
	collect(t, c, 60)
	if m.ask < 4 {
		t.Errorf("asks for %d after a burst", m.ask)
	}
	for range 10 {
		mustWrite(t, from, packetsOf(path.Path{}, 50))
		collect(t, c, 1)
	}
	if m.ask > 2 {
		t.Errorf("asks for %d after quiet, want 2 at most", m.ask)
	}
}

// Egress flows: many sockets, each with a goroutine that waits.
func TestIdlePooledConnsAreSmall(t *testing.T) {
	const conns = 500
	to := listenOn(t, loopbacks[0], Options{})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var all Counters
	var flows []*Conn
	done := make(chan struct{})
	for range conns {
		c, err := Dial(to.LocalAddrPort(), Options{Pooled: true, Counters: &all})
		if err != nil {
			t.Fatal(err)
		}
		flows = append(flows, c)
		go func() {
			batch := make([]transport.Packet, 1)
			_, _ = c.ReadBatch(batch)
			_, _ = c.ReadBatch(batch)
			done <- struct{}{}
		}()
	}
	// Each has had something once, and waits again.
	for _, c := range flows {
		mustWrite(t, to, packetsOf(path.NewUDP(c.LocalAddrPort(), netip.Addr{}, 0), 100))
	}
	for deadline := time.Now().Add(10 * time.Second); all.Stats().Received.Packets < conns; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d arrived", all.Stats().Received.Packets, conns)
		}
	}
	time.Sleep(20 * time.Millisecond)
	runtime.GC()
	runtime.GC() // the second empties the pool
	runtime.ReadMemStats(&after)
	each := (int64(after.HeapInuse+after.StackInuse) - int64(before.HeapInuse+before.StackInuse)) / conns
	t.Logf("%d bytes a flow, its goroutine's stack included", each)
	if each > 10<<10 && !raceDetector {
		t.Errorf("an idle flow holds %d bytes, want at most 10 KiB", each)
	}
	for _, c := range flows {
		_ = c.Close()
	}
	for range flows {
		<-done
	}
}
