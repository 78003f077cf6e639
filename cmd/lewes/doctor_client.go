package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"lewes/cmd/lewes/internal/doctor"
	"lewes/transport/client"
)

// clientDoctor checks the way to the first gateway.
type clientDoctor struct {
	config *client.Config
	first  client.Gateway
	ways   []*way
	best   *client.Session // nil: no way works
}

// way is a transport over a family of addresses.
type way struct {
	transport client.Transport
	addr      netip.Addr
	session   *client.Session
	err       error
}

// answered reports whether the gateway answered on this way, even if it does not admit this client.
func (w *way) answered() bool {
	var dial *client.DialError
	return w.err == nil || errors.As(w.err, &dial) && dial.Step() > client.StepHello
}

func (w *way) String() string { return fmt.Sprintf("%s over %s", w.transport, family(w.addr)) }

func family(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// fixedResolver resolves every name to one address.
type fixedResolver netip.Addr

func (a fixedResolver) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.Addr(a)}, nil
}

// newClientDoctor returns the checks of the way to a gateway. Call close afterwards.
func newClientDoctor(config *client.Config) (checks *doctor.Checks, close func()) {
	d := &clientDoctor{config: config, first: config.Gateway}
	if len(config.Via) > 0 {
		d.first = config.Via[0]
	}
	checks = new(doctor.Checks)
	checks.Register("name", d.checkName)
	checks.Register("reach", d.checkReach)
	checks.Register("access", d.checkAccess)
	d.register(checks, "nat", checkNAT)
	d.register(checks, "mtu", d.checkMTU)
	d.register(checks, "loss", d.checkLoss)
	doctor.Clock(checks)
	return checks, func() {
		for _, w := range d.ways {
			if w.session != nil {
				_ = w.session.Close()
			}
		}
	}
}

// register registers a check that needs a session.
func (d *clientDoctor) register(checks *doctor.Checks, name string, check func(context.Context, *doctor.Results, *client.Session)) {
	checks.Register(name, func(ctx context.Context, r *doctor.Results) {
		if d.best != nil {
			check(ctx, r, d.best)
		}
	})
}

// checkName finds an address of each family, and so the ways to try.
func (d *clientDoctor) checkName(ctx context.Context, r *doctor.Results) {
	var found []netip.Addr
	if a, err := netip.ParseAddr(d.first.Host); err == nil {
		found = []netip.Addr{a}
	} else {
		resolver := new(timedResolver)
		ctx, cancel := context.WithTimeout(ctx, d.config.Timeout)
		defer cancel()
		if found, err = resolver.LookupNetIP(ctx, "ip", d.first.Host); err != nil || len(found) == 0 {
			r.Fault("resolvectl query "+d.first.Host, "%s does not resolve: %v", d.first.Host, err)
			return
		}
		r.OK("%s is %s, resolved in %.1f ms", d.first.Host, strings.Join(resolver.found, ", "), milliseconds(resolver.took))
	}
	d.ways = waysTo(found)
}

// waysTo returns the ways to the first address of each family. Resolvers return IPv4 addresses within IPv6.
func waysTo(found []netip.Addr) (ways []*way) {
	seen := make(map[string]bool)
	for _, a := range found {
		a = a.Unmap()
		if f := family(a); !seen[f] {
			seen[f] = true
			ways = append(ways, &way{transport: client.UDP, addr: a}, &way{transport: client.TCP, addr: a})
		}
	}
	return ways
}

// checkReach connects on all ways at once.
func (d *clientDoctor) checkReach(ctx context.Context, r *doctor.Results) {
	var pending sync.WaitGroup
	for _, w := range d.ways {
		pending.Go(func() {
			c := *d.config
			c.Transport, c.Keys, c.NoReconnect = w.transport, new(client.KeyCache), true
			at := &c.Gateway
			if len(c.Via) > 0 {
				c.Via = append([]client.Gateway{}, c.Via...)
				at = &c.Via[0]
			}
			if at.Host != w.addr.String() {
				c.Resolver = fixedResolver(w.addr)
			}
			w.session, w.err = client.Dial(ctx, c)
		})
	}
	pending.Wait()
	works := make(map[client.Transport]bool)
	for _, w := range d.ways { // UDP over the family that the resolver prefers is the first
		works[w.transport] = works[w.transport] || w.answered()
		if w.err == nil && (d.best == nil || d.best.Info().Transport == client.TCP && w.transport == client.UDP) {
			d.best = w.session
		}
	}
	for _, w := range d.ways {
		probe := fmt.Sprintf("lewes probe --transport %s %s", w.transport, d.config.Gateway)
		port := d.first.Port
		if w.transport == client.TCP {
			port = d.first.PortForTCP()
		}
		switch {
		case w.err == nil:
			r.OK("%s: connected to %s, round trip %.1f ms", w, w.addr, milliseconds(w.session.Info().RTT))
		case w.answered():
			r.OK("%s: %s answers", w, w.addr)
		case works[w.transport] && errors.Is(w.err, syscall.ENETUNREACH):
			r.OK("%s: this machine has none; the other family works", w)
		case works[w.transport]:
			r.Warn(probe, "%s: no answer from %s port %d; the other family works", w, w.addr, port)
		case works[client.UDP]:
			r.Warn(probe, "%s: no answer from %s port %d; without it there is no way through networks that block UDP", w, w.addr, port)
		case works[client.TCP]:
			r.Warn(probe, "%s: blocked on the way to %s port %d; TCP is used, which is slower where packets are lost", w, w.addr, port)
		default:
			r.Fault(probe, "%s: no answer from %s port %d: the gateway is down, its identity is another, or the port is blocked", w, w.addr, port)
		}
	}
}

// checkAccess reports why there is no session although the gateway answers.
func (d *clientDoctor) checkAccess(_ context.Context, r *doctor.Results) {
	if d.best != nil {
		r.OK("the gateway admits this client")
		return
	}
	for _, w := range d.ways {
		if !w.answered() {
			continue
		}
		mend := "lewes probe " + d.config.Gateway.String()
		if dial := (*client.DialError)(nil); errors.As(w.err, &dial) && dial.Unlisted() && !dial.Gateway.Open && !dial.Gateway.Tickets {
			var add []string
			text, _ := addCommands(d.config) // Dial has had the identities
			for line := range strings.Lines(text) {
				if line = strings.TrimSpace(line); strings.HasPrefix(line, "lewes ") {
					add = append(add, line)
				}
			}
			r.Fault(strings.Join(add, "; "), "the gateway answers, but does not admit this client: its list does not name it")
			return
		}
		text, _, _ := strings.Cut(w.err.Error(), "\n")
		r.Fault(mend, "%s", text)
		return
	}
}

// sharedAddressSpace is that of carrier-grade NATs (RFC 6598).
var sharedAddressSpace = netip.MustParsePrefix("100.64.0.0/10")

// checkNAT looks at this machine's address. The kind of a NAT shows in its mappings for two gateways.
func checkNAT(_ context.Context, r *doctor.Results, s *client.Session) {
	switch a := localAddr(s); {
	case a.IsLoopback():
		r.OK("none: the gateway is on this machine")
	case sharedAddressSpace.Contains(a):
		r.OK("%s is an address behind a carrier-grade NAT; keepalives hold its mapping. Its kind takes two gateways to tell", a)
	case a.IsPrivate() || a.IsLinkLocalUnicast():
		r.OK("%s is a private address: there is a NAT unless the gateway is in this network; keepalives hold its mapping. Its kind takes two gateways to tell", a)
	default:
		r.OK("%s is a public address: no NAT is visible", a)
	}
}

// pathSizes are the sizes of packets that checkMTU tries, without IP and UDP headers.
var pathSizes = [...]int{client.DefaultMaxPacket, 1432, 1412, 1392, 1372, 1332, 1280, 1232}

// checkMTU finds the largest packet that reaches the gateway.
func (d *clientDoctor) checkMTU(ctx context.Context, r *doctor.Results, s *client.Session) {
	info := s.Info()
	if info.Transport == client.TCP {
		r.OK("TCP splits packets itself")
		return
	}
	var (
		mu      sync.Mutex
		pending sync.WaitGroup
		most    int
		largest int // that the session can send
	)
	for _, size := range pathSizes {
		pending.Go(func() {
			for range probeTries {
				wait, cancel := context.WithTimeout(ctx, max(probeWait, 3*info.RTT))
				_, err := s.PingOnce(wait, size)
				cancel()
				lost := errors.Is(err, context.DeadlineExceeded)
				mu.Lock()
				if err == nil {
					most = max(most, size)
				}
				if err == nil || lost {
					largest = max(largest, size)
				}
				mu.Unlock()
				if !lost {
					return
				}
			}
		})
	}
	pending.Wait()
	of := "a path MTU of about "
	if most == largest {
		of = "a path MTU of at least "
	}
	switch {
	case len(d.config.Via) > 0:
		of = "through the entry"
	case localAddr(s).Is4():
		of += fmt.Sprint(most + 28)
	default:
		of += fmt.Sprint(most + 48)
	}
	mend := "tracepath -n " + d.first.Host
	switch {
	case most == 0:
		r.Fault(mend, "packets of %d bytes are lost", pathSizes[len(pathSizes)-1])
	case most == largest:
		r.OK("packets of %d bytes pass: %s", most, of)
	default:
		r.Warn(mend, "packets of at most %d bytes pass: %s; larger datagrams are refused", most, of)
	}
}

// localAddr returns this machine's address on the way to the gateway.
func localAddr(s *client.Session) netip.Addr {
	host, _, _ := net.SplitHostPort(s.Info().Local.String())
	a, _ := netip.ParseAddr(host)
	return a.Unmap().WithZone("")
}

// Pings of checkLoss.
const (
	lossPings    = 20
	lossInterval = 50 * time.Millisecond
)

// checkLoss measures loss and jitter.
func (d *clientDoctor) checkLoss(ctx context.Context, r *doctor.Results, s *client.Session) {
	p := pingResult{Size: 64}
	mend := "lewes ping -c 100 -i 100ms " + d.config.Gateway.String()
	if err := p.run(ctx, s, lossPings, lossInterval, func(int, time.Duration, error) {}); err != nil {
		r.Fault(mend, "the session ended: %v", err)
		return
	}
	text := fmt.Sprintf("%d of %d pings lost; round trip %.1f ms, jitter %.1f ms", p.Lost, p.Sent, p.Mean, p.Jitter)
	switch {
	case p.Lost == 0:
		r.OK("%s", text)
	case p.Lost < p.Sent/2:
		r.Warn(mend, "%s", text)
	default:
		r.Fault(mend, "%s", text)
	}
}
