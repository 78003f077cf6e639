package e2e

import (
	"strings"
	"testing"

	"lewes/bench/e2e/netns"
	"lewes/bench/e2e/network"
	"lewes/bench/measure"
)

// server is a gateway of a test.
type server struct {
	*network.Gateway
	t *testing.T
}

// newServer prepares a gateway. config is appended to the common configuration, clients is the
// client list.
func newServer(t *testing.T, m *netns.Machine, config, clients string) *server {
	t.Helper()
	g, err := network.NewGateway(m, program, t.TempDir(), network.GatewayConfig{Host: "gateway.example", Clients: clients, More: config})
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Gateway: g, t: t}
	t.Cleanup(s.kill)
	return s
}

// start starts the process, waits until it is ready, and returns that time.
func (s *server) start() (ready int64) {
	s.t.Helper()
	if err := s.Start(); err != nil {
		s.t.Fatal(err)
	}
	return measure.Now()
}

// await waits for a line that contains a text.
func (s *server) await(from int, text string) string {
	s.t.Helper()
	line, err := s.Await(from, network.Containing(text))
	if err != nil {
		s.t.Fatal(text+":", err)
	}
	return line
}

// kill ends the process with SIGKILL.
func (s *server) kill() {
	p := s.Process
	if p == nil {
		return
	}
	if err := s.Kill(); err != nil {
		s.t.Error(err)
	}
	if s.t.Failed() {
		s.t.Logf("output of the gateway:\n%s", strings.TrimSpace(p.Log()))
	}
}
