package link

import (
	"encoding/binary"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"
)

// fakeDevice is a machine that a test sends for, and looks at what it receives.
type fakeDevice struct {
	sent, got chan []byte
	taken     uint64 // of got
	closed    chan struct{}
}

func newDevice() *fakeDevice {
	return &fakeDevice{sent: make(chan []byte), got: make(chan []byte, 10_000), closed: make(chan struct{})}
}

func (d *fakeDevice) Read(b []byte) (int, error) {
	select {
	case p := <-d.sent:
		return copy(b, p), nil
	case <-d.closed:
		return 0, os.ErrClosed
	}
}

func (d *fakeDevice) Write(b []byte) (int, error) {
	d.got <- slices.Clone(b)
	return len(b), nil
}

func (d *fakeDevice) Close() error {
	close(d.closed)
	return nil
}

func testLink(t *testing.T, seed uint64) (l *Link, a, b *fakeDevice) {
	t.Helper()
	a, b = newDevice(), newDevice()
	l = New(a, b, seed)
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l, a, b
}

// numbered is a datagram from A to B with a number in it.
func numbered(n int) []byte {
	b := datagram(UDP, inside4, far4, 64)
	binary.BigEndian.PutUint32(b[len(b)-4:], uint32(n))
	seal(b)
	return b
}

func number(b []byte) int { return int(binary.BigEndian.Uint32(b[len(b)-4:])) }

// settled waits until the link is done with the n packets that were sent since it was made,
// and returns what has arrived since the last time.
func settled(t *testing.T, l *Link, from, to *fakeDevice, d Direction, n int) (got [][]byte) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		c := l.Counts(d)
		if c.Sent == uint64(n) && c.Dropped()+c.Carried == c.Sent && to.taken+uint64(len(to.got)) >= c.Carried+c.Duplicated {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d sent, %+v, %d arrived", n, c, len(to.got))
		}
	}
	for range len(to.got) {
		got = append(got, <-to.got)
	}
	to.taken += uint64(len(got))
	return got
}

func send(from *fakeDevice, n int) {
	for i := range n {
		from.sent <- numbered(i)
	}
}

func numbers(packets [][]byte) (ns []int) {
	for _, p := range packets {
		ns = append(ns, number(p))
	}
	return ns
}

func TestWithoutFaults(t *testing.T) {
	l, a, b := testLink(t, 1)
	send(a, 100)
	got := settled(t, l, a, b, A, 100)
	if !slices.IsSorted(numbers(got)) || len(got) != 100 || !slices.Equal(got[7], numbered(7)) {
		t.Errorf("arrived: %v", numbers(got))
	}
	b.sent <- []byte("no packet at all")
	if back := settled(t, l, b, a, B, 1); len(back) != 1 || string(back[0]) != "no packet at all" {
		t.Errorf("the other way came %q", back)
	}
}

func TestSharesAndTheirSeed(t *testing.T) {
	const n = 4000
	f := Faults{Loss: 0.3, Duplicate: 0.1, Corrupt: 0.2, Delay: 5 * time.Millisecond, Reorder: 0.1}
	var fates [3][]int
	for i, seed := range []uint64{1, 1, 2} {
		l, a, b := testLink(t, seed)
		l.Both(f)
		send(a, n)
		got := settled(t, l, a, b, A, n)
		c := l.Counts(A)
		for what, row := range map[string][2]uint64{
			"lost": {c.Lost, n * 3 / 10}, "twice": {c.Duplicated, n * 7 / 100}, "corrupted": {c.Corrupted, n * 14 / 100},
			"reordered": {c.Reordered, n * 77 / 1000}, // of the second copies as well
		} {
			if row[0] < row[1]*8/10 || row[0] > row[1]*12/10 {
				t.Errorf("seed %d: %s are %d, about %d expected", seed, what, row[0], row[1])
			}
		}
		bad := 0
		for _, p := range got {
			if !right(p) {
				bad++
			}
		}
		if bad < int(c.Corrupted) {
			t.Errorf("%d have a wrong checksum, %d were corrupted", bad, c.Corrupted)
		}
		if slices.IsSorted(numbers(got)) {
			t.Error("all in order")
		}
		fates[i] = numbers(got)
		slices.Sort(fates[i])
	}
	if !slices.Equal(fates[0], fates[1]) || slices.Equal(fates[0], fates[2]) {
		t.Error("the seed does not decide, or decides nothing")
	}
}

func TestRepairedCorruption(t *testing.T) {
	l, a, b := testLink(t, 1)
	l.Set(A, Faults{Corrupt: 1, Repair: true})
	send(a, 50)
	for i, p := range settled(t, l, a, b, A, 50) {
		if !right(p) || slices.Equal(p, numbered(i)) {
			t.Fatalf("packet %d: right %t", i, right(p))
		}
	}
}

func TestDelay(t *testing.T) {
	l, a, b := testLink(t, 1)
	l.Set(A, Faults{Delay: 50 * time.Millisecond})
	began := time.Now()
	send(a, 20)
	got := settled(t, l, a, b, A, 20)
	if took := time.Since(began); took < 50*time.Millisecond {
		t.Errorf("took %v", took)
	}
	if !slices.IsSorted(numbers(got)) {
		t.Errorf("an even delay has changed the order: %v", numbers(got))
	}
	l.Set(A, Faults{Delay: 20 * time.Millisecond, Jitter: 20 * time.Millisecond})
	send(a, 100)
	if got := settled(t, l, a, b, A, 120); slices.IsSorted(numbers(got)) {
		t.Error("jitter has not changed the order")
	}
}

func TestDrops(t *testing.T) {
	udp4, udp6 := datagram(UDP, inside4, far4, 100), datagram(UDP, inside6, far6, 100)
	tcp4, large := datagram(TCP, inside4, far4, 100), datagram(UDP, inside4, far4, 1400)
	all := [][]byte{udp4, udp6, tcp4, large}
	for _, row := range []struct {
		name   string
		faults Faults
		passes []bool
		count  func(Counts) uint64
	}{
		{"down", Faults{Down: true}, []bool{false, false, false, false}, func(c Counts) uint64 { return c.Down }},
		{"black hole", Faults{MTU: 1400}, []bool{true, true, true, false}, func(c Counts) uint64 { return c.TooLarge }},
		{"MTU that just fits", Faults{MTU: len(large)}, []bool{true, true, true, true}, func(c Counts) uint64 { return c.TooLarge }},
		{"UDP", Faults{Block: []Match{{Protocol: UDP}}}, []bool{false, false, true, false}, func(c Counts) uint64 { return c.Blocked }},
		{"IPv4", Faults{Block: []Match{{IP: 4}}}, []bool{false, true, false, false}, func(c Counts) uint64 { return c.Blocked }},
		{"the port", Faults{Block: []Match{{Port: far4.Port()}}}, []bool{false, false, false, false}, func(c Counts) uint64 { return c.Blocked }},
		{"another port", Faults{Block: []Match{{Port: 80}, {Port: inside4.Port()}}}, []bool{true, true, true, true}, func(c Counts) uint64 { return c.Blocked }},
		{"two", Faults{Block: []Match{{Protocol: TCP}, {IP: 6, Protocol: UDP}}}, []bool{true, false, false, true}, func(c Counts) uint64 { return c.Blocked }},
	} {
		t.Run(row.name, func(t *testing.T) {
			l, a, b := testLink(t, 1)
			l.Set(A, row.faults)
			var want [][]byte
			for i, p := range all {
				a.sent <- p
				if row.passes[i] {
					want = append(want, p)
				}
			}
			got := settled(t, l, a, b, A, len(all))
			if !slices.EqualFunc(got, want, slices.Equal[[]byte]) {
				t.Errorf("%d arrive, want %d", len(got), len(want))
			}
			if n := row.count(l.Counts(A)); n != uint64(len(all)-len(want)) {
				t.Errorf("%d are counted", n)
			}
		})
	}
}

// The far port is B's and the near one A's, whichever way a packet goes.
func TestBlockedPortBothWays(t *testing.T) {
	for _, m := range []Match{{Port: far4.Port()}, {Near: inside4.Port()}} {
		l, a, b := testLink(t, 1)
		l.Both(Faults{Block: []Match{m}})
		a.sent <- datagram(UDP, inside4, far4, 9)
		a.sent <- datagram(UDP, far4, inside4, 9)
		if got := settled(t, l, a, b, A, 2); len(got) != 1 {
			t.Errorf("%+v: %d arrive at B", m, len(got))
		}
		b.sent <- datagram(UDP, far4, inside4, 9)
		b.sent <- datagram(UDP, inside4, far4, 9)
		if got := settled(t, l, b, a, B, 2); len(got) != 1 {
			t.Errorf("%+v: %d arrive at A", m, len(got))
		}
	}
}

func TestTranslatedLink(t *testing.T) {
	l, a, b := testLink(t, 1)
	l.Translate(netip.MustParseAddr("203.0.113.1"))
	a.sent <- datagram(UDP, inside4, far4, 9)
	p := settled(t, l, a, b, A, 1)[0]
	h := parse(p)
	outer := h.endpoint(p, source)
	b.sent <- datagram(UDP, far4, outer, 9)
	if q := settled(t, l, b, a, B, 1)[0]; h.endpoint(q, destination) != inside4 {
		t.Error("the answer does not come back")
	}
	l.Rebind()
	b.sent <- datagram(UDP, far4, outer, 9)
	if got := settled(t, l, b, a, B, 2); len(got) != 0 || l.Counts(B).Unmapped != 1 {
		t.Errorf("%d arrive by the old mapping; %+v", len(got), l.Counts(B))
	}
}

func TestWaitingIsBounded(t *testing.T) {
	l, a, _ := testLink(t, 1)
	l.Set(A, Faults{Delay: time.Hour})
	send(a, maxWaiting+5)
	for end := time.Now().Add(10 * time.Second); l.Counts(A).Sent != maxWaiting+5 || l.Counts(A).Overflowed != 5; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%+v", l.Counts(A))
		}
	}
}
