// Package vectors finds the reference vectors for tests: each package's own
// selection in its testdata, and the whole set in shared/vectors beside the
// module's root, where that folder is present.
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

// Each runs check on testdata/name, which must be there, and on name in the
// shared folder, which is skipped where the folder is absent. T is what the
// file's "vectors" field holds.
func Each[T any](t *testing.T, name string, check func(t *testing.T, v T)) {
	t.Helper()
	t.Run("testdata", func(t *testing.T) {
		check(t, Own[T](t, name))
	})
	t.Run("shared", func(t *testing.T) {
		path := filepath.Join(moduleRoot(t), "..", "shared", "vectors", name)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			t.Skip("no shared/vectors beside the module: only the package's own selection was checked")
		}
		check(t, load[T](t, path))
	})
}

// Own returns what the "vectors" field of testdata/name holds, for vectors
// that no shared file has.
func Own[T any](t *testing.T, name string) T {
	t.Helper()
	return load[T](t, filepath.Join("testdata", name))
}

func load[T any](t *testing.T, path string) T {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Vectors T `json:"vectors"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return file.Vectors
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

// Hex is a byte string that JSON holds as hexadecimal digits.
type Hex []byte

// UnmarshalText reads hexadecimal digits.
func (h *Hex) UnmarshalText(text []byte) error {
	b, err := hex.AppendDecode(nil, text)
	*h = b
	return err
}
