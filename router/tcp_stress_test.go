package router

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lewes/state/path"
	"lewes/state/wire"
)

// TestManyOverTCP lets clients send and poll in parallel while some close their connections
// early and flows answer all the time. Every accepted datagram has an echo, and every echo is
// fetched, lost with a closed connection, or counted as dropped.
func TestManyOverTCP(t *testing.T) {
	leakless(t)
	const mostWaiting = 14
	g, target := started(t, func(c *Config) {
		withTCP(c)
		c.TCP.Listen.MaxPerSource = 1000
		c.TCP.MaxHeld = mostWaiting * 1200
	})
	to := g.TCPAddrs()[0]
	const clients, rounds = 6, 40
	var broken, taken atomic.Int64
	var all sync.WaitGroup
	var mu sync.Mutex
	got := map[string]int{}
	for n := range clients {
		l := dialStream(t, byte(2+n), to)
		l.connectStream(to)
		s := l.session
		// Sealing is safe beside other sealing; opening is done by one at a time.
		var opening sync.Mutex
		open := func(packets [][]byte) {
			opening.Lock()
			defer opening.Unlock()
			for _, p := range packets {
				kind, content, err := s.Current().Open(time.Now(), p, path.Path{}, &l.out)
				if err == nil && kind == wire.TypeEncryptedData {
					mu.Lock()
					got[string(content[wire.FlowHeaderSize:wire.FlowHeaderSize+8])]++
					mu.Unlock()
				}
			}
		}
		all.Go(func() {
			for round := range rounds {
				payload := fmt.Sprintf("%03d %03d %1000d", n, round, 0)
				packet, err := sealed(l, wire.TypeEncryptedData, &wire.EncryptedData{FlowID: 1, Flags: wire.FlagTarget, Target: wire.AddrTarget(target), Payload: []byte(payload)})
				if err != nil {
					t.Error(err)
					return
				}
				switch packets, err := once(to, packet, round%8 == 7); {
				case errors.Is(err, errBroken):
					broken.Add(1)
				case err != nil:
					t.Error(err)
				default:
					taken.Add(1)
					open(packets)
				}
			}
		})
		all.Go(func() {
			for range rounds {
				packet, err := sealed(l, wire.TypePoll, &wire.Poll{WaitMillis: 50})
				if err != nil {
					t.Error(err)
					return
				}
				packets, err := once(to, packet, false)
				if err != nil {
					t.Error(err)
				}
				open(packets)
			}
			// What is left.
			for quiet := 0; quiet < 3; {
				packet, _ := sealed(l, wire.TypePoll, &wire.Poll{WaitMillis: 100})
				packets, err := once(to, packet, false)
				if err != nil {
					t.Error(err)
					return
				}
				open(packets)
				if quiet++; len(packets) > 0 {
					quiet = 0
				}
			}
		})
	}
	all.Wait()
	echoes := 0
	for what, times := range got {
		if echoes++; times != 1 {
			t.Errorf("echo %q came %d times", what, times)
		}
	}
	s := g.Stats()
	if s.Down.Packets > s.Up.Packets || int64(s.Up.Packets) < taken.Load() {
		t.Errorf("%d datagrams up, %d down, of %d", s.Up.Packets, s.Down.Packets, taken.Load())
	}
	// Echoes may be written to a connection that is then broken off.
	missing := int64(s.Down.Packets) - int64(echoes) - int64(s.QueueFull) - int64(s.QueueExpired) - int64(s.QueuedBytes)
	if missing < 0 || missing > mostWaiting*broken.Load() {
		t.Errorf("of %d echoes %d came and %d were given up; %d connections were broken off", s.Down.Packets, echoes, s.QueueFull+s.QueueExpired, broken.Load())
	}
	if s.Malformed+s.Forged+s.Misplaced+s.Replayed+s.Refused != 0 {
		t.Errorf("counted %+v", s)
	}
	t.Logf("%d up, %d down, %d came, %d given up, %d connections broken off", s.Up.Packets, s.Down.Packets, echoes, s.QueueFull+s.QueueExpired, broken.Load())
}

var errBroken = errors.New("broken off")

// sealed seals a message. It is safe for concurrent use.
func sealed(l *live, kind wire.Type, m interface{ Append([]byte) []byte }) ([]byte, error) {
	sender := l.session.Sender()
	p := wire.Finish(m.Append(wire.Begin(nil, sender.Index(), wire.LevelTransport, 0, kind)))
	return p, sender.Seal(p)
}

// once sends a packet over a connection and returns the answers, or closes the connection early.
func once(to netip.AddrPort, packet []byte, breakOff bool) (packets [][]byte, err error) {
	conn, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(packet))), packet...)); err != nil {
		return nil, err
	}
	if breakOff {
		_ = conn.SetLinger(0)
		return nil, errBroken
	}
	return readFrames(conn)
}

// readFrames reads packets from a connection until the gateway closes it.
func readFrames(conn net.Conn) (packets [][]byte, err error) {
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	for {
		var head [4]byte
		if _, err := io.ReadFull(conn, head[:]); err == io.EOF {
			return packets, nil
		} else if err != nil {
			return packets, err
		}
		p := make([]byte, binary.BigEndian.Uint32(head[:]))
		if _, err := io.ReadFull(conn, p); err != nil {
			return packets, err
		}
		packets = append(packets, p)
	}
}
