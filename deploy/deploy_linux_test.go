// Package deploy has what a gateway is installed with: a systemd unit, a Dockerfile
// and a sysctl file. Its tests hold them against the program that they are for.
package deploy

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// patience bounds every wait for a program.
const patience = 20 * time.Second

// lewes is the program, built as the Dockerfile builds it.
var lewes string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "lewes-deploy-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		lewes = filepath.Join(dir, "lewes")
		if err := buildAsImage(lewes); err != nil {
			fmt.Fprintln(os.Stderr, "building lewes as the Dockerfile does:", err)
			return 1
		}
		return m.Run()
	}())
}

// read returns the text of one of the files here.
func read(name string) string {
	text, err := os.ReadFile(name)
	if err != nil {
		panic(err) // it is in the tree, beside this file
	}
	return string(text)
}

// run runs a command to its end and returns what it printed.
func run(t *testing.T, cmd *exec.Cmd) (stdout string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(cmd.Args, " "), err, &out, &errs)
	}
	return out.String()
}

// startGateway starts a gateway by cmd, which is killed with the test, and returns
// the first line that it prints: its URI.
func startGateway(t *testing.T, cmd *exec.Cmd) (uri string) {
	t.Helper()
	var log bytes.Buffer
	cmd.Stderr = &log
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // endGateway may have ended it
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s said:\n%s", strings.Join(cmd.Args, " "), &log)
		}
	})
	tooLong := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer tooLong.Stop()
	var line []byte
	for b := make([]byte, 1); !bytes.HasSuffix(line, []byte("\n")); line = append(line, b[0]) {
		if _, err := io.ReadFull(stdout, b); err != nil {
			t.Fatalf("%s printed no URI: %v", strings.Join(cmd.Args, " "), err)
		}
	}
	return strings.TrimSuffix(string(line), "\n")
}

// endGateway asks a gateway to end, which it does within a time, with exit code 0.
func endGateway(t *testing.T, cmd *exec.Cmd, within time.Duration) {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	tooLong := time.AfterFunc(within, func() { _ = cmd.Process.Kill() })
	defer tooLong.Stop()
	if err := cmd.Wait(); err != nil {
		t.Errorf("%s: %v after SIGTERM and %v", strings.Join(cmd.Args, " "), err, within)
	}
}

// anyPort is a configuration by which a gateway gets in nobody's way.
const anyPort = "[listen]\naddresses = [\"127.0.0.1\"]\nport = 0\n"

// writeConfig writes anyPort to a file that everybody can read.
func writeConfig(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(anyPort), 0o644); err != nil {
		t.Fatal(err)
	}
}

// defaultConfig is the part of "lewes config default" that the files here depend on.
type defaultConfig struct {
	Listen struct {
		Port          int    `toml:"port"`
		ReceiveBuffer string `toml:"receive_buffer"`
		SendBuffer    string `toml:"send_buffer"`
	} `toml:"listen"`
	TCP struct {
		Port           int `toml:"port"`
		MaxConnections int `toml:"max_connections"`
	} `toml:"tcp"`
	Flows struct {
		Max int `toml:"max"`
	} `toml:"flows"`
}

func defaults(t *testing.T) (c defaultConfig) {
	t.Helper()
	if err := toml.Unmarshal([]byte(run(t, exec.Command(lewes, "config", "default"))), &c); err != nil {
		t.Fatal(err)
	}
	return c
}
