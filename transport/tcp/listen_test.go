package tcp

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}

// listening starts a Listener on loopback.
func listening(t testing.TB, change func(*Config)) *Listener {
	t.Helper()
	config := Config{Addrs: loopback}
	if change != nil {
		change(&config)
	}
	l, err := Listen(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// dialTo connects to the first address of l.
func dialTo(t testing.TB, l *Listener) *net.TCPConn {
	t.Helper()
	conn, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(l.Groups[0].Addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// packetOf returns n bytes that are a packet to this package.
func packetOf(n int, fill byte) []byte { return bytes.Repeat([]byte{fill}, n) }

// readOne waits for a packet.
func readOne(t testing.TB, i *ShardListener) transport.Packet {
	t.Helper()
	_ = i.SetReadDeadline(time.Now().Add(10 * time.Second))
	batch := make([]transport.Packet, 1)
	if _, err := i.ReadBatch(batch); err != nil {
		t.Fatal("no packet: ", err)
	}
	return batch[0]
}

// frames reads what a peer gets until the connection is closed.
func frames(t testing.TB, conn net.Conn) (packets [][]byte) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	for {
		var head [lengthSize]byte
		if _, err := io.ReadFull(conn, head[:]); err == io.EOF {
			return packets
		} else if err != nil {
			t.Fatal(err)
		}
		n, err := parseLength(&head)
		if err != nil {
			t.Fatal(err)
		}
		packet := make([]byte, n)
		if _, err := io.ReadFull(conn, packet); err != nil {
			t.Fatal(err)
		}
		packets = append(packets, packet)
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not within 20 s: ", what)
		}
	}
}

func send(t testing.TB, conn net.Conn, packet []byte) {
	t.Helper()
	if _, err := conn.Write(appendFrame(nil, packet)); err != nil {
		t.Fatal(err)
	}
}

// TestOnePacketAndItsAnswers goes through a connection's life, over both families.
//
// Shows R10.5.
func TestOnePacketAndItsAnswers(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := Listen(context.Background(), Config{Addrs: []netip.AddrPort{netip.MustParseAddrPort(at)}})
		if errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) {
			t.Log("this machine has no IPv6: ", err)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{wire.MinPacket, 1000, 2048, 2049, 40_000, wire.MaxTCPPacket} {
			conn := dialTo(t, l)
			packet := packetOf(size, byte(size))
			send(t, conn, packet)
			p := readOne(t, l.Shards[0])
			if !bytes.Equal(p.Data, packet) {
				t.Fatalf("%s: of %d bytes came %d, or others", at, size, len(p.Data))
			}
			if want := path.NewTCP(addrPort(conn.LocalAddr()), addrPort(conn.RemoteAddr()).Addr(), p.Path.Conn); p.Path != want || p.Path.Conn == 0 {
				t.Errorf("%s: path %#v", at, p.Path)
			}
			answers := []transport.Packet{
				{Data: packetOf(100, 1), Path: p.Path},
				{Data: packetOf(150, 2), Segment: 50, Path: p.Path},
				{Data: packet, Path: p.Path},
			}
			if n, err := l.Shards[0].WriteBatch(answers); n != 3 || err != nil {
				t.Fatalf("%d written: %v", n, err)
			}
			l.Shards[0].End(p.Path)
			got := frames(t, conn)
			if len(got) != 5 || !bytes.Equal(got[0], answers[0].Data) || len(got[1])+len(got[2])+len(got[3]) != 150 || !bytes.Equal(got[4], packet) {
				t.Fatalf("%s: %d answers came", at, len(got))
			}
			if n, err := l.Shards[0].WriteBatch(answers); n != 0 || !errors.Is(err, ErrConnClosed) {
				t.Errorf("to a closed connection %d were written: %v", n, err)
			}
		}
		_ = l.Close()
		if s := l.Stats(); s.Open != 0 || s.Accepted != 6 || s.Received.Packets != 6 || s.Sent.Packets != 30 {
			t.Errorf("counted %+v", s)
		}
	}
}
