package main

import (
	"strings"
	"testing"
)

func TestParseMapping(t *testing.T) {
	for _, row := range []struct{ text, local, target string }{
		{"5353=9.9.9.9:53", "127.0.0.1:5353", "9.9.9.9:53"},
		{":5353=9.9.9.9:53", "127.0.0.1:5353", "9.9.9.9:53"},
		{"0=9.9.9.9:53", "127.0.0.1:0", "9.9.9.9:53"},
		{"127.0.0.1:5353=dns.example:53", "127.0.0.1:5353", "dns.example:53"},
		{"localhost:5353=dns.example:53", "127.0.0.1:5353", "dns.example:53"},
		{"0.0.0.0:5353=[2001:db8::1]:53", "0.0.0.0:5353", "[2001:db8::1]:53"},
		{"[::1]:5353=[::ffff:9.9.9.9]:53", "[::1]:5353", "9.9.9.9:53"},
	} {
		m, err := parseMapping(row.text)
		if err != nil {
			t.Errorf("%s: %v", row.text, err)
			continue
		}
		if m.Local.String() != row.local || m.Target != row.target {
			t.Errorf("%s is %v to %s, want %s to %s", row.text, m.Local, m.Target, row.local, row.target)
		}
	}
}

func TestParseMappingRefuses(t *testing.T) {
	for _, row := range []struct{ text, why string }{
		{"", "no ="},
		{"5353", "no ="},
		{"=9.9.9.9:53", `local port ""`},
		{"65536=9.9.9.9:53", `local port "65536"`},
		{"-1=9.9.9.9:53", `local port "-1"`},
		{"x=9.9.9.9:53", `local port "x"`},
		{"::1:5353=9.9.9.9:53", `"::1:5353" is not a port or address:port`},
		{"example.com:5353=9.9.9.9:53", `"example.com" is not an IP address`},
		{"5353=", `target "" is not host:port`},
		{"5353=9.9.9.9", `target "9.9.9.9" is not host:port`},
		{"5353=9.9.9.9:0", `target port "0"`},
		{"5353=9.9.9.9:domain", `target port "domain"`},
		{"5353=:53", `target host ""`},
		{"5353=a_b:53=2", "target port"},
		{"5353=bücher.example:53", "xn--"},
		{"5353=[fe80::1%eth0]:53", "has a zone"},
	} {
		_, err := parseMapping(row.text)
		if err == nil {
			t.Errorf("%q was taken", row.text)
			continue
		}
		if !strings.Contains(err.Error(), row.why) || !strings.Contains(err.Error(), "expected LOCAL=TARGET") {
			t.Errorf("%q: %v; want %q and the form", row.text, err, row.why)
		}
	}
}

func FuzzParseMapping(f *testing.F) {
	f.Add("5353=9.9.9.9:53")
	f.Add("[::1]:0=[2001:db8::1]:65535")
	f.Add("localhost:1=example.com:53")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := parseMapping(text)
		if err != nil {
			return
		}
		again, err := parseMapping(m.Local.String() + "=" + m.Target)
		if err != nil || again != m {
			t.Fatalf("%q is %+v, and that reads as %+v, %v", text, m, again, err)
		}
	})
}
