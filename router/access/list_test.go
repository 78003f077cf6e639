package access

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"lewes/crypto/identity"
)

func TestLoadMissingFile(t *testing.T) {
	l, err := Load(filepath.Join(t.TempDir(), "none"))
	if err != nil || !l.missing || len(l.Entries()) != 0 || l.Contains(client(1)) {
		t.Errorf("%+v, %v, want an empty list that is missing", l, err)
	}
	l, err = Load(file(t, ""))
	if err != nil || l.missing || len(l.Entries()) != 0 || l.Contains(client(1)) {
		t.Errorf("%+v, %v, want an empty list that is not missing", l, err)
	}
}

func TestLoadErrorContainsFileAndLine(t *testing.T) {
	path := file(t, "# x\nanna\n")
	_, err := Load(path)
	var bad *LineError
	if !errors.As(err, &bad) || bad.Path != path || bad.Line != 2 || bad.Value != "anna" {
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

// client returns the identity number n.
func client(n byte) identity.PublicKey {
	return identity.FromSeed(&[32]byte{n}).Public()
}

func TestParse(t *testing.T) {
	a, b, c, d, e := client(1), client(2), client(3), client(4), client(5)
	text := strings.Join([]string{
		"# the clients",
		"",
		a.String() + "  anna-phone  # since May",
		"   \t",
		"\t" + b.String() + "\tbuild.7",
		"  # " + e.String() + " is not meant",
		c.String() + " # nobody's # really ",
		d.String() + "\r",
		e.String() + " имя #",
	}, "\n")
	l, err := parse("clients", []byte(text), MaxEntries)
	if err != nil {
		t.Fatal(err)
	}
	want := []Entry{
		{a, "anna-phone", "since May", 3},
		{b, "build.7", "", 5},
		{c, "", "nobody's # really", 7},
		{d, "", "", 8},
		{e, "имя", "", 9},
	}
	if fmt.Sprint(l.Entries()) != fmt.Sprint(want) || len(l.Entries()) != len(want) {
		t.Fatalf("read %+v, want %+v", l.Entries(), want)
	}
	for i, e := range want {
		if l.Entries()[i] != e {
			t.Errorf("entry %d is %+v, want %+v", i, l.Entries()[i], e)
		}
		if !l.Contains(e.Identity) {
			t.Errorf("%v is not in the list", e)
		}
	}
	if l.Contains(client(6)) || l.Contains(identity.PublicKey{}) {
		t.Error("somebody else is in the list")
	}
	if l.missing {
		t.Error("missing, though it was read")
	}
}

func TestParseRejectsInvalidLines(t *testing.T) {
	key := client(1).String()
	weak := identity.PublicKey{1}
	for _, c := range []struct{ name, line, value, says string }{
		{"no identity", "anna", "anna", "not a public key"},
		{"half an identity", key[:20], key[:20], "bytes"},
		{"a mistyped identity", "0" + key[1:], "0" + key[1:], "not a public key"},
		{"a weak identity", weak.String(), weak.String(), "low order"},
		{"the name first", "anna " + key, "anna", "not a public key"},
		{"two names", key + " anna phone", "phone", "follow the name"},
		{"a comment without its sign", key + " anna since May", "since May", "follow the name"},
		{"two identities", key + " " + client(2).String(), client(2).String(), "one client"},
		{"a # in the name", key + " anna#phone", "anna#phone", "space before"},
		{"a # behind the identity", key + "#anna", key + "#anna", "public key"},
		{"a long name", key + " " + strings.Repeat("n", MaxName+1), strings.Repeat("n", 64), "longer than 64"},
		{"a long line", key + " # " + strings.Repeat("c", MaxLine), key, "longer than 1024"},
		{"a long comment line", "# " + strings.Repeat("c", MaxLine), "# ccc", "longer than 1024"},
		{"not UTF-8", key + " # \xff", key, "UTF-8"},
		{"an escape for terminals", key + " # \x1b[31m", key, "U+001B"},
		{"a turn of direction", key + " # \u202e", key, "U+202E"},
		{"a byte order mark", "\ufeff" + key, key, "U+FEFF"},
		{"a NUL", key + "\x00", key, "U+0000"},
		{"a carriage return inside", key + "\r anna", key, "U+000D"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := "# first\n" + client(9).String() + "  nine\n" + c.line + "\n" + client(8).String() + "\n"
			l, err := parse("/etc/lewes/clients", []byte(text), MaxEntries)
			var bad *LineError
			if l != nil || !errors.As(err, &bad) {
				t.Fatalf("list %v, error %v; want no list and a LineError", l, err)
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
	_, err := parse("clients", []byte("\n"+key+" anna\n\n"+key+" berta\n"), MaxEntries)
	var bad *LineError
	if !errors.As(err, &bad) || bad.Line != 4 || bad.Value != key || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("error %v, want one that names lines 4 and 2", err)
	}
	// Two devices may have one name.
	if _, err := parse("clients", []byte(key+" anna\n"+client(2).String()+" anna\n"), MaxEntries); err != nil {
		t.Error(err)
	}
}

func TestLineLengthLimit(t *testing.T) {
	line := client(1).String() + "  " + strings.Repeat("n", MaxName) + "  # "
	line += strings.Repeat("c", MaxLine-len(line))
	for _, end := range []string{"", "\n", "\r\n"} {
		l, err := parse("clients", []byte(line+end), MaxEntries)
		if err != nil || len(l.Entries()) != 1 || len(l.Entries()[0].Name) != MaxName {
			t.Errorf("a line of %d bytes and %q: %v", len(line), end, err)
		}
	}
	if _, err := parse("clients", []byte(line+"c"), MaxEntries); !errors.Is(err, errLong) {
		t.Errorf("one byte more: %v", err)
	}
}

// entries draws valid entries.
func entries() *rapid.Generator[Entry] {
	return rapid.Custom(func(t *rapid.T) Entry {
		e := Entry{Identity: client(rapid.Byte().Draw(t, "client"))}
		e.Name = rapid.OneOf(rapid.Just(""), rapid.StringMatching(`[a-zä-ü0-9._@+-]{1,20}`)).Draw(t, "name")
		e.Comment = strings.Trim(rapid.OneOf(rapid.Just(""), rapid.StringMatching(`[a-z #0-9<>é]{0,30}`)).Draw(t, "comment"), " ")
		return e
	})
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
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := parse("clients", bytes.Clone(text), MaxEntries)
		if err != nil {
			var bad *LineError
			if !errors.As(err, &bad) {
				t.Fatalf("error %v is not a LineError", err)
			}
			if lines := bytes.Count(text, []byte("\n")) + 1; bad.Line < 1 || bad.Line > lines || len(bad.Value) > 64 {
				t.Fatalf("line %d of %d, value %q", bad.Line, lines, bad.Value)
			}
			return
		}
		for i, e := range l.Entries() {
			if !l.Contains(e.Identity) {
				t.Fatalf("%v is not in the list", e)
			}
			line, err := render(e)
			if err != nil {
				t.Fatalf("%+v cannot be written: %v", e, err)
			}
			if back, _, _, err := parseLine(line); err != nil || back.Identity != e.Identity || back.Name != e.Name || back.Comment != e.Comment {
				t.Fatalf("%+v was written %q and read as %+v, %v", e, line, back, err)
			}
			// The file without this line must be valid.
			start, end := lineBounds(text, e.Line)
			rest, err := parse("clients", append(bytes.Clone(text[:start]), text[end:]...), MaxEntries)
			if err != nil || len(rest.Entries()) != len(l.Entries())-1 || rest.Contains(e.Identity) {
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
		if !l.Contains(known) || l.Contains(other) {
			b.Fatal("wrong answer")
		}
	}
}
