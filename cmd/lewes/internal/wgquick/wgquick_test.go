package wgquick

import (
	"crypto/rand"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"lewes/crypto/wgkey"
)

var peer = Peer{PublicKey: wgkey.Key{1}, PSK: wgkey.Key{2}, Endpoint: "gw.example.com:51820", IPv4: netip.MustParseAddr("10.77.0.2"), IPv6: netip.MustParseAddr("fd77::2")}

func TestNewFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lewes.conf")
	f, err := Open(path, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("Open wrote the file")
	}
	f.Set(&peer)
	if err := f.Save(); err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(path)
	want := `# .*
\[Interface\]
Address = 10.77.0.2/32, fd77::2/128
PrivateKey = .{44}

\[Peer\]
PublicKey = AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
PresharedKey = AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
Endpoint = gw.example.com:51820
AllowedIPs = 0.0.0.0/0, ::/0
`
	if !regexp.MustCompile("^" + want + "$").Match(text) {
		t.Errorf("wrote\n%s", text)
	}
	if info, _ := os.Stat(path); info.Mode() != 0o600 && runtime.GOOS != "windows" {
		t.Errorf("mode %v", info.Mode())
	}

	// The key stays, and nothing grows.
	again, err := Open(path, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if again.PrivateKey() != f.PrivateKey() || again.PrivateKey()[0]&7 != 0 {
		t.Error("another key")
	}
	again.Set(&peer)
	if err := again.Save(); err != nil {
		t.Fatal(err)
	}
	if now, _ := os.ReadFile(path); string(now) != string(text) {
		t.Errorf("wrote\n%s", now)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*-*")); len(left) > 0 {
		t.Errorf("left %q", left)
	}
}

// TestOtherSettingsStay keeps what the user has added.
func TestOtherSettingsStay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lewes.conf")
	key := "YAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEA="
	write(t, path, "[interface]\nprivatekey="+key+" # mine\nDNS = 198.51.100.53\naddress = 10.0.0.9/32\nAddress = fd00::9/128\n[Peer]\nAllowedIPs = 10.0.0.0/8\nPersistentKeepalive = 25\nEndpoint = old:1")
	f, err := Open(path, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f.Set(&peer)
	if err := f.Save(); err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(path)
	want := "[interface]\nprivatekey=" + key + " # mine\nDNS = 198.51.100.53\nAddress = 10.77.0.2/32, fd77::2/128\n[Peer]\n" +
		"PublicKey = AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nPresharedKey = AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n" +
		"AllowedIPs = 10.0.0.0/8\nPersistentKeepalive = 25\nEndpoint = gw.example.com:51820\n"
	if string(text) != want {
		t.Errorf("wrote\n%s, want\n%s", text, want)
	}
}

// TestForeignFilesAreRefused: a file that lewes register could damage is named and stays as it is.
func TestForeignFilesAreRefused(t *testing.T) {
	dir := t.TempDir()
	key := "PrivateKey = YAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEA=\n"
	for name, text := range map[string]string{
		"empty":     "",
		"no-key":    "[Interface]\n[Peer]\n",
		"bad-key":   "[Interface]\nPrivateKey = YAA=\n[Peer]\n",
		"two-keys":  "[Interface]\n" + key + key + "[Peer]\n",
		"two-peers": "[Interface]\n" + key + "[Peer]\n[Peer]\n",
		"large":     "[Interface]\n" + key + "[Peer]\n" + strings.Repeat("#\n", maxSize),
	} {
		path := filepath.Join(dir, name)
		write(t, path, text)
		if _, err := Open(path, rand.Reader); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "name another file") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Open(dir, rand.Reader); err == nil {
		t.Error("opened a directory")
	}
	path := filepath.Join(dir, "open")
	write(t, path, "[Interface]\n"+key+"[Peer]\n")
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, rand.Reader); runtime.GOOS != "windows" && (err == nil || !strings.Contains(err.Error(), "chmod 600")) {
		t.Errorf("a file that others can read: %v", err)
	}
	missing := filepath.Join(dir, "missing")
	if _, err := Open(filepath.Join(missing, "lewes.conf"), rand.Reader); err == nil || !strings.Contains(err.Error(), "there is no folder "+missing) {
		t.Errorf("in a missing directory: %v", err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
