package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// serviceManager keeps descriptors for a service, as systemd does.
type serviceManager struct {
	t    *testing.T
	conn *net.UnixConn
	name string

	mu    sync.Mutex
	files []*os.File
	names []string
	full  bool // nothing more is kept
}

func newServiceManager(t *testing.T) *serviceManager {
	t.Helper()
	m := &serviceManager{t: t, name: filepath.Join(t.TempDir(), "notify")}
	var err error
	if m.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.name, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	var ended sync.WaitGroup
	ended.Go(m.listen)
	t.Cleanup(func() {
		_ = m.conn.Close()
		ended.Wait()
		m.forget("")
	})
	return m
}

func (m *serviceManager) listen() {
	text, oob := make([]byte, 4096), make([]byte, syscall.CmsgSpace(4*253))
	for {
		n, o, _, _, err := m.conn.ReadMsgUnix(text, oob)
		if err != nil {
			return
		}
		var fds []int
		if messages, err := syscall.ParseSocketControlMessage(oob[:o]); err == nil && len(messages) > 0 {
			for i := range messages { // credentials come too, where they are asked for
				if more, err := syscall.ParseUnixRights(&messages[i]); err == nil {
					fds = append(fds, more...)
				}
			}
		}
		m.take(string(text[:n]), fds)
	}
}

func (m *serviceManager) take(text string, fds []int) {
	var name string
	for line := range strings.Lines(text) {
		if rest, found := strings.CutPrefix(strings.TrimSpace(line), "FDNAME="); found {
			name = rest
		}
	}
	if strings.HasPrefix(text, "FDSTOREREMOVE=1") {
		m.forget(name)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, fd := range fds {
		file := os.NewFile(uintptr(fd), name)
		if m.full {
			_ = file.Close()
			continue
		}
		m.files, m.names = append(m.files, file), append(m.names, name)
	}
}

// forget closes what is kept under a name, all of it for "".
func (m *serviceManager) forget(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var files []*os.File
	var names []string
	for i, file := range m.files {
		if name == "" || m.names[i] == name {
			_ = file.Close()
		} else {
			files, names = append(files, file), append(names, m.names[i])
		}
	}
	m.files, m.names = files, names
}

func (m *serviceManager) kept() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.files)
}

// start starts the service with what is kept.
func (m *serviceManager) start(config string) *process {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	cmd := exec.Command("/bin/sh", "-c", `export LISTEN_PID=$$; exec "$@"`, "sh", program, "gateway", "--keep-sessions", "--config", config)
	cmd.Env = environment(filepath.Dir(config), "NOTIFY_SOCKET="+m.name, fmt.Sprintf("LISTEN_FDS=%d", len(m.files)), "LISTEN_FDNAMES="+strings.Join(m.names, ":"))
	cmd.ExtraFiles = m.files
	return launchCommand(m.t, cmd)
}

// TestRestartKeepsSessions restarts a service that keeps its sessions, with datagrams
// under way: none is lost. What is kept too long, or not all of it, is of no use, and
// the gateway starts without.
func TestRestartKeepsSessions(t *testing.T) {
	const sessions = 50
	echo := crowdEcho(t)
	m := newServiceManager(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "gateway.toml")
	text := fmt.Sprintf("state_dir = %q\n", dir) + loopbackListen + crowdConfig(echo)
	writeFile(t, file, text, 0o600)
	p := m.start(file)
	at := p.awaitLine("lewes://")
	p.awaitLog("  ready  ")
	c := newCrowd(t, at, sessions, echo)
	for range 2 {
		stop := c.pace(300)
		time.Sleep(100 * time.Millisecond)
		if code := p.end(); code != exitOK {
			t.Fatalf("exit code %d", code)
		}
		p.awaitLog(fmt.Sprintf(`left sockets and sessions with systemd for the next start  {"sessions": %d}`, sessions))
		if n := m.kept(); n < sessions+2 {
			t.Fatalf("%d descriptors are kept", n)
		}
		p = m.start(file)
		p.awaitLog(fmt.Sprintf(`went on with what systemd kept  {"sessions": %d}`, sessions))
		p.awaitLog("  ready  ")
		time.Sleep(100 * time.Millisecond)
		if sent, lost, _ := stop(); lost != 0 || sent == 0 {
			t.Errorf("%d of %d datagrams are lost", lost, sent)
		}
		for end := time.Now().Add(patience); m.kept() > 0 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		if n := m.kept(); n != 0 {
			t.Errorf("%d descriptors are kept after they were taken", n)
		}
	}
	c.check(sessions)

	m.mu.Lock()
	m.full = true
	m.mu.Unlock()
	_ = p.end()
	p.awaitLog("left sockets")
	p = m.start(file)
	p.awaitLog("  ready  ")
	hasNot(t, p.stderr(), "went on with")
	if code := p.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}
