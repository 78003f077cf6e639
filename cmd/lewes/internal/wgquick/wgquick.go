// Package wgquick reads and writes the client's configuration of a WireGuard tunnel, as wg-quick(8) uses it.
//
//	f, err := wgquick.Open("/etc/wireguard/lewes.conf") // makes a key if there is no file
//	f.Set(peer)
//	err = f.Save()
package wgquick

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"lewes/crypto/identity"
	"lewes/crypto/wgkey"
)

// maxSize bounds a file in bytes.
const maxSize = 64 << 10

// File is a configuration in memory. It has a private key.
type File struct {
	path  string
	lines []string
	key   wgkey.Key
}

// Peer is the gateway's end of the tunnel.
type Peer struct {
	PublicKey, PSK wgkey.Key
	Endpoint       string // host:port
	IPv4, IPv6     netip.Addr
}

// template is a new file: all traffic goes through the tunnel.
const template = `# Written by lewes register, which changes Address, PublicKey, PresharedKey and Endpoint and keeps all else.
[Interface]
PrivateKey = %s

[Peer]
AllowedIPs = 0.0.0.0/0, ::/0
`

// Open reads a file, and prepares a new one with a new key from rand if there is none. It writes nothing.
func Open(path string, rand io.Reader) (*File, error) {
	f := &File{path: path}
	if err := f.open(rand); err != nil {
		return nil, fmt.Errorf("WireGuard configuration %s: %w", path, err)
	}
	return f, nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func (f *File) open(rand io.Reader) error {
	file, err := os.Open(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		if dir := filepath.Dir(f.path); !isDir(dir) {
			return fmt.Errorf("there is no folder %s; make it first", dir)
		}
		if _, err := io.ReadFull(rand, f.key[:]); err != nil {
			return err
		}
		f.key[0] &= 248 // as wg genkey does
		f.key[31] = f.key[31]&127 | 64
		f.lines = strings.SplitAfter(fmt.Sprintf(template, encode(&f.key)), "\n")
		return nil
	}
	if err != nil {
		return reason(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return reason(err)
	}
	if !info.Mode().IsRegular() {
		return errors.New("not a file; name another one")
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" {
		return fmt.Errorf("others can read or write it (mode %04o); run: chmod 600 %s", mode, f.path)
	}
	text, err := io.ReadAll(io.LimitReader(file, maxSize+1))
	defer clear(text)
	switch {
	case err != nil:
		return reason(err)
	case len(text) > maxSize:
		return fmt.Errorf("more than %d bytes; name another file", maxSize)
	case len(text) > 0 && !bytes.HasSuffix(text, []byte("\n")):
		text = append(text, '\n')
	}
	f.lines = strings.SplitAfter(string(text), "\n")
	return f.parse()
}

// reason returns an error without the path.
func reason(err error) error {
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		return p.Err
	}
	return err
}

// parse finds the private key, and refuses a file with another form than that of the template.
func (f *File) parse() error {
	const remedy = "; name another file"
	count := make(map[string]int)
	for _, s := range f.settings() {
		count[s.name]++
	}
	if count["[interface]"] != 1 || count["[peer]"] != 1 {
		return fmt.Errorf("%d [Interface] and %d [Peer] instead of one of each%s", count["[interface]"], count["[peer]"], remedy)
	}
	at := f.find("[interface]", "privatekey")
	if at.count != 1 {
		return fmt.Errorf("%d PrivateKey in [Interface] instead of one%s", at.count, remedy)
	}
	b, err := base64.StdEncoding.DecodeString(at.value)
	defer clear(b)
	if err != nil || len(b) != len(f.key) {
		return errors.New("its PrivateKey is not a WireGuard key" + remedy)
	}
	f.key = wgkey.Key(b)
	return nil
}

// setting is a line with a section or a key.
type setting struct {
	line                 int
	section, name, value string // section and name in lower case
	count                int    // of find
}

func (f *File) settings() (all []setting) {
	section := ""
	for i, line := range f.lines {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		name, value, _ := strings.Cut(line, "=")
		name = strings.ToLower(strings.TrimSpace(name))
		switch {
		case line == "":
			continue
		case strings.HasPrefix(line, "["):
			section, name = strings.ToLower(line), strings.ToLower(line)
		}
		all = append(all, setting{line: i, section: section, name: name, value: strings.TrimSpace(value)})
	}
	return all
}

// find returns the first line of a key in a section, and how many there are.
func (f *File) find(section, name string) (found setting) {
	for _, s := range f.settings() {
		if s.section != section || s.name != name {
			continue
		}
		if found.count == 0 {
			found = s
		}
		found.count++
	}
	return found
}

// PrivateKey returns the client's key. The caller wipes it.
func (f *File) PrivateKey() wgkey.Key { return f.key }

// Set replaces what a registration decides, and keeps all else.
func (f *File) Set(p *Peer) {
	var addrs []string
	for _, a := range []netip.Addr{p.IPv4, p.IPv6} {
		if a.IsValid() {
			addrs = append(addrs, netip.PrefixFrom(a, a.BitLen()).String())
		}
	}
	f.set("[Interface]", "Address", strings.Join(addrs, ", "))
	f.set("[Peer]", "Endpoint", p.Endpoint)
	f.set("[Peer]", "PresharedKey", encode(&p.PSK))
	f.set("[Peer]", "PublicKey", encode(&p.PublicKey))
}

// set replaces the lines of a key in a section by one, which is the first of the section if there is none.
func (f *File) set(section, name, value string) {
	line := name + " = " + value + "\n"
	first := f.find(strings.ToLower(section), strings.ToLower(name))
	at := first.line
	if first.count == 0 {
		at = f.find(strings.ToLower(section), strings.ToLower(section)).line + 1
	}
	var lines []string
	drop := make(map[int]bool)
	for _, s := range f.settings() {
		drop[s.line] = drop[s.line] || s.section == strings.ToLower(section) && s.name == strings.ToLower(name)
	}
	for i, old := range f.lines {
		if i == at {
			lines = append(lines, line)
		}
		if !drop[i] {
			lines = append(lines, old)
		}
	}
	f.lines = lines
}

// Save writes the file with mode 0600, in one step.
func (f *File) Save() error {
	if err := f.save(); err != nil {
		return fmt.Errorf("WireGuard configuration %s: %w", f.path, reason(err))
	}
	return nil
}

func (f *File) save() error {
	dir := filepath.Dir(f.path)
	temporary, err := os.CreateTemp(dir, "."+filepath.Base(f.path)+"-*") // with mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(temporary.Name()) // without effect after the rename
	_, err = temporary.WriteString(strings.Join(f.lines, ""))
	if err = errors.Join(err, temporary.Sync(), temporary.Close()); err != nil {
		return err
	}
	if err := os.Rename(temporary.Name(), f.path); err != nil {
		return err
	}
	return identity.SyncDir(dir)
}

func encode(k *wgkey.Key) string { return base64.StdEncoding.EncodeToString(k[:]) }
