package config

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestStateDir(t *testing.T) {
	type env = map[string]string
	list := string(filepath.ListSeparator)
	for _, c := range []struct {
		system string
		root   bool
		env    env
		want   string // "" for an error
	}{
		{"linux", true, env{"HOME": "/root"}, "/var/lib/lewes"},
		{"linux", false, env{"HOME": "/home/anna"}, "/home/anna/.local/state/lewes"},
		{"linux", false, env{"HOME": "/home/anna", "XDG_STATE_HOME": "/srv/state"}, "/srv/state/lewes"},
		{"linux", false, env{"HOME": "/home/anna", "XDG_STATE_HOME": "state"}, "/home/anna/.local/state/lewes"}, // XDG ignores relative paths
		{"linux", false, env{"STATE_DIRECTORY": "/var/lib/lewes", "HOME": "/", "XDG_STATE_HOME": "/srv/state"}, "/var/lib/lewes"},
		{"linux", true, env{"STATE_DIRECTORY": "/var/lib/a" + list + "/var/lib/b"}, "/var/lib/a"},
		{"linux", false, env{}, ""},
		{"darwin", true, env{"HOME": "/var/root"}, "/var/root/Library/Application Support/lewes"},
		{"windows", false, env{"LocalAppData": "/Users/anna/AppData/Local"}, "/Users/anna/AppData/Local/lewes"},
		{"windows", false, env{}, ""},
	} {
		got, err := stateDir(c.system, c.root, func(key string) string { return c.env[key] })
		if filepath.ToSlash(got) != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s, root %v, %v: %q, %v, want %q", c.system, c.root, c.env, got, err, c.want)
		}
		if err != nil && !strings.Contains(err.Error(), "state_dir") {
			t.Errorf("%q does not name the remedy", err)
		}
	}
}

func TestFilesAreInStateDirectory(t *testing.T) {
	t.Setenv("STATE_DIRECTORY", "/var/lib/of-systemd")
	c, err := LoadOrDefault("", "")
	if err != nil {
		t.Fatal(err)
	}
	for got, want := range map[string]string{
		c.StateDir: "/var/lib/of-systemd", c.IdentityFile(): "/var/lib/of-systemd/identity", c.ClientsFile(): "/var/lib/of-systemd/clients",
	} {
		if filepath.ToSlash(got) != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	c = mustParse(t, "identity = \"/etc/lewes/key\"\nstate_dir = \"/srv/lewes\"\naccess.clients = \"/etc/lewes/clients\"")
	if c.StateDir != "/srv/lewes" || c.IdentityFile() != "/etc/lewes/key" || c.ClientsFile() != "/etc/lewes/clients" {
		t.Errorf("%q, %q, %q", c.StateDir, c.IdentityFile(), c.ClientsFile())
	}
}
