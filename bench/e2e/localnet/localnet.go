package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"

	"lewes/bench/e2e/link"
	"lewes/bench/e2e/network"
	"lewes/bench/worker"
	"lewes/crypto/identity"
	"lewes/router/access"
)

// The machines.
const (
	client = "client"
	entry  = "entry"
	exitGW = "exit"
	target = "target"
)

var machines = []string{client, entry, exitGW, target}

// Ports of the target, and of forward on the client.
const (
	dnsPort   = 53
	http3Port = 443
)

// localnet is a running network.
type localnet struct {
	program string
	dir     string // temporary
	network *network.Network
	entry   *network.Gateway
	exit    *network.Gateway
	forward *network.Process
	closers []io.Closer
}

// start makes a network and returns when the client has a session through entry and exit.
func start(ctx context.Context, program string, f link.Faults) (*localnet, error) {
	n := &localnet{program: program}
	if err := n.start(ctx, f); err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

func (n *localnet) start(ctx context.Context, f link.Faults) (err error) {
	if n.program, err = exec.LookPath(n.program); err != nil {
		return fmt.Errorf("lewes program: %w", err)
	}
	if n.program, err = filepath.Abs(n.program); err != nil {
		return err
	}
	if n.dir, err = os.MkdirTemp("", "lewes-localnet-"); err != nil {
		return err
	}
	for _, name := range append([]string{"bin"}, machines...) {
		if err := os.Mkdir(filepath.Join(n.dir, name), 0o700); err != nil {
			return err
		}
	}
	if err := os.Symlink(n.program, filepath.Join(n.bin(), "lewes")); err != nil {
		return err
	}
	if n.network, err = network.New(ctx, launcher(), client, entry, exitGW, target); err != nil {
		return err
	}
	if err := errors.Join(
		n.network.Wire(ctx, entry, exitGW, network.EntryToExit),
		n.network.Wire(ctx, exitGW, target, network.ExitToTarget),
		n.network.NAT(ctx),
		n.serveTarget(),
	); err != nil {
		return err
	}
	if err := n.startGateways(); err != nil {
		return err
	}
	n.network.Link.Both(f)
	return n.startForward(ctx)
}

// bin is the folder with the program under its usual name.
func (n *localnet) bin() string { return filepath.Join(n.dir, "bin") }

// launcher starts this program as a worker.
func launcher() worker.Launcher {
	return worker.Launcher{Path: "/proc/self/exe", Args: []string{workerArg}}
}

// listen opens a UDP socket in a machine.
func (n *localnet) listen(machine string, at netip.AddrPort) (conn *net.UDPConn, err error) {
	err = n.network.Machine[machine].Do(func() error {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	})
	return conn, err
}

// serveTarget starts the servers of the target.
func (n *localnet) serveTarget() error {
	at := network.ExitToTarget[1].Addr()
	dns, err := n.listen(target, netip.AddrPortFrom(at, dnsPort))
	if err != nil {
		return err
	}
	n.closers = append(n.closers, dns)
	go serveDNS(dns, at)
	conn, err := n.listen(target, netip.AddrPortFrom(at, http3Port))
	if err != nil {
		return err
	}
	web, err := serveHTTP3(conn)
	if err == nil {
		n.closers = append(n.closers, web)
	}
	return err
}

// startGateways starts entry and exit, each with the list of its only client.
func (n *localnet) startGateways() (err error) {
	key, err := identity.Generate(rand.Reader)
	if err != nil {
		return err
	}
	defer key.Wipe()
	if err := key.Save(filepath.Join(n.state(client), "client-identity")); err != nil {
		return err
	}
	for _, machine := range []string{exitGW, entry} { // the entry's is for a client that goes no further
		if err := access.Add(n.clients(machine), access.Entry{Identity: key.Public(), Name: "client"}); err != nil {
			return err
		}
	}
	if n.exit, err = n.startGateway(exitGW, network.EntryToExit[1].Addr(), ""); err != nil {
		return err
	}
	more := fmt.Sprintf("[[gateway]]\nuri = %q\n", n.exit.URI)
	n.entry, err = n.startGateway(entry, network.GatewayAddrs[0].Addr(), more)
	if err != nil {
		return err
	}
	atEntry := key.ForEntry(n.entry.URI.Identity)
	defer atEntry.Wipe()
	return access.Add(n.clients(entry), access.Entry{Identity: atEntry.Public(), Name: "client-through"})
}

// startGateway starts the gateway of a machine.
func (n *localnet) startGateway(machine string, at netip.Addr, more string) (*network.Gateway, error) {
	g, err := network.NewGateway(n.network.Machine[machine], n.program, n.state(machine), network.GatewayConfig{Host: at.String(), Clients: n.clients(machine), More: more})
	if err != nil {
		return nil, err
	}
	if err := g.Start(); err != nil {
		return g, fmt.Errorf("%s: %w", machine, err)
	}
	return g, nil
}

// state is the state directory of a machine.
func (n *localnet) state(machine string) string { return filepath.Join(n.dir, machine) }

func (n *localnet) clients(machine string) string { return filepath.Join(n.state(machine), "clients") }

// env is the environment of commands on a machine.
func (n *localnet) env(machine string) []string {
	dir := n.state(machine)
	return []string{"PATH=" + n.bin() + string(os.PathListSeparator) + os.Getenv("PATH"), "STATE_DIRECTORY=" + dir, "XDG_RUNTIME_DIR=" + dir,
		"EXIT=" + n.exit.URI.String(), "ENTRY=" + n.entry.URI.String()}
}

// startForward starts the client's program and waits until it has a session.
func (n *localnet) startForward(ctx context.Context) (err error) {
	to := network.ExitToTarget[1].Addr()
	cmd := exec.Command(n.program, "forward", "--gateway", n.exit.URI.String(), "--via", n.entry.URI.String(),
		fmt.Sprintf("%d=%s:%[1]d", dnsPort, to), fmt.Sprintf("%d=%s:%[1]d", http3Port, to))
	cmd.Env = n.env(client)
	if n.forward, err = network.Start(n.network.Machine[client], cmd); err != nil {
		return err
	}
	ready := make(chan error, 1)
	go func() {
		_, err := n.forward.Await(0, network.Beginning("ready: "))
		ready <- err
	}()
	select {
	case err = <-ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("forward: %w", err)
	}
	return nil
}

// stopForward ends the client's program.
func (n *localnet) stopForward() error {
	if n.forward == nil {
		return nil
	}
	p := n.forward
	n.forward = nil
	return p.Kill()
}

// shell returns what the command shell needs.
func (n *localnet) shell() Shell {
	s := make(Shell)
	for name, m := range n.network.Machine {
		s[name] = Machine{m.Worker.PID(), n.env(name)}
	}
	return s
}

// close removes everything.
func (n *localnet) close() error {
	err := n.stopForward()
	for _, g := range []*network.Gateway{n.entry, n.exit} {
		if g != nil {
			err = errors.Join(err, g.Kill())
		}
	}
	for _, c := range n.closers {
		err = errors.Join(err, c.Close())
	}
	if n.network != nil {
		n.network.Close()
	}
	if n.dir != "" {
		err = errors.Join(err, os.RemoveAll(n.dir))
	}
	return err
}

// up makes a network and holds it until ctx ends or it is taken down.
func up(ctx context.Context, out io.Writer, program, socket string, f link.Faults) (err error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	l, err := listen(socket)
	if err != nil {
		return err
	}
	defer l.Close() // removes the socket
	n, err := start(ctx, program, f)
	if err != nil {
		return interrupted(err)
	}
	defer func() { err = errors.Join(err, n.close()) }()
	if err := (&Control{n, stop}).serve(l); err != nil {
		return err
	}
	fmt.Fprint(out, n.describe())
	<-ctx.Done()
	fmt.Fprintln(out, "down")
	return nil
}

// interrupted says so instead of an error that is about a context.
func interrupted(err error) error {
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted")
	}
	return err
}

// describe returns the network as text.
func (n *localnet) describe() string {
	name := func(p netip.Prefix) string { return p.Addr().String() }
	return fmt.Sprintf(`client  %s, behind a NAT: %s
entry   %s, %s
exit    %s, %s
target  %s, DNS on port %d, HTTP/3 on port %d
forward on the client, through entry and exit: 127.0.0.1:%[8]d and :%[9]d to the target
up: Ctrl-C ends it; "localnet shell" in another terminal is on the client
`, name(network.ClientAddrs[0]), network.NATAddrs[0], name(network.GatewayAddrs[0]), name(network.EntryToExit[0]),
		name(network.EntryToExit[1]), name(network.ExitToTarget[0]), name(network.ExitToTarget[1]), dnsPort, http3Port)
}
