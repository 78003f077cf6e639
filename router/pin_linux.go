package router

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// pin makes the calling goroutine keep to one of the processors that the program
// may use, for as long as it lives.
func pin(shard int) error {
	var may unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		return err
	}
	left := shard % may.Count()
	for cpu := 0; ; cpu++ {
		if !may.IsSet(cpu) {
			continue
		}
		if left == 0 {
			runtime.LockOSThread()
			var one unix.CPUSet
			one.Set(cpu)
			return unix.SchedSetaffinity(0, &one)
		}
		left--
	}
}
