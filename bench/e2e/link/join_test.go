//go:build linux

package link

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"lewes/bench/e2e/netns"
	"lewes/bench/load"
	"lewes/bench/measure"
	"lewes/bench/sink"
	"lewes/bench/worker"
)

const testVar = "LEWES_TEST_LINK"

func TestMain(m *testing.M) {
	if os.Getenv(testVar) == "" {
		os.Exit(m.Run())
	}
	if err := worker.Main(map[string]worker.Role{netns.RoleName: netns.Role, "sink": sink.Role, "load": load.Role}); err != nil {
		_, _ = os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
}

// joined makes two machines and a link between them.
func joined(t *testing.T, l worker.Launcher) (machines [2]*netns.Machine, link *Link) {
	t.Helper()
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("there are no TUN devices here:", err)
	}
	var ends [2]End
	for i := range ends {
		m, err := netns.New(t.Context(), l)
		if errors.Is(err, worker.ErrNoNamespaces) || errors.Is(err, netns.ErrNoIP) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(m.Close)
		machines[i], ends[i] = m, End{Machine: m, Addrs: addrs[i]}
	}
	link, err := Join(t.Context(), ends[0], ends[1], 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = link.Close() })
	return machines, link
}

// addrs are those of the machines.
var addrs = [2][]netip.Prefix{
	{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")},
	{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")},
}

// crossing is two machines with a link between them, and a load at A whose datagrams go
// to a sink at B.
type crossing struct {
	t         *testing.T
	link      *Link
	near, far *worker.Process
	run       uint32
}

func newCrossing(t *testing.T) *crossing {
	t.Helper()
	l := worker.Launcher{Path: os.Args[0], Env: []string{testVar + "=1"}}
	machines, link := joined(t, l)
	c := &crossing{t: t, link: link}
	var at netip.AddrPort
	var err error
	if c.far, err = l.Start(t.Context(), "sink", sink.Params{At: netip.AddrPortFrom(addrs[1][0].Addr(), 0)}, &at, machines[1].Where()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.far.Stop)
	if c.near, err = l.Start(t.Context(), "load", load.Params{To: at}, nil, machines[0].Where()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.near.Stop)
	return c
}

// send sends datagrams and waits until all have arrived but so many.
func (c *crossing) send(plan measure.Plan, lost func(sent, dropped uint64) uint64) {
	c.t.Helper()
	c.run++
	plan.Run = c.run
	if err := c.far.Call(c.t.Context(), "expect", plan.Run, nil); err != nil {
		c.t.Fatal(err)
	}
	before := c.link.Counts(A)
	var sent measure.Sent
	if err := c.near.Call(c.t.Context(), "send", plan, &sent); err != nil {
		c.t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		var n sink.Count
		if err := c.far.Call(c.t.Context(), "count", worker.None{}, &n); err != nil {
			c.t.Fatal(err)
		}
		now := c.link.Counts(A)
		if want := sent.Sent - lost(sent.Sent, now.Dropped()-before.Dropped()); n.Datagrams == want && sent.Sent > 0 {
			c.t.Logf("%d sent, %d arrived", sent.Sent, n.Datagrams)
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("%+v sent, %+v arrived, %+v", sent, n, now)
		}
	}
}

func onlyDropped(_, dropped uint64) uint64 { return dropped }

func TestBetweenMachines(t *testing.T) {
	c := newCrossing(t)
	// A few ten thousand a second, in trains, which a TUN device does not take.
	c.send(measure.Plan{Rate: 20_000, For: 200 * time.Millisecond, Size: 1200, Train: 8}, onlyDropped)
	c.link.Set(A, Faults{Loss: 0.5, Delay: 10 * time.Millisecond})
	c.send(measure.Plan{Rate: 5_000, For: 100 * time.Millisecond, Size: 1200, Train: 1}, onlyDropped)
	// The kernel finds what was corrupted.
	c.link.Set(A, Faults{Corrupt: 1})
	c.send(measure.Plan{Rate: 5_000, For: 50 * time.Millisecond, Size: 1200, Train: 1}, func(sent, _ uint64) uint64 { return sent })
	if n := c.link.Counts(A).Corrupted; n == 0 {
		t.Error("nothing was corrupted")
	}
}

// Corruption that is repaired reaches the program, over both families.
func TestRepairedCorruptionReachesTheProgram(t *testing.T) {
	machines, link := joined(t, worker.Launcher{Path: os.Args[0], Env: []string{testVar + "=1"}})
	for i, network := range []string{"udp4", "udp6"} {
		var far, near net.PacketConn
		if err := machines[1].Do(func() (err error) {
			far, err = net.ListenPacket(network, netip.AddrPortFrom(addrs[1][i].Addr(), 0).String())
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer far.Close()
		if err := machines[0].Do(func() (err error) {
			near, err = net.ListenPacket(network, ":0")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer near.Close()
		for _, corrupt := range []float64{0, 1} {
			link.Set(A, Faults{Corrupt: corrupt, Repair: true})
			sent := bytes.Repeat([]byte("x"), 1400)
			if _, err := near.WriteTo(sent, far.LocalAddr()); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 2000)
			if err := far.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			n, _, err := far.ReadFrom(got)
			if err != nil {
				t.Fatalf("%s, corruption of %v: %v; %+v", network, corrupt, err, link.Counts(A))
			}
			if same := bytes.Equal(got[:n], sent); n != len(sent) || same != (corrupt == 0) {
				t.Errorf("%s, corruption of %v: %d bytes arrive, the same %t", network, corrupt, n, same)
			}
		}
	}
}
