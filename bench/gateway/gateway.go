package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"lewes/bench/worker"
	"lewes/crypto/identity"
	"lewes/crypto/kem"
	"lewes/crypto/seal"
	"lewes/router"
	"lewes/router/metrics"
	"lewes/router/policy"
	"lewes/state"
	"lewes/state/wire"
	"lewes/transport/tcp"
	"lewes/transport/udp"
	"lewes/transport/uri"
)

// Params start a gateway as a worker.
type Params struct {
	Suites seal.Suite `json:"suites"`         // 0 means what the CPU does well
	Shards int        `json:"shards"`         // 0 means GOMAXPROCS
	Next   *At        `json:"next,omitempty"` // a gateway that this one forwards to
	TCP    bool       `json:"tcp,omitempty"`  // serve TCP as well
}

// At says where a gateway is, and who.
type At struct {
	Addr     netip.AddrPort     `json:"addr"`
	TCP      netip.AddrPort     `json:"tcp"` // invalid where it is not served
	Identity identity.PublicKey `json:"identity"`
}

const (
	// plenty is a budget that no bench uses up.
	plenty = 1_000_000
	// life is longer than any bench.
	life = 24 * time.Hour
)

var (
	loopback = netip.MustParsePrefix("127.0.0.0/8")
	anyPort  = []netip.AddrPort{netip.AddrPortFrom(loopback.Addr().Next(), 0)}
	errNoTCP = errors.New("bench/gateway: no TCP port could be bound on loopback")
)

// Role is a gateway as a worker. It answers with an At; the calls are "stats", which
// gives what the router has counted, and "traffic".
var Role = worker.Start(start)

// Traffic is what the gateway's sockets have moved.
type Traffic struct {
	Clients udp.Stats `json:"clients"`
	Egress  udp.Stats `json:"egress"`
	// HandedOver counts packets that came to the socket of another shard than their
	// session's.
	HandedOver uint64 `json:"handed_over"`
}

func start(ctx context.Context, p Params) (*worker.Service, error) {
	config, err := p.config(ctx)
	if err != nil {
		return nil, err
	}
	g, err := router.Start(*config)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	if _, err := metrics.Serve(ctx, "127.0.0.1:0", g); err != nil {
		stop()
		g.Close()
		return nil, err
	}
	at := At{Addr: g.Addrs()[0], Identity: g.Identity()}
	if p.TCP {
		if len(g.TCPAddrs()) == 0 {
			stop()
			g.Close()
			return nil, errNoTCP
		}
		at.TCP = g.TCPAddrs()[0]
	}
	return &worker.Service{
		Result: at,
		Close: func() {
			stop()
			g.Close()
		},
		Calls: map[string]worker.Handler{
			"stats": worker.Method(func(context.Context, worker.None) (router.Stats, error) { return g.Stats(), nil }),
			"traffic": worker.Method(func(context.Context, worker.None) (Traffic, error) {
				clients, egress := g.Traffic()
				return Traffic{clients, egress, g.Stats().Misrouted}, nil
			}),
		},
	}, nil
}

func (p *Params) config(ctx context.Context) (*router.Config, error) {
	key, err := identity.Generate(rand.Reader)
	if err != nil {
		return nil, err
	}
	directory, err := p.directory(ctx)
	if err != nil {
		return nil, err
	}
	return &router.Config{
		Identity:     key,
		Listen:       udp.Config{Addrs: anyPort},
		TCP:          router.TCP{On: p.TCP, Listen: tcp.Config{Addrs: anyPort}},
		Shards:       p.Shards,
		KEMs:         []kem.ID{kem.MLKEM768, kem.XWing},
		Suites:       p.Suites,
		Policy:       policy.New(policy.Config{Allow: []policy.Rule{{Prefix: loopback}}}),
		Directory:    directory,
		MaxRecords:   plenty,
		TriesASecond: plenty,
		Rate:         plenty,
		Burst:        plenty,
		TrustedRate:  plenty,
		Limits:       router.Limits{MaxSessions: 4 * plenty, FlowIdle: life},
		Terms:        state.Terms{IdleTTL: life, RekeyAfter: life, MaxDatagram: wire.MaxUDPPacket},
	}, nil
}

// directory lists the gateway that this one forwards to.
func (p *Params) directory(ctx context.Context) (*router.Directory, error) {
	if p.Next == nil {
		return nil, nil
	}
	d := router.NewDirectory([]uri.Gateway{{
		Identity: p.Next.Identity,
		Host:     p.Next.Addr.Addr().String(),
		Port:     p.Next.Addr.Port(),
	}}, net.DefaultResolver)
	if err := d.Refresh(ctx); err != nil {
		return nil, fmt.Errorf("the next gateway: %w", err)
	}
	return d, nil
}
