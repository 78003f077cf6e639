//go:build unix

package ledger

import (
	"os"
	"syscall"
)

// unlock releases the engine's lock, which a mapping that is left behind would keep.
func unlock(f *os.File) { _ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN) }
