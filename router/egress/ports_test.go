package egress

import (
	"errors"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"lewes/router/account"
)

var (
	target4 = netip.MustParseAddrPort("192.0.2.53:53")
	target6 = netip.MustParseAddrPort("[2001:db8::53]:53")
	four    = Range{40000, 40003}
)

// clock is a virtual clock.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// takeAll takes every free port towards a target.
func takeAll(t *testing.T, p *Ports, target netip.AddrPort) (ports []uint16) {
	t.Helper()
	for {
		port, err := p.Take(target)
		if errors.Is(err, syscall.EADDRNOTAVAIL) {
			return ports
		}
		if err != nil || port < p.ports[0] || port > p.ports[1] {
			t.Fatalf("port %d: %v", port, err)
		}
		ports = append(ports, port)
	}
}

// TestPairIsNotTakenTwice takes all ports towards a target. One is taken again only after 30 s
// without a socket, or at once if its socket was never connected.
//
// Shows R8.28.
func TestPairIsNotTakenTwice(t *testing.T) {
	for _, target := range []netip.AddrPort{target4, target6} {
		c := &clock{at: time.Unix(1_800_000_000, 0)}
		p := NewPorts(four, c.now)
		ports := takeAll(t, p, target)
		if len(ports) != 4 {
			t.Fatalf("%d of 4 ports taken", len(ports))
		}
		other := netip.AddrPortFrom(target.Addr(), 54)
		if n := len(takeAll(t, p, other)); n != 4 {
			t.Errorf("towards another target, %d of 4 ports taken", n)
		}
		p.Release(ports[0], target, false)
		if got := takeAll(t, p, target); len(got) != 1 || got[0] != ports[0] {
			t.Errorf("after a socket that was not connected: %v", got)
		}
		for _, phase := range []time.Duration{0, time.Second, 29 * time.Second} { // of the swap
			c.advance(phase)
			p.Release(ports[1], target, true)
			c.advance(Quarantine - 1)
			if got := takeAll(t, p, target); len(got) != 0 {
				t.Errorf("within the quarantine, %v are taken", got)
			}
			c.advance(Quarantine + 1)
			if got := takeAll(t, p, target); len(got) != 1 || got[0] != ports[1] {
				t.Errorf("after the quarantine: %v", got)
			}
		}
	}
}

// TestAccountLeavesPortsToOthers lets three accounts take every port towards a target that they get. A
// fourth still gets one.
//
// Shows R8.34.
func TestAccountLeavesPortsToOthers(t *testing.T) {
	p := NewPorts(Range{30000, 39999}, nil)
	for i := range byte(4) {
		s := &share{p, account.Listed([32]byte{i + 1})}
		n := 0
		for ; ; n++ {
			if _, err := s.Take(target4); err != nil {
				break
			}
		}
		if n == 0 || n > 5500 {
			t.Errorf("account %d has %d of 10000 ports", i, n)
		}
	}
}

// TestQuarantineIsBounded releases more pairs than the quarantine has room for: the oldest are
// forgotten.
func TestQuarantineIsBounded(t *testing.T) {
	c := &clock{at: time.Unix(1_800_000_000, 0)}
	p := NewPorts(Range{40000, 49999}, c.now)
	p.limit = 100
	for port := range uint16(1000) {
		p.Release(40000+port, target4, true)
		if n := len(p.halves[0]) + len(p.halves[1]); n > 2*p.limit {
			t.Fatalf("%d pairs are in quarantine", n)
		}
	}
	if p.take(pairOf(40999, target4)) || !p.take(pairOf(40000, target4)) {
		t.Error("it is not the oldest pairs that are forgotten")
	}
}

// TestSuccessorContinuesQuarantine hands pairs over to another Ports, whose clock differs.
func TestSuccessorContinuesQuarantine(t *testing.T) {
	c := &clock{at: time.Unix(1_800_000_000, 0)}
	p := NewPorts(four, c.now)
	ports := takeAll(t, p, target4)
	p.Release(ports[0], target4, true)
	c.advance(20 * time.Second)
	p.Release(ports[1], target4, true)
	later := &clock{at: time.Unix(1_900_000_000, 0)}
	next := NewPorts(four, later.now)
	next.Hold(ports[2], target4) // ports[3] is closed during the handover
	if err := p.Write(next.Read); err != nil {
		t.Fatal(err)
	}
	later.advance(9 * time.Second)
	if got := takeAll(t, next, target4); len(got) != 0 {
		t.Errorf("the successor takes %v", got)
	}
	later.advance(Quarantine)
	later.advance(Quarantine)
	if got := takeAll(t, next, target4); len(got) != 3 {
		t.Errorf("later the successor takes %v", got)
	}
	for _, payload := range [][]byte{nil, {1}, make([]byte, 17), append(make([]byte, 8), 2, 0, 0, 0, 0, 0, 0, 0)} {
		if next.Read(payload) == nil {
			t.Errorf("%v was accepted", payload)
		}
	}
}

// TestManyPairsAreHandedOver fills several frames.
func TestManyPairsAreHandedOver(t *testing.T) {
	p, next := NewPorts(DefaultRange, nil), NewPorts(DefaultRange, nil)
	for port := DefaultRange[0]; port < DefaultRange[0]+3*pairsInFrame; port++ {
		p.Release(port, target6, true)
	}
	frames := 0
	if err := p.Write(func(payload []byte) error { frames++; return next.Read(payload) }); err != nil {
		t.Fatal(err)
	}
	if len(next.halves[0]) != 3*pairsInFrame || frames != 3 {
		t.Errorf("%d pairs in %d frames", len(next.halves[0]), frames)
	}
}

// TestPortsAreSafeForConcurrentUse lets shards take and release the same few pairs.
func TestPortsAreSafeForConcurrentUse(t *testing.T) {
	p := NewPorts(four, nil)
	var mu sync.Mutex
	holders := map[uint16]int{}
	hold := func(port uint16, n int) {
		mu.Lock()
		defer mu.Unlock()
		if holders[port] += n; holders[port] > 1 {
			t.Errorf("port %d has two holders", port)
		}
	}
	var shards sync.WaitGroup
	for range 4 {
		shards.Go(func() {
			for range 200 {
				if port, err := p.Take(target4); err == nil {
					hold(port, 1)
					hold(port, -1)
					p.Release(port, target4, false)
				}
			}
		})
	}
	shards.Wait()
	if len(p.inUse) != 0 {
		t.Errorf("%d pairs are in use", len(p.inUse))
	}
}

// TestReservedPortsAreNotTaken takes all ports of a range, two of which are reserved.
func TestReservedPortsAreNotTaken(t *testing.T) {
	p := NewPorts(four, nil)
	p.reserved = parseReserved("22,40001-40002,65535,x,7-,70000,9-8\n")
	for _, port := range takeAll(t, p, target4) {
		if port != 40000 && port != 40003 {
			t.Errorf("port %d is taken", port)
		}
	}
	n := 0
	for port := range 1 << 16 {
		if p.reserved.has(uint16(port)) {
			n++
		}
	}
	if n != 4 || !p.reserved.has(22) || !p.reserved.has(65535) {
		t.Errorf("%d ports are reserved", n)
	}
}

func TestParseRange(t *testing.T) {
	for s, valid := range map[string]bool{
		"20000-59999": true, "1024-65535": true, "2000-2099": true,
		"": false, "20000": false, "20000-": false, "-20000": false, "1023-9999": false, "20000-20098": false,
		"59999-20000": false, "20000-65536": false, "20000-59999-1": false, " 20000-59999": false,
	} {
		r, err := ParseRange(s)
		if (err == nil) != valid || valid && r.String() != s {
			t.Errorf("%q: %v, %v", s, r, err)
		}
	}
}

func BenchmarkTakeAndRelease(b *testing.B) {
	p := NewPorts(DefaultRange, nil)
	b.ReportAllocs()
	for b.Loop() {
		port, err := p.Take(target4)
		if err != nil {
			b.Fatal(err)
		}
		p.Release(port, target4, false)
	}
}
