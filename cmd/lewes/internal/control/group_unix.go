//go:build unix

package control

import (
	"os"
	"syscall"
)

// hasGroup reports whether a file belongs to a group.
func hasGroup(file string, gid int) bool {
	info, err := os.Stat(file)
	if err != nil {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Gid) == gid
}
