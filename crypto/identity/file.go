package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// maxFileSize bounds the size of a key file, which has 119 bytes.
const maxFileSize = 16 << 10

const pemType = "PRIVATE KEY"

var (
	// ErrPermissions means that users other than its owner may access a key file.
	ErrPermissions = errors.New("others can read or write it")

	// ErrFormat means that a key file is not an Ed25519 key in PKCS#8 PEM.
	ErrFormat = errors.New("not an Ed25519 private key in PKCS#8 PEM")

	// ErrExists means that Save would overwrite a file. It wraps fs.ErrExist.
	ErrExists = fmt.Errorf("not overwritten: %w", fs.ErrExist)
)

// Load reads a private key file in PKCS#8 PEM, the format of Save and of openssl
// genpkey -algorithm ed25519. A file accessible by group or others gives
// ErrPermissions, except on Windows, where the mode does not show access.
func Load(path string) (*PrivateKey, error) {
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("identity: no key file %s; make one with lewes keygen %[1]s: %[2]w", path, err)
		}
		return nil, fmt.Errorf("identity: key file %s cannot be opened: %w", path, err)
	}
	defer f.Close()

	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("identity: key file %s: %w", path, err)
	}
	if info.IsDir() {
		return nil, fmt.Errorf("identity: %s is a directory: %w; name the file in it", path, ErrFormat)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" {
		return nil, fmt.Errorf("identity: key file %s has mode %04o: %w; run: chmod 600 %s", path, mode, ErrPermissions, path)
	}

	text := make([]byte, maxFileSize+1)
	defer clear(text)
	n, err := io.ReadFull(f, text)
	if err == nil {
		return nil, fmt.Errorf("identity: key file %s is larger than %d bytes: %w", path, maxFileSize, ErrFormat)
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("identity: key file %s cannot be read: %w", path, err)
	}
	key, err := parsePEM(text[:n])
	if err != nil {
		return nil, fmt.Errorf("identity: key file %s: %w; restore a backup of it, or move it away and make a new one with lewes keygen, or openssl genpkey -algorithm ed25519", path, err)
	}
	return key, nil
}

// Save writes the key to a new file at path with mode 0600 and syncs it to disk.
// An existing file gives ErrExists and is not changed.
func (k *PrivateKey) Save(path string) error {
	text, err := k.marshalPEM()
	if err != nil {
		return err
	}
	defer clear(text)

	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("identity: key file %s: %w; choose another name, or move the old key away if nothing uses it", path, ErrExists)
	}
	if err != nil {
		return fmt.Errorf("identity: key file %s cannot be made: %w; choose a folder that exists and that you can write to", path, err)
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = SyncDir(filepath.Dir(path))
	}
	if err != nil {
		_ = os.Remove(path) // a partial key is worse than none
		return fmt.Errorf("identity: key file %s cannot be written: %w", path, err)
	}
	return nil
}

// SyncDir syncs a directory to disk, which makes the name of a new file durable.
// Windows cannot sync a directory and does not need it.
func SyncDir(path string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (k *PrivateKey) marshalPEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(ed25519.PrivateKey(k.live().ed25519[:]))
	if err != nil {
		return nil, fmt.Errorf("identity: private key to PKCS#8: %w", err)
	}
	defer clear(der)
	return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), nil
}

// parsePEM parses exactly one PEM block with an Ed25519 key, after an optional byte order mark.
func parsePEM(text []byte) (*PrivateKey, error) {
	block, rest := pem.Decode(bytes.TrimPrefix(text, []byte("\ufeff")))
	if block == nil {
		return nil, fmt.Errorf("no PEM block: %w", ErrFormat)
	}
	defer clear(block.Bytes)
	if block.Type != pemType {
		return nil, fmt.Errorf("its PEM block is %q, not %q: %w", block.Type, pemType, ErrFormat)
	}
	if len(bytes.TrimSpace(rest)) != 0 {
		return nil, fmt.Errorf("data after the key: %w", ErrFormat)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrFormat, err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("it holds a %T: %w", parsed, ErrFormat)
	}
	defer clear(key)
	return FromSeed((*[SeedSize]byte)(key[:SeedSize])), nil
}
