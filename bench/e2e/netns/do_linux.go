package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"lewes/bench/worker"
)

// Do calls f on a thread in the machine's namespace: sockets, devices and processes that f creates
// belong to it. Goroutines that f starts do not.
func (m *Machine) Do(f func() error) error { return Do(m.Worker.PID(), f) }

// Do is Machine.Do for the namespace of a process.
func Do(pid int, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := enter(pid); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// enter moves the thread into the namespace of a process.
func enter(pid int) error {
	network, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	defer network.Close()
	if err := unix.Setns(int(network.Fd()), unix.CLONE_NEWNET); err != nil {
		return errors.Join(worker.ErrNoNamespaces, os.NewSyscallError("setns", err))
	}
	return nil
}
