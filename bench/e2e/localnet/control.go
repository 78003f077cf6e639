package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/rpc"
	"os"
	"syscall"

	"lewes/bench/e2e/link"
	"lewes/bench/worker"
)

// Control is what the process that holds a network does for other commands.
type Control struct {
	net  *localnet
	stop func()
}

// Shell is what the command shell needs to know of each machine.
type Shell map[string]Machine

// Machine is a process in the machine's namespace, and the environment of commands there.
type Machine struct {
	PID int
	Env []string
}

// Shell returns the machines.
func (c *Control) Shell(_ worker.None, s *Shell) error {
	*s = c.net.shell()
	return nil
}

// Set replaces the faults of the link.
func (c *Control) Set(f link.Faults, _ *worker.None) error {
	c.net.network.Link.Both(f)
	return nil
}

// Down removes the network. It does not return: the process ends.
func (c *Control) Down(worker.None, *worker.None) error {
	c.stop()
	select {}
}

// listen opens the socket, for root only. One that a killed process has left is replaced.
func listen(socket string) (net.Listener, error) {
	if conn, err := net.Dial("unix", socket); err == nil {
		conn.Close()
		return nil, errors.New("a network is up: take it down first, or choose another --socket")
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		_ = os.Remove(socket) // Listen reports a failure
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	return l, os.Chmod(socket, 0o600)
}

// serve serves the commands until the listener is closed.
func (c *Control) serve(l net.Listener) error {
	s := rpc.NewServer()
	if err := s.Register(c); err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go s.ServeConn(conn)
		}
	}()
	return nil
}

// call calls a method of Control. The error is io.ErrUnexpectedEOF if the process ends meanwhile.
func call(socket, method string, params, result any) error {
	c, err := rpc.Dial("unix", socket)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return errors.New("no network is up: start one with up")
	}
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	defer c.Close()
	if result == nil {
		result = new(worker.None)
	}
	return c.Call("Control."+method, params, result)
}
