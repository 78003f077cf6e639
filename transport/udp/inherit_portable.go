//go:build !linux

package udp

import "syscall"

func mayInherit() error                        { return ErrNoInheritance }
func cookieOf(syscall.RawConn) (uint64, error) { return 0, ErrNoInheritance }
func (c *Conn) settleInherited(*Options) error { return ErrNoInheritance }
