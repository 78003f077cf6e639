package main

import (
	"io"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestTotals sends one datagram before an upgrade, one after it, and one after the gateway was killed and started
// again; its list has all three.
func TestTotals(t *testing.T) {
	u := launchUpgradable(t, "[access]\ntotals = \"1s\"\n"+allowEcho)
	dir, target := filepath.Dir(u.config), echo(t)
	key := filepath.Join(t.TempDir(), "anna")
	env := environment(filepath.Dir(key))
	mustLewes(t, env, "clients", "add", "--state", dir, strings.TrimSpace(mustLewes(t, env, "keygen", key)), "anna-phone")
	forward := func() (f *process, send func()) {
		t.Helper()
		f = launch(t, env, "forward", "--identity", key, "--gateway", u.uri, "0="+target)
		conn := localSocket(t, regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(f.awaitLine("ready: ")))
		return f, func() {
			t.Helper()
			if _, err := conn.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			if _, err := io.ReadAtLeast(conn, make([]byte, 16), 5); err != nil {
				t.Fatal(err)
			}
		}
	}
	list := func(args ...string) string {
		t.Helper()
		return mustLewes(t, env, append([]string{"clients", "list", "--state", dir}, args...)...)
	}
	hasNot(t, list(), "since")
	f, send := forward()
	send()
	has(t, list("--live"), "TOTAL UP", "5 B (1)")
	u.upgrade()
	send()
	has(t, list("--live", "--json"), `"total":{"since":"20`, `"up":{"datagrams":2,"bytes":10},"down":{"datagrams":2,"bytes":10}}}`)
	for began := time.Now(); !strings.Contains(list(), "up 10 B (2), down 10 B (2) since 20"); time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > patience {
			t.Fatalf("the totals are not written:\n%s", list())
		}
	}
	u.kill(syscall.SIGKILL)
	f.end()

	u.process = launchFile(t, u.program, environment(dir), "gateway", "--config", u.config)
	u.pid = u.cmd.Process.Pid
	u.uri = u.awaitLine("lewes://")
	_, send = forward()
	send()
	has(t, list("--live", "--json"), `"up":{"datagrams":1,"bytes":5}`, `"up":{"datagrams":3,"bytes":15}`)
	if u.end() != exitOK {
		t.Error("the gateway failed")
	}
	has(t, list("--json"), `"datagrams": 3`, `"bytes": 15`)
}
