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
	"sync"
	"testing"

	"pgregory.net/rapid"

	"lewes/crypto/identity"
	"lewes/router/account"
)

// file creates a file of clients.
func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "clients")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// content returns a file's text, and fails if a temporary file is left beside it.
func content(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		if strings.HasSuffix(f.Name(), ".tmp") {
			t.Errorf("%s is left behind", f.Name())
		}
	}
	return string(text)
}

func TestAddCreatesFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "clients")
	if err := Add(path, Entry{Identity: client(1), Name: "anna", Comment: " since May "}); err != nil {
		t.Fatal(err)
	}
	if got, want := content(t, path), client(1).String()+"  anna  # since May\n"; got != want {
		t.Errorf("the file holds %q, want %q", got, want)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %04o, want 0600", info.Mode().Perm())
	}
	l, err := Load(path)
	if err != nil || !contains(l, client(1)) || l.state == nil {
		t.Errorf("%v, %v", l, err)
	}
}

func TestAddAndRemove(t *testing.T) {
	a, b, c := client(1), client(2), client(3)
	// Odd spacing, line ends of both kinds, and none at the end.
	text := "# clients\r\n\n" + a.String() + "\tanna   #  x \n  # " + b.String() + "\n\n" + b.String() + "  berta"
	path := file(t, text)
	if err := Add(path, Entry{Identity: c, Name: "carl"}); err != nil {
		t.Fatal(err)
	}
	if got, want := content(t, path), text+"\n"+c.String()+"  carl\n"; got != want {
		t.Errorf("after Add %q, want %q", got, want)
	}
	gone, err := Remove(path, "anna")
	if want := (Entry{Identity: a, Name: "anna", Comment: "x", Line: 3}); err != nil || gone != want {
		t.Errorf("removed %+v, %v, want %+v", gone, err, want)
	}
	if got, want := content(t, path), "# clients\r\n\n  # "+b.String()+"\n\n"+b.String()+"  berta\n"+c.String()+"  carl\n"; got != want {
		t.Errorf("after Remove %q, want %q", got, want)
	}
	if gone, err := Remove(path, b.String()); err != nil || gone.Name != "berta" {
		t.Errorf("removed %+v, %v, want berta", gone, err)
	}
	if gone, err := Remove(path, "carl"); err != nil || gone.Identity != c {
		t.Errorf("removed %+v, %v, want carl", gone, err)
	}
	if got, want := content(t, path), "# clients\r\n\n  # "+b.String()+"\n\n"; got != want {
		t.Errorf("at the end %q, want %q", got, want)
	}
}

func TestFailedEditChangesNothing(t *testing.T) {
	a, b, c := client(1), client(2), client(3)
	text := "#\n" + a.String() + "  anna\n" + b.String() + "  twin\n" + c.String() + "  twin\n"
	path := file(t, text)
	add := func(e Entry) error { return Add(path, e) }
	remove := func(s string) error { _, err := Remove(path, s); return err }
	for _, x := range []struct {
		name string
		err  error
		want error
		text string
	}{
		{"an identity again", add(Entry{Identity: a, Name: "other"}), ErrDuplicate, "line 2"},
		{"a name again", add(Entry{Identity: client(4), Name: "anna"}), ErrDuplicate, "line 2"},
		{"no identity", add(Entry{Name: "nobody"}), ErrEntry, "not a usable Ed25519"},
		{"a name of two words", add(Entry{Identity: client(4), Name: "an na"}), ErrEntry, "one word"},
		{"a name with a line's end", add(Entry{Identity: client(4), Name: "an\nna"}), ErrEntry, "U+000A"},
		{"a name that begins a comment", add(Entry{Identity: client(4), Name: "#anna"}), ErrEntry, "#"},
		{"a name that is an identity", add(Entry{Identity: client(4), Name: client(5).String()}), ErrEntry, "identity"},
		{"a long name", add(Entry{Identity: client(4), Name: strings.Repeat("n", MaxName+1)}), ErrEntry, "64"},
		{"a comment of two lines", add(Entry{Identity: client(4), Comment: "x\n" + client(6).String()}), ErrEntry, "U+000A"},
		{"a comment that ends a line", add(Entry{Identity: client(4), Comment: "x\r"}), ErrEntry, "differently"},
		{"a long comment", add(Entry{Identity: client(4), Comment: strings.Repeat("c", MaxLine)}), ErrEntry, "1024"},
		{"remove nobody", remove(client(7).String()), ErrUnknown, client(7).String()},
		{"remove an unknown name", remove("berta"), ErrUnknown, `"berta"`},
		{"remove no name", remove(""), ErrUnknown, `""`},
		{"remove a name of two", remove("twin"), ErrAmbiguous, "lines 3, 4"},
	} {
		if !errors.Is(x.err, x.want) || !strings.Contains(x.err.Error(), x.text) || !strings.Contains(x.err.Error(), path) {
			t.Errorf("%s: error %v, want %v with %q", x.name, x.err, x.want, x.text)
		}
	}
	if got := content(t, path); got != text {
		t.Errorf("the file now holds %q", got)
	}
}

func TestInvalidLinesDoNotBlockEdits(t *testing.T) {
	a, b, c, d := client(1), client(2), client(3), client(4)
	path := file(t, a.String()+" anna\n"+b.String()+" berta sesions=2\nwhat is this\n"+a.String()+" anna-again\n")
	if err := Add(path, Entry{Identity: c, Name: "carl", Limits: account.Limits{Sessions: 2}}); err != nil {
		t.Errorf("Add beside invalid lines: %v", err)
	}
	// The identity is in an invalid line already.
	if err := Add(path, Entry{Identity: b}); !errors.Is(err, ErrDuplicate) || !strings.Contains(err.Error(), "line 2, which is invalid") {
		t.Errorf("Add: %v, want ErrDuplicate with the invalid line", err)
	}
	// A client goes with all its lines.
	if gone, err := Remove(path, "anna"); err != nil || gone.Identity != a || gone.Line != 1 {
		t.Errorf("removed %+v, %v", gone, err)
	}
	want := b.String() + " berta sesions=2\nwhat is this\n" + c.String() + "  carl  sessions=2\n"
	if got := content(t, path); got != want {
		t.Errorf("the file holds %q, want %q", got, want)
	}
	// The invalid lines go by the name, and by the number.
	if gone, err := Remove(path, "berta"); err != nil || gone.Identity != b || gone.Name != "berta" {
		t.Errorf("removed %+v, %v", gone, err)
	}
	if _, err := RemoveInvalid(path, 2); !errors.Is(err, ErrValid) {
		t.Errorf("a valid line by its number: %v, want ErrValid", err)
	}
	for _, line := range []int{-1, 0, 3, 4} {
		if _, err := RemoveInvalid(path, line); !errors.Is(err, ErrValid) {
			t.Errorf("line %d: %v, want ErrValid", line, err)
		}
	}
	if gone, err := RemoveInvalid(path, 1); err != nil || gone != "what is this" {
		t.Errorf("removed %q, %v", gone, err)
	}
	if got, want := content(t, path), c.String()+"  carl  sessions=2\n"; got != want {
		t.Errorf("the file holds %q, want %q", got, want)
	}
	// A name of a valid and an invalid line of different clients, and a mistyped identity.
	path = file(t, c.String()+" twin\n"+d.String()+" twin phone\n0"+d.String()[1:]+" dora\n")
	if _, err := Remove(path, "twin"); !errors.Is(err, ErrAmbiguous) || !strings.Contains(err.Error(), "lines 1, 2") {
		t.Errorf("Remove: %v, want ErrAmbiguous", err)
	}
	if gone, err := Remove(path, "0"+d.String()[1:]); err != nil || gone.Line != 3 {
		t.Errorf("removed %+v, %v", gone, err)
	}
}

func TestEditOfNoFile(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none")
	if _, err := Remove(missing, "anna"); !errors.Is(err, ErrUnknown) {
		t.Errorf("Remove from no file: %v, want ErrUnknown", err)
	}
	if _, err := os.Stat(missing); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Remove made a file: %v", err)
	}
	if err := Add(filepath.Join(t.TempDir(), "no folder", "clients"), Entry{Identity: client(2)}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Add in a missing directory: %v, want fs.ErrNotExist", err)
	}
}

func TestAmbiguousName(t *testing.T) {
	var text strings.Builder
	for n := range byte(12) {
		fmt.Fprintf(&text, "%v  twin\n", client(n))
	}
	_, err := Remove(file(t, text.String()), "twin")
	if !errors.Is(err, ErrAmbiguous) || !strings.Contains(err.Error(), "9, 10, …") || strings.Contains(err.Error(), ", 11") {
		t.Errorf("error %v, want the first ten lines", err)
	}
}

func TestEditKeepsModeAndLink(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("neither modes nor links without privileges on Windows")
	}
	path := file(t, "")
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []fs.FileMode{0o600, 0o640, 0o644, 0o604} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if err := Add(link, Entry{Identity: client(byte(mode))}); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("mode %04o is now %v, %v", mode, info.Mode(), err)
		}
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link is now %v, %v", info.Mode(), err)
	}
	if l, err := Load(path); err != nil || len(l.Entries()) != 4 {
		t.Errorf("%v, %v", l, err)
	}

	dangling := filepath.Join(t.TempDir(), "dangling")
	if err := os.Symlink(filepath.Join(t.TempDir(), "nothing"), dangling); err != nil {
		t.Fatal(err)
	}
	if err := Add(dangling, Entry{Identity: client(1)}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("through a link to nothing: %v, want fs.ErrNotExist", err)
	}
}

func TestAddThenRemoveRestoresFile(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		var text bytes.Buffer
		used := map[identity.PublicKey]bool{}
		names := map[string]bool{}
		for _, e := range rapid.SliceOfN(entries(), 0, 8).Draw(t, "entries") {
			text.WriteString(rapid.SampledFrom([]string{"", "\n", "# x\n", " \t\n", "#\r\n"}).Draw(t, "between"))
			if !used[e.Identity] {
				text.WriteString(e.String() + rapid.SampledFrom([]string{"\n", "\r\n", " \n"}).Draw(t, "end"))
			}
			used[e.Identity], names[e.Name] = true, true
		}
		path := filepath.Join(dir, "clients")
		if err := os.WriteFile(path, text.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		e := entries().Filter(func(e Entry) bool { return !used[e.Identity] && !names[e.Name] }).Draw(t, "new")
		if err := Add(path, e); err != nil {
			t.Fatal(err)
		}
		l, err := Load(path)
		if err != nil || !contains(l, e.Identity) || len(l.Entries()) != len(used)+1 {
			t.Fatalf("after Add: %v, %v", l, err)
		}
		by := e.Identity.String()
		if e.Name != "" && rapid.Bool().Draw(t, "by name") {
			by = e.Name
		}
		gone, err := Remove(path, by)
		gone.Line = 0
		if err != nil || gone != e {
			t.Fatalf("removed %+v, %v, want %+v", gone, err, e)
		}
		if got, _ := os.ReadFile(path); !bytes.Equal(got, text.Bytes()) {
			t.Fatalf("the file was %q and is %q", text.Bytes(), got)
		}
	})
}

func TestConcurrentEdits(t *testing.T) {
	path := file(t, "# clients\n")
	const editors, each = 4, 8
	var wg sync.WaitGroup
	for n := range editors {
		wg.Go(func() {
			for i := range each {
				for {
					err := Add(path, Entry{Identity: client(byte(n*each + i))})
					if err == nil {
						break
					}
					// Without directory locks, ErrChanged is expected.
					if !errors.Is(err, ErrChanged) {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	if l, err := Load(path); err != nil || len(l.Entries()) != editors*each {
		t.Errorf("%d clients, %v, want %d", len(l.Entries()), err, editors*each)
	}
}

func TestEditDetectsChangesByOthers(t *testing.T) {
	path := file(t, "# clients\n")
	others := "# somebody's editor was faster\n"
	err := edit(path, MaxEntries, func(text []byte, _ *List) ([]byte, error) {
		if err := os.WriteFile(path, []byte(others), 0o600); err != nil {
			t.Fatal(err)
		}
		return append(text, "# mine\n"...), nil
	})
	if !errors.Is(err, ErrChanged) || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v, want ErrChanged", err)
	}
	if got := content(t, path); got != others {
		t.Errorf("the file holds %q, want what the other wrote", got)
	}
	// Also if the file did not exist.
	path = filepath.Join(t.TempDir(), "clients")
	err = edit(path, MaxEntries, func(text []byte, _ *List) ([]byte, error) {
		return []byte("# mine\n"), os.WriteFile(path, []byte(others), 0o600)
	})
	if !errors.Is(err, ErrChanged) || content(t, path) != others {
		t.Errorf("error %v, want ErrChanged", err)
	}
}

func TestAddLimitsEntries(t *testing.T) {
	text := bytes.Repeat([]byte(strings.Repeat("#", 1023)+"\n"), MaxSize/1024)
	path := file(t, string(text))
	if err := Add(path, Entry{Identity: client(1)}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a file full of bytes: %v, want ErrTooLarge", err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != MaxSize {
		t.Errorf("the file has now %d bytes, %v", info.Size(), err)
	}

	path = file(t, "")
	for n := range byte(4) {
		err := add(path, Entry{Identity: client(n)}, 3)
		if full := n == 3; errors.Is(err, ErrTooLarge) != full {
			t.Errorf("client %d of 3: %v", n+1, err)
		}
	}
	if l, err := Load(path); err != nil || len(l.Entries()) != 3 {
		t.Errorf("%v, %v", l, err)
	}
}
