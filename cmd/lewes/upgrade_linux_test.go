package main

import (
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lewes/state"
	"lewes/transport/uri"
)

var upgradeSessions = flag.Int("upgrade.sessions", 0, "sessions that TestUpgrade hands over, at half of what the machine carries; 0: as many as a normal run has time for")

// upgradable is a gateway whose program and configuration a test may replace.
type upgradable struct {
	*process
	program, config, uri string
	pid                  int // of the process that serves
}

func launchUpgradable(t *testing.T, more string, env ...string) *upgradable {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "gateway.toml")
	writeFile(t, file, fmt.Sprintf("state_dir = %q\n", dir)+loopbackListen+more, 0o600)
	u := &upgradable{program: copyOfProgram(t), config: file}
	u.process = launchFile(t, u.program, environment(dir, env...), "gateway", "--config", file)
	u.pid = u.cmd.Process.Pid
	t.Cleanup(func() { _ = syscall.Kill(u.pid, syscall.SIGKILL) }) // it may have ended
	u.uri = u.awaitLine("lewes://")
	u.awaitLog("  ready  ")
	return u
}

var handedOverLine = regexp.MustCompile(`handed over to a successor  \{"pid": (\d+), "sessions": (\d+), "flows": (\d+), "pause": "([^"]+)"`)

// upgrade has the process that serves start its successor, and returns what it says.
func (u *upgradable) upgrade() (sessions, flows int, pause time.Duration) {
	u.t.Helper()
	before := len(handedOverLine.FindAllString(u.stderr(), -1))
	ready := strings.Count(u.stderr(), "  ready  ")
	u.kill(syscall.SIGUSR2)
	var m []string
	u.await("a successor", func(_, stderr string) bool {
		all := handedOverLine.FindAllStringSubmatch(stderr, -1)
		if len(all) <= before || strings.Count(stderr, "  ready  ") <= ready {
			return false
		}
		m = all[before]
		return true
	})
	u.pid, _ = strconv.Atoi(m[1])
	sessions, _ = strconv.Atoi(m[2])
	flows, _ = strconv.Atoi(m[3])
	pause, err := time.ParseDuration(m[4])
	if err != nil {
		u.t.Fatal(err)
	}
	return sessions, flows, pause
}

// kill signals the process that serves.
func (u *upgradable) kill(s syscall.Signal) {
	u.t.Helper()
	if err := syscall.Kill(u.pid, s); err != nil {
		u.t.Fatal(err)
	}
}

// files returns how many files the process that serves has open.
func (u *upgradable) files() int {
	u.t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", u.pid))
	if err != nil {
		u.t.Fatal(err)
	}
	return len(all)
}

// check fails the test unless a crowd has lost nothing.
func (c *crowd) check(sessions int) {
	c.t.Helper()
	if c.twice.Load() != 0 {
		c.t.Errorf("%d packets bore a sequence that had come before", c.twice.Load())
	}
	if c.closed.Load() != 0 || c.stray.Load() != 0 {
		c.t.Errorf("%d sessions ended, %d packets that nobody expects", c.closed.Load(), c.stray.Load())
	}
	n := 0
	c.all(func(m *crowdMember) bool {
		if !m.ended {
			n++
		}
		return true
	})
	if n != sessions {
		c.t.Errorf("%d sessions of %d are left", n, sessions)
	}
}

// TestUpgrade starts a gateway's successor at least twice while datagrams go both ways
// on every session: none is lost, no sequence comes twice, and an upgrade keeps none
// waiting for 200 ms. With -upgrade.sessions it hands over as many, under half of the
// load that the machine carries at most, and prints what happened.
//
// Shows R6.1.
func TestUpgrade(t *testing.T) {
	sessions, rate := 300, 2000
	if testing.Short() {
		sessions = 100
	}
	figures := *upgradeSessions > 0
	if figures {
		sessions = *upgradeSessions
	}
	echo := crowdEcho(t)
	u := launchUpgradable(t, crowdConfig(echo))
	c := newCrowd(t, u.uri, sessions, sessions, echo)
	if figures {
		most := c.capacity(3 * time.Second)
		rate = most / 2
		t.Logf("%d sessions; at most %d round trips a second, %d from here on", sessions, most, rate)
		time.Sleep(time.Second)
	} else {
		c.window = 128
	}
	for round := range 2 {
		stop := c.pace(rate)
		c.awaitEchoes(int64(rate) / 4)
		took := time.Now()
		n, flows, pause := u.upgrade()
		whole := time.Since(took)
		c.awaitEchoes(int64(rate) / 4)
		sent, lost, longest := stop()
		t.Logf("upgrade %d: %d sessions and %d flows in %v; paused for %v; %d datagrams sent, %d lost; longest round trip %v",
			round+1, n, flows, whole.Round(time.Millisecond), pause, sent, lost, longest.Round(100*time.Microsecond))
		if n != sessions || flows != sessions {
			t.Errorf("%d sessions, %d flows", n, flows)
		}
		if lost != 0 || sent == 0 {
			t.Errorf("%d of %d datagrams are lost", lost, sent)
		}
	}
	c.check(sessions)
}

// TestUpgradeUnderRekeys upgrades three times while all sessions come to new keys,
// and then once more: nothing is lost, and no process has more files open than the
// first.
func TestUpgradeUnderRekeys(t *testing.T) {
	const sessions = 60
	echo := crowdEcho(t)
	u := launchUpgradable(t, crowdConfig(echo)+"[metrics]\nlisten = \"127.0.0.1:0\"\n")
	c := newCrowd(t, u.uri, sessions, sessions, echo)
	c.window = 128
	files := u.files()
	for round := range uint32(3) {
		stop := c.pace(500)
		c.rekey()
		u.upgrade()
		c.awaitEchoes(100)
		// A message of a rekey that waited for its turn at the handover is sent again.
		if !c.until(func(m *crowdMember) bool {
			return m.session.Current().Number() == round+1 && m.session.Phase() == state.Transport
		}) {
			t.Errorf("not every session has come to its keys %d", round+1)
		}
		if sent, lost, _ := stop(); lost != 0 || sent == 0 {
			t.Errorf("%d of %d datagrams are lost", lost, sent)
		}
	}
	if got := u.files(); got > files {
		t.Errorf("%d files are open after three upgrades, %d before", got, files)
	}
	c.check(sessions)

	// The last one takes its leave as the first would have.
	u.kill(syscall.SIGTERM)
	if !c.until(func(m *crowdMember) bool { return m.ended }) {
		t.Error("clients were not told that the gateway ends")
	}
	u.awaitLog(fmt.Sprintf(`stopped  {"sessions_closed": %d, "clients_notified": %[1]d}`, sessions))
	<-u.done
}

// TestUpgradeFails tries successors that cannot take over: each time the gateway says
// why, and goes on as if nothing had been. Then one comes that can.
func TestUpgradeFails(t *testing.T) {
	const sessions = 20
	echo := crowdEcho(t)
	u := launchUpgradable(t, crowdConfig(echo))
	c := newCrowd(t, u.uri, sessions, sessions, echo)
	good, err := os.ReadFile(u.config)
	if err != nil {
		t.Fatal(err)
	}
	replace := func(text string) func() {
		return func() {
			if err := os.Rename(u.program, u.program+".kept"); err != nil {
				t.Fatal(err)
			}
			if text != "" {
				writeFile(t, u.program, text, 0o700)
			}
		}
	}
	restore := func() {
		if err := os.Rename(u.program+".kept", u.program); err != nil {
			t.Fatal(err)
		}
	}
	configure := func(text string) func() { return func() { writeFile(t, u.config, text, 0o600) } }
	for _, test := range []struct {
		name  string
		spoil func()
		why   string
		mend  func()
	}{
		{"an unknown key", configure(string(good) + "[nonsense]\n"), "nonsense", configure(string(good))},
		{"other shards", configure(strings.Replace(string(good), "[listen]", "[listen]\nshards = 7", 1)), "7 shards", configure(string(good))},
		{"no program", replace(""), "no such file", restore},
		{"another program", replace("#!/bin/sh\nexit 3\n"), "exit status 3", restore},
		{"one that is killed", replace("#!/bin/sh\nkill -9 $$\n"), "killed", restore},
	} {
		stop := c.pace(300)
		test.spoil()
		before := strings.Count(u.stderr(), "upgrade failed; keeping this process")
		u.kill(syscall.SIGUSR2)
		u.await("why it does not upgrade", func(_, stderr string) bool {
			return strings.Count(stderr, "upgrade failed; keeping this process") > before
		})
		at := strings.LastIndex(u.stderr(), "upgrade failed; keeping this process")
		has(t, u.stderr()[at:], test.why)
		test.mend()
		c.awaitEchoes(20)
		if sent, lost, _ := stop(); lost != 0 || sent == 0 {
			t.Errorf("%s: %d of %d datagrams are lost", test.name, lost, sent)
		}
	}
	if n, _, _ := u.upgrade(); n != sessions {
		t.Errorf("%d sessions are handed over in the end", n)
	}
	stop := c.pace(300)
	c.awaitEchoes(20)
	if _, lost, _ := stop(); lost != 0 {
		t.Errorf("%d datagrams are lost", lost)
	}
	c.check(sessions)
}

// TestHungSuccessor: a gateway whose successor never answers goes on, reloads, and ends when asked to.
func TestHungSuccessor(t *testing.T) {
	u := launchUpgradable(t, "")
	if err := os.Remove(u.program); err != nil {
		t.Fatal(err)
	}
	writeFile(t, u.program, "#!/bin/sh\necho the successor hangs >&2\nexec sleep 1000\n", 0o700)
	u.kill(syscall.SIGUSR2)
	u.awaitLog("the successor hangs")
	u.kill(syscall.SIGHUP)
	u.awaitLog("reloaded the configuration")
	if code := u.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	hasNot(t, u.stderr(), "keeping this process")
}

// TestUpgradeWithOtherClients: a successor ends the sessions of clients that its list does not have, and
// one with an invalid line in its list does not take over.
func TestUpgradeWithOtherClients(t *testing.T) {
	_, key := newClient(t)
	u := launchUpgradable(t, "")
	list := filepath.Join(filepath.Dir(u.config), "clients")
	writeFile(t, list, key.Public().String()+" anna\n", 0o600)
	u.awaitLog(`{"clients": 1,`)
	s := dial(t, u.uri, key)

	writeFile(t, list, key.Public().String()+" anna flws=2\n", 0o600)
	u.kill(syscall.SIGUSR2)
	u.awaitLog("upgrade failed; keeping this process")
	has(t, u.stderr(), list+", line 1", "did you mean flows?")
	if _, err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	writeFile(t, list, "# nobody\n", 0o600)
	u.upgrade()
	select {
	case <-s.Done():
	case <-time.After(patience):
		t.Error("the session of a removed client goes on")
	}
}

// TestKilledSuccessor: a successor that is killed is missed like any gateway; nobody
// else holds its port.
func TestKilledSuccessor(t *testing.T) {
	echo := crowdEcho(t)
	u := launchUpgradable(t, crowdConfig(echo))
	c := newCrowd(t, u.uri, 1, 1, echo)
	u.upgrade()
	u.kill(syscall.SIGKILL)
	<-u.done
	g, err := uri.Parse(u.uri)
	if err != nil {
		t.Fatal(err)
	}
	free, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(g.Address())))
	if err != nil {
		t.Errorf("the port is still bound: %v", err)
	} else {
		_ = free.Close()
	}
	c.close()
}

// TestUpgradeTellsSystemd: the old process says who is the main one now, and only then
// does that one speak.
func TestUpgradeTellsSystemd(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	reports, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer reports.Close()
	told := func() string {
		buffer := make([]byte, 256)
		_ = reports.SetReadDeadline(time.Now().Add(patience))
		n, err := reports.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		return string(buffer[:n])
	}
	u := launchUpgradable(t, "[access]\nmode = \"open\"\n", "NOTIFY_SOCKET="+name)
	if got := told(); got != "READY=1" {
		t.Errorf("%q first", got)
	}
	u.upgrade()
	if got, want := told(), fmt.Sprintf("MAINPID=%d", u.pid); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := told(); got != "READY=1" {
		t.Errorf("%q from the successor", got)
	}
	u.kill(syscall.SIGTERM)
	if got := told(); got != "STOPPING=1" {
		t.Errorf("%q at the end", got)
	}
}
