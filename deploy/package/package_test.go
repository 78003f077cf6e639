package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait for a program.
const patience = 60 * time.Second

// built are the packages of two versions, each version's built once.
var built = make(map[string][]string)

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "lewes-package-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		for _, version := range []string{"1.0.0", "1.1.0"} {
			if built[version], err = at(version, filepath.Join(dir, version)).run(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
		return m.Run()
	}())
}

// at is a build of a version; its date and revision depend on no repository.
func at(version, output string) *build {
	return &build{root: "../..", version: version, revision: "0123456789abcdef", date: time.Unix(1700000000, 0).UTC(), arch: "amd64", output: output}
}

// TestReproducible: a second build in another directory gives the same bytes.
func TestReproducible(t *testing.T) {
	again, err := at("1.0.0", t.TempDir()).run()
	if err != nil {
		t.Fatal(err)
	}
	if len(again) != 2 {
		t.Fatalf("built %q", again)
	}
	for i, name := range again {
		a, errA := os.ReadFile(built["1.0.0"][i])
		b, errB := os.ReadFile(name)
		if err := errors.Join(errA, errB); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("two builds of %s differ", filepath.Base(name))
		}
	}
}

// TestContents: the archive has each file of the package except the configuration; the program is static, stripped and
// within its bound; each command has a manual page.
func TestContents(t *testing.T) {
	root := unpack(t, "1.0.0")
	program := filepath.Join(root, "usr/bin/lewes")
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, segment := range f.Progs {
		if segment.Type == elf.PT_INTERP || segment.Type == elf.PT_DYNAMIC {
			t.Errorf("the program has a segment %v", segment.Type)
		}
	}
	if f.Section(".symtab") != nil || f.Section(".debug_info") != nil {
		t.Error("the program is not stripped")
	}
	if info, err := os.Stat(program); err != nil || info.Size() > 16_000_000 {
		t.Errorf("the program has %d bytes: %v", info.Size(), err)
	}
	if out := execute(t, program, "version"); !strings.Contains(out, "lewes v1.0.0\n") || !strings.Contains(out, "0123456789abcdef") {
		t.Errorf("version: %s", out)
	}
	execute(t, program, "config", "check", filepath.Join(root, configuration))
	unit := read(t, filepath.Join(root, "usr/lib/systemd/system/lewes-gateway.service"))
	for line := range strings.Lines(unit) {
		if key, value, _ := strings.Cut(line, "="); strings.HasPrefix(key, "Exec") && !strings.HasPrefix(value, "/usr/bin/lewes ") {
			t.Errorf("the unit runs another program: %s", line)
		}
	}

	pages, err := filepath.Glob(filepath.Join(root, "usr/share/man/man1/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lewes", "lewes-forward", "lewes-gateway", "lewes-clients-add", "lewes-status", "lewes-upgrade"} {
		page := filepath.Join(root, "usr/share/man/man1", name+".1.gz")
		if !slices.Contains(pages, page) {
			t.Errorf("no manual page %s", name)
			continue
		}
		z, err := gzip.NewReader(strings.NewReader(read(t, page)))
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(z); err != nil || !bytes.Contains(text, []byte(".SH SYNOPSIS")) {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
	}
	// The completion scripts ask the program.
	if out := execute(t, program, "__complete", "cli"); !strings.HasPrefix(out, "clients\t") {
		t.Errorf("completion of cli: %s", out)
	}
	for _, name := range []string{"bash-completion/completions/lewes", "zsh/vendor-completions/_lewes", "fish/vendor_completions.d/lewes.fish"} {
		if !strings.Contains(read(t, filepath.Join(root, "usr/share", name)), "__complete") {
			t.Errorf("%s asks nothing", name)
		}
	}

	var want, got []string
	err = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if path = strings.TrimPrefix(path, root); err == nil && !d.IsDir() && path != configuration {
			want = append(want, path[1:])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(strings.NewReader(read(t, built["1.0.0"][1])))
	if err != nil {
		t.Fatal(err)
	}
	for archive := tar.NewReader(z); ; {
		header, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Uid != 0 || header.Gid != 0 {
			t.Errorf("%s belongs to %d:%d", header.Name, header.Uid, header.Gid)
		}
		got = append(got, header.Name)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the archive has %q, the package %q", got, want)
	}
}

// systemctl stands for systemd: it writes down how it is called, and reloads by the unit's command.
const systemctl = `#!/bin/sh
echo "$*" >>/systemctl.log
[ "$1" = reload ] || exit 0
while IFS='' read -r line; do
	case "$line" in ExecReload=*) STATE_DIRECTORY=/state RUNTIME_DIRECTORY=/control exec ${line#ExecReload=} ;; esac
done </usr/lib/systemd/system/lewes-gateway.service
exit 1
`

// TestUpgrade installs a package in a root directory with no more than a shell, starts the gateway and uses it, and
// installs a newer package: the running gateway is handed over, no datagram is lost, an edited configuration stays. Then it
// removes the package.
func TestUpgrade(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("dpkg --root needs root")
	}
	if _, err := exec.LookPath("dpkg"); err != nil {
		t.Skip("dpkg is not installed")
	}
	root := freshRoot(t)
	dpkg(t, root, "--install", built["1.0.0"][0])
	if got := calls(t, root); got != "daemon-reload\n" {
		t.Errorf("the installation calls systemctl %q; it must start nothing", got)
	}

	target, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	go func() {
		buffer := make([]byte, 2048)
		for {
			n, from, err := target.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = target.WriteTo(buffer[:n], from) // a lost answer fails the test
		}
	}()
	edited := fmt.Sprintf("[listen]\naddresses = [\"127.0.0.1\"]\nport = 0\n[tcp]\nport = 0\n[metrics]\nlisten = \"\"\n"+
		"[access]\nmode = \"open\"\n[egress]\nallow = [%q]\n", target.LocalAddr())
	if err := os.WriteFile(filepath.Join(root, configuration), []byte(edited), 0o644); err != nil {
		t.Fatal(err)
	}
	uri := start(t, inside(root, "gateway", "--config", configuration), regexp.MustCompile(`lewes://\S+`))
	client := exec.Command(filepath.Join(root, "usr/bin/lewes"), "forward", "--identity", "ephemeral", "--gateway", uri, "127.0.0.1:0="+target.LocalAddr().String())
	local := start(t, client, regexp.MustCompile(`127\.0\.0\.1:[1-9]\d*`))
	conn, err := net.Dial("udp4", local)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	exchange := func(n int) {
		message := fmt.Appendf(nil, "datagram %d", n)
		answer := make([]byte, 2048)
		if _, err := conn.Write(message); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if length, err := conn.Read(answer); err != nil || !bytes.Equal(answer[:length], message) {
			t.Fatalf("datagram %d: answer %q, %v", n, answer[:length], err)
		}
	}
	exchange(0)

	installed := make(chan struct{})
	go func() {
		defer close(installed)
		dpkg(t, root, "--install", built["1.1.0"][0])
	}()
	n := 1
	for upgrading := true; upgrading && !t.Failed(); n++ {
		exchange(n)
		select {
		case <-installed:
			upgrading = false
		default:
		}
	}
	exchange(n)
	t.Logf("%d datagrams during the upgrade, all answered", n-1)
	if got, want := calls(t, root), "daemon-reload\n--quiet is-active lewes-gateway\nreload lewes-gateway\n"; got != want {
		t.Errorf("the upgrade calls systemctl %q, want %q", got, want)
	}
	status, err := inside(root, "status", "--json").Output()
	if err != nil || !bytes.Contains(status, []byte("v1.1.0")) {
		t.Errorf("after the upgrade: %v\n%s", err, status)
	}
	if got := read(t, filepath.Join(root, configuration)); got != edited {
		t.Errorf("the upgrade replaced the edited configuration by:\n%s", got)
	}

	dpkg(t, root, "--purge", "lewes")
	if got, want := calls(t, root), "disable --now lewes-gateway\ndaemon-reload\n"; got != want {
		t.Errorf("the removal calls systemctl %q, want %q", got, want)
	}
	if _, err := os.Stat(filepath.Join(root, "usr/bin/lewes")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the program after the removal: %v", err)
	}
}

// freshRoot returns a root directory with a shell, its libraries, dpkg's database and systemctl.
func freshRoot(t *testing.T) (root string) {
	t.Helper()
	root = t.TempDir()
	for _, dir := range []string{"bin", "usr/bin", "var/lib/dpkg/info", "var/lib/dpkg/updates", "run/systemd/system", "state", "control", "tmp", "proc", "dev"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"var/lib/dpkg/status": "", "usr/bin/systemctl": systemctl, "usr/bin/sysctl": "#!/bin/sh\nexit 0\n"} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// The gateway names its program file by /proc.
	if err := syscall.Mount("proc", filepath.Join(root, "proc"), "proc", 0, ""); err != nil {
		t.Skipf("cannot mount /proc: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(filepath.Join(root, "proc"), syscall.MNT_DETACH) })
	// Character device 1:3; the gateway starts its successor with it.
	if err := syscall.Mknod(filepath.Join(root, "dev/null"), syscall.S_IFCHR|0o666, 1<<8|3); err != nil {
		t.Skipf("cannot create /dev/null: %v", err)
	}
	libraries := regexp.MustCompile(`/\S+`).FindAllString(execute(t, "ldd", "/bin/sh"), -1)
	for _, name := range append(libraries, "/bin/sh") {
		execute(t, "mkdir", "-p", filepath.Join(root, filepath.Dir(name)))
		execute(t, "cp", "-L", name, filepath.Join(root, name))
	}
	return root
}

// unpack returns a directory with the contents of a version's package.
func unpack(t *testing.T, version string) (root string) {
	t.Helper()
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("dpkg-deb is not installed")
	}
	root = t.TempDir()
	execute(t, "dpkg-deb", "--extract", built[version][0], root)
	return root
}

func dpkg(t *testing.T, root string, args ...string) {
	t.Helper()
	if out, err := exec.Command("dpkg", append([]string{"--root=" + root}, args...)...).CombinedOutput(); err != nil {
		t.Errorf("dpkg %q: %v\n%s", args, err, out)
	}
}

// calls returns systemctl's arguments since the last time, a line each.
func calls(t *testing.T, root string) string {
	t.Helper()
	name := filepath.Join(root, "systemctl.log")
	text := read(t, name)
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	return text
}

// inside is the installed program in the root directory, where the unit's directories are /state and /control.
func inside(root string, args ...string) *exec.Cmd {
	cmd := exec.Command("/usr/bin/lewes", args...)
	cmd.Err = nil // its path is inside
	cmd.Dir = "/"
	cmd.Env = []string{"STATE_DIRECTORY=/state", "RUNTIME_DIRECTORY=/control"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Setpgid: true}
	return cmd
}

// start starts a command, waits until a line of its output has the pattern and returns the match. The command and its
// successors are killed with the test.
func start(t *testing.T, cmd *exec.Cmd, pattern *regexp.Regexp) (match string) {
	t.Helper()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = write, write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = write.Close()
	found, ended := make(chan string, 1), make(chan struct{})
	var log bytes.Buffer
	go func() {
		defer close(ended)
		buffer := make([]byte, 4096)
		for matched := false; ; {
			n, err := read.Read(buffer)
			log.Write(buffer[:n])
			complete := log.Bytes()[:bytes.LastIndexByte(log.Bytes(), '\n')+1]
			if m := pattern.Find(complete); m != nil && !matched {
				matched = true
				found <- string(m)
			}
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		<-ended
		_ = read.Close()
		if t.Failed() {
			t.Logf("%q:\n%s", cmd.Args, &log)
		}
	})
	select {
	case match = <-found:
	case <-ended:
		t.Fatalf("%q ended", cmd.Args)
	case <-time.After(patience):
		t.Fatalf("%q: no output like %v", cmd.Args, pattern)
	}
	return match
}

// execute runs a command to its end and returns what it printed.
func execute(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s%s", name, args, err, out, &errs)
	}
	return string(out)
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
