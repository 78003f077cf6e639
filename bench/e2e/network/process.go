package network

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"lewes/bench/e2e/netns"
)

// patience bounds every wait for a process.
const patience = 45 * time.Second

// Process is a program that runs in a machine, and its output.
type Process struct {
	// Main receives signals. A successor may take its place.
	Main *os.Process

	done chan struct{} // closed when the process and its successors have exited

	mu    sync.Mutex
	lines []string
	came  chan struct{} // signals new lines
}

// Start starts a program in a machine. It has a process group of its own, and is killed when this
// process ends.
func Start(m *netns.Machine, cmd *exec.Cmd) (*Process, error) {
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	p := &Process{done: make(chan struct{}), came: make(chan struct{}, 1)}
	if err := p.launch(m, cmd); err != nil {
		return nil, err
	}
	p.Main = cmd.Process
	var readers sync.WaitGroup
	readers.Go(func() { p.read(stdout) })
	readers.Go(func() { p.read(stderr) })
	go func() {
		readers.Wait()
		_ = cmd.Wait() // it is killed in the end
		close(p.done)
	}()
	return p, nil
}

// launch starts the process from a thread that lives as long as the process, which is killed when
// the thread ends.
func (p *Process) launch(m *netns.Machine, cmd *exec.Cmd) error {
	endWithThread(cmd)
	started := make(chan error, 2)
	go func() {
		started <- m.Do(func() error {
			err := cmd.Start()
			started <- err
			if err == nil {
				<-p.done
			}
			return err
		})
	}()
	return <-started
}

func (p *Process) read(from io.Reader) {
	for lines := bufio.NewScanner(from); lines.Scan(); {
		p.mu.Lock()
		p.lines = append(p.lines, lines.Text())
		p.mu.Unlock()
		select {
		case p.came <- struct{}{}:
		default:
		}
	}
}

// Logged returns the number of lines of output so far.
func (p *Process) Logged() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.lines)
}

// Log returns the output so far.
func (p *Process) Log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n")
}

// find returns the first line that matches.
func (p *Process) find(from int, match func(string) bool) (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, line := range p.lines[from:] {
		if match(line) {
			return line, true
		}
	}
	return "", false
}

// Await waits for a line that matches, after the first lines. It fails with the output so far if
// the process exits or within 45 s there is none.
func (p *Process) Await(from int, match func(string) bool) (string, error) {
	timeout := time.After(patience)
	for exited := false; ; {
		if line, ok := p.find(from, match); ok {
			return line, nil
		}
		if exited {
			return "", fmt.Errorf("the process exited:\n%s", p.Log())
		}
		select {
		case <-p.came:
		case <-p.done:
			exited = true
		case <-timeout:
			return "", fmt.Errorf("expected output is missing after %v:\n%s", patience, p.Log())
		}
	}
}

// Kill ends the process with SIGKILL and waits for its exit.
func (p *Process) Kill() error {
	_ = p.Main.Kill() // it may have ended by itself
	select {
	case <-p.done:
		return nil
	case <-time.After(patience):
		return fmt.Errorf("process %d still runs %v after SIGKILL", p.Main.Pid, patience)
	}
}

// Containing matches lines that contain a text.
func Containing(text string) func(string) bool {
	return func(line string) bool { return strings.Contains(line, text) }
}

// Beginning matches lines that begin with a text.
func Beginning(text string) func(string) bool {
	return func(line string) bool { return strings.HasPrefix(line, text) }
}
