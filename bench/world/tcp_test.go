package world

import (
	"bufio"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"lewes/bench/link"
	"lewes/bench/measure"
)

// noUDP lets only TCP pass.
var noUDP = link.Faults{Block: []link.Match{{Protocol: link.UDP}}}

const (
	// fallback is how long the first datagram may take where UDP is dropped silently, and
	// homecoming how long the client may stay away from UDP that works again.
	fallback   = 4 * time.Second
	homecoming = 30 * time.Second
)

// TestUDPIsBlocked from the start, wholly or only what the gateway answers.
func TestUDPIsBlocked(t *testing.T) {
	for what, block := range map[string]func(*link.Link){
		"both ways":   func(l *link.Link) { l.Both(noUDP) },
		"the answers": func(l *link.Link) { l.Set(link.B, noUDP) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			block(s.link)
			began := s.dial().Began
			s.send(steady)
			s.awaitReceived(100)
			a := s.stop()
			s.log(a, began)
			s.saw(began, connected)
			if on := s.condition().Transport; on != "tcp" {
				t.Errorf("the session runs over %s", on)
			}
			figures.add(t, "UDP blocked ("+what+"): first datagram through", a.through(began), fallback)
			if sent, _, back := a.count(began, a.last()); back < sent*95/100 {
				t.Errorf("over TCP %d of %d datagrams were lost", sent-back, sent)
			}
		})
	}
}

// TestUDPIsBlockedForAWhile, wholly or only what the gateway sends: the same session
// goes over TCP meanwhile.
func TestUDPIsBlockedForAWhile(t *testing.T) {
	for what, block := range map[string]func(*link.Link){
		"both ways":   func(l *link.Link) { l.Both(noUDP) },
		"the answers": func(l *link.Link) { l.Set(link.B, noUDP) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := begun(newScene(t), steady)
			time.Sleep(scaled(time.Minute, 2*time.Second))
			blocked := measure.Now()
			block(s.link)
			s.awaitTransport(blocked, "tcp")
			s.awaitReceived(50)
			time.Sleep(scaled(time.Minute, 4*time.Second))
			unblocked := measure.Now()
			s.link.Both(link.Faults{})
			home := s.awaitTransport(unblocked, "udp")
			s.awaitReceived(50)
			a := s.stop()
			s.log(a, blocked)
			figures.add(t, "UDP blocked in mid-session ("+what+"): first datagram through", a.through(blocked), fallback)
			figures.add(t, "UDP works again ("+what+"): the client goes back to it", time.Duration(home-unblocked), homecoming)
			s.saw(blocked, pathChanged, pathChanged)
			if sent, _, back := a.count(unblocked-int64(time.Second), a.last()); sent-back > 10 {
				t.Errorf("on the way back to UDP %d of %d datagrams were lost", sent-back, sent)
			}
		})
	}
}

// TestGatewayIsKilledUnderTCP: its Reset comes over TCP as well.
func TestGatewayIsKilledUnderTCP(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.link.Both(noUDP)
	begun(s, steady)
	killed := measure.Now()
	s.gateway.kill()
	time.Sleep(3 * time.Second)
	ready := s.gateway.start()
	s.awaitReceived(50)
	a := s.stop()
	s.log(a, killed)
	s.saw(killed, reconnecting, reconnected)
	figures.add(t, "kill -9 under TCP: datagrams flow again after the gateway is ready", a.through(ready), fallback)
}

// TestForwardWithoutUDP: the program finds its way too, and says which it is.
func TestForwardWithoutUDP(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.link.Both(noUDP)
	g := s.gateway.gateway
	g.Host = gatewayAddrs[0].Addr().String()
	cmd := exec.Command(program, "forward", "--gateway", g.String(), "--identity", s.key, "127.0.0.1:0="+target.String())
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	var log strings.Builder
	cmd.Stderr = &log
	stdout, err := cmd.StdoutPipe()
	s.must(err)
	began := time.Now()
	s.must(s.machine["client"].Do(cmd.Start))
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		t.Logf("forward said:\n%s", log.String())
	}()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("no line from forward: %v", err)
	}
	at, _, ok := strings.Cut(strings.TrimPrefix(line, "ready: "), " to ")
	if !ok {
		t.Fatalf("forward says %q", line)
	}
	figures.add(t, "forward, UDP blocked: first datagram through", s.roundTrip(at).Sub(began), fallback)
}

// roundTrip sends to a port of the client's machine until something comes back, and
// returns when it did.
func (s *scene) roundTrip(at string) time.Time {
	s.t.Helper()
	to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(at))
	var conn *net.UDPConn
	s.must(s.machine["client"].Do(func() (err error) {
		conn, err = net.DialUDP("udp", nil, to)
		return err
	}))
	defer conn.Close()
	b := make([]byte, 100)
	for end := time.Now().Add(patience); time.Now().Before(end); {
		putDatagram(b, 1)
		_, err := conn.Write(b)
		s.must(err)
		s.must(conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond)))
		if n, err := conn.Read(b); err == nil {
			if _, ok := datagramNumber(b[:n]); !ok {
				s.t.Error("the datagram was changed on its way")
			}
			return time.Now()
		}
	}
	s.t.Fatalf("nothing comes back within %v", patience)
	return time.Time{}
}
