package access

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestLoadNoFile(t *testing.T) {
	l, err := Load(filepath.Join(t.TempDir(), "none"))
	if err != nil || !l.Missing() || len(l.Entries()) != 0 || l.Contains(client(1)) {
		t.Errorf("%+v, %v, want an empty list that is missing", l, err)
	}
	l, err = Load(file(t, ""))
	if err != nil || l.Missing() || len(l.Entries()) != 0 || l.Contains(client(1)) {
		t.Errorf("%+v, %v, want an empty list that is not missing", l, err)
	}
}

func TestLoadNamesFileAndLine(t *testing.T) {
	path := file(t, "# x\nanna\n")
	_, err := Load(path)
	var bad *LineError
	if !errors.As(err, &bad) || bad.Path != path || bad.Line != 2 || bad.Value != "anna" {
		t.Errorf("error %v", err)
	}
}

func TestLoadRefuses(t *testing.T) {
	if _, err := Load(t.TempDir()); !errors.Is(err, ErrNotFile) {
		t.Errorf("a folder: %v, want ErrNotFile", err)
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

func TestLoadWantsThatOthersCannotWrite(t *testing.T) {
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

func TestParseKeepsTheBound(t *testing.T) {
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
