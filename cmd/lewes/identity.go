package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"lewes/crypto/identity"
)

// loadOrMake reads the identity in a file, and makes one there, with the folder
// for it, where there is no such file. made says that it did.
func loadOrMake(path string) (key *identity.PrivateKey, made bool, err error) {
	key, err = identity.Load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, false, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, false, fmt.Errorf("the folder for the identity cannot be made: %w", err)
	}
	key, err = makeIdentity(path)
	if errors.Is(err, fs.ErrExist) { // another process was faster
		key, err = identity.Load(path)
		return key, false, err
	}
	return key, err == nil, err
}

// makeIdentity makes a key and writes it to a file that is not there yet.
func makeIdentity(path string) (*identity.PrivateKey, error) {
	key, err := identity.Generate(rand.Reader)
	if err != nil {
		return nil, err
	}
	if err := key.Save(path); err != nil {
		key.Wipe()
		return nil, err
	}
	return key, nil
}
