//go:build linux

package scenario

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"lewes/bench/measure"
	"lewes/bench/worker"
	"lewes/crypto/identity"
	"lewes/crypto/kem"
	"lewes/router"
	"lewes/router/metrics"
	"lewes/router/policy"
	"lewes/state"
	"lewes/state/wire"
	"lewes/transport/tcp"
	"lewes/transport/udp"
	"lewes/transport/uri"
)

// gatewayParams describe a gateway.
type gatewayParams struct {
	Shards int        `json:"shards"`         // 0 means GOMAXPROCS
	Next   *gatewayAt `json:"next,omitempty"` // a gateway that this one forwards to
	TCP    bool       `json:"tcp,omitempty"`
}

// gatewayAt is the address and identity of a gateway.
type gatewayAt struct {
	Addr     netip.AddrPort     `json:"addr"`
	TCP      netip.AddrPort     `json:"tcp"` // invalid without TCP
	Identity identity.PublicKey `json:"identity"`
}

func (a *gatewayAt) uri() uri.Gateway {
	return uri.Gateway{Identity: a.Identity, Host: a.Addr.Addr().String(), Port: a.Addr.Port()}
}

// startGateway starts a gateway: a worker of this program if binary is "", else that program.
func (e *env) startGateway(ctx context.Context, binary string, p gatewayParams) (process, gatewayAt, error) {
	if binary != "" {
		g, err := startProgram(ctx, binary, &p)
		if err != nil {
			return nil, gatewayAt{}, err
		}
		e.processes = append(e.processes, g)
		return g, g.at, nil
	}
	var at gatewayAt
	g, err := e.start(ctx, roleGateway, p, &at, worker.Where{})
	return g, at, err
}

// program is a gateway that runs as its users run it: `lewes gateway`.
type program struct {
	cmd *exec.Cmd
	dir string
	at  gatewayAt
}

// startProgram runs a gateway with a configuration that every version accepts.
func startProgram(ctx context.Context, binary string, p *gatewayParams) (_ *program, err error) {
	g := new(program)
	if g.dir, err = os.MkdirTemp("", "lewes-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			g.Stop()
		}
	}()
	config := fmt.Sprintf("state_dir = %q\n[listen]\naddresses = [\"127.0.0.1\"]\nport = 0\nshards = %d\n[tcp]\nenabled = %v\nport = 0\n[access]\nmode = \"open\"\n[egress]\nallow = [\"127.0.0.0/8\"]\n", g.dir, p.Shards, p.TCP)
	if p.Next != nil {
		config += fmt.Sprintf("[[gateway]]\nuri = %q\n", p.Next.uri())
	}
	file := filepath.Join(g.dir, "gateway.toml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command(binary, "gateway", "--config", file, "--json")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	log := new(strings.Builder)
	cmd.Stderr = log
	output, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	g.cmd = cmd
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	var ready struct {
		Identity  identity.PublicKey `json:"identity"`
		Listen    []netip.AddrPort   `json:"listen"`
		ListenTCP []netip.AddrPort   `json:"listen_tcp"`
	}
	if err := json.NewDecoder(bufio.NewReader(output)).Decode(&ready); err != nil || len(ready.Listen) == 0 {
		return nil, fmt.Errorf("%s gateway did not start: %w", binary, err)
	}
	g.at = gatewayAt{Addr: ready.Listen[0], Identity: ready.Identity}
	if len(ready.ListenTCP) > 0 {
		g.at.TCP = ready.ListenTCP[0]
	}
	return g, ctx.Err()
}

// Usage returns the process's usage so far.
func (g *program) Usage(context.Context) (measure.Usage, error) {
	return measure.OfProcess(g.cmd.Process.Pid)
}

// Stop ends the process.
func (g *program) Stop() {
	if g.cmd != nil {
		_ = g.cmd.Process.Signal(syscall.SIGTERM)
		timer := time.AfterFunc(5*time.Second, func() { _ = g.cmd.Process.Kill() })
		_ = g.cmd.Wait()
		timer.Stop()
	}
	_ = os.RemoveAll(g.dir)
}

const (
	plenty = 1_000_000      // a budget that no bench uses up
	life   = 24 * time.Hour // longer than any bench
)

var (
	loopback = netip.MustParsePrefix("127.0.0.0/8")
	anyPort  = []netip.AddrPort{netip.AddrPortFrom(loopback.Addr().Next(), 0)}
)

// traffic is the number of datagrams and messages of a gateway's sockets.
type traffic struct{ DatagramsIn, DatagramsOut, MessagesIn, MessagesOut, Misrouted uint64 }

// since returns the traffic between two moments.
func (t traffic) since(before traffic) traffic {
	return traffic{t.DatagramsIn - before.DatagramsIn, t.DatagramsOut - before.DatagramsOut, t.MessagesIn - before.MessagesIn, t.MessagesOut - before.MessagesOut, t.Misrouted - before.Misrouted}
}

// gatewayRole is a gateway as a worker, with everything that the program enables. Three things
// differ: loopback is an allowed target, handshakes are not limited, and sessions do not expire.
// The result is a gatewayAt; the calls are "stats" and "traffic".
var gatewayRole = worker.Start(func(ctx context.Context, p gatewayParams) (*worker.Service, error) {
	config, err := p.config(ctx)
	if err != nil {
		return nil, err
	}
	g, err := router.Start(*config)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	listener, err := metrics.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		stop()
		g.Close()
		return nil, err
	}
	metrics.ServeOn(ctx, listener, metrics.Handler(g, metrics.Build{}))
	at := gatewayAt{Addr: g.Addrs()[0], Identity: g.Identity()}
	if tcpAddrs := g.TCPAddrs(); len(tcpAddrs) > 0 {
		at.TCP = tcpAddrs[0]
	}
	return &worker.Service{
		Result: at,
		Close: func() {
			stop()
			g.Close()
		},
		Calls: map[string]worker.Handler{
			"stats":   worker.Method(func(context.Context, worker.None) (router.Stats, error) { return g.Stats(), nil }),
			"traffic": worker.Method(func(context.Context, worker.None) (traffic, error) { return countTraffic(g), nil }),
		},
	}, nil
})

func countTraffic(g *router.Gateway) traffic {
	t := traffic{Misrouted: g.Stats().Misrouted}
	clients, egress := g.Traffic()
	for _, s := range []udp.Stats{clients, egress} {
		t.DatagramsIn += s.Received.Packets
		t.DatagramsOut += s.Sent.Packets
		for _, n := range s.Received.Segments {
			t.MessagesIn += n
		}
		for _, n := range s.Sent.Segments {
			t.MessagesOut += n
		}
	}
	return t
}

func (p *gatewayParams) config(ctx context.Context) (*router.Config, error) {
	key, err := identity.Generate(rand.Reader)
	if err != nil {
		return nil, err
	}
	var directory *router.Directory
	if p.Next != nil {
		directory = router.NewDirectory([]uri.Gateway{p.Next.uri()}, net.DefaultResolver)
		if err := directory.Refresh(ctx); err != nil {
			return nil, fmt.Errorf("resolve next gateway: %w", err)
		}
	}
	return &router.Config{
		Identity:        key,
		Listen:          udp.Config{Addrs: anyPort},
		TCP:             router.TCP{On: p.TCP, Listen: tcp.Config{Addrs: anyPort}},
		Shards:          p.Shards,
		KEMs:            []kem.ID{kem.MLKEM768, kem.XWing},
		Policy:          policy.New(policy.Config{Allow: []policy.Rule{{Prefix: loopback}}}),
		Directory:       directory,
		MaxRecords:      plenty,
		HandshakeMemory: plenty << 10,
		TriesASecond:    plenty,
		Rate:            plenty,
		Burst:           plenty,
		TrustedRate:     plenty,
		Limits:          router.Limits{MaxSessions: 4 * plenty, FlowIdle: life},
		Terms:           state.Terms{IdleTTL: life, RekeyAfter: life, MaxDatagram: wire.MaxUDPPacket},
	}, nil
}
