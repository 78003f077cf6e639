package machine

import (
	"fmt"
	"runtime"
	"strings"

	"lewes/crypto/seal"
	"lewes/transport/udp"
)

// Machine is what figures depend on.
type Machine struct {
	CPU           string `json:"cpu"`
	Cores         int    `json:"cores"` // that Go uses
	Memory        uint64 `json:"memory,omitempty"`
	System        string `json:"system"` // GOOS/GOARCH
	Kernel        string `json:"kernel,omitempty"`
	Virtual       bool   `json:"virtual"` // it says that it runs under a hypervisor
	Go            string `json:"go"`
	AES           bool   `json:"aes"` // AES-256-GCM is worth while
	GSO           string `json:"gso"` // "on", or why not
	GRO           string `json:"gro"`
	ReceiveBuffer string `json:"rmem_max,omitempty"`
	// Busy is how many programs wanted to run on average when the bench began, other than
	// itself; less than 0 where the system does not say.
	Busy float64 `json:"load_average"`
}

// Read looks at this machine.
func Read() Machine {
	m := Machine{
		CPU:    "unknown",
		Cores:  runtime.GOMAXPROCS(0),
		System: runtime.GOOS + "/" + runtime.GOARCH,
		Go:     runtime.Version(),
		AES:    seal.Offer()&seal.AES256GCM != 0,
		GSO:    "on",
		GRO:    "on",
		Busy:   -1,
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

// Noisy says why figures from the machine are to be taken with care, or nothing.
func (m *Machine) Noisy() string {
	if m.Busy > 0.25*float64(m.Cores) {
		return fmt.Sprintf("the machine was busy with other things when the bench began (load average %.1f on %d cores): rates are too low, and CPU times too high, by an unknown amount", m.Busy, m.Cores)
	}
	return ""
}

// Lines returns the machine in words, a line each.
func (m *Machine) Lines() []string {
	cpu := fmt.Sprintf("%s, %d cores", m.CPU, m.Cores)
	if m.Virtual {
		cpu += ", virtual"
	}
	if m.Memory > 0 {
		cpu += fmt.Sprintf(", %.0f GiB", float64(m.Memory)/(1<<30))
	}
	offloads := fmt.Sprintf("GSO %s, GRO %s", m.GSO, m.GRO)
	if m.ReceiveBuffer != "" {
		offloads += ", net.core.rmem_max " + m.ReceiveBuffer
	}
	system := m.System + ", " + m.Go
	if m.Kernel != "" {
		system = m.Kernel + ", " + system
	}
	return []string{cpu, system, offloads}
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
