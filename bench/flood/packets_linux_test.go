package flood

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"lewes/bench/measure"
	"lewes/bench/worker"
	"lewes/router/costs"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
)

// strangersSources is the number of handshakes whose packets alternate in a stranger's attack.
const strangersSources = 50

// mostSockets bounds the attacker's sockets.
const mostSockets = 200

// recording is the number of packets of strangers that are made before an attack, which repeats them: to
// make one takes the attacker longer than the gateway.
const recording = 2000

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
	parts []transport.Packet // of messages that were not sent whole
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
		s.parts = append(s.parts, packets...)
		return nil // it waits for another
	}
	var buffer [2048]byte
	for quiet := 200 * time.Millisecond; wait; quiet = 20 * time.Millisecond {
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

// prepared is an attack with packets of a kind that is ready to begin.
type prepared struct {
	*senders
	costs.Env
	unread *net.UDPConn // where flows are opened to
	next   func() (transport.Packet, bool)
}

// prepare makes what has to come before an attack with packets of a kind: sessions of one client, or
// handshakes of several strangers.
func (a *attacker) prepare(ctx context.Context, kind string) (worker.None, error) {
	k := costs.Find(kind)
	if k == nil {
		return worker.None{}, fmt.Errorf("no kind of packet %q", kind)
	}
	unread, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a.Target, 0)))
	if err != nil {
		return worker.None{}, err
	}
	p := &prepared{senders: &senders{attacker: a, conns: make(map[path.Path]*net.UDPConn)}, unread: unread}
	target := unread.LocalAddr().(*net.UDPAddr).AddrPort()
	p.Env = costs.Env{
		Gateway: a.Identity, Exit: a.Exit, Target: target, Open: target, Denied: netip.MustParseAddrPort("10.0.0.1:53"), Host: "flood.invalid",
		Clients: 1, Rand: crand.Reader, Now: time.Now, Source: p.source, Exchange: p.exchange,
	}
	if k.From == costs.Stranger {
		p.Clients = strangersSources
	}
	if p.next = k.Start(&p.Env); k.From == costs.Stranger {
		p.next = p.record(ctx, p.next)
	}
	a.ready = p
	return worker.None{}, nil
}

// send runs the attack. Afterwards it closes the sessions that it used.
func (p *prepared) send(ctx context.Context, a attack) (measure.Sent, error) {
	sent, err := measure.Pacer{Rate: a.Rate, For: a.For, Most: 32}.Run(ctx, func(n int) (int, error) {
		for i := range n {
			packet, ok := p.next()
			if !ok {
				return i, errors.New("the gateway refuses what has to come before the packet")
			}
			if a.Spoiled {
				packet.Data = p.spoil(packet.Data)
			}
			_, _ = p.conns[packet.Path].Write(packet.Data) // a full buffer drops it
		}
		return n, nil
	})
	for range 3 { // a flood drops some
		p.Env.Close()
		time.Sleep(20 * time.Millisecond)
	}
	for _, conn := range p.conns {
		_ = conn.Close()
	}
	_ = p.unread.Close()
	return sent, err
}

// record makes packets of a stranger, with the parts that belong to them, and returns a function that
// repeats them.
func (s *senders) record(ctx context.Context, next func() (transport.Packet, bool)) func() (transport.Packet, bool) {
	var all []transport.Packet
	for end := time.Now().Add(patience / 30); len(all) < recording && time.Now().Before(end) && ctx.Err() == nil; {
		s.parts = nil
		if p, ok := next(); ok {
			all = append(append(all, s.parts...), p)
		}
	}
	n := 0
	return func() (transport.Packet, bool) {
		if len(all) == 0 {
			return transport.Packet{}, false
		}
		n++
		return all[n%len(all)], true
	}
}
