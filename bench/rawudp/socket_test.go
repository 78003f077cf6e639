//go:build linux

package rawudp

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

func open(t *testing.T, o Options) *Socket {
	t.Helper()
	s, err := Open(loopback, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// receive returns the next n datagrams, joined ones counted apart.
func receive(t *testing.T, s *Socket, n int) (all []Message) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); n > 0; {
		if time.Now().After(end) {
			t.Fatalf("%d datagrams are missing", n)
		}
		arrived, err := s.Receive()
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range arrived {
			a.Data = bytes.Clone(a.Data)
			n -= a.Count()
			all = append(all, a)
		}
	}
	return all
}

func TestTrainsArriveWhole(t *testing.T) {
	train := make([]byte, 10*100+40)
	for i := range train {
		train[i] = byte(i / 100)
	}
	for _, row := range []struct {
		name string
		o    Options
		kept int
	}{
		{"GRO", Options{GRO: true}, 1 << 20},
		{"single", Options{}, 1 << 20},
		{"counted only", Options{GRO: true, Keep: 24}, 24},
	} {
		t.Run(row.name, func(t *testing.T) {
			to, from := open(t, row.o), open(t, Options{})
			// In three pieces, whose ends are not those of the datagrams.
			if err := from.Queue(to.Addr(), 100, train[:250], train[250:700], train[700:]); err != nil {
				t.Fatal(err)
			}
			if err := from.Flush(); err != nil {
				t.Fatal(err)
			}
			var got []byte
			size, count := 0, 0
			for _, a := range receive(t, to, 11) {
				if a.From != from.Addr() {
					t.Errorf("from %v, sent from %v", a.From, from.Addr())
				}
				if a.Segment != 0 && a.Segment != 100 {
					t.Errorf("segments of %d bytes", a.Segment)
				}
				if len(a.Data) != min(a.Size, row.kept) {
					t.Errorf("%d of %d bytes kept", len(a.Data), a.Size)
				}
				if !row.o.GRO && a.Segment != 0 {
					t.Errorf("joined without being asked")
				}
				got, size, count = append(got, a.Data...), size+a.Size, count+a.Count()
			}
			if count != 11 || size != len(train) {
				t.Errorf("%d datagrams, %d bytes", count, size)
			}
			if row.kept > len(train) && !bytes.Equal(got, train) {
				t.Error("the bytes differ")
			}
		})
	}
}

func TestQueueLargerThanOneCall(t *testing.T) {
	to, from := open(t, Options{GRO: true}), open(t, Options{})
	if err := from.Connect(to.Addr()); err != nil {
		t.Fatal(err)
	}
	want := 0
	for i := range 3 * maxMessages {
		if err := from.Queue(netip.AddrPort{}, 0, []byte{byte(i)}, []byte("rest")); err != nil {
			t.Fatal(err)
		}
		want++
	}
	if err := from.Flush(); err != nil {
		t.Fatal(err)
	}
	for i, a := range receive(t, to, want) {
		if len(a.Data) != 5 || a.Data[0] != byte(i) {
			t.Fatalf("datagram %d is %v", i, a.Data)
		}
	}
}

func TestRejectedMessageIsSkipped(t *testing.T) {
	to, from := open(t, Options{}), open(t, Options{})
	for _, p := range [][]byte{{1}, make([]byte, 70_000), {2}} {
		if err := from.Queue(to.Addr(), 0, p); err != nil {
			t.Fatal(err)
		}
	}
	if err := from.Flush(); err == nil {
		t.Error("70,000 bytes were taken as a datagram")
	}
	got := receive(t, to, 2)
	if got[0].Data[0] != 1 || got[1].Data[0] != 2 {
		t.Errorf("%v", got)
	}
}

func TestReceiveEnds(t *testing.T) {
	s := open(t, Options{})
	if got, err := s.Receive(); len(got) != 0 || err != nil {
		t.Errorf("%v, %v", got, err)
	}
	done := make(chan error, 1)
	go func() {
		for {
			if _, err := s.Receive(); err != nil {
				done <- err
				return
			}
		}
	}()
	time.Sleep(20 * time.Millisecond)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("Receive did not end")
	}
}

func TestOnlyIPv4(t *testing.T) {
	if s, err := Open(netip.MustParseAddrPort("[::1]:0"), Options{}); err == nil {
		s.Close()
		t.Error("an IPv6 address was taken")
	}
}

func TestCount(t *testing.T) {
	for _, row := range []struct{ size, segment, want int }{{0, 0, 1}, {100, 0, 1}, {100, 100, 1}, {101, 100, 2}, {200, 100, 2}} {
		if a := (Message{Size: row.size, Segment: row.segment}); a.Count() != row.want {
			t.Errorf("%d bytes in segments of %d: %d", row.size, row.segment, a.Count())
		}
	}
	for _, row := range []struct{ size, want int }{{0, 64}, {64, 64}, {1200, 54}, {1237, 52}, {70_000, 1}} {
		if got := SegmentsIn(row.size); got != row.want {
			t.Errorf("%d of %d bytes in a train, want %d", got, row.size, row.want)
		}
	}
}

func TestFanSendsFromEachSocket(t *testing.T) {
	to := open(t, Options{})
	f, err := OpenFan(to.Addr(), 3)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	from := make(map[netip.AddrPort]int)
	for i := range 6 {
		f.Send([]byte{byte(i)})
	}
	for _, m := range receive(t, to, 6) {
		from[m.From]++
	}
	if len(from) != 3 {
		t.Errorf("sources %v", from)
	}
}
