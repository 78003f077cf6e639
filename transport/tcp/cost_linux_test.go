package tcp

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMemoryPerIdleConnection opens connections that send nothing, or half a length, and weighs
// what each costs the process. The other ends are bare descriptors.
func TestMemoryPerIdleConnection(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector makes everything larger")
	}
	const count = 300
	l := listening(t, func(c *Config) { c.MaxPerSource, c.ReceiveTimeout = count, time.Minute })
	to := unix.SockaddrInet4{Port: int(l.Groups[0].Addr.Port()), Addr: [4]byte{127, 0, 0, 1}}
	weigh := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	before := weigh()
	for n := range count {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, &to); err != nil {
			t.Fatal(err)
		}
		if n%2 == 0 {
			_, _ = unix.Write(fd, []byte{0, 0})
		}
	}
	eventually(t, "all accepted", func() bool { return l.Stats().Open == count })
	cost := (weigh() - before) / count
	t.Logf("%d bytes for each of %d silent connections", cost, count)
	if cost > 8<<10 {
		t.Errorf("a silent connection costs %d bytes", cost)
	}
	if used := l.budget.used.Load(); used != 0 {
		t.Errorf("they hold %d bytes of buffers", used)
	}
}
