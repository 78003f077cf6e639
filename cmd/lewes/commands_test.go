package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"lewes/cmd/lewes/internal/config"
	"lewes/cmd/lewes/internal/version"
	"lewes/crypto/identity"
)

// everyCommand calls f with each command that runs.
func everyCommand(cmd *cobra.Command, f func(*cobra.Command)) {
	for _, sub := range cmd.Commands() {
		everyCommand(sub, f)
	}
	f(cmd)
}

func TestHelpShowsExamples(t *testing.T) {
	env := environment(t.TempDir())
	everyCommand(newRoot(), func(cmd *cobra.Command) {
		if cmd.Hidden {
			return
		}
		args := append(strings.Fields(cmd.CommandPath())[1:], "--help")
		help := mustLewes(t, env, args...)
		if cmd.Example == "" || !strings.Contains(help, "Examples:\n"+cmd.Example) {
			t.Errorf("%s --help shows no examples: %s", cmd.CommandPath(), help)
		}
		for _, line := range strings.Split(cmd.Example, "\n") {
			if line != "" && !strings.HasPrefix(line, "  ") {
				t.Errorf("%s: the example %q is not indented", cmd.CommandPath(), line)
			}
		}
	})
}

func TestWrongCommandLine(t *testing.T) {
	dir := t.TempDir()
	env := environment(dir)
	key := identity.FromSeed(&[32]byte{1}).Public()
	uri := "lewes://" + key.String() + "@127.0.0.1"
	for _, row := range []struct{ args, why string }{
		{"", "missing command"},
		{"gatway", `unknown command "gatway"; did you mean gateway?`},
		{"help nothing", `unknown command "nothing"`},
		{"clients", "missing command"},
		{"gatway --config x", `unknown command "gatway"; did you mean gateway?`},
		{"clients ad --comment x y", `unknown command "ad"; did you mean add?`},
		{"clients --file x lsit --json", `unknown command "lsit"; did you mean list?`},
		{"--nothing gateway", "unknown flag: --nothing"},
		{"clients ad", `unknown command "ad"; did you mean add?`},
		{"keygen a b", `unexpected argument "b"`},
		{"keygen --nothing a", "unknown flag: --nothing"},
		{"forward --gatewya x 1=2", "unknown flag: --gatewya; did you mean --gateway?"},
		{"clients list --lvie", "unknown flag: --lvie; did you mean --live?"},
		{"keygen --for x a", "--for needs --show"},
		{"keygen --show --for x a", `--for: gateway URI "x"`},
		{"version x", `unexpected argument "x"`},
		{"gateway x", `unexpected argument "x"`},
		{"demo --datagrams 1", "--datagrams 1 is not from 2"},
		{"ping --interval 50 " + uri, "missing unit in duration \"50\"; write a number and a unit, such as 500ms"},
		{"ping --interval 1ms " + uri, "--interval 1ms is less than 10ms"},
		{"ping --count=-1 " + uri, "--count -1 is less than 0"},
		{"demo --datagrams many", `invalid argument "many"`},
		{"forward 5353=9.9.9.9:53", "missing --gateway"},
		{"forward --gateway " + uri, "missing argument: LOCAL=TARGET"},
		{"forward --gateway " + uri + " 5353", `invalid mapping "5353": no =`},
		{"forward --gateway gw.example 5353=9.9.9.9:53", `gateway URI "gw.example": must begin with lewes://`},
		{"forward --via x --gateway " + uri + " 5353=9.9.9.9:53", `--via: gateway URI "x"`},
		{"forward --kem rot13 --gateway " + uri + " 5353=9.9.9.9:53", `--kem: unknown key exchange "rot13"; use ML-KEM-768 or X-Wing`},
		{"probe --kem X25519 " + uri, `--kem: unknown key exchange "X25519"`},
		{"probe --via " + uri + ":1 " + uri, "is in the chain twice"},
		{"forward --timeout 0s --gateway " + uri + " 5353=9.9.9.9:53", "--timeout 0s is not positive"},
		{"tickets", "missing command"},
		{"tickets fetch --count 1", "missing --gateway"},
		{"tickets fetch --gateway " + uri + " --voucher x", "missing --issuer"},
		{"tickets fetch --gateway " + uri + " --issuer https://i.example", "missing --voucher"},
		{"tickets fetch --gateway x --issuer x --voucher x", `gateway URI "x"`},
		{"tickets fetch --gateway " + uri + " --issuer http://i.example#" + key.String() + " --voucher x", "--issuer: tickets: \"http://i.example#"},
		{"tickets fetch --gateway " + uri + " --issuer https://i.example#" + key.String() + " --voucher x", "--voucher: tickets: not a voucher"},
		{"tickets fetch --count 0 --gateway " + uri + " --issuer https://i.example#" + key.String() + " --voucher x", "--count 0 is not from 1"},
		{"tickets show x", `unexpected argument "x"`},
		{"probe", "missing argument: the URI printed by the gateway"},
		{"probe lewes://short@gw.example", "invalid identity"},
		{"probe --target 9.9.9.9 " + uri, `--target: target "9.9.9.9" is not host:port`},
		{"clients add", "missing argument: IDENTITY"},
		{"clients add anna", "the identity of a client is what lewes keygen --show prints"},
		{"clients add anna " + key.String(), "the identity comes first: lewes clients add " + key.String() + " anna"},
		{"clients add lewes://" + key.String() + "@gw.example anna", "is the URI of a gateway"},
		{"clients add " + key.String() + " anna sesions=2", `"sesions=2": unknown key; did you mean sessions?`},
		{"clients add " + key.String() + " anna bytes=10GiB/month", `"bytes=10GiB/month": not a size and a period`},
		{"clients add " + key.String() + " anna expires=2020-01-31", "the day of expires= is over since 2020-02-01"},
		{"clients add " + key.String() + " anna rate=fast", `"rate=fast": "fast" is not a size`},
		{"clients remove", "missing argument: IDENTITY or NAME"},
		{"clients remove anna ben", `unexpected argument "ben"`},
		{"clients remove --line 2 anna", `unexpected argument "anna" beside --line`},
		{"config check", "missing argument: FILE"},
	} {
		_, stderr, code := lewes(t, env, strings.Fields(row.args)...)
		if code != exitUsage {
			t.Errorf("lewes %s: exit code %d, want %d", row.args, code, exitUsage)
		}
		has(t, stderr, row.why, "\nusage: lewes", "--help\n")
	}
	// None of them has left anything in the state folder.
	if found, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(found) > 0 {
		t.Errorf("left behind: %q, %v", found, err)
	}
}

func TestKeygen(t *testing.T) {
	dir := t.TempDir()
	env := environment(dir)
	path := filepath.Join(dir, "my.key")
	public := strings.TrimSpace(mustLewes(t, env, "keygen", path))
	key, err := identity.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if key.Public().String() != public {
		t.Errorf("it printed %s, the file holds %s", public, key.Public())
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); runtime.GOOS != "windows" && mode != 0o600 {
		t.Errorf("mode %04o", mode)
	}

	has(t, fails(t, env, exitFailed, "keygen", path), path, "not overwritten", "choose another name")
	if shown := strings.TrimSpace(mustLewes(t, env, "keygen", "--show", path)); shown != public {
		t.Errorf("after a second keygen the file holds %s, not %s", shown, public)
	}

	var facts struct{ Identity, File string }
	parseJSON(t, mustLewes(t, env, "keygen", "--json", "--show", path), &facts)
	if facts.Identity != public || facts.File != path {
		t.Errorf("JSON says %+v", facts)
	}
	has(t, fails(t, env, exitFailed, "keygen", filepath.Join(dir, "no", "such", "folder.key")), "folder.key cannot be made")

	own := mustLewes(t, env, "keygen")
	if shown := mustLewes(t, env, "keygen", "--show"); shown != own {
		t.Errorf("this client's identity is %s, and then %s", own, shown)
	}
	has(t, fails(t, env, exitFailed, "keygen"), "client-identity: not overwritten")
}

func TestVersion(t *testing.T) {
	env := environment(t.TempDir())
	system := runtime.GOOS + "/" + runtime.GOARCH
	for _, arg := range []string{"version", "--version"} {
		has(t, mustLewes(t, env, arg), "lewes ", "protocol  LP/2\n", runtime.Version(), system)
	}
	var facts struct {
		Version, Go, System string
		Protocol            int
	}
	parseJSON(t, mustLewes(t, env, "version", "--json"), &facts)
	if facts.Version == "" || facts.Go != runtime.Version() || facts.System != system || facts.Protocol != 2 {
		t.Errorf("JSON says %+v", facts)
	}
}

func TestBuildText(t *testing.T) {
	modified := true
	b := version.Info{Version: "v1.2.3", Revision: "abc", Time: "2026-01-02T03:04:05Z", Modified: &modified, Go: "go1", System: "plan9/mips", Protocol: 2}
	want := "lewes v1.2.3\nprotocol  LP/2\nrevision  abc, modified\ndate      2026-01-02T03:04:05Z\ngo        go1\nsystem    plan9/mips"
	if got := b.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := (version.Info{Version: "(devel)", Go: "go1", System: "a/b", Protocol: 2}).String(); got != "lewes (devel)\nprotocol  LP/2\ngo        go1\nsystem    a/b" {
		t.Errorf("got %q", got)
	}
}

func TestClients(t *testing.T) {
	dir := t.TempDir()
	env := environment(dir)
	anna, ben := identity.FromSeed(&[32]byte{1}).Public().String(), identity.FromSeed(&[32]byte{2}).Public().String()
	list := filepath.Join(dir, "lewes", "clients")

	_, stderr, code := lewes(t, env, "clients", "list")
	if code != exitOK {
		t.Errorf("exit code %d for an empty list", code)
	}
	has(t, stderr, list+" is empty", "lewes clients add IDENTITY NAME")

	has(t, mustLewes(t, env, "clients", "add", anna, "anna-phone", "--comment", "since May"), "added "+anna+" (anna-phone) to "+list)
	mustLewes(t, env, "clients", "add", ben)
	shown := mustLewes(t, env, "clients", "list")
	has(t, shown, anna+"  anna-phone    since May\n", ben)
	has(t, fails(t, env, exitFailed, "clients", "add", anna), anna, "already in the list", "line 1")
	has(t, fails(t, env, exitUsage, "clients", "add", identity.FromSeed(&[32]byte{3}).Public().String(), "two words"), `"words"`, "follow the name")
	has(t, fails(t, env, exitFailed, "clients", "remove", "carla"), `"carla"`, "no such client in the list")

	var facts struct {
		File    string
		Clients []struct{ Identity, Name, Comment string }
	}
	parseJSON(t, mustLewes(t, env, "clients", "list", "--json"), &facts)
	if facts.File != list || len(facts.Clients) != 2 || facts.Clients[0].Identity != anna || facts.Clients[0].Name != "anna-phone" || facts.Clients[0].Comment != "since May" || facts.Clients[1].Identity != ben {
		t.Errorf("JSON says %+v", facts)
	}

	has(t, mustLewes(t, env, "clients", "remove", "anna-phone"), "removed "+anna+" (anna-phone) from "+list)
	var gone struct{ Done, Identity string }
	parseJSON(t, mustLewes(t, env, "clients", "remove", "--json", ben), &gone)
	if gone.Done != "removed" || gone.Identity != ben {
		t.Errorf("JSON says %+v", gone)
	}
	if text, err := os.ReadFile(list); err != nil || len(text) != 0 {
		t.Errorf("left in the list: %q, %v", text, err)
	}
}

// TestClientsPlace finds the list where the gateway would.
func TestClientsPlace(t *testing.T) {
	dir := t.TempDir()
	env := environment(dir)
	anna := identity.FromSeed(&[32]byte{1}).Public().String()
	configured := filepath.Join(dir, "who")
	file := filepath.Join(dir, "gateway.toml")
	writeFile(t, file, "[access]\nclients = \""+filepath.ToSlash(configured)+"\"\n", 0o600)
	for _, row := range []struct {
		args []string
		path string
	}{
		{[]string{"--config", file}, configured},
		{[]string{"--state", filepath.Join(dir, "state")}, filepath.Join(dir, "state", "clients")},
		{[]string{"--file", filepath.Join(dir, "a file")}, filepath.Join(dir, "a file")},
	} {
		mustLewes(t, env, append([]string{"clients", "add", anna}, row.args...)...)
		text, err := os.ReadFile(row.path)
		if err != nil || !strings.HasPrefix(string(text), anna) {
			t.Errorf("%q: the list %s holds %q, %v", row.args, row.path, text, err)
		}
	}
	_, stderr, _ := lewes(t, env, "clients", "list", "--file", filepath.Join(dir, "an empty one"))
	has(t, stderr, "lewes clients add --file '"+filepath.Join(dir, "an empty one")+"' IDENTITY NAME")
	has(t, fails(t, env, exitFailed, "clients", "add", anna, "--file", filepath.Join(dir, "no", "folder")), "no")
}

func TestConfigCommands(t *testing.T) {
	dir := t.TempDir()
	env := environment(dir)
	text := mustLewes(t, env, "config", "default")
	if text != config.DefaultText() {
		t.Error("config default prints something else than the default")
	}
	file := filepath.Join(dir, "gateway.toml")
	writeFile(t, file, text, 0o600)
	has(t, mustLewes(t, env, "config", "check", file), file+" is valid")

	writeFile(t, file, "[listen]\nprot = 1\n", 0o600)
	has(t, fails(t, env, exitFailed, "config", "check", file), file, "line 2", "listen.prot", "did you mean listen.port?")
	stdout, _, code := lewes(t, env, "config", "check", "--json", file)
	var facts checked
	parseJSON(t, stdout, &facts)
	if code != exitFailed || facts.OK || len(facts.Problems) != 1 || facts.Problems[0].Line != 2 || !strings.Contains(facts.Problems[0].Reason, "listen.port") {
		t.Errorf("exit code %d, JSON says %+v", code, facts)
	}
	has(t, fails(t, env, exitFailed, "config", "check", filepath.Join(dir, "none.toml")), "cannot read the configuration")
}

func TestClientsWithLimits(t *testing.T) {
	dir := t.TempDir()
	env := environment(dir)
	file := filepath.Join(dir, "clients")
	anna := identity.FromSeed(&[32]byte{1}).Public().String()
	mustLewes(t, env, "clients", "add", "--file", file, anna, "anna", "rate=10MiB", "sessions=2", "--comment", "since May")
	if text, _ := os.ReadFile(file); string(text) != anna+"  anna  sessions=2 rate=10MiB  # since May\n" {
		t.Errorf("the file holds %q", text)
	}
	has(t, mustLewes(t, env, "clients", "list", "--file", file), anna+"  anna  sessions=2 rate=10MiB  since May\n")
	var list struct {
		Clients []struct {
			Sessions, Flows int
			Rate, Bytes     uint64
			PeriodSeconds   int64 `json:"period_seconds"`
			Expires         time.Time
		}
	}
	parseJSON(t, mustLewes(t, env, "clients", "list", "--file", file, "--json"), &list)
	if len(list.Clients) != 1 || list.Clients[0].Sessions != 2 || list.Clients[0].Flows != 0 || list.Clients[0].Rate != 10<<20 {
		t.Errorf("%+v", list)
	}
	mustLewes(t, env, "clients", "remove", "--file", file, "anna")
	mustLewes(t, env, "clients", "add", "--file", file, anna, "anna", "expires=2027-01-31", "bytes=10GiB/30d")
	has(t, mustLewes(t, env, "clients", "list", "--file", file), anna+"  anna  bytes=10GiB/30d expires=2027-01-31")
	parseJSON(t, mustLewes(t, env, "clients", "list", "--file", file, "--json"), &list)
	if c := list.Clients[0]; c.Bytes != 10<<30 || c.PeriodSeconds != 30*86400 || !c.Expires.Equal(time.Date(2027, 2, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("%+v", list)
	}
}

// TestClientsMendInvalidLines: an invalid line stops no command, each names it, and remove mends the file.
func TestClientsMendInvalidLines(t *testing.T) {
	dir := t.TempDir()
	env := environment(dir)
	file := filepath.Join(dir, "clients")
	anna, ben, carla := identity.FromSeed(&[32]byte{1}).Public().String(), identity.FromSeed(&[32]byte{2}).Public().String(), identity.FromSeed(&[32]byte{3}).Public().String()
	writeFile(t, file, anna+" anna sesions=2\nnonsense\n"+ben+" ben\n", 0o600)
	invalid := func(lines []string, args ...string) (stdout string) {
		t.Helper()
		stdout, stderr, code := lewes(t, env, append([]string{"clients", args[0], "--file", file}, args[1:]...)...)
		if code != exitFailed {
			t.Errorf("%v: exit code %d", args, code)
		}
		has(t, stderr, append(lines, file, "keeps its previous list until this is mended")...)
		return stdout
	}
	both := []string{"2 invalid lines", `line 1: "sesions=2": unknown key; did you mean sessions?`, `line 2: "nonsense"`, "lewes clients remove --file " + file + " --line 1"}
	has(t, invalid(both, "list"), ben)
	has(t, invalid(both, "list", "--json"), `"value": "sesions=2"`)
	has(t, invalid(both, "add", carla, "carla"), "added "+carla)
	has(t, invalid([]string{`line 1: "nonsense"`, "--line 1"}, "remove", "anna"), "removed "+anna+" (anna)")
	has(t, fails(t, env, exitFailed, "clients", "remove", "--file", file, "--line", "2"), "line 2", "not an invalid line")
	has(t, mustLewes(t, env, "clients", "remove", "--file", file, "--line", "1"), `removed line 1 from `+file+`: "nonsense"`)
	if text, _ := os.ReadFile(file); string(text) != ben+" ben\n"+carla+"  carla\n" {
		t.Errorf("the file holds %q", text)
	}
}
