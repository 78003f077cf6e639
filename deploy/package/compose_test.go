package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v3"
)

// load reads compose.yaml as Docker Compose does.
func load(t *testing.T, env ...string) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{"../compose.yaml"}, cli.WithEnv(env))
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return project
}

// TestComposeFiles: the mounted files exist, the configurations of other programs are YAML, and Prometheus reads the
// gateways under the name that the alerts expect.
func TestComposeFiles(t *testing.T) {
	project := load(t)
	for name, service := range project.Services {
		for _, volume := range service.Volumes {
			if volume.Type != types.VolumeTypeBind {
				continue
			}
			if info, err := os.Stat(volume.Source); err != nil || info.IsDir() {
				t.Errorf("%s mounts %s, which is no file: %v", name, volume.Source, err)
			}
		}
		if service.Build != nil {
			if _, err := os.Stat(filepath.Join(service.Build.Context, service.Build.Dockerfile)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	for _, name := range []string{"prometheus", "datasource", "dashboards"} {
		var any map[string]any
		if err := yaml.Unmarshal([]byte(project.Configs[name].Content), &any); err != nil || len(any) == 0 {
			t.Errorf("configuration %s: %v", name, err)
		}
	}
	var prometheus struct {
		Rules  []string `yaml:"rule_files"`
		Scrape []struct {
			Job     string `yaml:"job_name"`
			Targets []struct {
				Targets []string
			} `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	if err := yaml.Unmarshal([]byte(project.Configs["prometheus"].Content), &prometheus); err != nil {
		t.Fatal(err)
	}
	if len(prometheus.Scrape) != 1 || prometheus.Scrape[0].Job != "lewes" || !slices.Equal(prometheus.Scrape[0].Targets[0].Targets, []string{"entry:9264", "exit:9264"}) {
		t.Errorf("Prometheus scrapes %+v", prometheus.Scrape)
	}
	if len(prometheus.Rules) != 1 || !slices.ContainsFunc(project.Services["prometheus"].Volumes, func(v types.ServiceVolumeConfig) bool { return v.Target == prometheus.Rules[0] }) {
		t.Errorf("Prometheus has the rules %q, none of which is mounted", prometheus.Rules)
	}
}

// TestComposeChain runs both gateways by their commands and configurations, at their addresses in a network namespace, and
// uses the chain as README.md describes.
func TestComposeChain(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a network namespace needs root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("ip is not installed: apt-get install iproute2")
	}
	program := filepath.Join(unpack(t, "1.0.0"), "usr/bin/lewes")
	runtime.LockOSThread() // never unlocked: the thread and its namespace end with the test
	if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
		t.Skipf("no network namespaces: %v", err)
	}
	execute(t, "ip", "link", "set", "lo", "up")

	project := load(t)
	uris, states := make(map[string]string), make(map[string]string)
	gateway := func(name string) {
		service := project.Services[name]
		execute(t, "ip", "address", "add", service.Networks["lewes"].Ipv4Address+"/24", "dev", "lo")
		file := filepath.Join(t.TempDir(), "gateway.toml")
		if err := os.WriteFile(file, []byte(project.Configs[service.Configs[0].Source].Content), 0o600); err != nil {
			t.Fatal(err)
		}
		command := slices.Clone(service.Command)
		at := slices.Index(command, service.Configs[0].Target)
		if at < 0 {
			t.Fatalf("%s runs %q, and its configuration is %s", name, command, service.Configs[0].Target)
		}
		command[at] = file
		states[name] = t.TempDir()
		cmd := exec.Command(program, command...)
		cmd.Env = []string{"STATE_DIRECTORY=" + states[name]}
		uris[name] = start(t, cmd, regexp.MustCompile(`lewes://\S+`))
	}
	gateway("exit")
	identity := strings.TrimSpace(execute(t, program, "keygen", "--show", filepath.Join(states["exit"], "identity")))
	project = load(t, "EXIT_IDENTITY="+identity)
	gateway("entry")

	client := filepath.Join(t.TempDir(), "client")
	execute(t, program, "keygen", client)
	execute(t, program, "clients", "add", "--state", states["exit"], strings.TrimSpace(execute(t, program, "keygen", "--show", client)), "client")
	execute(t, program, "clients", "add", "--state", states["entry"], strings.TrimSpace(execute(t, program, "keygen", "--show", "--for", uris["entry"], client)), "client")
	var out []byte
	var err error
	for range 5 { // the gateways read the lists shortly afterwards
		out, err = exec.Command(program, "ping", "--count", "1", "--timeout", "2s", "--identity", client, "--via", uris["entry"], uris["exit"]).CombinedOutput()
		if err == nil {
			break
		}
	}
	if err != nil {
		t.Errorf("ping through both: %v\n%s", err, out)
	}
	for _, name := range []string{"entry", "exit"} {
		conn, err := net.Dial("tcp4", net.JoinHostPort(project.Services[name].Networks["lewes"].Ipv4Address, "9264")) // on this thread
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET /metrics HTTP/1.0\r\n\r\n")
		if page, err := io.ReadAll(conn); err != nil || !strings.Contains(string(page), "lewes_build_info") {
			t.Errorf("metrics of %s: %v\n%s", name, err, page)
		}
	}
}
