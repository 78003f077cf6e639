//go:build unix

package main

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lewes/crypto/identity"
)

// onlyEcho lets the clients of a gateway send to targets on loopback and to nothing else, by rules of
// which one is redundant and one contradicts another.
const onlyEcho = "[egress]\ndefault = \"deny\"\nallow = [\"127.0.0.1\", \"127.0.0.1:53\",\n\"203.0.113.0/25\"]\ndeny = [\"203.0.113.0/24\"]\n"

// Shows R8.33.
func TestPolicyTest(t *testing.T) {
	dir := t.TempDir()
	env := environment(dir)
	file := filepath.Join(dir, "gateway.toml")
	exit := identity.FromSeed(&[32]byte{9}).Public().String()
	writeFile(t, file, "public = [\"192.0.2.77\"]\n"+onlyEcho+"[[gateway]]\nuri = \"lewes://"+exit+"@127.0.0.1:5\"\n", 0o600)
	for _, row := range []struct {
		target string
		code   int
		want   string
	}{
		{"127.0.0.1:7", exitOK, `127.0.0.1:7 is allowed: it is a loopback address and matches the allow rule "127.0.0.1"`},
		{"localhost:7", exitOK, "datagrams to localhost:7 go to this address"},
		{"127.0.0.1:5", exitDenied, "127.0.0.1:5 is denied: it is a gateway that this one forwards to\n  no rule allows it"},
		{"203.0.113.1:7", exitDenied, `it matches the deny rule "203.0.113.0/24"`},
		{"198.51.100.1:7", exitDenied, "198.51.100.1:7 is denied: it matches no allow rule, and targets are denied by default\n  to allow it, add \"198.51.100.1:7\" or a wider rule to allow in [egress]"},
		{"192.0.2.77:7", exitDenied, "it is one of the gateway's own addresses"},
		{"[::ffff:10.1.2.3]:7", exitDenied, "10.1.2.3:7 is denied: it is a private address (10.0.0.0/8)"},
	} {
		stdout, stderr, code := lewes(t, env, "policy", "test", "--config", file, row.target)
		if code != row.code || stderr != "" {
			t.Errorf("%s: exit code %d, want %d: %s", row.target, code, row.code, stderr)
		}
		has(t, stdout, row.want)
	}
	// Without a configuration the defaults apply.
	has(t, mustLewes(t, env, "policy", "test", "198.51.100.1:7"), "it is public")

	var report struct {
		Target    string
		Allowed   bool
		Addresses []struct {
			Address, By, Rule, Why, Remedy string
			Allowed                        bool
		}
	}
	stdout, _, code := lewes(t, env, "policy", "test", "--json", "--config", file, "203.0.113.1:7")
	parseJSON(t, stdout, &report)
	if code != exitDenied || report.Target != "203.0.113.1:7" || report.Allowed || len(report.Addresses) != 1 {
		t.Fatalf("exit code %d, %+v", code, report)
	}
	if a := report.Addresses[0]; a.Address != report.Target || a.Allowed || a.By != "deny rule" || a.Rule != "203.0.113.0/24" || a.Why == "" || a.Remedy == "" {
		t.Errorf("JSON says %+v", a)
	}

	has(t, fails(t, env, exitFailed, "policy", "test", "does-not-resolve.invalid:7"), "cannot resolve the target")
	writeFile(t, file, "public = [\"does-not-resolve.invalid\"]\n", 0o600)
	_, stderr, code := lewes(t, env, "policy", "test", "--config", file, "198.51.100.1:7")
	if code != exitOK {
		t.Errorf("exit code %d", code)
	}
	has(t, stderr, "warning: decided without all addresses of the gateway", "does-not-resolve.invalid")
}

func TestConfigCheckWarns(t *testing.T) {
	dir := t.TempDir()
	env := environment(dir)
	file := filepath.Join(dir, "gateway.toml")
	writeFile(t, file, "\ufeff"+onlyEcho, 0o600)
	has(t, mustLewes(t, env, "config", "check", file), file+" is valid\n",
		`warning: line 3: egress.allow: the allow rule "127.0.0.1:53" is redundant: "127.0.0.1" allows the same targets already`,
		`warning: line 4: egress.allow: the allow rule "203.0.113.0/25" contradicts the deny rule "203.0.113.0/24", which has precedence`)
	var facts struct {
		OK       bool
		Warnings []struct {
			Line        int
			Key, Reason string
		}
	}
	parseJSON(t, mustLewes(t, env, "config", "check", "--json", file), &facts)
	if len(facts.Warnings) != 2 || !facts.OK || facts.Warnings[1].Line != 4 || facts.Warnings[1].Key != "egress.allow" || facts.Warnings[1].Reason == "" {
		t.Errorf("JSON says %+v", facts)
	}
	writeFile(t, file, "[egress]\nallow = [\"*:443\"]\n", 0o600)
	has(t, fails(t, env, exitFailed, "config", "check", file), "opens nothing", `set default to "deny"`)
	writeFile(t, file, "[egress]\ndefault = \"none\"\nallow = [\"*:443\"]\n", 0o600)
	problem := fails(t, env, exitFailed, "config", "check", file)
	has(t, problem, `egress.default: "none" is not one of "allow", "deny"`)
	hasNot(t, problem, "opens nothing")
}

// Shows R8.33.
func TestGatewayDeniesByDefault(t *testing.T) {
	file, key := newClient(t)
	g := launchGateway(t, onlyEcho, key)
	has(t, g.stderr(), "egress rule without effect", "is redundant", "contradicts the deny rule")
	env := environment(t.TempDir())
	mustLewes(t, env, "probe", "--identity", file, "--target", echo(t), g.uri)
	has(t, fails(t, env, exitFailed, "probe", "--identity", file, "--target", "198.51.100.1:7", g.uri), "gateway policy denies 198.51.100.1:7", "it matches no allow rule")
}

// A target that becomes the address of a gateway in the directory loses its plain flows.
//
// Shows R8.31, R8.32.
func TestReloadedDirectoryEndsPlainFlows(t *testing.T) {
	_, key := newClient(t)
	target := echo(t)
	exit := identity.FromSeed(&[32]byte{9}).Public().String()
	directory := func(address string) string {
		return allowEcho + "[[gateway]]\nuri = \"lewes://" + exit + "@" + address + "\"\n"
	}
	g := launchGateway(t, directory("127.0.0.1:9"), key)
	s := dial(t, g.uri, key)
	conn, err := s.DialContext(t.Context(), "udp", target)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for answered := false; !answered; {
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(time.Second)) // then again: a datagram may be lost
		_, err := conn.Read(make([]byte, 10))
		answered = err == nil
	}
	g.reload(loopbackListen+directory(target), `"flows_closed": 1`)
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := conn.Read(make([]byte, 10)); err == nil || !strings.Contains(err.Error(), "a gateway that this one forwards to") {
		t.Errorf("the client reads %v", err)
	}
}
