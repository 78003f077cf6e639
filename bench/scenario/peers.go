//go:build linux

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
	"sync"
	"time"

	"lewes/bench/e2e/netns"
	"lewes/bench/load"
	"lewes/bench/report"
	"lewes/bench/sink"
	"lewes/bench/worker"
)

// FindPeers returns the folder bench/peers in a folder or in one of those above it, "" if there is
// none.
func FindPeers(from string) string {
	for {
		dir := filepath.Join(from, "bench", "peers")
		if _, err := os.Stat(filepath.Join(dir, worker.WireGuard, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(from)
		if up == from {
			return ""
		}
		from = up
	}
}

// peers are the programs in bench/peers, built when they are first needed.
type peers struct {
	dir   string // of the programs
	built map[string]func() (string, error)
}

var errNoPeers = errors.New("the folder bench/peers was not found; see --peers")

// peer returns the launcher of a peer's program.
func (b *bench) peer(ctx context.Context, name string) (l worker.Launcher, err error) {
	if b.peers.built == nil {
		b.peers.built = make(map[string]func() (string, error))
	}
	if b.peers.built[name] == nil {
		b.peers.built[name] = sync.OnceValues(func() (string, error) { return b.build(ctx, name) })
	}
	l.Path, err = b.peers.built[name]()
	return l, err
}

// buildPatience bounds a build, which may download modules.
const buildPatience = 10 * time.Minute

func (b *bench) build(ctx context.Context, name string) (program string, err error) {
	if b.settings.Peers == "" {
		return "", errNoPeers
	}
	source := filepath.Join(b.settings.Peers, name)
	if _, err := os.Stat(filepath.Join(source, "go.mod")); err != nil {
		return "", fmt.Errorf("sources not found: %w", err)
	}
	if b.peers.dir == "" {
		if b.peers.dir, err = os.MkdirTemp("", "lewes-bench-"); err != nil {
			return "", err
		}
	}
	b.progress("building %s", name)
	ctx, cancel := context.WithTimeout(ctx, buildPatience)
	defer cancel()
	program = filepath.Join(b.peers.dir, name)
	// The requirements of this module may have changed since the peer's go.mod was written. The go
	// command updates a copy of it.
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
		out = bytes.TrimSpace(out)
		return "", fmt.Errorf("build: %w: %s", err, out[bytes.LastIndexByte(out, '\n')+1:])
	}
	return program, nil
}

// remove removes the programs.
func (p *peers) remove() {
	if p.dir != "" {
		_ = os.RemoveAll(p.dir)
	}
}

// The network inside the tunnel, its MTU (WireGuard's default), and the name of both devices.
var tunnel = netip.MustParsePrefix("198.51.100.0/24")

const (
	tunnelMTU    = "1420"
	tunnelDevice = "tunnel0"
)

// wireguard starts wireguard-go in two network namespaces. The subject is the end at the sink.
// single sends each datagram into the tunnel by itself, like programs without segmentation offload.
func (e *env) wireguard(ctx context.Context, back, single bool) (*topology, error) {
	t := &topology{
		row:     report.Row{Subject: "wireguard-go", Kind: report.Peer, Notes: []string{"through its TUN between two network namespaces; CPU of the end at the sink"}},
		back:    back,
		payload: payloadSize,
		train:   32,
		first:   20_000,
		single:  single,
	}
	if single {
		t.row.Subject = "wireguard-go, singly"
		t.row.Notes = []string{"each datagram is sent into the tunnel by itself, without segmentation offload"}
	}
	l, err := e.peer(ctx, worker.WireGuard)
	if err != nil {
		return t, err
	}
	pair, err := netns.NewPair(ctx, e.settings.Launcher)
	if err != nil {
		return t, err
	}
	e.pairs = append(e.pairs, pair)
	var ends [2]*worker.Process
	var keys [2]string
	for i := range pair {
		if ends[i], err = e.startOf(ctx, l, worker.RoleWireGuard, tunnelDevice, &keys[i], pair[i].Where()); err != nil {
			return t, err
		}
	}
	inside := [2]netip.Addr{tunnel.Addr().Next(), tunnel.Addr().Next().Next()}
	for i := range pair {
		other := 1 - i
		if err := ends[i].Call(ctx, "connect", worker.TunnelEnd{
			Public:   keys[other],
			Endpoint: netip.AddrPortFrom(pair[other].Addr, worker.WireGuardPort),
			Allowed:  netip.PrefixFrom(inside[other], 32),
		}, nil); err != nil {
			return t, err
		}
		for _, args := range [][]string{
			{"addr", "add", netip.PrefixFrom(inside[i], tunnel.Bits()).String(), "dev", tunnelDevice},
			{"link", "set", tunnelDevice, "mtu", tunnelMTU, "up"},
		} {
			if err := pair[i].IP(ctx, args...); err != nil {
				return t, err
			}
		}
	}
	t.subject, t.others = ends[1], []process{ends[0]}
	var at netip.AddrPort
	if t.sink, err = e.start(ctx, roleSink, sink.Params{At: netip.AddrPortFrom(inside[1], 0)}, &at, pair[1].Where()); err != nil {
		return t, err
	}
	if t.load, err = e.start(ctx, roleLoad, load.Params{To: at, Single: single}, nil, pair[0].Where()); err != nil {
		return t, err
	}
	return t, e.open(ctx, t, at, 1)
}

// masque starts masque-go's CONNECT-UDP proxy, the subject.
func (e *env) masque(ctx context.Context, back bool) (*topology, error) {
	row := report.Row{Subject: "masque-go", Kind: report.Peer, Notes: []string{"CONNECT-UDP over quic-go; CPU of the proxy"}}
	l, err := e.peer(ctx, worker.MASQUE)
	if err != nil {
		return &topology{row: row}, err
	}
	t, at, err := e.newTopology(ctx, row, options{back: back, first: 10_000, train: 8})
	if err != nil {
		return t, err
	}
	var proxy worker.MASQUEProxy
	if t.subject, err = e.startOf(ctx, l, worker.RoleMASQUEProxy, localhost, &proxy, worker.Where{}); err != nil {
		return t, err
	}
	if t.load, err = e.startOf(ctx, l, worker.RoleMASQUEClient, worker.MASQUEClient{Proxy: proxy, Target: at}, nil, worker.Where{}); err != nil {
		return t, err
	}
	return t, e.open(ctx, t, at, 1)
}
