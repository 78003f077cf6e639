package deploy

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"lewes/transport/udp"
)

const sysctlFile = "90-lewes.conf"

// readSysctl returns the settings, without those that are commented out.
func readSysctl(t *testing.T) map[string]string {
	t.Helper()
	settings := make(map[string]string)
	for n, line := range strings.Split(read(sysctlFile), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, found := strings.Cut(line, " = ")
		if !found || settings[key] != "" {
			t.Fatalf("%s:%d: no setting, or one again: %s", sysctlFile, n+1, line)
		}
		settings[key] = value
	}
	return settings
}

// TestSysctlBuffers: the system grants the buffers that a gateway asks for.
func TestSysctlBuffers(t *testing.T) {
	settings, listen := readSysctl(t), defaults(t).Listen
	for key, asked := range map[string]int{
		"net.core.rmem_max": max(mebibytes(t, listen.ReceiveBuffer), udp.DefaultBuffer),
		"net.core.wmem_max": max(mebibytes(t, listen.SendBuffer), udp.DefaultBuffer),
	} {
		if granted, err := strconv.Atoi(settings[key]); err != nil || granted < asked {
			t.Errorf("%s is %q, and a gateway asks for %d", key, settings[key], asked)
		}
	}
}

// mebibytes converts a size such as "4MiB" to bytes.
func mebibytes(t *testing.T, size string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSuffix(size, "MiB"))
	if err != nil {
		t.Fatal(err)
	}
	return n << 20
}

// TestSysctlPorts: the system gives the gateway's ports to nobody else.
func TestSysctlPorts(t *testing.T) {
	const key = "net.ipv4.ip_local_reserved_ports"
	reserved := strings.Split(readSysctl(t)[key], ",")
	for _, port := range []int{defaults(t).Listen.Port, defaults(t).TCP.Port} {
		if !slices.Contains(reserved, strconv.Itoa(port)) {
			t.Errorf("%s is %q: port %d is missing", key, reserved, port)
		}
	}
}
