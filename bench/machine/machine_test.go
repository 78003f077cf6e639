package machine

import (
	"runtime"
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	m := Read()
	if m.Cores != runtime.GOMAXPROCS(0) || m.CPU == "" || m.GSO == "" || m.GRO == "" || !strings.Contains(m.System, runtime.GOARCH) {
		t.Errorf("%+v", m)
	}
	if runtime.GOOS == "linux" && (!strings.HasPrefix(m.Kernel, "Linux ") || m.Memory < 1<<26 || m.Busy < 0 || m.ReceiveBuffer == "") {
		t.Errorf("%+v", m)
	}
	for _, line := range m.Lines() {
		if line == "" || strings.Contains(line, "\n") {
			t.Errorf("line %q", line)
		}
	}
}

func TestNoisy(t *testing.T) {
	for _, row := range []struct {
		busy  float64
		cores int
		noisy bool
	}{{-1, 2, false}, {0.3, 2, false}, {0.6, 2, true}, {0.6, 8, false}, {9, 8, true}} {
		m := Machine{Busy: row.busy, Cores: row.cores}
		if got := m.Noisy(); (got != "") != row.noisy {
			t.Errorf("load average %v on %d cores: %q", row.busy, row.cores, got)
		}
	}
}

func TestField(t *testing.T) {
	const text = "processor\t: 0\nmodel name\t: A CPU: fast\nflags\t\t: a b\n"
	for name, want := range map[string]string{"model name": "A CPU: fast", "flags": "a b", "processor": "0", "none": ""} {
		if got := field(text, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}
