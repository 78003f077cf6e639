package flood

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"lewes/bench/measure"
)

const (
	// manySources is the attack whose connections come from many addresses, and reach the bound of all
	// connections. Others come from one, so that it reaches its bound on a busy machine too.
	manySources = "silent connections of many sources"
	// mostConnections bounds the attacker's open connections.
	mostConnections = 2000
)

// manners are the behaviours of connections until the gateway closes them.
var manners = map[string]func(net.Conn){
	"silent connections": func(net.Conn) {},
	manySources:          func(net.Conn) {},
	"slow connections": func(c net.Conn) {
		packet := binary.BigEndian.AppendUint32(nil, 1000)
		packet = append(packet, make([]byte, 1000)...)
		for i := range packet {
			if _, err := c.Write(packet[i : i+1]); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	},
	"connections of a huge length": func(c net.Conn) {
		packet := binary.BigEndian.AppendUint32(nil, 0xffff_ffff)
		_, _ = c.Write(append(packet, make([]byte, 4096)...)) // the gateway may have closed it
	},
}

// connect opens connections at a rate, and closes the remaining ones at the end.
func (a *attacker) connect(ctx context.Context, p attack, manner func(net.Conn)) (measure.Sent, error) {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	room := make(chan struct{}, mostConnections)
	to := netip.AddrPortFrom(a.Four.Addr(), tcpPort)
	result, err := measure.Pacer{Rate: p.Rate, For: p.For}.Run(ctx, func(n int) (int, error) {
		for i := range n {
			select {
			case room <- struct{}{}:
			default:
				return i, nil
			}
			from := a.Own[0]
			if p.Kind == manySources {
				from = a.Own[a.random.IntN(len(a.Own))]
			}
			all.Go(func() {
				defer func() { <-room }()
				dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
				conn, err := dialer.DialContext(ctx, "tcp", to.String())
				if err != nil {
					return // a bound of the gateway or the system
				}
				defer conn.Close()
				defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
				manner(conn)
				_, _ = io.Copy(io.Discard, conn) // until the gateway closes it
			})
		}
		return n, nil
	})
	cancel()
	all.Wait()
	return result, err
}
