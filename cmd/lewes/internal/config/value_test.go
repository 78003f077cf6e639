package config

import (
	"encoding"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// text parses a value of any type and formats it again.
func text[T any, P interface {
	*T
	encoding.TextUnmarshaler
}](s string) (v T, written string, err error) {
	if err := P(&v).UnmarshalText([]byte(s)); err != nil {
		return v, "", err
	}
	b, err := any(v).(encoding.TextMarshaler).MarshalText()
	return v, string(b), err
}

func TestParseAndFormatValues(t *testing.T) {
	for _, c := range []struct {
		read func(string) (string, error)
		good map[string]string // with their formatted values
		bad  []string
	}{
		{
			func(s string) (string, error) { _, w, err := text[Duration](s); return w, err },
			map[string]string{"24h": "24h", "90s": "1m30s", "1h30m": "1h30m", "1.5h": "1h30m", "500ms": "500ms", "0s": "0s", "0": "0s", "10m": "10m", "1h0m5s": "1h0m5s", "10s": "10s"},
			[]string{"", "24", "-1s", "-0s", "1d", "s", "1 h", "9999999999h", "1h-5m"},
		},
		{
			func(s string) (string, error) { _, w, err := text[Size](s); return w, err },
			map[string]string{"0": "0", "1": "1", "1023": "1023", "1024": "1KiB", "64MiB": "64MiB", "65536KiB": "64MiB", "1GiB": "1GiB", "0MiB": "0", "9223372036854775807": "9223372036854775807", "8589934591GiB": "8589934591GiB"},
			[]string{"", "MiB", "-1", "+1", "1.5MiB", "64MB", "64mib", "64 MiB", "8589934592GiB", "9223372036854775808", "0x10", "1_000"},
		},
		{
			func(s string) (string, error) { _, w, err := text[Address](s); return w, err },
			map[string]string{"192.0.2.1": "192.0.2.1", "192.0.2.1:443": "192.0.2.1:443", "::": "::", "[::]:1": "[::]:1", "2001:DB8::1": "2001:db8::1", "::ffff:192.0.2.1": "192.0.2.1", "[::ffff:192.0.2.1]:5": "192.0.2.1:5", "fe80::1%eth0": "fe80::1%eth0"},
			[]string{"", "localhost", ":443", "192.0.2.1:", "192.0.2.1:0", "192.0.2.1:65536", "192.0.2.1/24", "[::]", "192.0.2", "*"},
		},
		{
			func(s string) (string, error) { _, w, err := text[Host](s); return w, err },
			map[string]string{"gw.example.com": "gw.example.com", "GW.example.com:443": "gw.example.com:443", "203.0.113.7": "203.0.113.7", "203.0.113.7:1": "203.0.113.7:1", "2001:db8::7": "2001:db8::7", "[2001:DB8::7]:443": "[2001:db8::7]:443", "::ffff:203.0.113.7": "203.0.113.7", "localhost": "localhost"},
			[]string{"", ":443", "a b", "gw.example.com:", "gw.example.com:0", "gw.example.com:65536", "gw.example.com/x", "lewes://x@y", "0.0.0.0", "::", "[::]:443", "::ffff:0.0.0.0", "fe80::1%eth0", "203.0.113", "-x", "[2001:db8::7]"},
		},
		{
			func(s string) (string, error) { _, w, err := text[KEM](s); return w, err },
			map[string]string{"ML-KEM-768": "ML-KEM-768", "mlkem768": "ML-KEM-768", "X-Wing": "X-Wing", "x25519": "X25519"},
			[]string{"", "ML-KEM-512", "mceliece", "0"},
		},
	} {
		for s, want := range c.good {
			if got, err := c.read(s); err != nil || got != want {
				t.Errorf("%q is formatted as %q, %v, want %q", s, got, err, want)
			}
		}
		for _, s := range c.bad {
			if got, err := c.read(s); err == nil {
				t.Errorf("%q was parsed as %q", s, got)
			} else if s != "mceliece" && !strings.Contains(err.Error(), `"`+s+`"`) {
				t.Errorf("%q: %q does not contain the value", s, err)
			}
		}
	}
}

func TestInvalidTextLeavesValueUnchanged(t *testing.T) {
	d, s, h, k := Duration(7), Size(7), Host{"a", 7}, KEM(1)
	a := Address{}
	for _, v := range []encoding.TextUnmarshaler{&d, &s, &a, &h, &k} {
		before := reflect.ValueOf(v).Elem().Interface()
		if err := v.UnmarshalText([]byte("what?")); err == nil || reflect.ValueOf(v).Elem().Interface() != before {
			t.Errorf("%T: error %v, and %v became %v", v, err, before, v)
		}
	}
}

func TestDurationAndSizeRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := Duration(rapid.OneOf(
			rapid.Int64Min(0), rapid.Map(rapid.Int64Range(0, 100000), func(n int64) int64 { return n * int64(time.Second) }),
		).Draw(t, "duration"))
		if back, _, err := text[Duration](d.String()); err != nil || back != d {
			t.Fatalf("%d is formatted as %q and parsed as %d, %v", d, d, back, err)
		}
		s := Size(rapid.OneOf(rapid.Int64Min(0), rapid.Map(rapid.Int64Range(0, 1<<20), func(n int64) int64 { return n << 10 })).Draw(t, "size"))
		if back, _, err := text[Size](s.String()); err != nil || back != s {
			t.Fatalf("%d is formatted as %q and parsed as %d, %v", s, s, back, err)
		}
	})
}
