package config

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// StateDir returns the folder that a configuration means where it names none: the
// one that systemd gives the service ($STATE_DIRECTORY), else lewes in
// $XDG_STATE_HOME, else where the system keeps such things: /var/lib/lewes for root,
// ~/.local/state/lewes for others. It makes no folder.
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
		base, rest = "LocalAppData", "lewes" // which does not roam with its user
	case system == "darwin" || system == "ios":
		base, rest = "HOME", filepath.Join("Library", "Application Support", "lewes")
	case root:
		return "/var/lib/lewes", nil
	default:
		base, rest = "HOME", filepath.Join(".local", "state", "lewes")
	}
	dir := env(base)
	if dir == "" {
		return "", fmt.Errorf("there is no folder to keep state in: %s is not set in the environment; set it, or name a folder as state_dir in the configuration", base)
	}
	return filepath.Join(dir, rest), nil
}

// ResolveStateDir fills in StateDir where the configuration leaves it open.
func (c *Config) ResolveStateDir() error {
	if c.StateDir != "" {
		return nil
	}
	dir, err := StateDir()
	if err != nil {
		return err
	}
	c.StateDir = dir
	return nil
}

// IdentityFile returns the file with the gateway's private key. Where it is not named
// it is in StateDir.
func (c *Config) IdentityFile() string { return c.stateFile(c.Identity, "identity") }

// ClientsFile returns the file with the gateway's clients. Where it is not named it is
// in StateDir.
func (c *Config) ClientsFile() string { return c.stateFile(c.Access.Clients, "clients") }

func (c *Config) stateFile(named, usual string) string {
	if named != "" {
		return named
	}
	return filepath.Join(c.StateDir, usual)
}
