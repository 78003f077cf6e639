// Package rawudp is the shortest way between a program and the kernel's UDP: blocking
// sockets, recvmmsg with UDP_GRO, sendmmsg with UDP_SEGMENT, IPv4 only, no
// recovery from anything. The baselines that a gateway is held against are made of
// it, and the sink that counts what arrives.
//
// It is not transport/udp, on purpose: if that becomes slower, the baseline must not
// become slower with it. On systems other than Linux it stands on transport/udp all
// the same, as there is nothing shorter.
//
//	s, err := rawudp.Open(netip.MustParseAddrPort("127.0.0.1:0"), rawudp.Options{Join: true})
//	for {
//		arrived, err := s.Receive() // at most 100 ms
//		for i := range arrived {
//			s.Queue(to, arrived[i].Segment, arrived[i].Data)
//		}
//		s.Flush()
//	}
package rawudp
