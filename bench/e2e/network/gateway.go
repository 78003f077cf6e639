package network

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"lewes/bench/e2e/netns"
	"lewes/transport/uri"
)

// GatewayConfig configures a gateway.
type GatewayConfig struct {
	Host    string // in its URI
	Clients string // file that lists its clients
	More    string // TOML, appended
}

// Gateway is a gateway process that can be killed and started again.
type Gateway struct {
	*Process             // the running one; nil: none
	URI      uri.Gateway // as clients know it; known after the first Start

	machine      *netns.Machine
	program, dir string
}

// NewGateway prepares a gateway whose files are in dir.
func NewGateway(m *netns.Machine, program, dir string, c GatewayConfig) (*Gateway, error) {
	g := &Gateway{machine: m, program: program, dir: dir}
	text := fmt.Sprintf("state_dir = %q\npublic = [%q]\n[access]\nclients = %q\n", dir, c.Host, c.Clients) + c.More
	return g, os.WriteFile(g.file(), []byte(text), 0o600)
}

func (g *Gateway) file() string { return filepath.Join(g.dir, "gateway.toml") }

// Start starts the process and returns when it is ready.
func (g *Gateway) Start() error {
	cmd := exec.Command(g.program, "gateway", "--config", g.file())
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + g.dir}
	p, err := Start(g.machine, cmd)
	if err != nil {
		return err
	}
	g.Process = p
	_, err = p.Await(0, Containing("  ready  "))
	text, missing := p.Await(0, Beginning("lewes://"))
	if err = errors.Join(err, missing); err != nil || g.URI.Host != "" {
		return err
	}
	g.URI, err = uri.Parse(text)
	return err
}

// Kill ends the process with SIGKILL and waits for its exit.
func (g *Gateway) Kill() error {
	if g.Process == nil {
		return nil
	}
	p := g.Process
	g.Process = nil
	return p.Kill()
}
