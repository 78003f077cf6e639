package measure

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// sharedClock reads the clock that counts from the start of the machine.
func sharedClock() int64 {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) != nil {
		return time.Now().UnixNano()
	}
	return t.Nano()
}

// selfCPU returns the CPU time of all threads of this process.
func selfCPU() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// OfProcess returns another process's usage so far, without its allocations.
func OfProcess(pid int) (Usage, error) {
	// The clock of a process, as clock_getcpuclockid makes it: CPUCLOCK_SCHED is 2.
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
		return Usage{}, fmt.Errorf("measure: CPU clock of process %d: %w", pid, err)
	}
	return Usage{At: Now(), CPU: time.Duration(t.Nano()), Resident: residentOf(strconv.Itoa(pid))}, nil
}

func resident() uint64 { return residentOf("self") }

// residentOf returns the bytes of a process that are in memory.
func residentOf(process string) uint64 {
	statm, err := os.ReadFile("/proc/" + process + "/statm")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(statm)
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseUint(string(fields[1]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * uint64(os.Getpagesize())
}

// sharpen lets this thread wake at the requested time and not 50 µs later.
func sharpen() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) }

// sleep is finer than time.Sleep, which rounds up to a millisecond in an idle process.
func sleep(d time.Duration) {
	t := unix.NsecToTimespec(int64(d))
	_ = unix.Nanosleep(&t, nil) // after an interruption the loop reads the clock
}
