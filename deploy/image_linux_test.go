package deploy

import (
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

const imageFile = "Dockerfile"

// instructions returns the arguments of each of an instruction's uses in the
// Dockerfile.
func instructions(name string) (arguments []string) {
	for line := range strings.Lines(read(imageFile)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			arguments = append(arguments, strings.TrimSpace(rest))
		}
	}
	return arguments
}

// buildCommand is the instruction that makes the program.
var buildCommand = regexp.MustCompile(`^(CGO_ENABLED=0 go build .*) -o /out/lewes (\./cmd/lewes)$`)

// buildAsImage makes the program by the Dockerfile's command.
func buildAsImage(output string) error {
	for _, command := range instructions("RUN") {
		if parts := buildCommand.FindStringSubmatch(command); parts != nil {
			build := exec.Command("sh", "-c", fmt.Sprintf("%s -o '%s' %s", parts[1], output, parts[2]))
			build.Dir = ".."
			build.Stdout, build.Stderr = os.Stderr, os.Stderr
			return build.Run()
		}
	}
	return fmt.Errorf("no RUN in %s is like %s", imageFile, buildCommand)
}

// TestImageContext: all that the program is made of is sent to the builder.
func TestImageContext(t *testing.T) {
	sent := strings.Fields(read(imageFile + ".dockerignore"))
	deps := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if .Main}}{{$.ImportPath}}{{end}}{{end}}", "./cmd/lewes")
	deps.Dir = ".."
	packages := strings.Fields(run(t, deps))
	if len(packages) < 10 {
		t.Fatalf("the program is made of %q only", packages)
	}
	for _, p := range packages {
		folder, _, _ := strings.Cut(strings.TrimPrefix(p, "lewes/"), "/")
		if !slices.Contains(sent, "!"+folder) {
			t.Errorf("the program needs package %s, and %s.dockerignore keeps %s out", p, imageFile, folder)
		}
	}
}

// TestImageProgramIsStatic: nothing but the program itself is needed to run it.
func TestImageProgramIsStatic(t *testing.T) {
	program, err := elf.Open(lewes)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	for _, segment := range program.Progs {
		if segment.Type == elf.PT_INTERP || segment.Type == elf.PT_DYNAMIC {
			t.Errorf("the program has a segment %v: it wants a dynamic linker", segment.Type)
		}
	}
}

// TestImageServes runs what the image would, in a root folder with nothing in it but
// what the image has, as its user and with its environment; lists a client there, and
// uses the gateway from outside.
func TestImageServes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may change the root folder of a process")
	}
	user := one(t, "USER")
	uid, gid := ids(t, user)
	name, stateDir, _ := strings.Cut(one(t, "ENV"), "=")
	if name != "STATE_DIRECTORY" || stateDir != one(t, "VOLUME") {
		t.Fatalf("the state is in %s=%s, and the volume is %s", name, stateDir, one(t, "VOLUME"))
	}

	root := t.TempDir()
	state := filepath.Join(root, stateDir)
	if err := errors.Join(os.MkdirAll(state, 0o755), os.Chmod(state, 0o700), os.Chown(state, uid, gid)); err != nil {
		t.Fatal(err)
	}
	run(t, exec.Command("cp", lewes, filepath.Join(root, "lewes")))
	writeConfig(t, filepath.Join(root, "gateway.toml"))
	inside := func(args ...string) *exec.Cmd {
		cmd := exec.Command(list(t, "ENTRYPOINT")[0], args...)
		cmd.Err = nil // it is looked for outside, and is inside
		cmd.Dir = "/"
		cmd.Env = []string{name + "=" + stateDir}
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Chroot:     root,
			Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)},
		}
		return cmd
	}

	gateway := inside(append(list(t, "CMD"), "--config", "/gateway.toml")...)
	uri := startGateway(t, gateway)
	if info, err := os.Stat(filepath.Join(state, "identity")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the identity is not in the volume, or not for its user alone: %v, %v", info, err)
	}
	key := filepath.Join(t.TempDir(), "client")
	client := strings.TrimSpace(run(t, exec.Command(lewes, "keygen", key)))
	run(t, inside("clients", "add", client, "test"))
	probe(t, uri, key)
	_, health, _ := strings.Cut(one(t, "HEALTHCHECK"), "CMD ")
	var check []string
	if err := json.Unmarshal([]byte(health), &check); err != nil || len(check) < 2 {
		t.Fatalf("HEALTHCHECK %q: %v", health, err)
	}
	run(t, inside(check[1:]...))
	endGateway(t, gateway, patience)
	if err := inside(check[1:]...).Run(); err == nil {
		t.Error("the check succeeds without a gateway")
	}
}

// probe uses a gateway, which may not have read its list of clients again yet.
func probe(t *testing.T, uri, key string) {
	t.Helper()
	var out []byte
	var err error
	for range 5 {
		if out, err = exec.Command(lewes, "probe", "--identity", key, "--timeout", "2s", uri).CombinedOutput(); err == nil {
			return
		}
	}
	t.Errorf("lewes probe %s: %v\n%s", uri, err, out)
}

// TestImagePorts: the image says which ports it serves.
func TestImagePorts(t *testing.T) {
	c := defaults(t)
	if got, want := one(t, "EXPOSE"), fmt.Sprintf("%d/udp %d/tcp", c.Listen.Port, c.TCP.Port); got != want {
		t.Errorf("EXPOSE is %s, and a gateway serves %s", got, want)
	}
}

// one returns the argument of an instruction that is used once.
func one(t *testing.T, name string) string {
	t.Helper()
	uses := instructions(name)
	if len(uses) != 1 {
		t.Fatalf("%s has %s %q, want one", imageFile, name, uses)
	}
	return uses[0]
}

// list returns the words of an instruction that is used once, with a list.
func list(t *testing.T, name string) (words []string) {
	t.Helper()
	if err := json.Unmarshal([]byte(one(t, name)), &words); err != nil || len(words) == 0 {
		t.Fatalf("%s %s: %v", name, one(t, name), err)
	}
	return words
}

// ids reads UID:GID, neither of which is root's.
func ids(t *testing.T, user string) (uid, gid int) {
	t.Helper()
	u, g, _ := strings.Cut(user, ":")
	uid, uidErr := strconv.Atoi(u)
	gid, gidErr := strconv.Atoi(g)
	if uidErr != nil || gidErr != nil || uid == 0 || gid == 0 {
		t.Fatalf("USER is %q; the image needs a number that is not root's, for it has no names", user)
	}
	return uid, gid
}

// TestImageVersion builds with the arguments that name a version: the program reports it, and the image
// has it in its labels.
func TestImageVersion(t *testing.T) {
	t.Setenv("VERSION", "v1.2.3")
	t.Setenv("REVISION", "0123456789abcdef")
	program := filepath.Join(t.TempDir(), "lewes")
	if err := buildAsImage(program); err != nil {
		t.Fatal(err)
	}
	text := run(t, exec.Command(program, "version", "--json"))
	for _, want := range []string{`"version": "v1.2.3"`, `"revision": "0123456789abcdef"`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
	if strings.Contains(text, "modified") {
		t.Errorf("whether the files were modified is unknown: %s", text)
	}
	labels := strings.Join(instructions("LABEL"), " ")
	for _, want := range []string{"org.opencontainers.image.version=$VERSION", "org.opencontainers.image.revision=$REVISION"} {
		if !strings.Contains(labels, want) {
			t.Errorf("no label %s", want)
		}
	}
}
