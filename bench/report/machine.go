//go:build linux

package report

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"lewes/crypto/seal"
	"lewes/transport/udp"
)

// Machine describes the machine, on which all figures depend.
type Machine struct {
	CPU     string  `json:"cpu"`
	Cores   int     `json:"cores"` // that Go uses
	Memory  uint64  `json:"memory,omitempty"`
	System  string  `json:"system"` // GOOS/GOARCH
	Kernel  string  `json:"kernel,omitempty"`
	Virtual bool    `json:"virtual"` // runs under a hypervisor
	Go      string  `json:"go"`
	AES     bool    `json:"aes"` // AES-256-GCM is worthwhile
	GSO     string  `json:"gso"` // "on", or why not
	GRO     string  `json:"gro"`
	Load    float64 `json:"load_average"` // when the bench began
}

// ReadMachine describes this machine.
func ReadMachine() Machine {
	m := Machine{
		CPU:    "unknown",
		Cores:  runtime.GOMAXPROCS(0),
		System: runtime.GOOS + "/" + runtime.GOARCH,
		Go:     runtime.Version(),
		AES:    seal.Offer()&seal.AES256GCM != 0,
		GSO:    "on",
		GRO:    "on",
	}
	support := udp.Probe()
	if support.GSO != nil {
		m.GSO = support.GSO.Error()
	}
	if support.GRO != nil {
		m.GRO = support.GRO.Error()
	}
	m.read()
	return m
}

// Warning explains why figures from the machine are uncertain. It is empty for an idle machine.
func (m *Machine) Warning() string {
	if m.Load > 0.25*float64(m.Cores) {
		return fmt.Sprintf("other programs were running when the bench began (load average %.1f on %d cores): rates are too low and CPU times too high", m.Load, m.Cores)
	}
	return ""
}

// String describes the machine in one line.
func (m *Machine) String() string {
	virtual := ""
	if m.Virtual {
		virtual = ", virtual"
	}
	return fmt.Sprintf("%s, %d cores%s, %.0f GiB; %s, %s, %s; GSO %s, GRO %s", m.CPU, m.Cores, virtual, float64(m.Memory)/(1<<30), m.Kernel, m.System, m.Go, m.GSO, m.GRO)
}

// read fills in the fields that Linux reports.
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
	if average, err := os.ReadFile("/proc/loadavg"); err == nil {
		first, _, _ := strings.Cut(string(average), " ")
		m.Load, _ = strconv.ParseFloat(first, 64)
	}
}

// field returns the value of a line "name : value".
func field(text, name string) string {
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
