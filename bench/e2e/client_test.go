package e2e

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"lewes/bench/measure"
	"lewes/bench/worker"
	"lewes/crypto/identity"
	"lewes/transport/client"
	"lewes/transport/uri"
)

const (
	clientRole = "client"
	// mostDatagrams bounds what one client sends.
	mostDatagrams = 1 << 20
)

// clientParams are the gateways and the target of a client.
type clientParams struct {
	Gateway   uri.Gateway
	Via       []uri.Gateway
	Identity  string                  // file
	Hosts     map[string][]netip.Addr // what names resolve to
	Target    netip.AddrPort
	Keepalive time.Duration
}

// dialled is when a dial began, and when the session was established.
type dialled struct{ Began, Stood int64 }

// noticed is an Event of the client and its time.
type noticed struct {
	At   int64
	Kind string
	To   string // the transport
	Why  string
}

// condition is the client's Info and Stats.
type condition struct {
	Transport  string
	Local      string
	RTT        time.Duration
	MaxPacket  int
	MaxPayload int
	Stats      client.Stats
}

// sending is a rate in datagrams a second and their size in bytes; size 0 is the largest that
// the flow takes.
type sending struct{ Rate, Size int }

// traffic is the fate of the datagrams sent, by their numbers.
type traffic struct {
	Sent []int64 // when
	Back []int64 // when its echo came first; 0: never
	// Changed counts modified echoes, Again repeated ones.
	Changed, Again int
	Refused        int // by Write
}

// runClient is a program that uses the library. Its calls are "dial", "send" (until "stop"),
// "noticed" and "condition".
var runClient = worker.Start(func(_ context.Context, p clientParams) (*worker.Service, error) {
	key, err := identity.Load(p.Identity)
	if err != nil {
		return nil, err
	}
	c := &endpoint{params: p, key: key}
	return &worker.Service{
		Result: worker.None{},
		Close:  c.close,
		Calls: map[string]worker.Handler{
			"dial":      worker.Method(func(ctx context.Context, _ worker.None) (dialled, error) { return c.dial(ctx) }),
			"send":      worker.Method(func(_ context.Context, s sending) (worker.None, error) { return worker.None{}, c.send(s) }),
			"stop":      worker.Method(func(_ context.Context, linger time.Duration) (traffic, error) { return c.stop(linger), nil }),
			"noticed":   worker.Method(func(context.Context, worker.None) ([]noticed, error) { return c.events(), nil }),
			"condition": worker.Method(func(context.Context, worker.None) (condition, error) { return c.condition(), nil }),
		},
	}, nil
})

type endpoint struct {
	params  clientParams
	key     *identity.PrivateKey
	session *client.Session
	conn    interface {
		net.Conn
		MaxPayload() int
	}
	running sync.WaitGroup
	quit    chan struct{} // of the sender

	mu      sync.Mutex
	noticed []noticed
	traffic traffic
}

// hosts resolves names from a map.
type hosts map[string][]netip.Addr

func (h hosts) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if addrs := h[host]; len(addrs) > 0 {
		return addrs, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

func (c *endpoint) dial(ctx context.Context) (d dialled, err error) {
	config := client.Config{
		Gateway:     c.params.Gateway,
		Via:         c.params.Via,
		Identity:    c.key,
		ViaIdentity: c.key,
		Keys:        new(client.KeyCache),
		Keepalive:   c.params.Keepalive,
		Resolver:    hosts(c.params.Hosts),
		OnEvent:     c.note,
	}
	d.Began = measure.Now()
	if c.session, err = client.Dial(ctx, config); err != nil {
		return d, err
	}
	d.Stood = measure.Now()
	conn, err := c.session.DialContext(ctx, "udp", c.params.Target.String())
	if err != nil {
		return d, err
	}
	var ok bool
	if c.conn, ok = conn.(interface {
		net.Conn
		MaxPayload() int
	}); !ok {
		return d, errors.New("flow without MaxPayload")
	}
	c.running.Go(c.receive)
	return d, c.awaitConnected(ctx)
}

// awaitConnected waits for the Connected event of each gateway, so that later events are about
// what the test does.
func (c *endpoint) awaitConnected(ctx context.Context) error {
	for len(c.events()) < 1+len(c.params.Via) {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (c *endpoint) note(e client.Event) {
	n := noticed{At: measure.Now(), Kind: e.Kind.String(), To: e.To.String(), Why: e.Reason}
	if e.Err != nil {
		n.Why = e.Err.Error()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.noticed = append(c.noticed, n)
}

func (c *endpoint) events() []noticed {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]noticed(nil), c.noticed...)
}

func (c *endpoint) condition() condition {
	info := c.session.Info()
	return condition{
		Transport:  info.Transport.String(),
		Local:      info.Local.String(),
		RTT:        info.RTT,
		MaxPacket:  info.MaxPacket,
		MaxPayload: c.conn.MaxPayload(),
		Stats:      c.session.Stats(),
	}
}

// receive records echoes until the flow is closed.
func (c *endpoint) receive() {
	buffer := make([]byte, 2048)
	for {
		n, err := c.conn.Read(buffer)
		now := measure.Now()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			continue // the target is unreachable for the moment
		}
		c.record(buffer[:n], now)
	}
}

func (c *endpoint) record(b []byte, now int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	number, ok := datagramNumber(b)
	switch t := &c.traffic; {
	case !ok || int(number) >= len(t.Sent):
		t.Changed++
	case t.Back[number] != 0:
		t.Again++
	default:
		t.Back[number] = now
	}
}

func (c *endpoint) send(s sending) error {
	if c.conn == nil {
		return errors.New("not dialled yet")
	}
	c.quit = make(chan struct{})
	c.running.Go(func() { c.pace(s) })
	return nil
}

// pace sends at a steady rate until stop.
func (c *endpoint) pace(s sending) {
	tick := time.NewTicker(time.Second / time.Duration(s.Rate))
	defer tick.Stop()
	buffer := make([]byte, 2048)
	for {
		select {
		case <-c.quit:
			return
		case <-tick.C:
		}
		size := s.Size
		if size == 0 {
			size = c.conn.MaxPayload()
		}
		b := buffer[:max(size, leastDatagram)]
		c.mu.Lock()
		number := len(c.traffic.Sent)
		if number == mostDatagrams {
			c.mu.Unlock()
			return
		}
		c.traffic.Sent = append(c.traffic.Sent, measure.Now())
		c.traffic.Back = append(c.traffic.Back, 0)
		c.mu.Unlock()
		putDatagram(b, uint32(number))
		if _, err := c.conn.Write(b); err != nil {
			c.mu.Lock()
			c.traffic.Refused++
			c.mu.Unlock()
		}
	}
}

// stop ends the sending and returns the outcome, once every echo has arrived or linger is over.
func (c *endpoint) stop(linger time.Duration) traffic {
	if c.quit != nil {
		close(c.quit)
		c.quit = nil
		for end := time.Now().Add(linger); c.outstanding() && time.Now().Before(end); {
			time.Sleep(5 * time.Millisecond)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.traffic
	t.Sent, t.Back = append([]int64(nil), t.Sent...), append([]int64(nil), t.Back...)
	return t
}

// outstanding reports whether an echo has not arrived yet.
func (c *endpoint) outstanding() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.traffic.Back, 0)
}

func (c *endpoint) close() {
	c.stop(0)
	if c.session != nil {
		_ = c.session.Close()
	}
	c.running.Wait()
	c.key.Wipe()
}
