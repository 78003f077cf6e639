//go:build unix

package gatewayd

import (
	"os"
	"syscall"
	"testing"
	"time"
)

// TestSignalsAreNotLost sends both signals repeatedly while neither channel is read.
func TestSignalsAreNotLost(t *testing.T) {
	s, stop := notifySignals()
	defer stop()
	for range 3 {
		for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGUSR2} {
			if err := syscall.Kill(syscall.Getpid(), sig); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]<-chan os.Signal{"reload": s.reload, "upgrade": s.upgrade} {
		select {
		case <-c:
		case <-time.After(20 * time.Second):
			t.Errorf("the %s is lost", name)
		}
	}
}
