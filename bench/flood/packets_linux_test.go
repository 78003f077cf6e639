package flood

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"

	"lewes/bench/measure"
	"lewes/router/costs"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
)

// strangersSources is the number of handshakes whose packets alternate in a stranger's attack.
const strangersSources = 50

// mostSockets bounds the attacker's sockets.
const mostSockets = 200

// series returns the name of a kind's counter on the metrics page.
func series(k *costs.Kind) string {
	name, label, labelled := strings.Cut(k.Counter, "{")
	if !labelled {
		return "lewes_" + name
	}
	key, value, _ := strings.Cut(strings.TrimSuffix(label, "}"), "=")
	return "lewes_" + name + "{" + key + `="` + value + `"}`
}

// senders are the sockets of an attack with packets of package costs.
type senders struct {
	*attacker
	conns map[path.Path]*net.UDPConn
	paths []path.Path
	next  int
}

// source returns the path from a new socket at the next of the attacker's addresses, or from an
// older one if there are many.
func (s *senders) source() path.Path {
	if len(s.paths) == mostSockets {
		s.next++
		return s.paths[s.next%mostSockets]
	}
	from := s.Own[len(s.conns)%len(s.Own)]
	conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), net.UDPAddrFromAddrPort(s.Four))
	if err != nil {
		panic(err) // the addresses are those of this machine
	}
	p := path.Path{Peer: conn.LocalAddr().(*net.UDPAddr).AddrPort()}
	s.conns[p] = conn
	s.paths = append(s.paths, p)
	return p
}

// exchange sends packets of one source. It waits for answers to a hello, a KKT request, a whole
// Handshake 1 or a Handshake 3, which are the only packets that need one.
func (s *senders) exchange(packets ...transport.Packet) (answers []transport.Packet) {
	if len(packets) == 0 {
		return nil
	}
	conn, wait := s.conns[packets[0].Path], false
	for _, p := range packets {
		_, _ = conn.Write(p.Data)
		h, err := wire.ParseHeader(p.Data)
		wait = wait || err == nil && h.Level != wire.LevelTransport
	}
	if t, _, err := wire.ParseBody(wire.Body(packets[0].Data)); err == nil && t == wire.TypeHandshake && len(packets) == 1 {
		return nil // a part that waits for another
	}
	var buffer [2048]byte
	for quiet := 200 * time.Millisecond; wait; quiet = 5 * time.Millisecond {
		if conn.SetReadDeadline(time.Now().Add(quiet)) != nil {
			break
		}
		n, err := conn.Read(buffer[:])
		if err != nil {
			break
		}
		answers = append(answers, transport.Packet{Data: bytes.Clone(buffer[:n]), Path: packets[0].Path})
	}
	return answers
}

// sendKind sends packets of a kind, from one client or from several strangers. Afterwards it closes
// the sessions that it used.
func (a *attacker) sendKind(ctx context.Context, p attack, k *costs.Kind) (measure.Sent, error) {
	s := &senders{attacker: a, conns: make(map[path.Path]*net.UDPConn)}
	unread, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a.Target, 0)))
	if err != nil {
		return measure.Sent{}, err
	}
	defer unread.Close()
	target := unread.LocalAddr().(*net.UDPAddr).AddrPort()
	e := costs.Env{
		Gateway: a.Identity, Exit: a.Exit, Target: target, Open: target, Denied: netip.MustParseAddrPort("10.0.0.1:53"), Host: "flood.invalid",
		Clients: 1, Rand: crand.Reader, Now: time.Now, Source: s.source, Exchange: s.exchange,
	}
	if k.From == costs.Stranger {
		e.Clients = strangersSources
	}
	next := k.Start(&e)
	sent, err := measure.Pacer{Rate: p.Rate, For: p.For, Most: 32}.Run(ctx, func(n int) (int, error) {
		for i := range n {
			packet, ok := next()
			if !ok {
				return i, errors.New("the gateway refuses what has to come before the packet")
			}
			if p.Spoiled {
				packet.Data = a.spoil(packet.Data)
			}
			_, _ = s.conns[packet.Path].Write(packet.Data) // a full buffer drops it
		}
		return n, nil
	})
	for range 3 { // a flood drops some
		e.Close()
		time.Sleep(20 * time.Millisecond)
	}
	for _, conn := range s.conns {
		_ = conn.Close()
	}
	return sent, err
}
