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

// namespaceVar tells a worker whose network to join.
const namespaceVar = "LEWES_BENCH_NETWORK_OF"

// isolate keeps the terminal's signals from the worker, whom its parent ends, and puts it
// where it is to run.
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

// enterNamespace joins the network that this worker was told. A namespace belongs to a
// thread and Go has many, so the thread that has joined becomes the whole program
// anew.
func enterNamespace() error {
	pid, ok := os.LookupEnv(namespaceVar)
	if !ok {
		return nil
	}
	if _, err := strconv.Atoi(pid); err != nil {
		return fmt.Errorf("%s is %q, which is no process id", namespaceVar, pid)
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
