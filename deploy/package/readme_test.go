package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestReadme replays the transcript of README.md: in a namespace of its own, in a root with Debian's essential packages
// and nothing but this one, at most ten commands lead to a running gateway, a connected client and its metrics.
func TestReadme(t *testing.T) {
	text := read(t, "../../README.md")
	m := regexp.MustCompile("(?ms)^```console\n(# dpkg .*?)^```$").FindStringSubmatch(text)
	if m == nil {
		t.Fatal("README.md has no transcript that begins with dpkg")
	}
	root := debianRoot(t)
	if err := os.WriteFile(filepath.Join(root, "root/lewes_0.3.0_amd64.deb"), []byte(read(t, built["1.0.0"][0])), 0o644); err != nil {
		t.Fatal(err)
	}
	shell := startShell(t, root)
	steps := strings.Split("\n"+m[1], "\n# ")[1:]
	if len(steps) > 10 {
		t.Errorf("%d commands", len(steps))
	}
	for _, step := range steps {
		command, output, _ := strings.Cut(step, "\n")
		shell.run(command, strings.Split(strings.TrimSpace(output), "\n"))
		// What goes on in the background writes to a file first.
		for _, file := range regexp.MustCompile(`>(\w[\w.]*)`).FindAllStringSubmatch(command, -1) {
			shell.await(file[1]+" is empty", func() bool {
				info, err := os.Stat(filepath.Join(root, "root", file[1]))
				return err == nil && info.Size() > 0
			})
		}
	}
}

// debianRoot returns a root directory with the essential packages of this Debian system, as they are installed here.
func debianRoot(t *testing.T) (root string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, program := range []string{"dpkg-query", "unshare", "ip", "tar"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	packages := essential(t)
	t.Logf("packages: %q", packages)
	root = t.TempDir()
	for _, dir := range []string{"usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "dev", "proc", "root", "run", "tmp", "var/lib/dpkg/info", "var/lib/dpkg/updates"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+dir, filepath.Join(root, dir)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "var/lib/dpkg/status"), []byte(execute(t, "dpkg-query", append([]string{"--status"}, packages...)...)), 0o644); err != nil {
		t.Fatal(err)
	}
	var files strings.Builder
	installed := strings.Split(execute(t, "dpkg-query", append([]string{"--listfiles"}, packages...)...), "\n")
	for _, p := range packages {
		info, err := filepath.Glob("/var/lib/dpkg/info/" + p + "[.:]*")
		if err != nil {
			t.Fatal(err)
		}
		installed = append(installed, info...)
	}
	for _, name := range append(installed, "/etc/passwd", "/etc/group") {
		if strings.HasPrefix(name, "/usr/share/doc/") || strings.HasPrefix(name, "/usr/share/locale/") || strings.HasPrefix(name, "/usr/share/man/") {
			continue
		}
		if info, err := os.Lstat(name); err == nil && !info.IsDir() {
			fmt.Fprintln(&files, name)
		}
	}
	copying := exec.Command("sh", "-euc", `tar -C / -cP --no-recursion --verbatim-files-from -T - | tar -C "$1" -x --keep-directory-symlink`, "sh", root)
	copying.Stdin = strings.NewReader(files.String())
	if out, err := copying.CombinedOutput(); err != nil && !strings.Contains(string(out), "Removing leading") {
		t.Fatalf("%v: %s", err, out)
	}
	return root
}

// essential returns the essential packages and those that they need.
func essential(t *testing.T) (names []string) {
	t.Helper()
	needs, providers := make(map[string]string), make(map[string]string)
	const fields = "${Package}\t${Essential}\t${Pre-Depends},${Depends}\t${Provides}\n"
	for line := range strings.Lines(execute(t, "dpkg-query", "-W", "-f", fields)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		needs[f[0]] = f[2]
		for virtual := range strings.SplitSeq(f[3], ",") {
			providers[packageName.FindString(virtual)] = f[0]
		}
		if f[1] == "yes" {
			names = append(names, f[0])
		}
	}
	if len(names) < 10 {
		t.Skipf("no Debian system: essential packages %q", names)
	}
	for i := 0; i < len(names); i++ {
		for clause := range strings.SplitSeq(needs[names[i]], ",") {
			for alternative := range strings.SplitSeq(clause, "|") {
				name := packageName.FindString(alternative)
				if _, installed := needs[name]; !installed {
					name = providers[name]
				}
				if name == "" {
					continue
				}
				if !slices.Contains(names, name) {
					names = append(names, name)
				}
				break
			}
		}
	}
	return names
}

var packageName = regexp.MustCompile(`[a-z0-9][a-z0-9+.-]+`)

// shell is a shell in a root directory and in namespaces of its own, all of whose processes end with the test.
type shell struct {
	t     *testing.T
	input io.Writer

	mu    sync.Mutex
	lines []string
	ended bool
}

func startShell(t *testing.T, root string) *shell {
	t.Helper()
	cmd := exec.Command("unshare", "--mount", "--net", "--pid", "--uts", "--fork", "--kill-child", "sh", "-euc",
		`hostname debian; ip link set lo up; mount -t proc proc "$1/proc"; mount --rbind /dev "$1/dev"; exec chroot "$1" bash`, "sh", root)
	cmd.Env = []string{"HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive"}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = write, write
	s := &shell{t: t}
	if s.input, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = write.Close()
	reader := make(chan struct{})
	go func() {
		defer close(reader)
		for lines := bufio.NewScanner(read); lines.Scan(); {
			s.mu.Lock()
			s.lines = append(s.lines, lines.Text())
			s.mu.Unlock()
		}
		s.mu.Lock()
		s.ended = true
		s.mu.Unlock()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		<-reader
		_ = read.Close()
		if t.Failed() {
			t.Log(strings.Join(s.lines, "\n"))
		}
	})
	_, err = fmt.Fprintln(s.input, "cd")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// run runs a command, and waits for its end and until its output has these lines, but for numbers and identities.
func (s *shell) run(command string, want []string) {
	s.t.Helper()
	s.mu.Lock()
	from := len(s.lines)
	s.mu.Unlock()
	const end = "the command has ended"
	if _, err := fmt.Fprintf(s.input, "%s\necho; echo %s\n", command, end); err != nil {
		s.t.Fatal(err)
	}
	for _, line := range append(want, end) {
		s.await(fmt.Sprintf("%s: no line like %q", command, line), func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.ended {
				s.t.Fatalf("the shell has ended")
			}
			return slices.ContainsFunc(s.lines[from:], func(l string) bool { return shape(l) == shape(line) })
		})
	}
}

func (s *shell) await(what string, done func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatal(what)
		}
	}
}

var (
	identities = regexp.MustCompile(`\b[1-9A-HJ-NP-Za-km-z]{43,44}\b`)
	numbers    = regexp.MustCompile(`\S*\d\S*`)
)

// shape returns a line without the parts that differ from run to run.
func shape(line string) string {
	line = identities.ReplaceAllString(strings.Join(strings.Fields(line), " "), "1")
	return numbers.ReplaceAllString(strings.ReplaceAll(line, " - ", " 1 "), "#")
}
