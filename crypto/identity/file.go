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

	"lewes/crypto/wipe"
)

// maxFileSize bounds what Load reads; a key file has 119 bytes.
const maxFileSize = 16 << 10

const pemType = "PRIVATE KEY"

var (
	// ErrPermissions means that others than its owner may read or write a key
	// file.
	ErrPermissions = errors.New("others can read or write it")

	// ErrFormat means that a key file is not an Ed25519 key in PKCS#8 PEM.
	ErrFormat = errors.New("not an Ed25519 private key in PKCS#8 PEM")

	// ErrExists means that Save would have overwritten a file. It wraps
	// fs.ErrExist.
	ErrExists = fmt.Errorf("it is there already and is not overwritten: %w", fs.ErrExist)
)

// Load reads the private key in the file at path: PKCS#8 in PEM, as Save and
// openssl genpkey -algorithm ed25519 write it. A file that its group or others
// have any access to is refused with ErrPermissions, except on Windows, where
// the mode says nothing about that.
func Load(path string) (*PrivateKey, error) {
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("identity: there is no key file %s; make one with lewes keygen: %w", path, err)
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
	defer wipe.Bytes(text)
	n, err := io.ReadFull(f, text)
	if err == nil {
		return nil, fmt.Errorf("identity: key file %s is larger than %d bytes: %w", path, maxFileSize, ErrFormat)
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("identity: key file %s cannot be read: %w", path, err)
	}
	key, err := parsePEM(text[:n])
	if err != nil {
		return nil, fmt.Errorf("identity: key file %s: %w; make a new one with lewes keygen, or openssl genpkey -algorithm ed25519", path, err)
	}
	return key, nil
}

// Save writes the key to a new file at path with mode 0600 and waits until it
// is on the disk. A file that exists already is left as it is: ErrExists.
func (k *PrivateKey) Save(path string) error {
	text, err := k.marshalPEM()
	if err != nil {
		return err
	}
	defer wipe.Bytes(text)

	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("identity: key file %s: %w; choose another name, or move the old key away if nothing uses it", path, ErrExists)
	}
	if err != nil {
		return fmt.Errorf("identity: key file %s cannot be made: %w", path, err)
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		_ = os.Remove(path) // half a key is worse than none; the error below is the one to tell
		return fmt.Errorf("identity: key file %s cannot be written: %w", path, err)
	}
	return nil
}

// syncDir makes the name of a new file durable. Windows cannot sync a
// directory and does not need it.
func syncDir(path string) error {
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
	defer wipe.Bytes(der)
	return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), nil
}

// parsePEM reads exactly one PEM block with an Ed25519 key in it.
func parsePEM(text []byte) (*PrivateKey, error) {
	block, rest := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("no PEM block in it: %w", ErrFormat)
	}
	defer wipe.Bytes(block.Bytes)
	if block.Type != pemType {
		return nil, fmt.Errorf("its PEM block is %q, not %q: %w", block.Type, pemType, ErrFormat)
	}
	if len(bytes.TrimSpace(rest)) != 0 {
		return nil, fmt.Errorf("something follows the key: %w", ErrFormat)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrFormat, err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("it holds a %T: %w", parsed, ErrFormat)
	}
	defer wipe.Bytes(key)
	return FromSeed((*[SeedSize]byte)(key[:SeedSize])), nil
}
