package router

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"lewes/state/wire"
)

// BenchmarkTCP passes datagrams of 1000 bytes to a target over loopback, each over a
// connection of its own through a whole gateway: connect, send, wait for the gateway's
// close. Client and gateway share the processors.
//
//	go test ./router -run '^$' -bench TCP
func BenchmarkTCP(b *testing.B) {
	sink, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	defer sink.Close()
	target := sink.LocalAddr().(*net.UDPAddr).AddrPort()
	for _, connections := range []int{1, 16} {
		b.Run(fmt.Sprintf("connections=%d", connections), func(b *testing.B) {
			g, _ := started(b, func(c *Config) {
				withTCP(c)
				c.Policy = allowing(b, target)
			})
			to := g.TCPAddrs()[0]
			clients := make(chan *live, connections)
			for i := range connections {
				l := dialStream(b, byte(2+i), to)
				l.connectStream(to)
				clients <- l
			}
			payload := make([]byte, 1000)
			var failed atomic.Int64
			b.SetParallelism(connections)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				var frame []byte
				for pb.Next() {
					l := <-clients
					frame = l.frame(frame[:0], target, payload)
					clients <- l
					if exchangeFrame(to, frame) != nil {
						failed.Add(1)
					}
				}
			})
			b.StopTimer()
			if up := g.Stats().Up.Packets; up != uint64(b.N)-uint64(failed.Load()) || failed.Load() > 0 {
				b.Errorf("of %d datagrams %d came, %d connections failed", b.N, up, failed.Load())
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "packets/s")
		})
	}
}

// frame appends a sealed datagram with its length.
func (l *live) frame(dst []byte, target netip.AddrPort, payload []byte) []byte {
	m := wire.EncryptedData{FlowID: 1, Flags: wire.FlagTarget, Target: wire.AddrTarget(target), Payload: payload}
	packet := l.message(wire.TypeEncryptedData, &m)
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(packet))), packet...)
}

// exchangeFrame sends one frame and waits for the end.
func exchangeFrame(to netip.AddrPort, frame []byte) error {
	conn, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Write(frame); err != nil {
		return err
	}
	if n, err := conn.Read(make([]byte, 4)); n != 0 || err != io.EOF {
		return fmt.Errorf("%d bytes: %w", n, err)
	}
	return nil
}
