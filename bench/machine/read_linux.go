package machine

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// read fills in what Linux says.
func (m *Machine) read() {
	if cpu, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if name := field(string(cpu), "model name"); name != "" {
			m.CPU = name
		}
		m.Virtual = strings.Contains(" "+field(string(cpu), "flags")+" ", " hypervisor ")
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.Memory = uint64(info.Totalram) * uint64(info.Unit)
	}
	if limit, err := os.ReadFile("/proc/sys/net/core/rmem_max"); err == nil {
		m.ReceiveBuffer = strings.TrimSpace(string(limit))
	}
	if average, err := os.ReadFile("/proc/loadavg"); err == nil {
		first, _, _ := strings.Cut(string(average), " ")
		if busy, err := strconv.ParseFloat(first, 64); err == nil {
			m.Busy = busy
		}
	}
}
