package config

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"lewes/crypto/identity"
)

// StateDir returns the default state directory: systemd's $STATE_DIRECTORY, lewes in $XDG_STATE_HOME, or
// the system's usual place. It does not create it.
func StateDir() (string, error) {
	return stateDir(runtime.GOOS, os.Geteuid() == 0, os.Getenv)
}

func stateDir(system string, root bool, env func(string) string) (string, error) {
	if list := filepath.SplitList(env("STATE_DIRECTORY")); len(list) > 0 && list[0] != "" {
		return list[0], nil
	}
	if dir := env("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "lewes"), nil
	}
	var base, rest string
	switch {
	case system == "windows":
		base, rest = "LocalAppData", "lewes" // not synchronized with roaming profiles
	case system == "darwin" || system == "ios":
		base, rest = "HOME", filepath.Join("Library", "Application Support", "lewes")
	case root:
		return "/var/lib/lewes", nil
	default:
		base, rest = "HOME", filepath.Join(".local", "state", "lewes")
	}
	dir := env(base)
	if dir == "" {
		return "", fmt.Errorf("no state directory: %s is not set\nset it, or choose one with --state or, of a gateway, state_dir in the configuration", base)
	}
	return filepath.Join(dir, rest), nil
}

// LoadOrDefault reads a configuration file, or returns the default if file is empty. A non-empty dir
// overrides the state directory.
func LoadOrDefault(file, dir string) (*Config, error) {
	c := Default()
	if file != "" {
		var err error
		if c, err = Load(file); err != nil {
			return nil, err
		}
	}
	if dir != "" {
		c.StateDir = dir
	}
	needed := c.Identity == "" || c.Access.Clients == "" && c.Access.Mode != AccessOpen || c.Access.Totals > 0 || c.Registration.Access != RegistrationOff
	if c.StateDir == "" && needed {
		var err error
		if c.StateDir, err = StateDir(); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// IdentityFile returns the path of the gateway's private key.
func (c *Config) IdentityFile() string { return c.stateFile(c.Identity, "identity") }

// ClientsFile returns the path of the list of clients.
func (c *Config) ClientsFile() string { return c.stateFile(c.Access.Clients, "clients") }

// LedgerFile returns the path of the accounts of registered clients.
func (c *Config) LedgerFile() string { return c.stateFile(c.Registration.Ledger, "ledger") }

// TotalsFile returns the path of the traffic totals of the clients.
func (c *Config) TotalsFile() string { return filepath.Join(c.StateDir, "totals") }

// RuntimeDirectory is where the unit of the service puts its control socket.
const RuntimeDirectory = "/run/lewes"

// ControlSocket returns the path of the control socket of a gateway in this process: in systemd's
// $RUNTIME_DIRECTORY, or in the state directory. It is empty if there is neither.
func (c *Config) ControlSocket() string {
	if list := filepath.SplitList(os.Getenv("RUNTIME_DIRECTORY")); len(list) > 0 && list[0] != "" {
		return filepath.Join(list[0], controlName)
	}
	dir := c.StateDir
	if dir == "" {
		dir, _ = StateDir()
	}
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, "run", controlName)
}

const controlName = "control.sock"

// ControlSockets returns the paths where the control socket of this configuration's gateway may be. A
// gateway of a service has it elsewhere than one that a user started.
func (c *Config) ControlSockets() (paths []string) {
	if path := c.ControlSocket(); path != "" {
		paths = append(paths, path)
	}
	if own, err := StateDir(); err != nil || c.StateDir == "" || c.StateDir == own {
		paths = append(paths, filepath.Join(RuntimeDirectory, controlName))
	}
	return paths
}

func (c *Config) stateFile(configured, name string) string {
	if configured != "" {
		return configured
	}
	return filepath.Join(c.StateDir, name)
}

// LoadOrCreateIdentity reads the identity in a file, or creates one there, together with its directory.
func LoadOrCreateIdentity(path string) (key *identity.PrivateKey, created bool, err error) {
	key, err = identity.Load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, false, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, false, fmt.Errorf("cannot create the directory of the identity: %w; choose another with --state", err)
	}
	key, err = CreateIdentity(path)
	if errors.Is(err, fs.ErrExist) { // another process was faster
		key, err = identity.Load(path)
		return key, false, err
	}
	return key, err == nil, err
}

// CreateIdentity generates a key and writes it to a file that does not exist yet.
func CreateIdentity(path string) (*identity.PrivateKey, error) {
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
