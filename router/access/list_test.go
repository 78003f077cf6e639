package access

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lewes/crypto/identity"
	"lewes/router/account"
)

func TestLoadMissingFile(t *testing.T) {
	l, err := Load(filepath.Join(t.TempDir(), "none"))
	if err != nil || l.state != nil || len(l.Entries()) != 0 || contains(l, client(1)) {
		t.Errorf("%+v, %v, want an empty list that is missing", l, err)
	}
	l, err = Load(file(t, ""))
	if err != nil || l.state == nil || len(l.Entries()) != 0 || contains(l, client(1)) {
		t.Errorf("%+v, %v, want an empty list that is not missing", l, err)
	}
}

func TestLoadErrorContainsFileAndLine(t *testing.T) {
	path := file(t, "# x\nanna\n")
	l, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	var bad *LineError
	if err := l.Err(); !errors.As(err, &bad) || bad.Path != path || bad.Line != 2 || bad.Value != "anna" {
		t.Errorf("error %v", err)
	}
}

func TestLoadRejectsOtherFiles(t *testing.T) {
	if _, err := Load(t.TempDir()); !errors.Is(err, ErrNotFile) {
		t.Errorf("a directory: %v, want ErrNotFile", err)
	}
	path := file(t, "# x\n")
	if _, err := Load(filepath.Join(path, "below")); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("below a file: %v, want an error that is no missing file", err)
	}
	if err := os.Truncate(path, MaxSize+1); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), path) {
		t.Errorf("a large file: %v, want ErrTooLarge", err)
	}
}

func TestLoadRejectsWritableByOthers(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("file modes say nothing about access on Windows")
	}
	path := file(t, client(1).String()+"\n")
	for mode := fs.FileMode(0o600); mode <= 0o677; mode++ {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := Load(path)
		if refused := errors.Is(err, ErrPermissions); refused != (mode&0o022 != 0) {
			t.Errorf("mode %04o: error %v", mode, err)
		}
		if err != nil && !strings.Contains(err.Error(), "chmod go-w "+path) {
			t.Errorf("%q does not say what to run", err)
		}
	}
}

func TestParseLimitsEntries(t *testing.T) {
	const most = 100
	text := manyLines(most)
	l, err := parse("clients", text, most)
	if err != nil || len(l.Entries()) != most {
		t.Fatalf("%v, %v", len(l.Entries()), err)
	}
	if _, err := parse("clients", append(text, client(200).String()...), most); !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "100") {
		t.Errorf("one more: %v, want ErrTooLarge", err)
	}
}

// contains reports whether a client is in a list.
func contains(l *List, client identity.PublicKey) bool {
	_, found := l.Find(client)
	return found
}

// client returns the identity number n.
func client(n byte) identity.PublicKey {
	return identity.FromSeed(&[32]byte{n}).Public()
}

func TestParse(t *testing.T) {
	a, b, c, d, e := client(1), client(2), client(3), client(4), client(5)
	text := strings.Join([]string{
		"# the clients",
		"",
		a.String() + "  anna-phone  sessions=2 rate=10MiB  # since May",
		"   \t",
		"\t" + b.String() + "\tbuild.7",
		"  # " + e.String() + " is not meant",
		c.String() + " flows=100 # nobody's # really ",
		d.String() + "\r",
		e.String() + " имя rate=1\tflows=1  sessions=2147483647 #",
	}, "\n")
	l, err := parse("clients", []byte(text), MaxEntries)
	if err != nil {
		t.Fatal(err)
	}
	want := []Entry{
		{a, "anna-phone", account.Limits{Sessions: 2, Rate: 10 << 20}, "since May", 3},
		{b, "build.7", account.Limits{}, "", 5},
		{c, "", account.Limits{Flows: 100}, "nobody's # really", 7},
		{d, "", account.Limits{}, "", 8},
		{e, "имя", account.Limits{Sessions: math.MaxInt32, Flows: 1, Rate: 1}, "", 9},
	}
	if fmt.Sprint(l.Entries()) != fmt.Sprint(want) || len(l.Entries()) != len(want) {
		t.Fatalf("read %+v, want %+v", l.Entries(), want)
	}
	for i, e := range want {
		if l.Entries()[i] != e {
			t.Errorf("entry %d is %+v, want %+v", i, l.Entries()[i], e)
		}
		if !contains(l, e.Identity) {
			t.Errorf("%v is not in the list", e)
		}
	}
	if contains(l, client(6)) || contains(l, identity.PublicKey{}) {
		t.Error("somebody else is in the list")
	}
}

func TestParseRejectsInvalidLines(t *testing.T) {
	key := client(1).String()
	weak := identity.PublicKey{1}
	for _, c := range []struct{ name, line, value, says string }{
		{"no identity", "anna", "anna", "not a public key"},
		{"half an identity", key[:20], key[:20], "bytes"},
		{"a mistyped identity", "0" + key[1:], "…", "not a public key"},
		{"a weak identity", weak.String(), "…", "low order"},
		{"the name first", "anna " + key, "anna", "not a public key"},
		{"two names", key + " anna phone", "phone", "follow the name"},
		{"a comment without its sign", key + " anna since May", "since May", "follow the name"},
		{"a name behind limits", key + " sessions=2 anna", "anna", "follow the name"},
		{"an unknown key", key + " anna speed=2", "speed=2", "unknown key; the keys are sessions, flows, rate, bytes, expires"},
		{"a mistyped key", key + " anna sesions=2", "sesions=2", "did you mean sessions?"},
		{"a key in capitals", key + " Rate=2", "Rate=2", "did you mean rate?"},
		{"a key twice", key + " anna flows=2 flows=3", "flows=3", "twice"},
		{"no sessions", key + " sessions=0", "sessions=0", "from 1 to"},
		{"half a session", key + " sessions=0.5", "sessions=0.5", "whole number"},
		{"fewer than no flows", key + " flows=-1", "flows=-1", "from 1 to"},
		{"too many flows", key + " flows=2147483648", "flows=2147483648", "from 1 to"},
		{"a value with its sign", key + " flows=+1", "flows=+1", "whole number"},
		{"a key without a value", key + " anna sessions=", "sessions=", "whole number"},
		{"a value without a key", key + " anna =2", "=2", "unknown key"},
		{"spaces around =", key + " anna sessions = 2", "sessions = 2", "follow the name"},
		{"a rate of nothing", key + " rate=0MiB", "rate=0MiB", "positive"},
		{"a rate in decimal units", key + " rate=10MB", "rate=10MB", "not a size"},
		{"bytes without a period", key + " bytes=10GiB", "bytes=10GiB", "a size and a period"},
		{"bytes of nothing", key + " bytes=0/30d", "bytes=0/30d", "a size and a period"},
		{"bytes in decimal units", key + " bytes=10GB/30d", "bytes=10GB/30d", "not a size"},
		{"a period of nothing", key + " bytes=1/0d", "bytes=1/0d", "a size and a period"},
		{"a period without a unit", key + " bytes=1/30", "bytes=1/30", "a size and a period"},
		{"a period in months", key + " bytes=1/1m", "bytes=1/1m", "a size and a period"},
		{"a period of centuries", key + " bytes=1/3661d", "bytes=1/3661d", "at most 3660 days"},
		{"no such day", key + " expires=2027-02-29", "expires=2027-02-29", "2027-01-31"},
		{"a time for a day", key + " expires=2027-02-28T12:00:00Z", "expires=2027-02-28T12:00:00Z", "not a day"},
		{"a year of two digits", key + " expires=0027-02-28", "expires=0027-02-28", "not a day"},
		{"a comment at the value", key + " sessions=2#x", "sessions=2#x", "whole number"},
		{"two identities", key + " " + client(2).String(), client(2).String(), "one client"},
		{"a # in the name", key + " anna#phone", "anna#phone", "space before"},
		{"a # behind the identity", key + "#anna", key + "#anna", "public key"},
		{"a long name", key + " " + strings.Repeat("n", MaxName+1), "…", "longer than 64"},
		{"a long line", key + " # " + strings.Repeat("c", MaxLine), key, "longer than 1024"},
		{"a long comment line", "# " + strings.Repeat("c", MaxLine), "# …", "longer than 1024"},
		{"not UTF-8", key + " # \xff", key, "UTF-8"},
		{"an escape for terminals", key + " # \x1b[31m", key, "U+001B"},
		{"a turn of direction", key + " # \u202e", key, "U+202E"},
		{"a byte order mark inside", "\ufeff" + key, key, "U+FEFF"},
		{"a NUL", key + "\x00", key, "U+0000"},
		{"a carriage return inside", key + "\r anna", key, "U+000D"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := "# first\n" + client(9).String() + "  nine\n" + c.line + "\n" + client(8).String() + "\n"
			l, err := parse("/etc/lewes/clients", []byte(text), MaxEntries)
			if err != nil {
				t.Fatal(err)
			}
			if len(l.Entries()) != 2 || !contains(l, client(9)) || !contains(l, client(8)) {
				t.Errorf("the list is %v, want the other two lines", l.Entries())
			}
			err = l.Err()
			var bad *LineError
			if !errors.As(err, &bad) || len(l.Invalid()) != 1 || l.Invalid()[0] != bad {
				t.Fatalf("error %v, invalid lines %v; want one LineError", err, l.Invalid())
			}
			if bad.Line != 3 || bad.Path != "/etc/lewes/clients" || !strings.Contains(bad.Value, c.value) || len(bad.Value) > 64 {
				t.Errorf("error about %s, line %d, value %q; want line 3 with %q", bad.Path, bad.Line, bad.Value, c.value)
			}
			for _, text := range []string{"/etc/lewes/clients", "line 3", c.says, "a line is"} {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%q lacks %q", err, text)
				}
			}
		})
	}
}

func TestParseRejectsDuplicates(t *testing.T) {
	key := client(1).String()
	l, err := parse("clients", []byte("\n"+key+" anna sessions=1\n\n"+key+" berta sessions=9\n"), MaxEntries)
	if err != nil {
		t.Fatal(err)
	}
	var bad *LineError
	if err := l.Err(); !errors.As(err, &bad) || bad.Line != 4 || bad.Value != key || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("error %v, want one that names lines 4 and 2", err)
	}
	if limits, found := l.Find(client(1)); !found || limits.Sessions != 1 || len(l.Entries()) != 1 {
		t.Errorf("%+v, %v; want the first line to count", limits, found)
	}
	// Two devices may have one name.
	if l, err := parse("clients", []byte(key+" anna\n"+client(2).String()+" anna\n"), MaxEntries); err != nil || l.Err() != nil {
		t.Error(err, l.Err())
	}
}

func TestInvalidErrorIsBounded(t *testing.T) {
	l, err := parse("clients", bytes.Repeat([]byte("anna\n"), 1000), MaxEntries)
	if err != nil {
		t.Fatal(err)
	}
	text := l.Err().Error()
	for _, want := range []string{"clients has 1000 invalid lines", "line 1: \"anna\"", "line 5: ", "and 995 more", "a line is"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q lacks %q", text, want)
		}
	}
	if len(l.Invalid()) != 5 || strings.Contains(text, "line 6:") {
		t.Errorf("%d lines are kept; %s", len(l.Invalid()), text)
	}
}

func TestByteOrderMarkAndCRLF(t *testing.T) {
	a, b := client(1), client(2)
	path := file(t, "\ufeff"+a.String()+"  anna  sessions=2\r\n\r\n# x\r\n"+b.String()+"  berta\r\n")
	l, err := Load(path)
	if err != nil || l.Err() != nil {
		t.Fatal(err, l.Err())
	}
	if limits, found := l.Find(a); !found || limits.Sessions != 2 || !contains(l, b) {
		t.Errorf("the list is %v", l.Entries())
	}
	if _, err := Remove(path, "anna"); err != nil {
		t.Fatal(err)
	}
	if got, want := content(t, path), "\ufeff\r\n# x\r\n"+b.String()+"  berta\r\n"; got != want {
		t.Errorf("the file holds %q, want %q", got, want)
	}
}

func TestDiff(t *testing.T) {
	list := func(text string) *List {
		l, err := parse("clients", []byte(text), MaxEntries)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	a, b, c, d := client(1), client(2), client(3), client(4)
	before := list(a.String() + "\n" + b.String() + " berta flows=1\n" + c.String() + " sessions=1\n")
	after := list(d.String() + "\n" + c.String() + " sessions=2\n" + b.String() + " other flows=1\n")
	added, removed, changed := Diff(before, after)
	want := func(what string, got []identity.PublicKey, want ...identity.PublicKey) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	want("added", added, d)
	want("removed", removed, a)
	want("changed", changed, c)
	added, removed, changed = Diff(new(List), after)
	want("added to nothing", added, d, c, b)
	want("removed from nothing", removed)
	want("changed in nothing", changed)
}

func TestLineLengthLimit(t *testing.T) {
	line := client(1).String() + "  " + strings.Repeat("n", MaxName) + "  # "
	line += strings.Repeat("c", MaxLine-len(line))
	for _, end := range []string{"", "\n", "\r\n"} {
		l, err := parse("clients", []byte(line+end), MaxEntries)
		if err != nil || l.Err() != nil || len(l.Entries()) != 1 || len(l.Entries()[0].Name) != MaxName {
			t.Errorf("a line of %d bytes and %q: %v", len(line), end, err)
		}
	}
	if l, _ := parse("clients", []byte(line+"c"), MaxEntries); !errors.Is(l.Err(), errLong) {
		t.Errorf("one byte more: %v", l.Err())
	}
}

// entries draws valid entries.
func entries() *rapid.Generator[Entry] {
	return rapid.Custom(func(t *rapid.T) Entry {
		e := Entry{Identity: client(rapid.Byte().Draw(t, "client"))}
		e.Name = rapid.OneOf(rapid.Just(""), rapid.StringMatching(`[a-zä-ü0-9._@+-]{1,20}`)).Draw(t, "name")
		e.Limits = account.Limits{
			Sessions: rapid.OneOf(rapid.Just(0), rapid.IntRange(1, math.MaxInt32)).Draw(t, "sessions"),
			Flows:    rapid.OneOf(rapid.Just(0), rapid.IntRange(1, math.MaxInt32)).Draw(t, "flows"),
			Rate:     rapid.OneOf(rapid.Just(uint64(0)), rapid.Uint64Max(math.MaxInt64), rapid.Just(uint64(10<<20))).Draw(t, "rate"),
		}
		if rapid.Bool().Draw(t, "has bytes") {
			e.Limits.Bytes = rapid.Uint64Range(1, math.MaxInt64).Draw(t, "bytes")
			e.Limits.Period = time.Duration(rapid.IntRange(1, 3660*24).Draw(t, "hours")) * time.Hour
			if e.Limits.Period > 1000*day {
				e.Limits.Period = e.Limits.Period.Truncate(day)
			}
		}
		if rapid.Bool().Draw(t, "expires") {
			e.Limits.Expires = time.Date(2026, 1, rapid.IntRange(1, 10_000).Draw(t, "day"), 0, 0, 0, 0, time.UTC)
		}
		e.Comment = strings.Trim(rapid.OneOf(rapid.Just(""), rapid.StringMatching(`[a-z #0-9<>é]{0,30}`)).Draw(t, "comment"), " ")
		return e
	})
}

// TestExpiry: a client is admitted on its last day, in UTC, and not after it.
func TestExpiry(t *testing.T) {
	l, err := parse("clients", []byte(client(1).String()+" expires=2027-01-31 bytes=10GiB/36h\n"+client(2).String()+" expires=2027-02-01\n"+client(3).String()), MaxEntries)
	if err != nil || l.Err() != nil {
		t.Fatal(err, l.Err())
	}
	end := time.Date(2027, 2, 1, 0, 0, 0, 0, time.UTC)
	limits, _ := l.Find(client(1))
	if limits.Expired(end.Add(-1)) || !limits.Expired(end) || limits.Bytes != 10<<30 || limits.Period != 36*time.Hour {
		t.Errorf("%+v", limits)
	}
	for _, c := range []struct {
		after, until time.Duration
		want         int
	}{{-2, -1, 0}, {-1, 0, 1}, {0, 1, 0}, {-1, 100 * day, 2}} {
		if got := l.Expired(end.Add(c.after), end.Add(c.until)); len(got) != c.want {
			t.Errorf("from %v until %v %d clients expire, want %d", c.after, c.until, len(got), c.want)
		}
	}
}

func TestLineRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := entries().Draw(t, "entry")
		line, err := render(e)
		if err != nil {
			t.Fatalf("%+v: %v", e, err)
		}
		l, err := parse("clients", []byte(line), MaxEntries)
		if err != nil {
			t.Fatal(err)
		}
		e.Line = 1
		if len(l.Entries()) != 1 || l.Entries()[0] != e {
			t.Fatalf("%+v was written %q and read as %+v", e, line, l.Entries())
		}
	})
}

func FuzzParse(f *testing.F) {
	a, b := client(1).String(), client(2).String()
	f.Add([]byte("# comment\n\n" + a + "  anna  # since May\n" + b + "\r\n"))
	f.Add([]byte(a + " anna\n" + a + " berta"))
	f.Add([]byte("\t" + a + "\t#\t#\n\n\n" + b + " # x"))
	f.Add([]byte(a + " anna phone\n"))
	f.Add([]byte("\ufeff" + a + " anna sessions=2 flows=10 rate=10MiB # x\r\n" + b + " rate=1"))
	f.Add([]byte(a + " anna sesions=2\n" + b + " anna\nanna"))
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := parse("clients", bytes.Clone(text), MaxEntries)
		if err != nil {
			t.Fatalf("error %v", err)
		}
		lines := bytes.Count(text, []byte("\n")) + 1
		invalid := l.invalidLines(text)
		if len(invalid) != l.wrong || (l.Err() != nil) != (l.wrong > 0) || len(l.Invalid()) != min(l.wrong, maxInvalid) {
			t.Fatalf("%d invalid lines, %d found, %d kept, error %v", l.wrong, len(invalid), len(l.Invalid()), l.Err())
		}
		for i, bad := range l.Invalid() {
			if bad.Line < 1 || bad.Line > lines || bad.Line != invalid[i].Line || len(bad.Value) > 64 {
				t.Fatalf("line %d of %d, value %q", bad.Line, lines, bad.Value)
			}
		}
		// The file without an invalid line has one less, and the same clients.
		for _, bad := range invalid {
			rest, err := parse("clients", deleteLine(bytes.Clone(text), bad.Line), MaxEntries)
			if err != nil || rest.wrong != l.wrong-1 || len(rest.Entries()) != len(l.Entries()) {
				t.Fatalf("without line %d: %v, %v", bad.Line, rest, err)
			}
		}
		for i, e := range l.Entries() {
			if limits, found := l.Find(e.Identity); !found || limits != e.Limits {
				t.Fatalf("%v is not in the list", e)
			}
			line, err := render(e)
			if errors.Is(err, errLong) {
				continue // tabs and single spaces are shorter than the form of render
			}
			if err != nil {
				t.Fatalf("%+v cannot be written: %v", e, err)
			}
			back, _, _, err := parseLine(line)
			back.Line = e.Line
			if err != nil || back != e {
				t.Fatalf("%+v was written %q and read as %+v, %v", e, line, back, err)
			}
			// The file without the client must not have it, nor another one less.
			found, err := l.find(text, e.Identity.String())
			if err != nil || found[0] != e {
				t.Fatalf("entry %d is found as %v, %v", i, found, err)
			}
			if len(found) > 1 {
				continue
			}
			rest, err := parse("clients", deleteLine(bytes.Clone(text), e.Line), MaxEntries)
			if err != nil || len(rest.Entries()) != len(l.Entries())-1 || contains(rest, e.Identity) {
				t.Fatalf("without line %d, entry %d: %v, %v", e.Line, i, rest, err)
			}
		}
	})
}

// manyLines returns the text of a file with n clients.
func manyLines(n int) []byte {
	var text bytes.Buffer
	var seed [32]byte
	for i := range n {
		seed[0], seed[1], seed[2] = byte(i), byte(i>>8), byte(i>>16)
		fmt.Fprintf(&text, "%v  client-%d  # added by a script\n", identity.FromSeed(&seed).Public(), i)
	}
	return text.Bytes()
}

func BenchmarkParse(b *testing.B) {
	const clients = 10_000
	text := manyLines(clients)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parse("clients", text, MaxEntries); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/clients, "ns/client")
}

func BenchmarkContains(b *testing.B) {
	l, err := parse("clients", manyLines(10_000), MaxEntries)
	if err != nil {
		b.Fatal(err)
	}
	known, other := l.Entries()[5_000].Identity, identity.PublicKey{1}
	b.ReportAllocs()
	for b.Loop() {
		if !contains(l, known) || contains(l, other) {
			b.Fatal("wrong answer")
		}
	}
}
