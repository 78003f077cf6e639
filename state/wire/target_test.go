package wire

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func mustTarget(s string) Target { return AddrTarget(netip.MustParseAddrPort(s)) }

func drawTarget(t *rapid.T) Target {
	m := Target{Port: rapid.Uint16Min(1).Draw(t, "port")}
	switch rapid.SampledFrom([]TargetKind{TargetName, TargetIPv4, TargetIPv6}).Draw(t, "kind") {
	case TargetName:
		m.Name = []byte(rapid.StringMatching(`([a-zA-Z0-9_][a-zA-Z0-9_-]{0,40}\.){0,4}[a-z][a-z-]{0,20}\.?`).Draw(t, "name"))
	case TargetIPv4:
		m.Addr = netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "IPv4")))
	case TargetIPv6:
		b := array16(t, "IPv6")
		b[0] |= 0x20
		m.Addr = netip.AddrFrom16(b)
	}
	return m
}

func TestTargetRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawTarget(t)
		if err := m.Check(); err != nil {
			t.Fatal(err)
		}
		b := m.Append(nil)
		got, rest, err := CutTarget(append(b, "rest"...))
		if err != nil || !got.Equal(&m) || string(rest) != "rest" {
			t.Fatalf("%v, rest %q, %v; want %v", got, rest, err, m)
		}
		if got.Kind() != TargetKind(b[0]) || got.String() != m.String() || got.AddrPort() != m.AddrPort() {
			t.Fatalf("%v, want %v", got, m)
		}
		for n := range b {
			if _, _, err := CutTarget(b[:n]); err == nil {
				t.Fatalf("%d of %d bytes are enough", n, len(b))
			}
		}
		other := m
		other.Port ^= 1
		if m.Equal(&other) {
			t.Fatal("equal to one with another port")
		}
	})
}

func TestAddrTargetIsCanonical(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1:53":            "192.0.2.1:53",
		"[::ffff:192.0.2.1]:53":   "192.0.2.1:53",
		"[2001:db8::1]:53":        "[2001:db8::1]:53",
		"[fe80::1%eth0]:53":       "[fe80::1]:53",
		"[::ffff:0:192.0.2.1]:53": "[::ffff:0:c000:201]:53",
	} {
		m := mustTarget(in)
		got, rest, err := CutTarget(m.Append(nil))
		if err != nil || len(rest) != 0 || got.String() != want || !got.Equal(&m) {
			t.Errorf("%s: %v, %v; want %s", in, &got, err, want)
		}
	}
}

// The receiver rejects every target that Check rejects.
func TestInvalidTargetsAreRejected(t *testing.T) {
	for name, row := range map[string]struct {
		target Target
		want   error
	}{
		"nothing":          {Target{Port: 1}, ErrTargetKind},
		"empty name":       {Target{Name: []byte{}, Port: 1}, ErrName},
		"long name":        {Target{Name: bytes.Repeat([]byte("abc."), 64), Port: 1}, ErrName},
		"no name":          {Target{Name: []byte("a b"), Port: 1}, ErrName},
		"mapped":           {Target{Addr: netip.MustParseAddr("::ffff:127.0.0.1"), Port: 1}, ErrMapped},
		"port 0":           {Target{Addr: netip.MustParseAddr("192.0.2.1")}, ErrPort},
		"name with port 0": {Target{Name: []byte("a")}, ErrPort},
	} {
		if err := row.target.Check(); err != row.want {
			t.Errorf("%s: Check returned %v, want %v", name, err, row.want)
		}
		if got, _, err := CutTarget(row.target.Append(nil)); err == nil {
			t.Errorf("%s: taken by the other end as %v", name, got)
		}
	}
	if _, err := NameTarget("a b", 1); err != ErrName {
		t.Errorf("NameTarget: %v", err)
	}
	if m, err := NameTarget("example.com", 1); err != nil || m.String() != "example.com:1" {
		t.Errorf("NameTarget: %v, %v", m, err)
	}
}

func TestIsHostName(t *testing.T) {
	label := strings.Repeat("a", 63)
	for name, want := range map[string]bool{
		"a": true, "example.com": true, "example.com.": true, "EXAMPLE.Com": true, "_sip._udp.example.com": true, "a-b": true,
		"xn--bcher-kva.example": true, "1.2.3.example": true, "3com": true, "localhost": true, "0x": false,
		label + ".a": true, label + "a.a": false, strings.Join([]string{label, label, label, label}, "."): true,
		strings.Join([]string{label, label, label, label}, ".") + ".": false,
		"": false, ".": false, "a..b": false, ".a": false, "a..": false, "-a": false, "a.-b": false,
		"a b": false, "a/b": false, "a\x00b": false, "a:1": false, "[::1]": false, "::1": false, "bücher.example": false, "a%b": false, "a\n": false,
		"127.0.0.1": false, "127.0.0.1.": false, "127.1": false, "2130706433": false, "0x7f000001": false, "127.0.0.0X1": false, "a.0xfg": true,
	} {
		if got := IsHostName([]byte(name)); got != want {
			t.Errorf("IsHostName(%q) = %v", name, got)
		}
	}
}

func FuzzTarget(f *testing.F) {
	for _, s := range []string{"192.0.2.1:53", "[2001:db8::1]:443"} {
		m := mustTarget(s)
		f.Add(m.Append(nil))
	}
	f.Add((&Target{Name: []byte("example.com"), Port: 1}).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, rest, err := CutTarget(b)
		if err != nil {
			if !isNamed(err) || !m.Equal(&Target{}) || rest != nil {
				t.Fatalf("%v with %v, %x", err, m, rest)
			}
			return
		}
		if err := m.Check(); err != nil {
			t.Fatalf("%v is valid, but: %v", m, err)
		}
		if again := append(m.Append(nil), rest...); !bytes.Equal(again, b) {
			t.Fatalf("%x is appended as %x", b, again)
		}
		// A host and port that people can read back: nothing in it but what
		// they consist of.
		if s := m.String(); strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Fatalf("prints as %q", s)
		}
	})
}
