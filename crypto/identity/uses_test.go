package identity_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lewes/crypto/kem"
)

// TestUsesOfIdentityKeys finds every place that signs, and shows that what KKT and PSQ sign can be told
// apart by its first byte.
//
// Shows R3.13.
func TestUsesOfIdentityKeys(t *testing.T) {
	root := filepath.Join("..", "..")
	uses := map[string]bool{}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return err
		}
		text, err := os.ReadFile(name)
		for line := range strings.Lines(string(text)) {
			if code, _, _ := strings.Cut(line, "//"); strings.Contains(code, ".Sign(") {
				relative, _ := filepath.Rel(root, name)
				uses[filepath.ToSlash(relative)] = true
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, known := range []string{
		"crypto/identity/private.go",   // the method itself
		"crypto/kkt/kkt.go",            // begins with 11
		"crypto/psq/psq.go",            // begins with a KEM's algorithm byte
		"crypto/tickets/list.go",       // an issuer's pin, no identity: begins with 6c
		"bench/scenario/operations.go", // measures with a key of its own
		// By crypto/tickets/list.go, and by RSA keys:
		"cmd/lewes/internal/issuer/issuer.go",
		"cmd/lewes/internal/issuer/server.go",
		"bench/scenario/register.go",
	} {
		if !uses[known] {
			t.Errorf("%s signs nothing", known)
		}
		delete(uses, known)
	}
	for name := range uses {
		t.Errorf("%s signs: not what begins with 00, 03, 05 or 11, unless it is KKT or PSQ", name)
	}
	for _, id := range []kem.ID{kem.X25519, kem.MLKEM768, kem.XWing} {
		first := kem.AppendCiphertextTLS(nil, id, make([]byte, 1))[0]
		if !bytes.Contains([]byte{0, 3, 5}, []byte{first}) {
			t.Errorf("the encoding of a ciphertext of %v begins with %02x", id, first)
		}
	}
}
