//go:build unix

package main

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mr-tron/base58"

	"lewes/crypto/identity"
)

// TestPrivateKeyIsNotEchoed gives private keys in several forms where an identity, or anything, is
// expected: no output has a part of one.
func TestPrivateKeyIsNotEchoed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, key := newClient(t)
	pem, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	body := strings.Split(string(pem), "\n")[1]
	der, err := base64.StdEncoding.DecodeString(body)
	if err != nil {
		t.Fatal(err)
	}
	seed := der[len(der)-identity.SeedSize:]
	forms := map[string]string{
		"PEM":           string(pem),
		"PKCS#8":        body,
		"half a PKCS#8": body[:40],
		"base64":        base64.StdEncoding.EncodeToString(seed),
		"hexadecimal":   hex.EncodeToString(seed),
	}
	for text := seed; ; text[0]++ { // a seed that is a valid public key cannot be told from one
		if _, err := identity.ParsePublicKey(base58.Encode(text)); err != nil {
			forms["base58"] = base58.Encode(text)
			break
		}
	}
	other := identity.FromSeed(&[32]byte{5}).Public()
	for name, secret := range forms {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(dir, hex.EncodeToString([]byte(name)))
			line, list := strings.ReplaceAll(secret, "\n", " "), filepath.Join(dir, "list")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			writeFile(t, list, line+" anna\n", 0o600)
			gateway := filepath.Join(dir, "gateway.toml")
			writeFile(t, gateway, fmt.Sprintf("[[gateway]]\nuri = \"lewes://%s@gw.example\"\n", line), 0o600)
			commands := [][]string{
				{"clients", "add", secret},
				{"clients", "add", secret, "anna"},
				{"clients", "remove", secret},
				{"clients", "list", "--file", list},
				{"clients", "list", "--json", "--file", list},
				{"clients", "remove", "--file", list, "--line", "1"},
				{"config", "check", gateway},
				{"probe", secret},
				{"probe", "lewes://" + secret + "@gw.example"},
				{"forward", "--gateway", "lewes://" + secret + "@gw.example", "1=9.9.9.9:9"},
				{"keygen", "--show", "--for", secret, file},
				{"clients", secret},
			}
			if name == "PEM" || name == "PKCS#8" { // recognizable as a name, too
				commands = append(commands, []string{"clients", "add", other.String(), secret}, []string{secret})
			}
			for _, args := range commands {
				stdout, stderr, _ := lewes(t, environment(dir), args...)
				for i := 0; i+12 <= len(secret); i++ {
					part := secret[i : i+12]
					if strings.Contains(stdout+stderr, part) && !strings.Contains(part, "-----") && !strings.Contains(part, "PRIVATE") {
						t.Errorf("%q shows a part of the key: %s%s", args[:2], stdout, stderr)
						break
					}
				}
			}
		})
	}
	_, stderr, _ := lewes(t, environment(dir), "clients", "add", body)
	has(t, stderr, "this is a private key", "lewes keygen --show FILE")
	hasNot(t, stderr, key.Public().String())
}
