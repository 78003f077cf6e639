package metrics

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// clockTick is the unit of times in /proc, in seconds: the kernel's USER_HZ is 100 on every architecture of Go.
const clockTick = 1.0 / 100

// addProcess adds the metrics of the process, under the names that Prometheus gives them. Those that cannot be read
// are left out.
func addProcess(p *page) {
	var used syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &used) == nil {
		p.add("process_cpu_seconds_total", counterKind, "Processor time of the process.", float64(used.Utime.Nano()+used.Stime.Nano())/1e9)
	}
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		p.add("process_max_fds", gaugeKind, "Limit on open files.", float64(limit.Cur))
	}
	if dir, err := os.Open("/proc/self/fd"); err == nil {
		if names, err := dir.Readdirnames(-1); err == nil {
			p.add("process_open_fds", gaugeKind, "Open files.", float64(len(names)-1)) // without dir
		}
		_ = dir.Close()
	}
	if virtual, resident, err := memory(); err == nil {
		p.add("process_virtual_memory_bytes", gaugeKind, "Address space of the process.", virtual)
		p.add("process_resident_memory_bytes", gaugeKind, "Memory of the process that is in RAM.", resident)
	}
	if start, err := startTime(); err == nil {
		p.add("process_start_time_seconds", gaugeKind, "Start of the process, since 1970.", start)
	}
}

// memory returns sizes in bytes.
func memory() (virtual, resident float64, err error) {
	text, err := os.ReadFile("/proc/self/statm")
	if err == nil {
		_, err = fmt.Sscan(string(text), &virtual, &resident)
	}
	page := float64(os.Getpagesize())
	return virtual * page, resident * page, err
}

// startTime returns the start of the process in seconds since 1970.
func startTime() (float64, error) {
	text, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ") // the end of the program's name
	fields := strings.Fields(rest)
	const start = 22 - 3 // field 22 of proc(5); the first here is field 3
	if len(fields) <= start {
		return 0, fmt.Errorf("/proc/self/stat has %d fields", len(fields))
	}
	ticks, err := strconv.ParseFloat(fields[start], 64)
	if err != nil {
		return 0, err
	}
	system, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	_, boot, found := strings.Cut(string(system), "\nbtime ")
	if !found {
		return 0, fmt.Errorf("/proc/stat has no btime")
	}
	boot, _, _ = strings.Cut(boot, "\n")
	booted, err := strconv.ParseFloat(boot, 64)
	return booted + ticks*clockTick, err
}
