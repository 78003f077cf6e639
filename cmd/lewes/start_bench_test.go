//go:build unix

package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// BenchmarkStart starts a gateway and waits until it is ready.
func BenchmarkStart(b *testing.B) {
	dir := b.TempDir()
	file := filepath.Join(dir, "gateway.toml")
	if err := os.WriteFile(file, fmt.Appendf(nil, "state_dir = %q\n%s", dir, loopbackListen), 0o600); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		cmd := exec.Command(program, "gateway", "--config", file)
		cmd.Env = environment(dir)
		log, err := cmd.StderrPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		lines, ready := bufio.NewScanner(log), false
		for !ready && lines.Scan() {
			ready = strings.Contains(lines.Text(), "  ready  ")
		}
		b.StopTimer()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if !ready {
			b.Fatal("it is not ready")
		}
		b.StartTimer()
	}
}
