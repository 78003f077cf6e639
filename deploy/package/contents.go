package main

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb" // registers the format
	"github.com/goreleaser/nfpm/v2/files"
)

// entry is a file of the packages.
type entry struct {
	to, from string
	mode     fs.FileMode
}

// configuration is kept by an upgrade if it was edited. It has no defaults, so releases do not change it, and dpkg does not
// ask which one to keep. It is not in the archive, which would overwrite it.
const configuration = "/etc/lewes/gateway.toml"

// contents returns the files of the packages, some of which it writes to work.
func (b *build) contents(work string) ([]entry, error) {
	text, err := os.ReadFile(filepath.Join(b.root, "deploy/lewes-gateway.service"))
	if err != nil {
		return nil, err
	}
	unit := filepath.Join(work, "lewes-gateway.service")
	if err := os.WriteFile(unit, []byte(strings.ReplaceAll(string(text), "/usr/local/bin/", "/usr/bin/")), 0o644); err != nil {
		return nil, err
	}
	entries := []entry{
		{"/usr/bin/lewes", filepath.Join(work, "lewes"), 0o755},
		{"/usr/lib/systemd/system/lewes-gateway.service", unit, 0o644},
		{"/usr/lib/sysctl.d/90-lewes.conf", filepath.Join(b.root, "deploy/90-lewes.conf"), 0o644},
		{configuration, filepath.Join(b.root, "deploy/package/gateway.toml"), 0o644},
		{"/usr/share/bash-completion/completions/lewes", filepath.Join(work, "bash"), 0o644},
		{"/usr/share/zsh/vendor-completions/_lewes", filepath.Join(work, "zsh"), 0o644},
		{"/usr/share/fish/vendor_completions.d/lewes.fish", filepath.Join(work, "fish"), 0o644},
		{"/usr/share/doc/lewes/README.md", filepath.Join(b.root, "README.md"), 0o644},
		{"/usr/share/doc/lewes/gateway.md", filepath.Join(b.root, "deploy/README.md"), 0o644},
		{"/usr/share/doc/lewes/copyright", filepath.Join(b.root, "LICENSE"), 0o644},
		{"/usr/share/doc/lewes/monitoring/alerts.yaml", filepath.Join(b.root, "deploy/monitoring/alerts.yaml"), 0o644},
		{"/usr/share/doc/lewes/monitoring/dashboard.json", filepath.Join(b.root, "deploy/monitoring/dashboard.json"), 0o644},
	}
	pages, err := filepath.Glob(filepath.Join(work, "man1", "*.gz"))
	for _, page := range pages {
		entries = append(entries, entry{path.Join("/usr/share/man/man1", filepath.Base(page)), page, 0o644})
	}
	return entries, err
}

// writeDeb writes the Debian package and returns its path.
func (b *build) writeDeb(entries []entry) (name string, err error) {
	info := &nfpm.Info{
		Name: "lewes", Arch: b.arch, Platform: "linux", Version: b.version, Section: "net", Priority: "optional",
		Maintainer:  "Lewes maintainers",
		Description: "encrypted UDP datagram gateway and client\nA gateway carries UDP datagrams of its clients to their targets. An entry gateway\nin between hides the client's address.",
		License:     "Apache-2.0", MTime: b.date,
	}
	here := filepath.Join(b.root, "deploy/package")
	info.Scripts = nfpm.Scripts{
		PostInstall: filepath.Join(here, "postinst"), PreRemove: filepath.Join(here, "prerm"), PostRemove: filepath.Join(here, "postrm"),
	}
	for _, e := range entries {
		c := &files.Content{Source: e.from, Destination: e.to, FileInfo: &files.ContentFileInfo{Owner: "root", Group: "root", Mode: e.mode, MTime: b.date}}
		if e.to == configuration {
			c.Type = files.TypeConfigNoReplace
		}
		info.Contents = append(info.Contents, c)
	}
	info = nfpm.WithDefaults(info)
	packager, err := nfpm.Get("deb")
	if err != nil {
		return "", err
	}
	name = filepath.Join(b.output, packager.ConventionalFileName(info))
	return name, create(name, func(f *os.File) error { return packager.Package(info, f) })
}

// writeArchive writes the tar archive, to be unpacked in the root directory, and returns its path. It has no directories,
// so it does not change those of the system.
func (b *build) writeArchive(entries []entry) (name string, err error) {
	name = filepath.Join(b.output, fmt.Sprintf("lewes_%s_linux_%s.tar.gz", b.version, b.arch))
	return name, create(name, func(f *os.File) error {
		compressed := gzip.NewWriter(f)
		w := tar.NewWriter(compressed)
		for _, e := range entries {
			if e.to == configuration {
				continue
			}
			data, err := os.ReadFile(e.from)
			if err != nil {
				return err
			}
			header := &tar.Header{
				Name: strings.TrimPrefix(e.to, "/"), Size: int64(len(data)), Mode: int64(e.mode), ModTime: b.date,
				Uname: "root", Gname: "root", Format: tar.FormatUSTAR,
			}
			if err := w.WriteHeader(header); err != nil {
				return err
			}
			if _, err := w.Write(data); err != nil {
				return err
			}
		}
		return errors.Join(w.Close(), compressed.Close())
	})
}

// create writes a file by a function; after an error there is none.
func create(name string, write func(*os.File) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := errors.Join(write(f), f.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}
