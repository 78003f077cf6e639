package e2e

import (
	"context"
	"errors"
	"net"
	"net/netip"
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

// clientParams say whom a client talks to.
type clientParams struct {
	Gateway   uri.Gateway
	Via       []uri.Gateway
	Identity  string                  // file
	Hosts     map[string][]netip.Addr // what names resolve to
	Target    netip.AddrPort
	Keepalive time.Duration
}

// dialled is when a session was asked for, and when it stood.
type dialled struct{ Began, Stood int64 }

// noticed is an Event of the client, and when it came.
type noticed struct {
	At   int64
	Kind string
	To   string // the transport
	Why  string
}

// state is what the client says of itself.
type condition struct {
	Transport  string
	Local      string
	RTT        time.Duration
	MaxPacket  int
	MaxPayload int
	Stats      client.Stats
}

// sending says what to send: so many datagrams a second of so many bytes, 0 as large as
// they may be.
type sending struct{ Rate, Size int }

// traffic is what became of what was sent, by its numbers.
type traffic struct {
	Sent []int64 // when
	Back []int64 // when its echo came first; 0: never
	// Changed counts echoes that are not what was sent, Again those that came once more.
	Changed, Again int
	Refused        int // by Write
}

// runClient is a program that uses the library. Its calls are "dial", "send" which goes on
// until "stop", "noticed" and "condition".
var runClient = worker.Start(func(_ context.Context, p clientParams) (*worker.Service, error) {
	key, err := identity.Load(p.Identity)
	if err != nil {
		return nil, err
	}
	c := &traveller{params: p, key: key}
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

type traveller struct {
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

// hosts resolves names by a list.
type hosts map[string][]netip.Addr

func (h hosts) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if addrs := h[host]; len(addrs) > 0 {
		return addrs, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

func (c *traveller) dial(ctx context.Context) (d dialled, err error) {
	config := client.Config{
		Gateway:   c.params.Gateway,
		Via:       c.params.Via,
		Identity:  c.key,
		Keys:      new(client.KeyCache),
		Keepalive: c.params.Keepalive,
		Resolver:  hosts(c.params.Hosts),
		OnEvent:   c.note,
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
		return d, errors.New("a flow that does not say how much fits")
	}
	c.running.Go(c.receive)
	return d, c.awaitConnected(ctx)
}

// awaitConnected waits until the client was told that it is connected with each gateway, so
// that what it is told later is about what happens then.
func (c *traveller) awaitConnected(ctx context.Context) error {
	for len(c.events()) < 1+len(c.params.Via) {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (c *traveller) note(e client.Event) {
	n := noticed{At: measure.Now(), Kind: e.Kind.String(), To: e.To.String(), Why: e.Reason}
	if e.Err != nil {
		n.Why = e.Err.Error()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.noticed = append(c.noticed, n)
}

func (c *traveller) events() []noticed {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]noticed(nil), c.noticed...)
}

func (c *traveller) condition() condition {
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

// receive notes the echoes until the flow is closed.
func (c *traveller) receive() {
	buffer := make([]byte, 2048)
	for {
		n, err := c.conn.Read(buffer)
		now := measure.Now()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			continue // the gateway says that the target is unreachable just now
		}
		c.came(buffer[:n], now)
	}
}

func (c *traveller) came(b []byte, now int64) {
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

func (c *traveller) send(s sending) error {
	if c.conn == nil {
		return errors.New("nothing was dialled")
	}
	c.quit = make(chan struct{})
	c.running.Go(func() { c.pace(s) })
	return nil
}

// pace sends at a steady rate until told to stop.
func (c *traveller) pace(s sending) {
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

// stop ends the sending and returns what came of it, after waiting for late echoes.
func (c *traveller) stop(linger time.Duration) traffic {
	if c.quit != nil {
		close(c.quit)
		c.quit = nil
		time.Sleep(linger)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.traffic
	t.Sent, t.Back = append([]int64(nil), t.Sent...), append([]int64(nil), t.Back...)
	return t
}

func (c *traveller) close() {
	c.stop(0)
	if c.session != nil {
		_ = c.session.Close()
	}
	c.running.Wait()
	c.key.Wipe()
}
