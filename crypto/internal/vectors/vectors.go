// Package vectors reads the reference vectors for tests: each package's own selection in its
// testdata, and the whole set in shared/vectors beside the module's root, if that directory exists.
package vectors

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// Each is EachFile for files of which only the "vectors" field, a T, is needed.
func Each[T any](t *testing.T, name string, check func(t *testing.T, v T)) {
	t.Helper()
	EachFile(t, name, func(t *testing.T, file *struct{ Vectors T }) { check(t, file.Vectors) })
}

// EachFile runs check on testdata/name, which must exist, and on the file of the
// same name in the shared directory, which may be absent.
func EachFile[F any](t *testing.T, name string, check func(t *testing.T, file *F)) {
	t.Helper()
	t.Run("testdata", func(t *testing.T) { check(t, OwnFile[F](t, name)) })
	t.Run("shared", func(t *testing.T) {
		path := filepath.Join(moduleRoot(t), "..", "shared", "vectors", name)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			t.Skip("no shared/vectors beside the module: only testdata was checked")
		}
		check(t, load[F](t, path))
	})
}

// Own returns the "vectors" field of testdata/name.
func Own[T any](t testing.TB, name string) T {
	t.Helper()
	return OwnFile[struct{ Vectors T }](t, name).Vectors
}

// OwnFile returns testdata/name.
func OwnFile[F any](t testing.TB, name string) *F {
	t.Helper()
	return load[F](t, filepath.Join("testdata", name))
}

func load[F any](t testing.TB, path string) *F {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file := new(F)
	if err := json.Unmarshal(text, file); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return file
}

func moduleRoot(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above the package")
		}
		dir = parent
	}
}

// Hex is a byte string written as hexadecimal digits in JSON.
type Hex []byte

// UnmarshalText parses hexadecimal digits.
func (h *Hex) UnmarshalText(text []byte) error {
	b, err := hex.AppendDecode(nil, text)
	*h = b
	return err
}
