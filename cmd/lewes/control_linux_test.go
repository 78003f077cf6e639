package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lewes/cmd/lewes/internal/gatewayd"
	"lewes/cmd/lewes/internal/version"
)

// socket returns the path of a gateway's control socket.
func (g *runningGateway) socket() string { return filepath.Join(g.dir, "run", "control.sock") }

// control runs a command on the gateway's control socket, which has to succeed.
func (g *runningGateway) control(args ...string) string {
	g.t.Helper()
	return mustLewes(g.t, environment(g.dir), append(args, "--state", g.dir)...)
}

// request makes a request to a control socket as curl would.
func request(t *testing.T, socket, method, target, body string) (code int, text string) {
	t.Helper()
	c := http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	r, err := http.NewRequest(method, "http://gateway"+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(b)
}

// TestOperatorSeesAndSteersTheGateway asks each question of an operator by one command: which version
// runs and is it healthy, who is connected, how and how much, who is refused and why.
func TestOperatorSeesAndSteersTheGateway(t *testing.T) {
	g := launchGateway(t, allowEcho+"deny = [\"198.51.100.0/24\"]\n")
	clientDir := t.TempDir()
	env := environment(clientDir, "XDG_RUNTIME_DIR="+clientDir)
	anna, stranger := filepath.Join(clientDir, "anna"), filepath.Join(clientDir, "stranger")
	annaID := strings.TrimSpace(mustLewes(t, env, "keygen", anna))
	strangerID := strings.TrimSpace(mustLewes(t, env, "keygen", stranger))
	mustLewes(t, env, "clients", "add", "--state", g.dir, annaID, "anna-phone")
	g.awaitLog("reloaded the list of clients")
	_, _, code := lewes(t, env, "probe", "--identity", stranger, "--timeout", "2s", g.uri)
	if code == exitOK {
		t.Error("an unlisted client gets through")
	}
	waits := launch(t, env, "forward", "--identity", stranger, "--gateway", g.uri, "0=127.0.0.1:9")
	waits.awaitLog("lewes clients add " + strangerID)
	has(t, mustLewes(t, env, "status", "--clients"), fmt.Sprintf("process %d", waits.cmd.Process.Pid), "not connected", "127.0.0.1:9")
	// As the machine has no gateway, the question is about its clients.
	has(t, mustLewes(t, env, "status"), "no gateway is running here", fmt.Sprintf("process %d", waits.cmd.Process.Pid), "not connected")
	has(t, fails(t, env, exitFailed, "status", "--json"), "no gateway is running here", "lewes status --clients --json")
	fails(t, env, exitFailed, "status", "--ready")
	waits.end()
	f := launch(t, env, "forward", "--identity", anna, "--gateway", g.uri, "0="+echo(t), "0=198.51.100.7:53")
	line := f.awaitLine("ready: ")
	ports := regexp.MustCompile(`127\.0\.0\.1:\d+ to`).FindAllString(line, 2)
	conn := localSocket(t, strings.TrimSuffix(ports[0], " to"))
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadAtLeast(conn, make([]byte, 16), 5); err != nil {
		t.Fatal(err)
	}
	if _, err := localSocket(t, strings.TrimSuffix(ports[1], " to")).Write([]byte("denied")); err != nil {
		t.Fatal(err)
	}
	f.awaitLog("target denied")

	has(t, g.control("status"), "lewes ", fmt.Sprintf("process %d", g.cmd.Process.Pid), "health", "ok", g.uri,
		"1 session", "1 client in the list", "GSO", "flow", "policy (198.51.100.0/24)", "not listed")
	list := g.control("clients", "list", "--live")
	has(t, list, "anna-phone", "5 B (1)", "udp", "127.0.0.x", strangerID, "from 127.0.0.x")
	hasNot(t, list, annaID, "127.0.0.1:")
	var live gatewayd.ClientList
	parseJSON(t, g.control("clients", "list", "--live", "--json", "--show-addresses"), &live)
	if len(live.Sessions) != 1 || len(live.Unlisted) != 1 {
		t.Fatalf("%+v", live)
	}
	s := live.Sessions[0]
	if s.Name != "anna-phone" || s.Identity.String() != annaID || s.Up != (gatewayd.Traffic{Datagrams: 1, Bytes: 5}) || s.Down != s.Up || s.Flows != 1 || s.Transport != "udp" {
		t.Errorf("%+v", s)
	}
	has(t, s.Address, "127.0.0.1:")
	g.awaitLog(fmt.Sprintf(`control request  {"action": "show addresses", "uid": %d, "pid": `, os.Getuid()))

	has(t, mustLewes(t, env, "status", "--clients"), fmt.Sprintf("process %d", f.cmd.Process.Pid), s.Handle, "up 11 B (2)", "down 5 B (1)", "127.0.0.1:")
	file := filepath.Join(clientDir, "lewes", fmt.Sprintf("%d.sock", f.cmd.Process.Pid))
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}

	has(t, fails(t, env, exitFailed, "sessions", "close", "--state", g.dir, "nobody"), `"nobody" is not a name`)
	has(t, g.control("sessions", "close", s.Handle), "closed 1 session")
	f.awaitLog("closed by the gateway's operator")
	f.awaitLog("reconnected")
	has(t, g.control("clients", "list", "--live"), "anna-phone")
	hasNot(t, g.control("clients", "list", "--live"), s.Handle)
	f.end()
	if _, err := os.Stat(file); err == nil {
		t.Error("the client's socket is left")
	}
	if g.end() != exitOK {
		t.Error("the gateway failed")
	}
	if _, err := os.Stat(g.socket()); err == nil {
		t.Error("the gateway's socket is left")
	}
	has(t, fails(t, env, exitFailed, "status", "--state", g.dir), "no gateway is running here", g.socket())
}

func TestReloadCommand(t *testing.T) {
	g := launchGateway(t, "")
	file := filepath.Join(g.dir, "gateway.toml")
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, file, string(before)+"[log]\nlevel = \"debug\"\n[metrics]\nlisten = \"127.0.0.1:0\"\n", 0o600)
	has(t, g.control("reload"), "applied: log.level", "needs an upgrade: metrics.listen")
	other := filepath.Join(g.dir, "other.toml")
	writeFile(t, other, string(before), 0o600)
	for _, command := range []string{"reload", "upgrade"} {
		has(t, fails(t, environment(g.dir), exitFailed, command, "--config", other), "was started with "+file+", not with "+other)
	}
	has(t, mustLewes(t, environment(g.dir), "reload", "--config", file), "applied: nothing")
	has(t, g.control("status"), file)
	writeFile(t, file, string(before)+"[log]\nlevel = \"loud\"\n", 0o600)
	has(t, fails(t, environment(g.dir), exitFailed, "reload", "--state", g.dir), "loud")
	has(t, g.control("status"), "degraded", "the last reload failed")
}

// TestDrainCommand: a gateway that drains, and its successor, refuse new clients until they are told otherwise.
func TestDrainCommand(t *testing.T) {
	u := launchUpgradable(t, "[access]\nmode = \"open\"\n")
	control := func(args ...string) string {
		t.Helper()
		return mustLewes(t, environment(filepath.Dir(u.config)), append(args, "--state", filepath.Dir(u.config))...)
	}
	has(t, control("drain", "--wait"), "refuses new clients; 0 sessions left")
	has(t, control("status"), "draining: new clients are refused")
	u.upgrade()
	has(t, control("status"), "draining: new clients are refused")
	env := environment(t.TempDir())
	has(t, fails(t, env, exitFailed, "probe", "--timeout", "2s", u.uri), "shutting down")
	has(t, control("drain", "--off"), "admits new clients")
	u.upgrade()
	hasNot(t, control("status"), "draining")
	has(t, mustLewes(t, env, "probe", u.uri), "ephemeral")
}

// TestHundredReloads reloads again and again while datagrams go both ways, with bounds and rules that
// change each time: none is lost, and every session and flow stands as before.
func TestHundredReloads(t *testing.T) {
	const sessions = 40
	echo := crowdEcho(t)
	u := launchUpgradable(t, crowdConfig(echo))
	dir := filepath.Dir(u.config)
	c := newCrowd(t, u.uri, sessions, sessions, echo)
	standing := func() string {
		var list gatewayd.ClientList
		parseJSON(t, mustLewes(t, environment(dir), "clients", "list", "--live", "--json", "--state", dir), &list)
		var all []string
		for _, s := range list.Sessions {
			all = append(all, fmt.Sprint(s.Handle, s.Since, s.Flows, s.Transport, s.Why))
		}
		slices.Sort(all)
		return fmt.Sprintf("%d sessions: %q", len(all), all)
	}
	before := standing()
	text, err := os.ReadFile(u.config)
	if err != nil {
		t.Fatal(err)
	}
	stop := c.pace(500)
	c.awaitEchoes(50)
	for i := range 100 {
		rules := fmt.Sprintf("[egress]\nallow = [\"192.0.2.%d\", ", i)
		writeFile(t, u.config, strings.Replace(string(text), "[egress]\nallow = [", rules, 1)+fmt.Sprintf("[flows]\nmax = %d\n", 2000+i), 0o600)
		has(t, mustLewes(t, environment(dir), "reload", "--state", dir), "applied: ", "egress.allow", "flows.max")
	}
	c.awaitEchoes(50)
	if sent, lost, _ := stop(); lost != 0 || sent == 0 {
		t.Errorf("%d of %d datagrams are lost", lost, sent)
	}
	if after := standing(); after != before {
		t.Errorf("before: %s\nafter: %s", before, after)
	}
	c.check(sessions)
}

// TestUpgradeCommand upgrades under traffic, then tries a successor that fails. The control socket is
// handed over: nobody finds it closed.
func TestUpgradeCommand(t *testing.T) {
	const sessions = 30
	echo := crowdEcho(t)
	u := launchUpgradable(t, crowdConfig(echo))
	dir := filepath.Dir(u.config)
	c := newCrowd(t, u.uri, sessions, sessions, echo)
	stop := c.pace(300)
	c.awaitEchoes(50)
	for range 2 {
		var up struct {
			gatewayd.Upgraded
			Before, After version.Info
		}
		parseJSON(t, mustLewes(t, environment(dir), "upgrade", "--json", "--state", dir), &up)
		if up.From != u.pid || up.To == u.pid || up.Sessions != sessions || up.Flows != sessions || up.PauseSeconds <= 0 || up.After.Version == "" {
			t.Errorf("%+v", up)
		}
		u.pid = up.To
		c.awaitEchoes(50)
		var list gatewayd.ClientList
		parseJSON(t, mustLewes(t, environment(dir), "clients", "list", "--live", "--json", "--state", dir), &list)
		for _, s := range list.Sessions {
			if s.Up.Datagrams == 0 || s.Down.Datagrams == 0 {
				t.Errorf("the counters are lost: %+v", s)
				break
			}
		}
		has(t, mustLewes(t, environment(dir), "status", "--state", dir), fmt.Sprintf("process %d to %d with %d sessions", up.From, up.To, sessions))
	}
	if sent, lost, _ := stop(); lost != 0 || sent == 0 {
		t.Errorf("%d of %d datagrams are lost", lost, sent)
	}
	text, err := os.ReadFile(u.config)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, u.config, string(text)+"[nonsense]\n", 0o600)
	has(t, fails(t, environment(dir), exitFailed, "upgrade", "--state", dir), fmt.Sprintf("process %d goes on", u.pid), "nonsense")
	has(t, mustLewes(t, environment(dir), "status", "--state", dir), fmt.Sprintf("process %d", u.pid), "the last upgrade failed")
	c.check(sessions)
}

// TestOthersMayOnlyRead connects as another user, who is in the socket's group.
func TestOthersMayOnlyRead(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to be another user")
	}
	const group, user = 64265, 64266
	g := launchGateway(t, fmt.Sprintf("[control]\ngroup = \"%d\"\n", group))
	if info, err := os.Stat(filepath.Dir(g.socket())); err != nil || info.Mode().Perm() != 0o750 || info.Sys().(*syscall.Stat_t).Gid != group {
		t.Errorf("%+v, %v", info, err)
	}
	if info, err := os.Stat(g.socket()); err != nil || info.Mode().Perm() != 0o660 || info.Sys().(*syscall.Stat_t).Gid != group {
		t.Errorf("%+v, %v", info, err)
	}
	// Everybody may enter the folders above, which the test has made for root.
	for dir := g.dir; dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Dir(program), 0o755); err != nil {
		t.Fatal(err)
	}
	as := func(gid uint32, args ...string) (string, bool) {
		cmd := exec.Command(program, append(args, "--socket", g.socket())...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: gid}}
		cmd.Env, cmd.Dir = environment("/"), "/"
		out, err := cmd.CombinedOutput()
		return string(out), err == nil
	}
	for _, args := range [][]string{{"status"}, {"clients", "list", "--live"}, {"bundle", "--dry-run"}} {
		if out, ok := as(group, args...); !ok {
			t.Errorf("%v: %s", args, out)
		}
		if out, ok := as(user, args...); ok || !strings.Contains(out, "as a member of the socket's group") {
			t.Errorf("%v by a stranger: %s", args, out)
		}
	}
	for _, args := range [][]string{{"reload"}, {"upgrade"}, {"drain"}, {"sessions", "close", "x"}, {"trace", "x"}, {"clients", "list", "--live", "--show-addresses"}} {
		out, ok := as(group, args...)
		if ok || !strings.Contains(out, fmt.Sprintf("user %d may not do this", user)) {
			t.Errorf("%v: %s", args, out)
		}
	}
	hasNot(t, g.stderr(), "control request  ", "reloaded", "handed over")
	if n := strings.Count(g.stderr(), fmt.Sprintf(`control request refused  {"action": "reload", "uid": %d, "pid": `, user)); n != 1 {
		t.Errorf("%d log lines of the refused reload", n)
	}
}

func TestControlSocketAgainstBrokenRequests(t *testing.T) {
	g := launchGateway(t, "")
	for _, row := range []struct {
		method, target, body string
		code                 int
		text                 string
	}{
		{"POST", "/v1/drain", `{"on":`, 400, "invalid request"},
		{"POST", "/v1/drain", `{"off":true}`, 400, "unknown field"},
		{"POST", "/v1/drain", `{"on":true}{}`, 400, "more than one"},
		{"POST", "/v1/sessions/close", `[1]`, 400, "invalid request"},
		{"POST", "/v1/sessions/close", `{"who":"` + strings.Repeat("x", 64<<10) + `"}`, 400, "too large"},
		{"POST", "/v1/sessions/close", `{"who":""}`, 409, "is not a name"},
		{"GET", "/v1/reload", "", 404, ""},
		{"GET", "/nothing", "", 404, "there is no GET /nothing"},
		{"GET", "/v1/status?" + strings.Repeat("x", 64<<10), "", 431, ""},
		{"GET", "/metrics", "", 200, "lewes_sessions 0"},
		{"GET", "/debug/pprof/goroutine?debug=1", "", 200, "goroutine profile"},
	} {
		code, text := request(t, g.socket(), row.method, row.target, row.body)
		if code != row.code || !strings.Contains(text, row.text) {
			t.Errorf("%s %.40s %.40s: %d %.200s; want %d with %q", row.method, row.target, row.body, code, text, row.code, row.text)
		}
	}
	conn, err := net.Dial("unix", g.socket())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("\x16\x03\x01 no HTTP at all\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(conn); !bytes.Contains(b, []byte("400 Bad Request")) {
		t.Errorf("%q", b)
	}
	has(t, g.control("status"), "health")
}

// TestControlSocketUnderManyClients opens a thousand connections that say nothing, and others that never
// read what they asked for. An operator gets through, and the gateway keeps none of them.
func TestControlSocketUnderManyClients(t *testing.T) {
	g := launchGateway(t, "")
	dial := func(text string) {
		conn, err := net.Dial("unix", g.socket())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_, _ = io.WriteString(conn, text) // the gateway may have closed it
	}
	for i := range 1000 {
		if i%50 == 0 {
			dial(strings.Repeat("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 400)) // and never reads
		} else {
			dial("")
		}
	}
	has(t, g.control("status"), "health")
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", g.cmd.Process.Pid))
	if err != nil || len(files) > 100 {
		t.Errorf("%d files are open, %v", len(files), err)
	}
}

var controlSessions = flag.Int("control.sessions", 0, "sessions of TestListUnderTraffic, which then prints what status and list cost; 0: as many as a normal run has time for")

// TestListUnderTraffic lists all sessions again and again while datagrams go both ways: none is lost,
// and no session is missing.
func TestListUnderTraffic(t *testing.T) {
	sessions, lists, every := 200, 3, time.Duration(0)
	if *controlSessions > 0 {
		sessions, lists, every = *controlSessions, 5, 15*time.Second
	}
	echo := crowdEcho(t)
	u := launchUpgradable(t, crowdConfig(echo))
	c := newCrowd(t, u.uri, sessions, min(sessions, 4000), echo)
	c.window = 128
	measure := func(name string, work func()) {
		stop := c.pace(1000)
		c.awaitEchoes(250)
		began, before := time.Now(), processorTime(t, u.pid)
		for range lists {
			at := time.Now()
			work()
			time.Sleep(every - time.Since(at))
		}
		took, used := time.Since(began), processorTime(t, u.pid)-before
		c.awaitEchoes(250)
		sent, lost, longest := stop()
		if lost != 0 || sent == 0 {
			t.Errorf("%s: %d of %d datagrams are lost", name, lost, sent)
		}
		t.Logf("%s: %d sessions; %d times in %v, %.2f %% of a core with the traffic; longest round trip %v",
			name, sessions, lists, took.Round(time.Millisecond), 100*used.Seconds()/took.Seconds(), longest)
	}
	dir := filepath.Dir(u.config)
	measure("nothing", func() {})
	measure("status", func() { mustLewes(t, environment(dir), "status", "--state", dir) })
	measure("list", func() {
		n := strings.Count(mustLewes(t, environment(dir), "clients", "list", "--live", "--json", "--state", dir), `"handle"`)
		if n != sessions {
			t.Errorf("%d sessions of %d are listed", n, sessions)
		}
	})
	c.check(sessions)
}

// processorTime returns the time that a process has used.
func processorTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	ticks := 0
	for _, f := range fields[11:13] { // utime and stime
		n, _ := strconv.Atoi(f)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
