package e2e

import (
	"os"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"lewes/bench/e2e/link"
	"lewes/bench/measure"
)

var successorLine = regexp.MustCompile(`handed over to a successor  \{"pid": (\d+)`)

// upgrade makes the gateway start its successor, and returns when that serves.
func (s *server) upgrade() {
	s.t.Helper()
	from := s.Logged()
	if err := s.Main.Signal(syscall.SIGUSR2); err != nil {
		s.t.Fatal(err)
	}
	m := successorLine.FindStringSubmatch(s.await(from, "handed over to a successor"))
	if m == nil {
		s.t.Fatalf("who is the successor?\n%s", s.Log())
	}
	pid, err := strconv.Atoi(m[1])
	if err != nil {
		s.t.Fatal(err)
	}
	if s.Main, err = os.FindProcess(pid); err != nil {
		s.t.Fatal(err)
	}
	s.await(from, "  ready  ")
}

// TestGatewayIsUpgraded: the session stays over both transports, and over UDP no datagram is lost.
func TestGatewayIsUpgraded(t *testing.T) {
	t.Parallel()
	for what, faults := range map[string]link.Faults{"UDP": {}, "TCP": noUDP} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := newTopology(t)
			s.link.Both(faults)
			begun(s, steady)
			from := measure.Now()
			s.gateway.upgrade()
			s.awaitReceived(100)
			to := measure.Now()
			a := s.stopAfter(patience / 2)
			s.log(a, from)
			s.sameSession()
			figures.add(t, "upgrade under "+what+": longest time without a datagram", a.gap(from, to), time.Second)
			// A TCP connection that the old process has accepted ends with it, and its packet may be lost.
			if sent, _, back := a.count(from, a.last()); sent != back && what == "UDP" {
				t.Errorf("%d of %d datagrams were lost", sent-back, sent)
			}
		})
	}
}
