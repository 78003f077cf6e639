//go:build linux

package scenario

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"lewes/bench/report"
	"lewes/crypto/identity"
	"lewes/crypto/kem"
	"lewes/router"
	"lewes/router/account"
	"lewes/router/costs"
	"lewes/router/egress"
	"lewes/router/policy"
	"lewes/state"
	"lewes/transport"
	"lewes/transport/uri"
)

const (
	// costBatch is the number of packets that a shard receives at once: less than it reads at once,
	// or it would count as backlogged and leave work for later.
	costBatch = 31
	// costInterval is the virtual time between two batches, in which rate limits recover.
	costInterval = time.Second
)

// costTable measures what each kind of packet costs a shard without sockets.
func costTable(ctx context.Context, e *env) error {
	g := report.Group{
		Scenario: e.scenario,
		Title:    "What each kind of packet costs",
		Unit:     "packet",
		Notes: []string{
			"CPU time of a shard without sockets towards clients, for packets that arrive " + strconv.Itoa(costBatch) + " at a time; flows to a new target have real sockets, and names are looked up elsewhere",
			"a bound is a row of section 12 of PROTOCOL.md; a kind that costs more than " + costs.Cheap.String() + " needs one",
		},
	}
	batches := 8 // whose median is one sample
	if e.settings.Quick {
		batches = 2
	}
	for i := range costs.Kinds {
		k := &costs.Kinds[i]
		if ctx.Err() != nil {
			break
		}
		e.progress("%s, %d of %d", k.Name, i+1, len(costs.Kinds))
		row := report.Row{Subject: k.String(), Kind: report.Packet, CoveredBy: k.Bound}
		if k.Name == costs.Baseline {
			row.Kind = report.Baseline
		}
		if err := measureKind(k, &row, e.settings.Rounds, batches); err != nil {
			e.leaveOut(e.scenario+", "+k.Name, err)
			continue
		}
		if cost := row.Median(report.CPU); cost > float64(costs.Cheap) && k.Bound == "" {
			row.Notes = append(row.Notes, "has no bound")
		}
		g.Rows = append(g.Rows, row)
	}
	e.report.AddGroup(g)
	return ctx.Err()
}

// measureKind adds one sample for each round.
func measureKind(k *costs.Kind, row *report.Row, rounds, batches int) error {
	b, err := newCostBench()
	if err != nil {
		return err
	}
	defer b.close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	next := k.Start(&b.Env)
	for round := range rounds + 1 { // the first one warms up
		var took []time.Duration
		for range batches {
			one, err := b.batch(next)
			if err != nil {
				return err
			}
			took = append(took, one)
		}
		slices.Sort(took)
		if round > 0 {
			row.Add(report.CPU, float64(took[len(took)/2])/costBatch)
		}
	}
	return nil
}

// costBench is a shard, and the senders of one kind of packet.
type costBench struct {
	costs.Env
	shard  *router.Shard
	detach func()
	target *net.UDPConn // of flows that are opened; nobody reads it
	out    answers
	now    atomic.Int64 // virtual time, in Unix nanoseconds
	burst  []transport.Packet
}

func newCostBench() (*costBench, error) {
	key, err := identity.Generate(rand.Reader)
	if err != nil {
		return nil, err
	}
	exit, err := identity.Generate(rand.Reader)
	if err != nil {
		return nil, err
	}
	b := new(costBench)
	b.now.Store(time.Now().UnixNano())
	if b.target, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
		return nil, err
	}
	open := b.target.LocalAddr().(*net.UDPAddr).AddrPort()
	b.Env = costs.Env{
		Gateway: key.Public(), Exit: exit.Public(), Trusted: netip.MustParseAddr("198.51.100.9"),
		Target: netip.MustParseAddrPort("198.51.100.7:53"), Open: open, Denied: netip.MustParseAddrPort("10.0.0.1:53"), Host: "dns.example",
		Clients: costBatch, Rand: rand.Reader, Now: func() time.Time { return time.Unix(0, b.now.Load()) },
		Exchange: b.exchange,
	}
	directory := router.NewDirectory([]uri.Gateway{{Identity: b.Exit, Host: b.Trusted.String(), Port: 51264}}, nil)
	if err := directory.Refresh(context.Background()); err != nil {
		return nil, errors.Join(err, b.target.Close())
	}
	b.shard, b.detach, err = router.NewDetached(router.Config{
		Identity:        key,
		KEMs:            []kem.ID{kem.MLKEM768},
		Policy:          policy.New(policy.Config{Allow: []policy.Rule{{Prefix: netip.PrefixFrom(open.Addr(), 32)}}}),
		Directory:       directory,
		Egress:          &costEgress{real: &egress.UDP{Ports: egress.NewPorts(egress.DefaultRange, nil)}},
		Resolver:        noNames{},
		RecordTTL:       time.Hour,
		TriesASecond:    1 << 30, // so that cookies are not required
		HandshakeMemory: 1 << 30,
		Terms:           state.Terms{RekeyAfter: 24 * time.Hour},
		Clock:           b.Now,
		Registration:    router.Registration{Registrar: costs.BusyRegistrar()},
	}, &b.out)
	if err != nil {
		return nil, errors.Join(err, b.target.Close())
	}
	return b, nil
}

func (b *costBench) close() {
	b.detach()
	_ = b.target.Close()
}

// exchange passes packets to the shard, which does all work for them at once: its clock stands still.
func (b *costBench) exchange(packets ...transport.Packet) []transport.Packet {
	for len(packets) > 0 {
		n := min(len(packets), costBatch)
		b.shard.Receive(b.Now(), packets[:n], nil)
		packets = packets[n:]
	}
	return b.out.take()
}

// batch measures the next packets of a kind.
func (b *costBench) batch(next func() (transport.Packet, bool)) (time.Duration, error) {
	b.now.Add(int64(costInterval))
	b.shard.Tick()
	b.burst = b.burst[:0]
	for range costBatch {
		p, ok := next()
		if !ok {
			return 0, errors.New("the gateway refuses what has to come before the packet")
		}
		b.burst = append(b.burst, p)
	}
	b.shard.Tick()
	b.Deliver(b.out.take()...)
	runtime.Gosched() // name lookups of the last batch
	began := threadTime()
	b.shard.Receive(b.Now(), b.burst, nil)
	b.shard.Tick() // what the packets left for later
	took := threadTime() - began
	b.Deliver(b.out.take()...)
	return took, nil
}

// threadTime returns the CPU time of this thread, which other programs do not lengthen as they do
// the time that passes.
func threadTime() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) // never fails on Linux
	return time.Duration(t.Nano())
}

// answers is the shard's socket towards clients. The end of a lookup writes to it as well.
type answers struct {
	transport.Conn
	mu   sync.Mutex
	sent []transport.Packet
}

func (a *answers) WriteBatch(p []transport.Packet) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sent = append(a.sent, p...)
	return len(p), nil
}

func (a *answers) take() []transport.Packet {
	a.mu.Lock()
	defer a.mu.Unlock()
	sent := slices.Clone(a.sent)
	a.sent = a.sent[:0]
	return sent
}

// costEgress opens real sockets to loopback, and others that count as sent what is written to them.
type costEgress struct{ real *egress.UDP }

func (c *costEgress) Dial(target netip.AddrPort, by account.Key) (transport.Conn, error) {
	if target.Addr().IsLoopback() {
		return c.real.Dial(target, by)
	}
	return &discard{closed: make(chan struct{})}, nil
}

// discard is a socket to a target that never answers.
type discard struct{ closed chan struct{} }

func (d *discard) ReadBatch([]transport.Packet) (int, error) {
	<-d.closed
	return 0, net.ErrClosed
}
func (d *discard) WriteBatch(p []transport.Packet) (int, error) { return len(p), nil }
func (d *discard) SetReadDeadline(time.Time) error              { return os.ErrNoDeadline }
func (d *discard) LocalAddr() net.Addr                          { return new(net.UDPAddr) }
func (d *discard) Close() error {
	close(d.closed)
	return nil
}

// noNames is a resolver that knows no name.
type noNames struct{}

func (noNames) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return nil, fmt.Errorf("no names: %w", os.ErrNotExist)
}
