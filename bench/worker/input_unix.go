//go:build unix

package worker

import (
	"os"
	"syscall"
)

// input is standard input, read by way of the poller. A read that blocks in the
// kernel may, with Go 1.26, keep the runtime from stopping the world for a minute if it
// begins at the very moment when that does, and every question about memory stops it.
func input() *os.File {
	if syscall.SetNonblock(0, true) != nil {
		return os.Stdin
	}
	return os.NewFile(0, "standard input")
}
