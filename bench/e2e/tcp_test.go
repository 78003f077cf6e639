package e2e

import (
	"bufio"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"lewes/bench/e2e/link"
	"lewes/bench/e2e/network"
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
	t.Parallel()
	for what, block := range map[string]func(*link.Link){
		"both ways":   func(l *link.Link) { l.Both(noUDP) },
		"the answers": func(l *link.Link) { l.Set(link.B, noUDP) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := newTopology(t)
			block(s.link)
			began := s.dial().Began
			s.send(steady)
			s.awaitReceived(100)
			a := s.stop()
			s.log(a, began)
			if on := s.condition().Transport; on != "tcp" {
				t.Errorf("the session runs over %s", on)
			}
			figures.add(t, "UDP blocked ("+what+"): first datagram through", a.through(began), fallback)
		})
	}
}

// TestLocalPortIsThrottled: somebody drops what one local port sends and receives. Another
// one will do, and UDP is not given up for it.
func TestLocalPortIsThrottled(t *testing.T) {
	t.Parallel()
	s := begun(newTopology(t), steady)
	from, local := measure.Now(), s.condition().Local
	s.link.Both(link.Faults{Block: []link.Match{{Protocol: link.UDP, Near: netip.MustParseAddrPort(local).Port()}}})
	s.awaitReceived(50)
	a := s.stop()
	s.log(a, from)
	c := s.condition()
	t.Logf("from %s to %s", local, c.Local)
	s.saw(from, pathChanged)
	if c.Transport != "udp" || c.Local == local {
		t.Errorf("the session runs over %s, from %s", c.Transport, c.Local)
	}
	figures.add(t, "one local port throttled: first datagram through from another", a.through(from), fallback)
}

// TestUDPIsBlockedToTheEntry: the session inside the entry's knows nothing of it.
func TestUDPIsBlockedToTheEntry(t *testing.T) {
	t.Parallel()
	s := begun(newChain(t), steady)
	blocked := measure.Now()
	s.link.Both(noUDP)
	s.awaitReceived(50)
	a := s.stop()
	s.log(a, blocked)
	figures.add(t, "UDP blocked to the entry in mid-session: first datagram through", a.through(blocked), fallback)
	s.saw(blocked, pathChanged)
}

// TestLossAndDelayUnderTCP: what TCP sends again is late, but not lost. A source has few
// connections at a time, each for some round trips, so that less is sent than elsewhere.
func TestLossAndDelayUnderTCP(t *testing.T) {
	t.Parallel()
	s := newTopology(t)
	bad := noUDP
	bad.Loss, bad.Delay = 0.05, 50*time.Millisecond
	s.link.Both(bad)
	d := s.dial()
	figures.add(t, "UDP blocked, 5 % loss, 50 ms delay: handshake", time.Duration(d.Stood-d.Began), 10*time.Second)
	from := measure.Now()
	s.send(sending{Rate: 30, Size: 200})
	time.Sleep(scaled(time.Minute, 5*time.Second))
	to := measure.Now()
	s.awaitReceived(20)
	a := s.stop()
	s.log(a, from)
	if sent, _, back := a.count(from, to); back == 0 {
		t.Errorf("none of %d datagrams came back", sent)
	}
}

// TestNATForgetsUnderTCP: connections break, and the next one is another.
func TestNATForgetsUnderTCP(t *testing.T) {
	t.Parallel()
	s := newTopology(t)
	s.natted()
	s.link.Both(noUDP)
	begun(s, steady)
	from := measure.Now()
	for range 3 {
		time.Sleep(scaled(10*time.Second, 2*time.Second))
		s.link.Rebind()
	}
	s.awaitReceived(50)
	to := measure.Now()
	a := s.stop()
	s.log(a, from)
	figures.add(t, "NAT rebinding under TCP: longest time without a datagram", a.gap(from, to), fallback)
	s.sameSession()
}

// TestUDPIsBlockedForAWhile, wholly or only what the gateway sends: the same session
// goes over TCP meanwhile.
func TestUDPIsBlockedForAWhile(t *testing.T) {
	t.Parallel()
	for what, block := range map[string]func(*link.Link){
		"both ways":   func(l *link.Link) { l.Both(noUDP) },
		"the answers": func(l *link.Link) { l.Set(link.B, noUDP) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := begun(newTopology(t), steady)
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
		})
	}
}

// TestGatewayIsKilledUnderTCP: the handshake beside the session goes over TCP as well.
func TestGatewayIsKilledUnderTCP(t *testing.T) {
	t.Parallel()
	s := newTopology(t)
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
	figures.add(t, "kill -9 under TCP: datagrams flow again after the gateway is ready", a.through(ready), time.Second)
}

// TestForwardWithoutUDP: the program finds its way too, and says which it is.
func TestForwardWithoutUDP(t *testing.T) {
	t.Parallel()
	s := newTopology(t)
	s.link.Both(noUDP)
	g := s.gateway.URI
	g.Host = network.GatewayAddrs[0].Addr().String()
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
func (s *topology) roundTrip(at string) time.Time {
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
