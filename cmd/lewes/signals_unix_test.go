//go:build unix

package main

import (
	"os"
	"syscall"
	"testing"
	"time"
)

// TestNoWishIsLost asks for everything while the gateway is busy: it comes to all of it
// afterwards.
func TestNoWishIsLost(t *testing.T) {
	asked, stop := wishes()
	defer stop()
	for range 3 {
		for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGUSR2} {
			if err := syscall.Kill(syscall.Getpid(), s); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]<-chan os.Signal{"reload": asked.reload, "upgrade": asked.upgrade} {
		select {
		case <-c:
		case <-time.After(20 * time.Second):
			t.Errorf("the %s is lost", name)
		}
	}
}
