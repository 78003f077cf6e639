package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
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
	if c.resets.Load() != 0 || c.closed.Load() != 0 || c.stray.Load() != 0 {
		c.t.Errorf("%d Resets, %d sessions ended, %d packets that nobody expects", c.resets.Load(), c.closed.Load(), c.stray.Load())
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

// TestUpgrade starts a gateway's successor twice while datagrams go both ways on every
// session: none is lost, none waits for 200 ms, and no sequence comes twice. With
// -upgrade.sessions it hands over as many, under half of the load that the machine
// carries at most, and prints what happened.
//
// Shows R6.1.
func TestUpgrade(t *testing.T) {
	sessions, rate := 500, 2000
	if testing.Short() {
		sessions = 100
	}
	figures := *upgradeSessions > 0
	if figures {
		sessions = *upgradeSessions
	}
	echo := crowdEcho(t)
	u := launchUpgradable(t, crowdConfig(echo, sessions))
	c := newCrowd(t, u.uri, sessions, echo)
	if figures {
		most := c.capacity(3 * time.Second)
		rate = most / 2
		t.Logf("%d sessions; at most %d round trips a second, %d from here on", sessions, most, rate)
		time.Sleep(time.Second)
	}
	for round := range 2 {
		stop := c.pace(rate)
		time.Sleep(time.Second)
		took := time.Now()
		n, flows, pause := u.upgrade()
		whole := time.Since(took)
		time.Sleep(time.Second)
		sent, lost, longest := stop()
		t.Logf("upgrade %d: %d sessions and %d flows in %v; paused for %v; %d datagrams sent, %d lost; longest round trip %v",
			round+1, n, flows, whole.Round(time.Millisecond), pause, sent, lost, longest.Round(100*time.Microsecond))
		if n != sessions || flows != sessions {
			t.Errorf("%d sessions, %d flows", n, flows)
		}
		if lost != 0 || sent == 0 {
			t.Errorf("%d of %d datagrams are lost", lost, sent)
		}
		if longest >= 200*time.Millisecond {
			t.Errorf("a datagram took %v", longest)
		}
	}
	c.check(sessions)
}
