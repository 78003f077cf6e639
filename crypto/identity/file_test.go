package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// The output of openssl genpkey -algorithm ed25519 for the seed of RFC 8032,
// section 7.1, test 1.
const opensslKey = `-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g
-----END PRIVATE KEY-----
`

func TestSaveAndLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity.pem")
	key := FromSeed(&[32]byte{3})
	if err := key.Save(path); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %04o, want 0600", info.Mode().Perm())
	}
	got, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if got.Public() != key.Public() || !key.Public().Verify([]byte("x"), got.Sign([]byte("x"))) {
		t.Error("another key came back")
	}
}

func TestLoadOpenSSLKey(t *testing.T) {
	path := write(t, opensslKey, 0o600)
	key, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	const want = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
	if got := key.Public(); hex.EncodeToString(got[:]) != want {
		t.Errorf("public key %x, want %s", got, want)
	}
}

// Editors on Windows write a byte order mark and CR LF.
func TestLoadByteOrderMarkAndCRLF(t *testing.T) {
	want, err := Load(write(t, opensslKey, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	crlf := strings.ReplaceAll(opensslKey, "\n", "\r\n")
	for _, text := range []string{"\ufeff" + opensslKey, crlf, "\ufeff" + crlf, "\ufeff\r\n" + crlf} {
		if key, err := Load(write(t, text, 0o600)); err != nil || key.Public() != want.Public() {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestSaveDoesNotOverwrite(t *testing.T) {
	path := write(t, "what was here", 0o644)
	err := FromSeed(&[32]byte{3}).Save(path)
	if !errors.Is(err, ErrExists) || !errors.Is(err, fs.ErrExist) {
		t.Errorf("error %v, want ErrExists, an fs.ErrExist", err)
	}
	if err != nil && !strings.Contains(err.Error(), path) {
		t.Errorf("%q does not name the file", err)
	}
	if got, _ := os.ReadFile(path); string(got) != "what was here" {
		t.Errorf("the file now holds %q", got)
	}

	dangling := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Join(t.TempDir(), "elsewhere"), dangling); err != nil {
		t.Fatal(err)
	}
	if err := FromSeed(&[32]byte{3}).Save(dangling); !errors.Is(err, ErrExists) {
		t.Errorf("through a dangling link: error %v, want ErrExists", err)
	}
}

func TestSaveToMissingDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "no such folder", "identity.pem")
	err := FromSeed(&[32]byte{3}).Save(path)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v, want one of fs.ErrNotExist that names %s", err, path)
	}
}

func TestLoadRejectsPermissiveMode(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("file modes say nothing about access on Windows")
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o610, 0o601, 0o644, 0o777} {
		path := write(t, opensslKey, mode)
		_, err := Load(path)
		if !errors.Is(err, ErrPermissions) {
			t.Errorf("mode %04o: error %v, want ErrPermissions", mode, err)
		} else if !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("mode %04o: %q does not say what to run", mode, err)
		}
	}
	for _, mode := range []os.FileMode{0o600, 0o400} {
		if _, err := Load(write(t, opensslKey, mode)); err != nil {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
}

func TestLoadRejectsOtherFiles(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	otherKind := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	for _, c := range []struct{ name, text, says string }{
		{"empty", "", "no PEM block"},
		{"not PEM", "hello", "no PEM block"},
		{"a public key", strings.ReplaceAll(opensslKey, "PRIVATE KEY", "PUBLIC KEY"), `"PUBLIC KEY"`},
		{"the form of OpenSSH", strings.ReplaceAll(opensslKey, "PRIVATE KEY", "OPENSSH PRIVATE KEY"), `"OPENSSH PRIVATE KEY"`},
		{"an encrypted key", strings.ReplaceAll(opensslKey, "PRIVATE KEY", "ENCRYPTED PRIVATE KEY"), `"ENCRYPTED PRIVATE KEY"`},
		{"another kind of key", otherKind, "ecdsa"},
		{"two keys", opensslKey + opensslKey, "data after the key"},
		{"cut DER", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der[:20]})), "not an Ed25519"},
		{"too large", strings.Repeat("\n", maxFileSize) + opensslKey, "larger than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := write(t, c.text, 0o600)
			_, err := Load(path)
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("error %v, want ErrFormat", err)
			}
			if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%q does not name the file and say %q", err, c.says)
			}
		})
	}

	missing := filepath.Join(t.TempDir(), "none.pem")
	if _, err := Load(missing); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), missing) {
		t.Errorf("no file: error %v, want fs.ErrNotExist and its name", err)
	}
	if _, err := Load(t.TempDir()); !errors.Is(err, ErrFormat) {
		t.Errorf("a directory: error %v, want ErrFormat", err)
	}
}

func FuzzParsePEM(f *testing.F) {
	f.Add([]byte(opensslKey))
	f.Add([]byte(opensslKey + "x"))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, text []byte) {
		key, err := parsePEM(bytes.Clone(text))
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("error %v is not ErrFormat", err)
			}
			return
		}
		again, err := key.marshalPEM()
		if err != nil {
			t.Fatal(err)
		}
		back, err := parsePEM(again)
		if err != nil || back.Public() != key.Public() {
			t.Fatalf("what was written does not come back: %v", err)
		}
	})
}

func write(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "identity.pem")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}
