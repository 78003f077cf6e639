package scenario

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"lewes/bench/e2e/netns"
	"lewes/bench/load"
	"lewes/bench/peer"
	"lewes/bench/report"
	"lewes/bench/sink"
	"lewes/bench/worker"
)

// FindPeers looks for the folder of the peers' programs, bench/peers of the project, in a
// folder and those above it. It returns nothing where it is not there.
func FindPeers(from string) string {
	for {
		dir := filepath.Join(from, "bench", "peers")
		if _, err := os.Stat(filepath.Join(dir, peer.WireGuard, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(from)
		if up == from {
			return ""
		}
		from = up
	}
}

// peers are the peers' programs, built when they are first asked for.
type peers struct {
	dir      string // of what was built
	programs map[string]*built
}

type built struct {
	launcher worker.Launcher
	err      error
}

var errNoPeers = errors.New("the sources of the peers, the folder bench/peers of the project, are not here; name it with --peers")

// peer returns how to start a peer's program.
func (b *Bench) peer(ctx context.Context, name string) (worker.Launcher, error) {
	if p := b.peers.programs[name]; p != nil {
		return p.launcher, p.err
	}
	p := new(built)
	p.launcher.Path, p.err = b.build(ctx, name)
	if ctx.Err() != nil {
		return p.launcher, ctx.Err()
	}
	if b.peers.programs == nil {
		b.peers.programs = make(map[string]*built)
	}
	b.peers.programs[name] = p
	return p.launcher, p.err
}

// buildPatience bounds a build, which may have to fetch modules.
const buildPatience = 10 * time.Minute

func (b *Bench) build(ctx context.Context, name string) (program string, err error) {
	if b.settings.Peers == "" {
		return "", errNoPeers
	}
	source := filepath.Join(b.settings.Peers, name)
	if _, err := os.Stat(filepath.Join(source, "go.mod")); err != nil {
		return "", fmt.Errorf("its sources are not there: %w", err)
	}
	if _, err := exec.LookPath("go"); err != nil {
		return "", errors.New("it is built from source, and the program go is not installed")
	}
	if b.peers.dir == "" {
		if b.peers.dir, err = os.MkdirTemp("", "lewes-bench-"); err != nil {
			return "", err
		}
	}
	b.say("building %s", name)
	ctx, cancel := context.WithTimeout(ctx, buildPatience)
	defer cancel()
	program = filepath.Join(b.peers.dir, name)
	// The project's own requirements may have moved on since the peer's go.mod was written. The go
	// command follows in a copy, so that building changes no source.
	for _, kind := range []string{"mod", "sum"} {
		text, err := os.ReadFile(filepath.Join(source, "go."+kind))
		if err == nil {
			err = os.WriteFile(program+"."+kind, text, 0o600)
		}
		if err != nil && !(kind == "sum" && errors.Is(err, fs.ErrNotExist)) {
			return "", err
		}
	}
	build := exec.CommandContext(ctx, "go", "build", "-mod=mod", "-modfile="+program+".mod", "-o", program, ".")
	build.Dir = source
	build.Env = append(os.Environ(), "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("it cannot be built: %w: %s", err, lastLine(out))
	}
	return program, nil
}

// lastLine returns the last line with something in it.
func lastLine(out []byte) string {
	out = bytes.TrimSpace(out)
	return strings.TrimSpace(string(out[bytes.LastIndexByte(out, '\n')+1:]))
}

// remove removes what was built.
func (p *peers) remove() {
	if p.dir != "" {
		_ = os.RemoveAll(p.dir)
	}
}

// The network inside the tunnel.
var tunnel = netip.MustParsePrefix("198.51.100.0/24")

// tunnelMTU is WireGuard's usual one.
const tunnelMTU = "1420"

// tunnelDevice is what the tunnel's device is called at both ends.
const tunnelDevice = "tunnel0"

// What WireGuard's rows are called: trains are sent into the tunnel, or each datagram by
// itself, which is what most programs do.
const (
	wireGuard = "wireguard-go"
	singly    = "wireguard-go, singly"
)

// wireguard starts a rig with wireguard-go: two network namespaces, a tunnel between them. The
// subject is the end at the sink. apart sends each datagram into the tunnel by itself, as
// programs do that know nothing of segmentation offload.
func (c *crew) wireguard(ctx context.Context, w way, apart bool) (*rig, error) {
	l, err := c.bench.peer(ctx, peer.WireGuard)
	if err != nil {
		return nil, err
	}
	pair, err := netns.NewPair(ctx, c.bench.settings.Launcher)
	if err != nil {
		return nil, err
	}
	c.pairs = append(c.pairs, pair)
	var ends [2]*worker.Process
	var keys [2]string
	for i := range pair {
		if ends[i], err = c.startOf(ctx, l, peer.RoleWireGuard, tunnelDevice, &keys[i], pair[i].Where()); err != nil {
			return nil, err
		}
	}
	inside := [2]netip.Addr{tunnel.Addr().Next(), tunnel.Addr().Next().Next()}
	for i := range pair {
		other := 1 - i
		if err := ends[i].Call(ctx, "connect", peer.End{
			Public:   keys[other],
			Endpoint: netip.AddrPortFrom(pair[other].Addr, peer.WireGuardPort),
			Allowed:  netip.PrefixFrom(inside[other], 32),
		}, nil); err != nil {
			return nil, err
		}
		for _, args := range [][]string{
			{"addr", "add", netip.PrefixFrom(inside[i], tunnel.Bits()).String(), "dev", tunnelDevice},
			{"link", "set", tunnelDevice, "mtu", tunnelMTU, "up"},
		} {
			if err := pair[i].IP(ctx, args...); err != nil {
				return nil, err
			}
		}
	}
	r := &rig{
		row:  report.Row{Subject: wireGuard, Kind: report.Peer},
		out:  w.out,
		back: w.back,
		rest: ends[:1],

		subject: ends[1],
		payload: payloadSize,
		train:   32,
		first:   20_000,
	}
	if r.apart = apart; apart {
		r.row.Subject = singly
	}
	r.row.Notes = []string{"through its TUN, between two network namespaces; CPU of the end at the sink"}
	if apart {
		r.row.Notes = []string{"each datagram goes into the tunnel by itself, without segmentation offload"}
	}
	var at netip.AddrPort
	if r.sink, err = c.start(ctx, roleSink, sink.Params{At: netip.AddrPortFrom(inside[1], 0)}, &at, pair[1].Where()); err != nil {
		return nil, err
	}
	if r.load, err = c.start(ctx, roleLoad, load.Params{To: at, Apart: apart}, nil, pair[0].Where()); err != nil {
		return nil, err
	}
	return r, c.open(ctx, r, at, 1)
}

// masque starts a rig with masque-go's CONNECT-UDP proxy. The subject is the proxy.
func (c *crew) masque(ctx context.Context, w way) (*rig, error) {
	l, err := c.bench.peer(ctx, peer.MASQUE)
	if err != nil {
		return nil, err
	}
	r, at, err := c.rigWith(ctx, report.Row{Subject: "masque-go", Kind: report.Peer}, w)
	if err != nil {
		return nil, err
	}
	r.row.Notes = []string{"CONNECT-UDP over quic-go; CPU of the proxy"}
	r.first, r.train = 10_000, 8
	var proxy peer.Proxy
	if r.subject, err = c.startOf(ctx, l, peer.RoleMASQUEProxy, localhost, &proxy, worker.Where{}); err != nil {
		return nil, err
	}
	if r.load, err = c.startOf(ctx, l, peer.RoleMASQUEClient, peer.Client{Proxy: proxy, Target: at}, nil, worker.Where{}); err != nil {
		return nil, err
	}
	return r, c.open(ctx, r, at, 1)
}
