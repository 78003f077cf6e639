// Command package builds the Debian package and the tar archive of Lewes, the same bytes from the same revision.
//
//	go run . -version 1.2.3              # in this directory; writes to ../../dist
//	go run . -version 1.2.3 -arch arm64
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

func main() {
	b := build{root: "../.."}
	flag.StringVar(&b.version, "version", "", "version of the release, such as 1.2.3")
	flag.StringVar(&b.arch, "arch", runtime.GOARCH, "architecture in Go's words: amd64 or arm64")
	flag.StringVar(&b.output, "output", "../../dist", "directory to write to")
	flag.Parse()
	if err := b.releaseOf(); err != nil {
		fmt.Fprintln(os.Stderr, "package:", err)
		os.Exit(1)
	}
	names, err := b.run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "package:", err)
		os.Exit(1)
	}
	fmt.Println(strings.Join(names, "\n"))
}

// build is one build of the packages. All that their bytes depend on is here, in the sources and in the Go version.
type build struct {
	root     string // the repository
	version  string // without a leading v
	revision string
	date     time.Time // of every file
	arch     string
	output   string
}

// releaseOf reads the revision and its date from the repository, which must have no uncommitted changes.
func (b *build) releaseOf() error {
	b.version = strings.TrimPrefix(b.version, "v")
	if b.version == "" {
		return errors.New("missing -version")
	}
	changes, err := command(b.root, nil, "git", "status", "--porcelain")
	if err != nil {
		return err
	}
	if changes != "" {
		return fmt.Errorf("uncommitted changes:\n%s", changes)
	}
	text, err := command(b.root, nil, "git", "log", "-1", "--format=%H %ct")
	if err != nil {
		return err
	}
	revision, date, _ := strings.Cut(text, " ")
	seconds, err := strconv.ParseInt(cmp.Or(os.Getenv("SOURCE_DATE_EPOCH"), date), 10, 64)
	b.revision, b.date = revision, time.Unix(seconds, 0).UTC()
	return err
}

// run writes the packages and returns their paths.
func (b *build) run() (names []string, err error) {
	work, err := os.MkdirTemp("", "lewes-package-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	if err := errors.Join(os.MkdirAll(b.output, 0o755), b.compile(work), b.generate(work)); err != nil {
		return nil, err
	}
	entries, err := b.contents(work)
	if err != nil {
		return nil, err
	}
	archive, err := b.writeArchive(entries)
	if err != nil {
		return nil, err
	}
	deb, err := b.writeDeb(entries)
	return []string{deb, archive}, err
}

// compile builds the static, stripped program, as the Dockerfile does.
func (b *build) compile(work string) error {
	const in = "lewes/cmd/lewes/internal/version"
	_, err := command(b.root, []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + b.arch, "GOFLAGS=", "GOWORK=off"},
		"go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", fmt.Sprintf("-s -w -buildid= -X %s.release=v%s -X %s.revision=%s", in, b.version, in, b.revision),
		"-o", filepath.Join(work, "lewes"), "./cmd/lewes")
	return err
}

// generate writes the files that are derived from the commands: it runs the program with one more source file, in a
// workspace of the program's module and this one, which has that file's dependencies.
func (b *build) generate(work string) error {
	root, err := filepath.Abs(b.root)
	if err != nil {
		return err
	}
	here := filepath.Join(root, "deploy", "package")
	workspace := filepath.Join(work, "go.work")
	overlay := filepath.Join(work, "overlay.json")
	err = errors.Join(
		os.WriteFile(workspace, fmt.Appendf(nil, "go 1.26.0\n\nuse (\n\t%q\n\t%q\n)\n", root, here), 0o644),
		os.WriteFile(overlay, fmt.Appendf(nil, "{\"Replace\": {%q: %q}}\n",
			filepath.Join(root, "cmd", "lewes", "packagefiles.go"), filepath.Join(here, "_overlay", "packagefiles.go")), 0o644),
	)
	if err != nil {
		return err
	}
	_, err = command(root, []string{
		"GOWORK=" + workspace, "GOFLAGS=",
		"LEWES_FILES=" + work, "LEWES_DATE=" + b.date.Format(time.RFC3339), "LEWES_VERSION=" + b.version,
	}, "go", "run", "-buildvcs=false", "-overlay", overlay, "./cmd/lewes")
	return err
}

// command runs a command and returns its output without the last line's end.
func command(dir string, env []string, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return strings.TrimSuffix(string(out), "\n"), nil
}
