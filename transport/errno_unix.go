//go:build unix

package transport

import "syscall"

// PortableErrno returns e: Unix systems share the names of package syscall.
func PortableErrno(e syscall.Errno) syscall.Errno { return e }
