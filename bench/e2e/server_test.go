package e2e

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"lewes/bench/e2e/netns"
	"lewes/bench/measure"
	"lewes/transport/uri"
)

// server is a gateway process that can be killed and restarted.
type server struct {
	t       *testing.T
	machine *netns.Machine
	dir     string
	gateway uri.Gateway // as clients know it

	process *os.Process   // nil: not running
	done    chan struct{} // closed when the process and its predecessors have exited

	mu    sync.Mutex
	lines []string
	came  chan struct{} // signals new lines
}

// newServer prepares a gateway. config is appended to the common configuration, clients is the
// client list.
func newServer(t *testing.T, m *netns.Machine, config, clients string) *server {
	t.Helper()
	s := &server{t: t, machine: m, dir: t.TempDir(), came: make(chan struct{}, 1)}
	text := fmt.Sprintf("state_dir = %q\npublic = [\"gateway.example\"]\n[access]\nclients = %q\n", s.dir, clients) + config
	if err := os.WriteFile(s.file(), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.kill)
	return s
}

func (s *server) file() string { return filepath.Join(s.dir, "gateway.toml") }

// start starts the process, waits until it is ready, and returns that time.
func (s *server) start() (ready int64) {
	s.t.Helper()
	cmd := exec.Command(program, "gateway", "--config", s.file())
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	done := make(chan struct{})
	if err := s.launch(cmd, done); err != nil {
		s.t.Fatal(err)
	}
	s.process, s.done = cmd.Process, done
	from := s.logged()
	var readers sync.WaitGroup
	readers.Go(func() { s.read(stdout) })
	readers.Go(func() { s.read(stderr) })
	go func() {
		readers.Wait()
		_ = cmd.Wait() // it is killed in the end
		close(done)
	}()
	s.await(from, "  ready  ")
	ready = measure.Now()
	if text := s.await(from, "lewes://"); s.gateway.Host == "" {
		if s.gateway, err = uri.Parse(text); err != nil {
			s.t.Fatal(err)
		}
	}
	return ready
}

// launch starts the process from a thread that lives as long as it: the process is killed when
// the thread ends, so a killed test leaves nothing behind.
func (s *server) launch(cmd *exec.Cmd, done <-chan struct{}) error {
	endWithThread(cmd)
	started := make(chan error, 2)
	go func() {
		started <- s.machine.Do(func() error {
			err := cmd.Start()
			started <- err
			if err == nil {
				<-done
			}
			return err
		})
	}()
	return <-started
}

func (s *server) read(from io.Reader) {
	for lines := bufio.NewScanner(from); lines.Scan(); {
		s.mu.Lock()
		s.lines = append(s.lines, lines.Text())
		s.mu.Unlock()
		select {
		case s.came <- struct{}{}:
		default:
		}
	}
}

// logged returns the number of lines so far.
func (s *server) logged() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.lines)
}

// await waits for a line that contains or begins with a text.
func (s *server) await(from int, text string) string {
	s.t.Helper()
	timeout := time.After(patience)
	for {
		s.mu.Lock()
		for _, line := range s.lines[from:] {
			if strings.HasPrefix(line, text) || text != "lewes://" && strings.Contains(line, text) {
				s.mu.Unlock()
				return line
			}
		}
		s.mu.Unlock()
		select {
		case <-s.came:
		case <-s.done:
			s.t.Fatalf("the gateway exited:\n%s", s.log())
		case <-timeout:
			s.t.Fatalf("no %q within %v:\n%s", text, patience, s.log())
		}
	}
}

func (s *server) log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, "\n")
}

// kill ends the process with SIGKILL.
func (s *server) kill() {
	if s.process == nil {
		return
	}
	_ = s.process.Kill() // it may have ended by itself
	select {
	case <-s.done:
	case <-time.After(patience):
		s.t.Errorf("the gateway still runs %v after SIGKILL", patience)
	}
	s.process = nil
	if s.t.Failed() {
		s.t.Logf("output of the gateway:\n%s", s.log())
	}
}
