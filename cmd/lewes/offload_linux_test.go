package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"lewes/router/access"
)

// refuseGRO makes the kernel refuse UDP_GRO to this thread and the processes that it
// starts, as one from before Linux 5.0 does.
func refuseGRO(t *testing.T) {
	const (
		number, level, option = 0, 24, 32 // of struct seccomp_data
		allow, refuse         = 0x7fff0000, 0x00050000 | uint32(unix.ENOPROTOOPT)
	)
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	unless := func(value uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jf: skip}
	}
	program := []unix.SockFilter{
		load(number), unless(unix.SYS_SETSOCKOPT, 5),
		load(level), unless(unix.SOL_UDP, 3),
		load(option), unless(unix.UDP_GRO, 1),
		{Code: unix.BPF_RET | unix.BPF_K, K: refuse},
		{Code: unix.BPF_RET | unix.BPF_K, K: allow},
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Skipf("prctl: %v", err)
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if _, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&filter))); e != 0 {
		t.Skipf("seccomp: %v", e)
	}
}

// TestOffloadForcedOnWhereTheKernelRefuses: the gateway says so and does not start.
func TestOffloadForcedOnWhereTheKernelRefuses(t *testing.T) {
	dir := t.TempDir()
	var stderr bytes.Buffer
	code := make(chan int)
	go func() {
		defer close(code)
		runtime.LockOSThread() // for good: the thread ends with its filter
		refuseGRO(t)
		cmd := exec.Command(program, "gateway", "--state", filepath.Join(dir, "state"), "--offload", "on")
		cmd.Env, cmd.Stderr = environment(dir), &stderr
		_ = cmd.Run() // the exit code says it
		code <- cmd.ProcessState.ExitCode()
	}()
	got, ran := <-code
	if !ran {
		return // skipped
	}
	if got != exitFailed {
		t.Errorf("exit code %d: %s", got, &stderr)
	}
	has(t, stderr.String(), `listen.offload is "on"`, "refuses gro", "protocol not available", `set offload to "auto"`)
}

// TestOffloadOff serves without this system's own calls, whatever the configuration says.
func TestOffloadOff(t *testing.T) {
	for _, row := range []struct {
		flag string
		on   string
	}{{"--offload=off", "0"}, {"--offload=auto", "1"}} {
		dir := t.TempDir()
		file := filepath.Join(dir, "gateway.toml")
		writeFile(t, file, fmt.Sprintf("state_dir = %q\n", dir)+loopbackListen+"[metrics]\nlisten = \"127.0.0.1:0\"\n"+allowEcho, 0o600)
		identity, key := newClient(t)
		if err := access.Add(filepath.Join(dir, "clients"), access.Entry{Identity: key.Public()}); err != nil {
			t.Fatal(err)
		}
		g := launch(t, environment(dir), "gateway", "--config", file, row.flag)
		at := g.awaitLine("lewes://")
		g.awaitLog("  ready  ")
		found := regexp.MustCompile(`"url": "(http://127\.0\.0\.1:\d+/metrics)"`).FindStringSubmatch(g.stderr())
		if found == nil {
			t.Fatal("it does not say where its metrics are")
		}
		answer, err := http.Get(found[1])
		if err != nil {
			t.Fatal(err)
		}
		figures, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		for _, half := range []string{"gso", "gro"} {
			if !regexp.MustCompile(`lewes_socket_offload\{[^}]*offload="` + half + `"[^}]*\} ` + row.on).Match(figures) {
				t.Errorf("%s: the metrics do not say that %s is %s", row.flag, half, row.on)
			}
		}
		mustLewes(t, environment(dir), "probe", "--identity", identity, "--target", echo(t), at)
	}
}
