package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"

	"lewes/crypto/identity"
	"lewes/crypto/kem"
	"lewes/router/egress"
	"lewes/router/policy"
	"lewes/transport/uri"
)

// gatewayURI returns a different URI for each n.
func gatewayURI(n byte) uri.Gateway {
	return uri.Gateway{Identity: identity.FromSeed(&[32]byte{n}).Public(), Host: "exit.example.com", Port: 51264}
}

func mustParse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// problemsOf returns the problems of an invalid text.
func problemsOf(t *testing.T, text string) []Problem {
	t.Helper()
	c, err := Parse([]byte(text))
	var e *Error
	if c != nil || !errors.Is(err, ErrInvalid) || !errors.As(err, &e) || len(e.Problems) == 0 {
		t.Fatalf("%q: configuration %v and error %v, want no configuration and an Error", text, c, err)
	}
	return e.Problems
}

func TestDefaultTextMatchesDefault(t *testing.T) {
	if c := mustParse(t, DefaultText()); !reflect.DeepEqual(c, Default()) {
		t.Errorf("the text gives\n%+v, want the default\n%+v", c, Default())
	}
	if c := mustParse(t, ""); !reflect.DeepEqual(c, Default()) {
		t.Errorf("an empty text gives\n%+v, want the default\n%+v", c, Default())
	}
	if err := Default().Validate(); err != nil {
		t.Error(err)
	}
}

func TestDefaultTextExplainsEveryKey(t *testing.T) {
	found := locate([]byte(DefaultText()))
	for _, k := range keys {
		if found[k.path].line == 0 && !strings.HasPrefix(k.path, "gateway") {
			t.Errorf("%s is not in the text", k.path)
		}
	}
	lines := strings.Split(DefaultText(), "\n")
	for i, line := range lines {
		if len(line) > 90 {
			t.Errorf("line %d is %d bytes long", i+1, len(line))
		}
		// A comment precedes each group of keys.
		if strings.Contains(line, " = ") && !strings.HasPrefix(line, "#") && lines[i-1] == "" {
			t.Errorf("line %d, %q, has no comment", i+1, line)
		}
	}
	// The examples in comments are valid, too.
	example := DefaultText()[strings.Index(DefaultText(), "# [[gateway]]"):]
	example = strings.ReplaceAll(strings.ReplaceAll(example, "# ", ""), "IDENTITY", gatewayURI(1).Identity.String())
	want := []Gateway{{URI: gatewayURI(1), Name: "exit"}}
	if c := mustParse(t, DefaultText()+example); !reflect.DeepEqual(c.Gateways, want) {
		t.Errorf("the example gives %v, want %v", c.Gateways, want)
	}
	for _, line := range lines {
		if _, example, found := strings.Cut(line, "Example: "); found {
			mustParse(t, tableOf(example)+example)
		}
	}
}

// tableOf returns the header of the table that the key in a line belongs to.
func tableOf(line string) string {
	name, _, _ := strings.Cut(line, " ")
	for _, k := range keys {
		if table, found := strings.CutSuffix(k.path, "."+name); found {
			return "[" + table + "]\n"
		}
	}
	return ""
}

// everything sets each key to another value than its default.
var everything = strings.ReplaceAll(`
identity = "/etc/lewes/identity"
state_dir = "/srv/lewes"
public = ["GW.example.com", "203.0.113.7:443", "[2001:db8::7]:443", "2001:db8::8"]
memory_limit = "512MiB"
[listen]
addresses = ["192.0.2.1", "[2001:db8::1]:443", "::"]
port = 443
shards = 2
pin = true
offload = "off"
gso = false
gro = false
receive_buffer = 65_536
send_buffer = "1GiB"
[tcp]
enabled = false
port = 443
max_connections = 100
max_per_source = 10
[access]
mode = "open"
clients = "/etc/lewes/clients"
totals = "90s"
[handshake]
kems = ["xwing", "X25519"]
allow_x25519_kem = true
max_records = 0x10
record_ttl = "1m30.5s"
rate = 0.5
burst = 1
tries_per_second = 3
[session]
max = 10
ttl = "1h"
rekey_after = "1m"
max_datagram = 1400
[flows]
max_per_session = 1
max = 2
idle = "1s"
[egress]
default = "deny"
allow = ["10.0.0.0/8"] # a comment
deny = [
  "*:25",
  "[2001:db8::/32]:1-2",
]
own = ["203.0.113.7", "2001:db8::7"]
ports = "30000-39999"
[forward]
max_claims = 1
[registration]
access = "tickets"
ledger = "/srv/lewes/accounts"
on_failure = "serve"
mix_node = "203.0.113.9:1789"
issuers = ["https://Issuer.Example#PIN", "/etc/lewes/issuer.json#PIN"]
[wireguard]
device = "wg0"
ipv4 = "10.77.0.0/16"
ipv6 = "fd77::/64"
endpoint = "vpn.example.com:443"
[log]
level = "debug"
format = "json"
[control]
group = "lewes-admins"
[metrics]
listen = "127.0.0.1:9264"
required = false
[[gateway]]
uri = "%v"
[[gateway]]
uri = "%v"
name = "other exit"
`, "PIN", gatewayURI(1).Identity.String())

func TestParseEverything(t *testing.T) {
	c := mustParse(t, fmt.Sprintf(everything, gatewayURI(1), gatewayURI(2)))
	rules := func(texts ...string) (list []policy.Rule) {
		for _, s := range texts {
			r, err := policy.ParseRule(s)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, r)
		}
		return list
	}
	want := &Config{
		Identity: "/etc/lewes/identity", StateDir: "/srv/lewes",
		Public:      []Host{{"gw.example.com", 0}, {"203.0.113.7", 443}, {"2001:db8::7", 443}, {"2001:db8::8", 0}},
		MemoryLimit: 512 << 20,
		Listen: Listen{
			Addresses: []Address{{netip.MustParseAddrPort("192.0.2.1:0")}, {netip.MustParseAddrPort("[2001:db8::1]:443")}, {netip.MustParseAddrPort("[::]:0")}},
			Port:      443, Shards: 2, Pin: true, Offload: OffloadOff, ReceiveBuffer: 65536, SendBuffer: 1 << 30,
		},
		TCP:    TCP{false, 443, 100, 10},
		Access: Access{AccessOpen, "/etc/lewes/clients", Duration(90 * time.Second)},
		Handshake: Handshake{
			KEMs: []KEM{KEM(kem.XWing), KEM(kem.X25519)}, AllowX25519: true, MaxRecords: 16,
			RecordTTL: Duration(90*time.Second + 500*time.Millisecond), Rate: 0.5, Burst: 1, TriesPerSecond: 3,
		},
		Session: Session{10, Duration(time.Hour), Duration(time.Minute), 1400},
		Flows:   Flows{1, 2, Duration(time.Second)},
		Egress: Egress{
			EgressDeny, rules("10.0.0.0/8"), rules("*:25", "[2001:db8::/32]:1-2"),
			[]netip.Addr{netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("2001:db8::7")},
			egress.Range{30000, 39999},
		},
		Forward:      Forward{1},
		Registration: Registration{RegistrationTickets, "/srv/lewes/accounts", OnFailureServe, "203.0.113.9:1789", []Issuer{{URL: "https://issuer.example", Pin: gatewayURI(1).Identity}, {File: "/etc/lewes/issuer.json", Pin: gatewayURI(1).Identity}}},
		WireGuard:    WireGuard{"wg0", "10.77.0.0/16", "fd77::/64", "vpn.example.com:443"},
		Log:          Log{LogDebug, LogJSON},
		Metrics:      Metrics{"127.0.0.1:9264", false},
		Control:      Control{"lewes-admins"},
		Gateways:     []Gateway{{gatewayURI(1), ""}, {gatewayURI(2), "other exit"}},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("read\n%+v, want\n%+v", c, want)
	}
	// Every key of the text differs from its default.
	differ(t, "", reflect.ValueOf(*want), reflect.ValueOf(*Default()))

	// Inline tables, dotted keys, and line ends of Windows.
	again := mustParse(t, strings.ReplaceAll(fmt.Sprintf(`log = {level = "debug", format = "json"}
listen.port = 443
listen.gso = false
gateway = [{uri = "%v"}, {uri = "%v", name = "other exit"}]
`, gatewayURI(1), gatewayURI(2)), "\n", "\r\n"))
	if again.Log != want.Log || again.Listen.Port != 443 || again.Listen.GSO || !reflect.DeepEqual(again.Gateways, want.Gateways) {
		t.Errorf("read %+v", again)
	}
}

func differ(t *testing.T, path string, a, b reflect.Value) {
	for i := range a.NumField() {
		name := join(path, a.Type().Field(i).Tag.Get("toml"))
		if f := a.Field(i); f.Kind() == reflect.Struct {
			differ(t, name, f, b.Field(i))
		} else if reflect.DeepEqual(f.Interface(), b.Field(i).Interface()) {
			t.Errorf("%s is the default", name)
		}
	}
}

// TestParseMarshalRoundTrip checks that Parse reads the output of toml.Marshal.
func TestParseMarshalRoundTrip(t *testing.T) {
	for _, c := range []*Config{Default(), mustParse(t, fmt.Sprintf(everything, gatewayURI(1), gatewayURI(2)))} {
		text, err := toml.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if back := mustParse(t, string(text)); !reflect.DeepEqual(normal(back), normal(c)) {
			t.Errorf("read\n%+v, want\n%+v", back, c)
		}
	}
}

// normal replaces an empty list of gateways by nil.
func normal(c *Config) *Config {
	if len(c.Gateways) == 0 {
		c.Gateways = nil
	}
	return c
}

func TestParseRejects(t *testing.T) {
	self := gatewayURI(1).String()
	for _, c := range []struct {
		text     string
		line     int
		key      string
		contains []string
	}{
		// Syntax errors.
		{"port == 1", 1, "", []string{"="}},
		{"\n[listen\nport = 1", 2, "", nil},
		{"[listen]\nport = 1\n\nport = 2", 4, "port", []string{"already defined"}},
		{"[log]\n[log]", 2, "log", nil},
		{"identity = \"\n", 1, "", nil},
		{"identity = \"\xff\"", 1, "", nil},
		{"[listen]\nport = 99999999999999999999", 2, "", []string{"too large"}},

		// Unknown keys and tables.
		{"[listen]\n\nprot = 1", 3, "", []string{"no key listen.prot", "did you mean listen.port?"}},
		{"[listen]\nPort = 1", 2, "", []string{"no key listen.Port", "did you mean listen.port?"}},
		{"port = 1", 1, "", []string{"no key port", "did you mean listen.port?"}},
		{"[log]\nlisten = \"\"", 2, "", []string{"did you mean metrics.listen?"}},
		{"\n[lisen]\nport = 1\nx = 2", 2, "", []string{"no key lisen", "did you mean listen?"}},
		{"[listen.extra]\nx = 1", 1, "", []string{"no key listen.extra", "[listen] may contain addresses, gro, gso"}},
		{"whatever = 1", 1, "", []string{"no key whatever", "the file may contain access, control, egress"}},
		{"[[gateway]]\nuri = \"" + self + "\"\nurl = 1", 3, "", []string{"did you mean gateway.uri?"}},
		{"[[gateway]]\n[gateway.more]\nx = 1", 2, "", []string{"no key gateway.more"}},
		{"\"a b\\u001b\" = 1", 1, "", []string{`"a b\x1b"`}},
		{"\"\" = 1", 1, "", []string{`""`}},
		{"log = {level = \"info\",\n  leval = 1}", 1, "", []string{"did you mean log.level?"}},

		// Values of the wrong type.
		{"[listen]\nport = \"443\"", 2, "listen.port", []string{`"443" is not a whole number`}},
		{"[listen]\nport = 443.0", 2, "listen.port", []string{"443.0 is not a whole number"}},
		{"[listen]\ngso = 1", 2, "listen.gso", []string{"1 is not true or false"}},
		{"[listen]\ngso = \"true\"", 2, "listen.gso", []string{"true or false"}},
		{"[session]\nttl = 24", 2, "session.ttl", []string{"24 is not a duration in quotes"}},
		{"[session]\nttl = 12:00:00", 2, "session.ttl", []string{"12:00:00 is not a duration"}},
		{"identity = true", 1, "identity", []string{"true is not a string in quotes"}},
		{"[listen]\nsend_buffer = 1.5", 2, "listen.send_buffer", []string{"1.5 is not a size"}},
		{"[handshake]\nrate = \"fast\"", 2, "handshake.rate", []string{`"fast" is not a number`}},
		{"[egress]\nallow = \"10.0.0.0/8\"", 2, "egress.allow", []string{`"10.0.0.0/8" is not a list`, "a rule"}},
		{"[egress]\nown = \"10.0.0.1\"", 2, "egress.own", []string{"is not a list", "an IP address"}},
		{"[egress]\nallow = [\n  \"10.0.0.0/8\",\n\n  1,\n]", 5, "egress.allow", []string{"1 is not a rule"}},
		{"[egress]\nallow = [[\"10.0.0.0/8\"]]", 2, "egress.allow", []string{"a list is not a rule"}},
		{"[listen]\naddresses = [{}]", 2, "listen.addresses", []string{"a table is not an IP address"}},
		{"public = [1]", 1, "public", []string{"1 is not a host name"}},
		{"[handshake]\nkems = [1]", 2, "handshake.kems", []string{"1 is not the name of a key exchange"}},
		{"[[gateway]]\nuri = 1", 2, "gateway.uri", []string{"1 is not a gateway's URI"}},
		{"listen = 443", 1, "listen", []string{"443 is not a table", "[listen]"}},
		{"[[listen]]\nport = 1", 1, "listen", []string{"[listen]"}},
		{"[gateway]\nuri = 1", 1, "gateway", []string{"[[gateway]]"}},
		{"gateway.uri = \"" + self + "\"", 1, "gateway", []string{"[[gateway]]"}},
		{"gateway = \"" + self + "\"", 1, "gateway", []string{"[[gateway]]"}},
		{"gateway = [1]", 1, "gateway", []string{"1 is not a table"}},
		{"[listen.port]\nx = 1", 1, "listen.port", []string{"a whole number"}},
		{"listen.port.x = 1", 1, "listen.port", []string{"a table is not a whole number"}},

		// Strings that the type of the key does not accept.
		{"[session]\nttl = \"24\"", 2, "session.ttl", []string{`"24"`, `"24h"`}},
		{"[session]\nttl = \"-1h\"", 2, "session.ttl", []string{`"-1h"`}},
		{"[session]\nttl = \"1d\"", 2, "session.ttl", []string{`"1d"`}},
		{"[listen]\nsend_buffer = \"4MB\"", 2, "listen.send_buffer", []string{`"4MB"`, "MiB"}},
		{"[listen]\naddresses = [\"192.0.2.1\",\n\"example.com\"]", 3, "listen.addresses", []string{`"example.com"`, "IP address"}},
		{"public = [\"https://example.com\"]", 1, "public", []string{`"https://example.com"`, "host name"}},
		{"public = [\"0.0.0.0\"]", 1, "public", []string{`"0.0.0.0"`, "not reachable"}},
		{"[handshake]\nkems = [\"ML-KEM-512\"]", 2, "handshake.kems", []string{`"ML-KEM-512"`, "ML-KEM-768"}},
		{"[handshake]\nkems = [\"mceliece\"]", 2, "handshake.kems", []string{"McEliece", "ML-KEM-768"}},
		{"[egress]\ndeny = [\"example.com\"]", 2, "egress.deny", []string{`"example.com"`, "198.51.100.0/24"}},
		{"[egress]\nown = [\"\"]", 2, "egress.own", []string{`""`, "IP address"}},
		{"[egress]\nown = [\"fe80::1%eth0\"]", 2, "egress.own", []string{"fe80::1%eth0"}},
		{"[[gateway]]\nuri = \"exit.example.com\"", 2, "gateway.uri", []string{`"exit.example.com"`, "lewes://"}},
		{"identity = \"" + strings.Repeat("x", maxText+1) + "\"", 1, "identity", []string{"xxx…", "1024"}},

		// Values outside their limits, and contradictions.
		{"identity = \"~/key\"", 1, "identity", []string{`"~/key"`, "whole path"}},
		{"state_dir = \"~\"", 1, "state_dir", []string{"whole path"}},
		{"[access]\nclients = \"~lewes/clients\"", 2, "access.clients", []string{"whole path"}},
		{"identity = \"a\\u0000b\"", 1, "identity", []string{"zero byte"}},
		{"[access]\nmode = \"closed\"", 2, "access.mode", []string{`"closed"`, `"listed", "open"`}},
		{"[listen]\noffload = \"yes\"", 2, "listen.offload", []string{`"yes"`, `"auto", "on", "off"`}},
		{"[log]\nlevel = \"trace\"", 2, "log.level", []string{`"trace"`, `"debug", "info", "warn", "error"`}},
		{"[log]\nformat = \"text\"", 2, "log.format", []string{`"text"`, `"console", "json"`}},
		{"[metrics]\nlisten = \":9264\"", 2, "metrics.listen", []string{`":9264"`, "127.0.0.1:9264"}},
		{"[handshake]\nkems = []", 2, "handshake.kems", []string{"empty", "ML-KEM-768"}},
		{"[handshake]\nkems = [\"X-Wing\",\n\"xwing\"]", 3, "handshake.kems", []string{`"X-Wing"`, "twice", "entry 1"}},
		{"[handshake]\nkems = [\"X-Wing\",\n\"X25519\"]", 3, "handshake.kems", []string{`"X25519"`, "allow_x25519_kem"}},
		{"[session]\nttl = \"1h500ms\"", 2, "session.ttl", []string{"1h0m0.5s", "whole number of seconds"}},
		{"[session]\nrekey_after = \"1500ms\"", 2, "session.rekey_after", []string{"1.5s", "whole number of seconds"}},
		{"[flows]\nmax = 100", 1, "flows.max_per_session", []string{"256", "flows.max, 100"}},
		{"[flows]\n\nmax = 100\nmax_per_session = 101", 4, "flows.max_per_session", []string{"101", "flows.max, 100"}},
		{"[egress]\nallow = [\"10.0.0.0/8\", \"*:443\"]", 2, "egress.allow", []string{`"*:443"`, "opens nothing"}},
		{"[egress]\nown = [\"0.0.0.0\"]", 2, "egress.own", []string{`"0.0.0.0"`}},
		{"[egress]\nports = \"59999-20000\"", 2, "egress.ports", []string{"59999-20000", "fewer than 100 ports"}},
		{"[registration]\nissuers = [\"https://issuer.example\"]", 2, "registration.issuers", []string{"has no #PIN"}},
		{"[registration]\nissuers = [\"http://issuer.example#" + gatewayURI(1).Identity.String() + "\"]", 2, "registration.issuers", []string{"only loopback"}},
		{"[registration]\nissuers = [\"/etc/issuer#pin\"]", 2, "registration.issuers", []string{"pin of the issuer"}},
		{"[registration]\nissuers = [\"issuer\"]", 2, "registration.issuers", []string{"https://HOST#PIN"}},
		{"[registration]\naccess = \"paid\"", 2, "registration.access", []string{`"paid"`, `"tickets"`}},
		{"[registration]\naccess = \"tickets\"", 2, "registration.access", []string{"registration.issuers"}},
		{"[access]\nmode = \"open\"\n[registration]\naccess = \"listed\"", 4, "registration.access", []string{"access.mode"}},
		{"[registration]\non_failure = \"go on\"", 2, "registration.on_failure", []string{`"go on"`, `"serve"`}},
		{"[registration]\nmix_node = \"mix.example\"", 2, "registration.mix_node", []string{"IP address and a port"}},
		{"[registration]\nissuers = [1]", 2, "registration.issuers", []string{"an issuer in quotes"}},
		{"[registration]\nissuers = [\"~/issuer#" + gatewayURI(1).Identity.String() + "\"]", 2, "registration.issuers", []string{"only a shell"}},
		{"[wireguard]\nipv4 = \"10.77.0.1/16\"", 2, "wireguard.ipv4", []string{"10.77.0.1/16", "10.77.0.0/16"}},
		{"[wireguard]\nipv4 = \"10.77.0.0\"", 2, "wireguard.ipv4", []string{"is not a network"}},
		{"[wireguard]\nipv4 = 10", 2, "wireguard.ipv4", []string{"a network in quotes"}},
		{"[wireguard]\nipv4 = \"fd77::/64\"", 2, "wireguard.ipv4", []string{"other IP version"}},
		{"[wireguard]\nipv6 = \"10.77.0.0/16\"", 2, "wireguard.ipv6", []string{"other IP version"}},
		{"[wireguard]\nipv4 = \"10.77.0.0/31\"", 2, "wireguard.ipv4", []string{"no room", "30"}},
		{"[wireguard]\nipv6 = \"fd77::/127\"", 2, "wireguard.ipv6", []string{"no room", "126"}},
		{"[wireguard]\nendpoint = \"http://vpn\"", 2, "wireguard.endpoint", []string{"is not a host"}},
		{"public = [\"gw\"]\n[wireguard]\ndevice = \"wg0\"", 3, "wireguard.device", []string{"wireguard.ipv4"}},
		{"public = [\"gw\"]\n[wireguard]\ndevice = \"w/0\"\nipv4 = \"10.77.0.0/16\"", 3, "wireguard.device", []string{"w/0"}},
		{"[egress]\nports = \"20000\"", 2, "egress.ports", []string{"20000", "20000-59999"}},
		{"[egress]\nports = \"80-20000\"", 2, "egress.ports", []string{"begins below port 1024"}},
		{"[listen]\naddresses = [\"::\", \"::\"]", 2, "listen.addresses", []string{`"::"`, "twice"}},
		{"public = [\"a.example\", \"A.example\"]", 1, "public", []string{`"a.example"`, "twice"}},
		{"[[gateway]]\nuri = \"" + self + "\"\n[[gateway]]\nname = \"x\"", 3, "gateway", []string{"no uri"}},
		{"[[gateway]]\nuri = \"" + self + "\"\n[[gateway]]\nuri = \"" + self + "\"", 4, "gateway.uri", []string{self, "entry 1"}},
		{"[[gateway]]\nuri = \"" + self + "\"\nname = \"a\\nb\"", 3, "gateway.name", []string{`"a\nb"`, "printable"}},
		{"[[gateway]]\nuri = \"" + self + "\"\nname = \"" + strings.Repeat("n", maxName+1) + "\"", 3, "gateway.name", []string{"nnn", "64"}},
		{
			"[[gateway]]\nuri = \"" + self + "\"\nname = \"x\"\n[[gateway]]\nuri = \"" + gatewayURI(2).String() + "\"\nname = \"x\"",
			6, "gateway.name", []string{`"x"`, "entry 1"},
		},
	} {
		list := problemsOf(t, c.text)
		p := list[0]
		if len(list) != 1 || p.Line != c.line || p.Key != c.key {
			t.Errorf("%.60q: %v (key %q, line %d), want one problem with %q in line %d", c.text, list, p.Key, p.Line, c.key, c.line)
		}
		for _, part := range c.contains {
			if !strings.Contains(p.String(), part) {
				t.Errorf("%.60q: %q does not contain %q", c.text, p, part)
			}
		}
		if strings.ContainsFunc(p.String(), func(r rune) bool { return r < ' ' }) || len(p.String()) > 600 {
			t.Errorf("%.60q: %q is not a single short line", c.text, p)
		}
		if strings.Contains(p.Reason, "config.") || strings.Contains(p.Reason, "%!") {
			t.Errorf("%.60q: %q contains a name from Go", c.text, p)
		}
	}
}

// bounds lists the keys with limits: each limit and the nearest value beyond it.
var bounds = []struct{ key, below, low, high, above string }{
	{"memory_limit", "-1", `"8GiB"`, "1125899906842624", "1125899906842625"},
	{"listen.port", "-1", "0", "65535", "65536"},
	{"listen.shards", "-1", "0", "256", "257"},
	{"listen.receive_buffer", "-1", "0", `"1GiB"`, "1073741825"},
	{"listen.send_buffer", "-1", "0", `"1GiB"`, "1073741825"},
	{"tcp.port", "-1", "0", "65535", "65536"},
	{"tcp.max_connections", "0", "64", "1048576", "1048577"},
	{"tcp.max_per_source", "0", "1", "1048576", "1048577"},
	{"access.totals", `"999ms"`, `"1s"`, `"24h"`, `"24h0m1s"`},
	{"handshake.max_records", "0", "1", "16777216", "16777217"},
	{"handshake.record_ttl", `"999ms"`, `"1s"`, `"10m"`, `"10m1ms"`},
	{"handshake.rate", "0.09", "0.1", "1000000", "1000000.1"},
	{"handshake.burst", "0", "1", "1000000", "1000001"},
	{"handshake.tries_per_second", "0", "1", "1000000", "1000001"},
	{"session.max", "0", "1", "16777216", "16777217"},
	{"session.ttl", `"0s"`, `"1s"`, `"8760h"`, `"8760h0m1s"`},
	{"session.rekey_after", `"0s"`, `"1s"`, `"24h"`, `"24h0m1s"`},
	{"session.max_datagram", "1079", "1080", "1500", "1501"},
	{"flows.max_per_session", "0", "1", "4096", "4097"},
	{"flows.max", "0", "1", "10000000", "10000001"},
	{"flows.idle", `"999ms"`, `"1s"`, `"120s"`, `"120001ms"`},
	{"forward.max_claims", "0", "1", "65536", "65537"},
}

func TestBounds(t *testing.T) {
	tried := map[string]bool{}
	for _, b := range bounds {
		tried[b.key] = true
		first := "\n"
		if b.key == "flows.max" {
			first = "flows.max_per_session = 1\n" // the default exceeds the values below
		} else if b.key == "tcp.max_per_source" {
			first = "tcp.max_connections = 1048576\n" // the default is below the values below
		}
		for _, v := range []string{b.low, b.high} {
			mustParse(t, first+b.key+" = "+v)
		}
		for _, v := range []string{b.below, b.above} {
			p := problemsOf(t, first+b.key+" = "+v)[0]
			if p.Line != 2 || p.Key != b.key || !strings.Contains(p.Reason, " is not from ") {
				t.Errorf("%s = %s: %v", b.key, v, p)
			}
		}
	}
	for _, k := range keys {
		if kind := k.typ.Kind(); (kind == reflect.Int || kind == reflect.Float64 || kind == reflect.Int64) && !tried[k.path] {
			t.Errorf("%s has no bounds here", k.path)
		}
	}
}

// TestLeastMemoryLimit: it depends on the shards and addresses, and is named.
func TestLeastMemoryLimit(t *testing.T) {
	for _, listen := range []string{"", "shards = 1", "shards = 16", "shards = 16\naddresses = [\"192.0.2.1\"]", "shards = 256\naddresses = [\"192.0.2.1\", \"192.0.2.2\", \"192.0.2.3\"]"} {
		text := func(limit Size) string { return "\nmemory_limit = \"" + limit.String() + "\"\n[listen]\n" + listen }
		least := mustParse(t, text(8<<30)).LeastMemoryLimit()
		mustParse(t, text(least))
		for _, limit := range []Size{1, 16 << 20, least - 1} {
			p := problemsOf(t, text(limit))[0]
			if p.Line != 2 || p.Key != "memory_limit" || !strings.HasPrefix(p.Reason, limit.String()+" is less") || !strings.Contains(p.Reason, "is "+least.String()+":") {
				t.Errorf("%q with %v: %v, want the least, %v", listen, limit, p, least)
			}
		}
	}
}

func TestListsAreBounded(t *testing.T) {
	entries := func(n int, format string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format+",", i/256, i%256)
		}
		return b.String()
	}
	for _, c := range []struct {
		key, entry string
		most       int
	}{
		{"public", `"198.51.%d.%d"`, maxHosts},
		{"listen.addresses", `"198.51.%d.%d"`, maxHosts},
		{"egress.deny", `"198.51.%d.%d"`, maxRules},
		{"egress.allow", `"10.0.%d.%d"`, maxRules},
		{"egress.own", `"198.51.%d.%d"`, maxRules},
	} {
		mustParse(t, c.key+" = ["+entries(c.most, c.entry)+"]")
		p := problemsOf(t, c.key+" = ["+entries(c.most+1, c.entry)+"]")
		if len(p) != 1 || p[0].Key != c.key || !strings.Contains(p[0].Reason, fmt.Sprint(c.most)) {
			t.Errorf("%s with one more: %v", c.key, p)
		}
	}
	c := Default()
	c.Gateways = make([]Gateway, maxGateways+1)
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "10001 entries are more than 10000") {
		t.Errorf("too many gateways: %v", err)
	}
}

func TestParseReportsAllProblemsAtOnce(t *testing.T) {
	_, err := Parse([]byte("[listen]\nport = \"x\"\ngsso = true\n[session]\nttl = \"24\"\n[egress]\nallow = [\"a\", \"10.0.0.0/8\", \"b\"]\n"))
	var e *Error
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	var lines []int
	for _, p := range e.Problems {
		lines = append(lines, p.Line)
		if !strings.Contains(err.Error(), "\n  "+p.String()) {
			t.Errorf("%q does not contain %v", err, p)
		}
	}
	if !slices.Equal(lines, []int{2, 3, 5, 7, 7}) || e.More != 0 {
		t.Errorf("problems in lines %v and %d more, want 2, 3, 5, 7, 7", lines, e.More)
	}

	// Unknown keys, wrong types and invalid values in one run.
	if list := problemsOf(t, "[session]\nmax_datagram = 1\nmax = true\nmin = 1\n[log]\nlevel = \"x\"\n"); len(list) != 4 || list[0].Line != 2 || list[1].Line != 3 || list[2].Line != 4 || list[3].Line != 6 {
		t.Errorf("problems %v, want those of lines 2, 3, 4 and 6", list)
	}

	if list := problemsOf(t, "[listen]\nport = -1\n[log]\nlevel = \"x\"\n"); len(list) != 2 || list[0].Line != 2 || list[1].Line != 4 {
		t.Errorf("problems %v, want those of lines 2 and 4", list)
	}

	_, err = Parse([]byte(strings.Repeat("[listen]\n", 1) + manyUnknown(maxProblems+5)))
	if !errors.As(err, &e) || len(e.Problems) != maxProblems || e.More != 5 || !strings.HasSuffix(err.Error(), "\n  and 5 more") {
		t.Errorf("error %v, want %d problems and 5 more", err, maxProblems)
	}
}

func TestPositions(t *testing.T) {
	p := problemsOf(t, "[listen]\n  port = 1 2\n")[0]
	if p.Line != 2 || p.Column != 12 {
		t.Errorf("syntax error at %d:%d, want 2:12", p.Line, p.Column)
	}
	p = problemsOf(t, "[listen]\n  prot = 1\n")[0]
	if got := p.String(); got != "line 2, column 3: there is no key listen.prot; did you mean listen.port?" {
		t.Errorf("%q", got)
	}
	var b strings.Builder // positions in a long directory take no quadratic time
	for i := range 5000 {
		fmt.Fprintf(&b, "[[gateway]]\nuri = %q\nnaem = \"g%d\"\n", gatewayURI(byte(i)), i)
	}
	if p := problemsOf(t, b.String())[19]; p.Line != 60 || p.Column != 1 {
		t.Errorf("problem %v in column %d, want line 60, column 1", p, p.Column)
	}
}

func manyUnknown(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "unknown%d = 1\n", i)
	}
	return b.String()
}

func TestValidate(t *testing.T) {
	c := Default()
	c.Listen.Port = 70000
	c.Egress.Allow = []policy.Rule{{}}
	err := c.Validate()
	var e *Error
	if !errors.As(err, &e) || len(e.Problems) != 2 || e.Problems[0].Line != 0 || e.File != "" {
		t.Fatalf("error %v, want two problems without lines", err)
	}
	if got, want := e.Problems[0].String(), "listen.port: 70000 is not from 0 to 65535"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if e.Problems[1].Key != "egress.allow" {
		t.Errorf("%v", e.Problems[1])
	}
	if err := (&Config{}).Validate(); err == nil {
		t.Error("a configuration of zeros is accepted")
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.toml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("\ufeff[listen]\nport = 443\n") // with a byte order mark
	if c, err := Load(path); err != nil || c.Listen.Port != 443 {
		t.Errorf("%+v, %v", c, err)
	}
	write("[listen]\nport = 70000\n")
	_, err := Load(path)
	if want := "configuration " + path + ": line 2: listen.port: 70000 is not from 0 to 65535"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	write(strings.Repeat("#", maxFile+1))
	if _, err := Load(path); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("a large file: %v", err)
	}
	missing := filepath.Join(t.TempDir(), "none")
	if _, err := Load(missing); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), missing) {
		t.Errorf("no file: %v", err)
	}
	if _, err := Load(t.TempDir()); err == nil {
		t.Error("a directory was read")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(fmt.Appendf(nil, everything, gatewayURI(1), gatewayURI(2)))
	f.Add([]byte("[listen]\nprot = 1\n[log]\nlevel = 3"))
	f.Add([]byte("[[gateway]]\n[gateway.uri]\n"))
	f.Add([]byte("egress.allow = [[[]], {a = 1}, 1979-05-27T07:32:00Z]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse(text)
		if err != nil {
			var e *Error
			if c != nil || !errors.As(err, &e) || len(e.Problems) == 0 {
				t.Fatalf("configuration %v and error %v, want no configuration and an Error", c, err)
			}
			for _, p := range e.Problems {
				if p.Line < 0 || p.Line > 1+strings.Count(string(text), "\n") || p.Reason == "" {
					t.Fatalf("problem %+v", p)
				}
			}
			return
		}
		if err := c.Validate(); err != nil {
			t.Fatalf("Validate rejects the result: %v", err)
		}
		again, err := toml.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		back, err := Parse(again)
		if err != nil {
			t.Fatalf("%s\nis rejected: %v", again, err)
		}
		if !reflect.DeepEqual(normal(back), normal(c)) {
			t.Fatalf("read\n%+v, want\n%+v", back, c)
		}
	})
}
