package client_test

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"lewes/state"
	"lewes/state/wire"
	"lewes/transport"
	"lewes/transport/client"
)

// valve is a Conn that, once shut, drops sends and receives packets from feed.
type valve struct {
	transport.Conn
	shut bool
	feed chan []byte
}

func (v *valve) ReadBatch(p []transport.Packet) (int, error) {
	if !v.shut {
		return v.Conn.ReadBatch(p)
	}
	b, ok := <-v.feed
	if !ok {
		return 0, net.ErrClosed
	}
	p[0] = transport.Packet{Data: b}
	return 1, nil
}

func (v *valve) WriteBatch(p []transport.Packet) (int, error) {
	if v.shut {
		return len(p), nil
	}
	return v.Conn.WriteBatch(p)
}

// steady is an established session that receives only packets sealed beforehand, through
// its valve.
type steady struct {
	valve    *valve
	session  *client.Session
	conn     net.Conn
	listener net.PacketConn
	to       net.Addr
	packets  [][]byte
}

func newSteady(t testing.TB, packets int) *steady {
	t.Helper()
	n := newNetwork()
	n.delay = 0
	g := newGateway(t, 1, n.listen(gatewayAddr(1)), nil)
	st := &steady{to: net.UDPAddrFromAddrPort(target(1))}
	config := client.Config{
		Gateway:   g.uri(),
		Identity:  clientKey,
		Keys:      new(client.KeyCache),
		Keepalive: -1,
		Underlay: func(ctx context.Context, to netip.AddrPort) (transport.Conn, error) {
			c, err := n.dial(ctx, to)
			st.valve = &valve{Conn: c, feed: make(chan []byte)}
			return st.valve, err
		},
	}
	var err error
	if st.session, err = client.Dial(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	st.conn = flowTo(t, st.session, "203.0.113.7:53")
	if st.listener, err = st.session.ListenPacket(); err != nil {
		t.Fatal(err)
	}
	for range 50 { // long enough for Pings to be answered and the path to be found large
		exchange(t, st.conn, string(make([]byte, 1300)))
		writeTo(t, st.listener, st.to, "hello")
		expectFrom(t, st.listener, st.to, "hello")
	}
	if st.session.Info().MaxPacket != client.DefaultMaxPacket {
		t.Fatal("the search for the path's limit is still under way")
	}
	st.valve.shut = true
	_ = st.valve.Conn.SetReadDeadline(time.Unix(1, 0)) // the reader comes round to the feed
	g.with(func() {
		var out state.Output
		for key, to := range g.flows {
			if to.Port == 53 {
				for range packets {
					_ = key.session.Send(wire.TypeEncryptedData, &wire.EncryptedData{FlowID: key.id, Payload: make([]byte, 1200)}, &out)
				}
			}
		}
		for _, p := range out.Packets {
			st.packets = append(st.packets, p.Data)
		}
	})
	t.Cleanup(func() {
		close(st.valve.feed)
		_ = st.session.Close()
		g.stop()
	})
	return st
}

// Write and Read don't allocate once the pools are warm.
func TestNoAllocations(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector makes sync.Pool forget at random")
	}
	const runs = 2000
	st := newSteady(t, runs+10)
	payload, buf := make([]byte, 1200), make([]byte, 1500)
	next := 0
	for name, f := range map[string]func(){
		"Write": func() {
			if _, err := st.conn.Write(payload); err != nil {
				t.Fatal(err)
			}
		},
		"WriteTo": func() {
			if _, err := st.listener.WriteTo(payload, st.to); err != nil {
				t.Fatal(err)
			}
		},
		"Read": func() {
			st.valve.feed <- st.packets[next]
			next++
			if n, err := st.conn.Read(buf); n != len(payload) || err != nil {
				t.Fatal(n, err)
			}
		},
	} {
		if n := testing.AllocsPerRun(runs, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	if stats := st.session.Stats(); stats.Discarded != 0 || stats.Unsent != 0 {
		t.Errorf("stats: %+v", stats)
	}
}

func BenchmarkWrite(b *testing.B) {
	st := newSteady(b, 0)
	payload := make([]byte, 1200)
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := st.conn.Write(payload); err != nil {
			b.Fatal(err)
		}
	}
}
