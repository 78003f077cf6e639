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
func (m *Machine) Do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := m.enter(); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// enter moves the thread into the machine's namespace.
func (m *Machine) enter() error {
	network, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", m.Worker.PID()))
	if err != nil {
		return err
	}
	defer network.Close()
	if err := unix.Setns(int(network.Fd()), unix.CLONE_NEWNET); err != nil {
		return errors.Join(worker.ErrNoNamespaces, os.NewSyscallError("setns", err))
	}
	return nil
}
