package uri

import (
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"lewes/crypto/identity"
)

func testKey(seed byte) identity.PublicKey {
	return identity.FromSeed(&[32]byte{seed}).Public()
}

func TestParse(t *testing.T) {
	key := testKey(1)
	id := key.String()
	for in, want := range map[string]string{
		"gw.example.com:4000":           "gw.example.com:4000",
		"gw.example.com":                "gw.example.com:51264",
		"gw.example.com/":               "gw.example.com:51264",
		"gw.example.com.:1":             "gw.example.com.:1",
		"GW.Example.COM":                "gw.example.com:51264",
		"localhost:65535":               "localhost:65535",
		"192.0.2.1":                     "192.0.2.1:51264",
		"192.0.2.1:1":                   "192.0.2.1:1",
		"[2001:db8::1]":                 "[2001:db8::1]:51264",
		"[2001:DB8:0:0::1]:9":           "[2001:db8::1]:9",
		"[2001:db8::1]:9/":              "[2001:db8::1]:9",
		"[::ffff:192.0.2.1]:9":          "192.0.2.1:9",
		"[::1]:51264":                   "[::1]:51264",
		"xn--bcher-kva.example:0051264": "xn--bcher-kva.example:51264",
	} {
		for _, scheme := range []string{"lewes://", "LEWES://"} {
			g, err := Parse(scheme + id + "@" + in)
			if err != nil {
				t.Errorf("%s: %v", in, err)
				continue
			}
			if g.Identity != key || g.Address() != want || g.String() != "lewes://"+id+"@"+want {
				t.Errorf("%s: read as %v", in, g)
			}
			host, port, err := net.SplitHostPort(g.Address())
			if err != nil || host != g.Host || port != strconv.Itoa(int(g.Port)) {
				t.Errorf("%s: net reads the address as %q, %q, %v", in, host, port, err)
			}
		}
	}
}

func TestParseTCPPort(t *testing.T) {
	id := testKey(1).String()
	for in, want := range map[string]struct{ out, address string }{
		"gw.example.com":                   {"gw.example.com:51264", "gw.example.com:41264"},
		"gw.example.com:1?tcp=2":           {"gw.example.com:1?tcp=2", "gw.example.com:2"},
		"gw.example.com?tcp=443":           {"gw.example.com:51264?tcp=443", "gw.example.com:443"},
		"gw.example.com/?tcp=443":          {"gw.example.com:51264?tcp=443", "gw.example.com:443"},
		"[2001:db8::1]?tcp=51264":          {"[2001:db8::1]:51264?tcp=51264", "[2001:db8::1]:51264"},
		"[2001:db8::1]:443/?tcp=41264":     {"[2001:db8::1]:443", "[2001:db8::1]:41264"},
		"192.0.2.1?access=open":            {"192.0.2.1:51264?access=open", "192.0.2.1:41264"},
		"192.0.2.1/?access=open&tcp=443":   {"192.0.2.1:51264?tcp=443&access=open", "192.0.2.1:443"},
		"192.0.2.1?access=tickets&tcp=443": {"192.0.2.1:51264?tcp=443&access=tickets", "192.0.2.1:443"},
		"192.0.2.1:443?tcp=041264":         {"192.0.2.1:443", "192.0.2.1:41264"},
		"[::ffff:192.0.2.1]:443?tcp=0443":  {"192.0.2.1:443?tcp=443", "192.0.2.1:443"},
	} {
		g, err := Parse("lewes://" + id + "@" + in)
		if err != nil || g.String() != "lewes://"+id+"@"+want.out || g.TCPAddress() != want.address {
			t.Errorf("%s: %v at %s, %v", in, g, g.TCPAddress(), err)
		}
		if g.TCPPort == DefaultTCPPort {
			t.Errorf("%s: the default port is %d", in, g.TCPPort)
		}
	}
	if g := (Gateway{Identity: testKey(1), Host: "h", Port: 1, TCPPort: DefaultTCPPort}); g.String() != "lewes://"+id+"@h:1" {
		t.Errorf("the default port is written: %v", g)
	}
}

// Each error names the value and says what to write.
func TestParseRejects(t *testing.T) {
	id := testKey(1).String()
	for _, row := range []struct {
		in    string
		want  error
		words string
	}{
		{"", ErrScheme, "expected lewes://IDENTITY@host:port"},
		{"gw.example.com", ErrScheme, "gw.example.com"},
		{"https://" + id + "@gw.example.com", ErrScheme, "https"},
		{" lewes://" + id + "@gw.example.com", ErrScheme, "lewes://"},
		{"lewes:/" + id + "@gw.example.com", ErrScheme, "lewes://"},
		{"lewes://gw.example.com:51264", ErrIdentity, "missing @"},
		{"lewes://@gw.example.com", ErrIdentity, "lewes://@gw.example.com"},
		{"lewes://" + id[:20] + "@gw.example.com", ErrIdentity, id[:20]},
		{"lewes://0OIl@gw.example.com", ErrIdentity, "0OIl"},
		{"lewes://" + strings.Repeat("1", 32) + "@gw.example.com", ErrIdentity, "low order"},
		{"lewes://" + id + ":password@gw.example.com", ErrIdentity, "password"},
		{"lewes://" + id + "@", ErrHost, "empty"},
		{"lewes://" + id + "@/", ErrHost, "empty"},
		{"lewes://" + id + "@:51264", ErrHost, "empty"},
		{"lewes://" + id + "@[]:51264", ErrHost, "IPv6"},
		{"lewes://" + id + "@2001:db8::1", ErrHost, "in brackets, as in [2001:db8::1]:51264"},
		{"lewes://" + id + "@[2001:db8::1", ErrHost, "in brackets"},
		{"lewes://" + id + "@2001:db8::1]:1", ErrHost, "neither"},
		{"lewes://" + id + "@[2001:db8::1]1", ErrHost, "between the brackets and the port"},
		{"lewes://" + id + "@x[2001:db8::1]:1", ErrHost, "neither"},
		{"lewes://" + id + "@[[::1]]:1", ErrHost, "no IPv6"},
		{"lewes://" + id + "@[192.0.2.1]:1", ErrHost, "192.0.2.1 without brackets"},
		{"lewes://" + id + "@[gw.example.com]:1", ErrHost, "only that goes in brackets"},
		{"lewes://" + id + "@[fe80::1%eth0]:1", ErrHost, `leave out "%eth0"`},
		{"lewes://" + id + "@0.0.0.0:51264", ErrHost, "0.0.0.0 is where a gateway listens"},
		{"lewes://" + id + "@[::]:51264", ErrHost, ":: is where a gateway listens"},
		{"lewes://" + id + "@[::ffff:0.0.0.0]:51264", ErrHost, "listens"},
		{"lewes://" + id + "@127.1", ErrHost, "127.1"},
		{"lewes://" + id + "@192.0.2.256", ErrHost, "192.0.2.256"},
		{"lewes://" + id + "@gw example.com", ErrHost, "gw example.com"},
		{"lewes://" + id + "@bücher.example", ErrHost, "xn--"},
		{"lewes://" + id + "@a@gw.example.com", ErrHost, "a@gw.example.com"},
		{"lewes://" + id + "@gw.example.com:", ErrPort, "1 to 65535"},
		{"lewes://" + id + "@gw.example.com:0", ErrPort, `"0"`},
		{"lewes://" + id + "@gw.example.com:65536", ErrPort, `"65536"`},
		{"lewes://" + id + "@gw.example.com:+1", ErrPort, `"+1"`},
		{"lewes://" + id + "@gw.example.com:http", ErrPort, `"http"`},
		{"lewes://" + id + "@[2001:db8::1]:", ErrPort, "leave out the colon"},
		{"lewes://" + id + "@gw.example.com:1//", ErrExtra, `leave out "//"`},
		{"lewes://" + id + "@gw.example.com:1/path", ErrExtra, `leave out "/path"`},
		{"lewes://" + id + "@gw.example.com:1?kem=0", ErrExtra, `leave out "?kem=0"`},
		{"lewes://" + id + "@gw.example.com:1?", ErrExtra, "only ?tcp=PORT and access=open"},
		{"lewes://" + id + "@gw.example.com:1?TCP=1", ErrExtra, `leave out "?TCP=1"`},
		{"lewes://" + id + "@gw.example.com:1//?tcp=1", ErrExtra, `leave out "//?tcp=1"`},
		{"lewes://" + id + "@gw.example.com?tcp=1&tcp=2", ErrExtra, `leave out "?tcp=1&tcp=2"`},
		{"lewes://" + id + "@gw.example.com?tcp=1#x", ErrExtra, "?tcp=1#x"},
		{"lewes://" + id + "@gw.example.com?access=closed", ErrExtra, `leave out "?access=closed"`},
		{"lewes://" + id + "@gw.example.com?access=open&access=open", ErrExtra, "access=open&access=open"},
		{"lewes://" + id + "@gw.example.com?tcp=1&", ErrExtra, "?tcp=1&"},
		{"lewes://" + id + "@gw.example.com?access=open&access=tickets", ErrExtra, "open&access=tickets"},
		{"lewes://" + id + "@gw.example.com?tcp=1&access=open&tcp=2", ErrExtra, "open&tcp=2"},
		{"lewes://" + id + "@gw.example.com#?tcp=1", ErrExtra, "#?tcp=1"},
		{"lewes://" + id + "@gw.example.com?tcp=", ErrTCPPort, "1 to 65535"},
		{"lewes://" + id + "@gw.example.com?tcp=0", ErrTCPPort, `leave out "tcp=0" for 41264`},
		{"lewes://" + id + "@gw.example.com?tcp=65536", ErrTCPPort, `"65536"`},
		{"lewes://" + id + "@gw.example.com?tcp=+1", ErrTCPPort, `"+1"`},
		{"lewes://" + id + "@gw.example.com?tcp=1/", ErrTCPPort, `"1/"`},
		{"lewes://" + id + "@gw.example.com:1#x", ErrExtra, `leave out "#x"`},
		{"lewes://" + id + "@" + strings.Repeat("a", 600), ErrTooLong, "at most 512"},
		{"lewes://" + id + "@gw\x1b[2J", ErrHost, `\x1b`},
	} {
		g, err := Parse(row.in)
		if !errors.Is(err, row.want) {
			t.Errorf("%q: %v, want %v", row.in, err, row.want)
			continue
		}
		if g != (Gateway{}) {
			t.Errorf("%q: refused, but returned as %v", row.in, g)
		}
		if text := err.Error(); !strings.Contains(text, row.words) || len(text) > 1200 {
			t.Errorf("%q: the error does not say %q: %v", row.in, row.words, err)
		}
		if strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' }) {
			t.Errorf("%q: the error shows control characters: %q", row.in, err)
		}
	}
	if _, err := Parse("lewes://" + strings.Repeat("1", 32) + "@h"); !errors.Is(err, identity.ErrWeakKey) {
		t.Errorf("a weak key: %v", err)
	}
}

func drawGateway(t *rapid.T) Gateway {
	g := Gateway{
		Identity: testKey(rapid.Byte().Draw(t, "key")),
		Port:     rapid.Uint16Min(1).Draw(t, "port"),
		TCPPort:  rapid.SampledFrom([]uint16{0, 0, 1, 443, 51264, 65535}).Draw(t, "TCP port"),
		Open:     rapid.Bool().Draw(t, "open"),
	}
	switch rapid.IntRange(0, 2).Draw(t, "host") {
	case 0:
		g.Host = rapid.StringMatching(`([a-z0-9_][a-z0-9-]{0,20}\.){0,4}[a-z][a-z-]{0,20}\.?`).Draw(t, "name")
	case 1:
		b := rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "IPv4")
		b[0] |= 1
		g.Host = netip.AddrFrom4([4]byte(b)).String()
	case 2:
		b := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "IPv6")
		b[0] |= 1
		g.Host = netip.AddrFrom16([16]byte(b)).String()
	}
	return g
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := drawGateway(t)
		if got, err := Parse(g.String()); err != nil || got != g {
			t.Fatalf("%v, %v; want %v", got, err, g)
		}
		b, err := json.Marshal(map[string]Gateway{"gateway": g})
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]Gateway
		if err := json.Unmarshal(b, &got); err != nil || got["gateway"] != g {
			t.Fatalf("%s: %v, %v; want %v", b, got, err, g)
		}
	})
}

func TestTextRejects(t *testing.T) {
	good := Gateway{Identity: testKey(1), Host: "gw.example.com", Port: 1, TCPPort: 2, Open: true}
	for name, g := range map[string]Gateway{
		"nothing":      {},
		"no identity":  {Host: good.Host, Port: 1},
		"no host":      {Identity: good.Identity, Port: 1},
		"no port":      {Identity: good.Identity, Host: good.Host},
		"a path":       {Identity: good.Identity, Host: "gw.example.com/x", Port: 1},
		"two accesses": {Identity: good.Identity, Host: good.Host, Port: 1, Open: true, Tickets: true},
	} {
		if b, err := g.MarshalText(); err == nil {
			t.Errorf("%s: written as %s", name, b)
		}
	}
	g := good
	if err := g.UnmarshalText([]byte("lewes://nobody")); err == nil || g != good {
		t.Errorf("an unreadable text: %v, %v", g, err)
	}
}

func FuzzParse(f *testing.F) {
	id := testKey(1).String()
	for _, address := range []string{"gw.example.com:1", "GW.", "[2001:db8::1]:9/", "[::ffff:1.2.3.4]", "192.0.2.1", "[fe80::1%1]:1", "a:b:c", "]:1", "h:1?tcp=2", "h/?tcp=41264", "h?access=open", "h?access=tickets"} {
		f.Add("lewes://" + id + "@" + address)
	}
	f.Fuzz(func(t *testing.T, s string) {
		g, err := Parse(s)
		if err != nil {
			if g != (Gateway{}) {
				t.Fatalf("%v with %v", g, err)
			}
			return
		}
		if again, err := Parse(g.String()); err != nil || again != g {
			t.Fatalf("%q is %v, once more %v, %v", s, g, again, err)
		}
		host, port, err := net.SplitHostPort(g.Address())
		if err != nil || host != g.Host || port != strconv.Itoa(int(g.Port)) || g.Port == 0 {
			t.Fatalf("%q: net reads %q as %q, %q, %v", s, g.Address(), host, port, err)
		}
		if host, port, err = net.SplitHostPort(g.TCPAddress()); err != nil || host != g.Host || port == "0" || g.TCPPort == DefaultTCPPort {
			t.Fatalf("%q: net reads %q as %q, %q, %v", s, g.TCPAddress(), host, port, err)
		}
	})
}
