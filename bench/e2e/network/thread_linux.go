package network

import (
	"os/exec"
	"syscall"
)

// endWithThread has a process killed when the thread that started it ends, and keeps the
// terminal's signals from it.
func endWithThread(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
