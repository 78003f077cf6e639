package worker

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// namespaceVar holds the id of the process whose network a worker joins.
const namespaceVar = "LEWES_BENCH_NETWORK_OF"

// isolate keeps the terminal's signals from the worker, which its parent stops, and selects its
// network.
func isolate(cmd *exec.Cmd, where Where) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	switch {
	case where.New:
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET
	case where.In != nil:
		cmd.Env = append(cmd.Env, namespaceVar+"="+strconv.Itoa(where.In.PID()))
	}
	return nil
}

// enterNamespace joins the selected network. A namespace belongs to a thread and a Go program has
// many threads, so the thread executes the program again after it has joined.
func enterNamespace() error {
	pid, ok := os.LookupEnv(namespaceVar)
	if !ok {
		return nil
	}
	if _, err := strconv.Atoi(pid); err != nil {
		return fmt.Errorf("worker: %s is %q, not a process id", namespaceVar, pid)
	}
	runtime.LockOSThread()
	network, err := os.Open("/proc/" + pid + "/ns/net")
	if err != nil {
		return err
	}
	if err := unix.Setns(int(network.Fd()), unix.CLONE_NEWNET); err != nil {
		return errors.Join(ErrNoNamespaces, os.NewSyscallError("setns", err))
	}
	_ = network.Close()
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, namespaceVar+"=") {
			env = append(env, v)
		}
	}
	return os.NewSyscallError("execve", syscall.Exec("/proc/self/exe", os.Args, env))
}

// input returns standard input, read through the poller. With Go 1.26 a read that blocks in the
// kernel may delay a stop of the world, which every memory statistic needs, by up to a minute.
func input() *os.File {
	if syscall.SetNonblock(0, true) != nil {
		return os.Stdin
	}
	return os.NewFile(0, "standard input")
}
