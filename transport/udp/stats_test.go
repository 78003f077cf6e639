package udp

import (
	"testing"

	"lewes/state/path"
)

func TestBuckets(t *testing.T) {
	var h Histogram
	for n := 1; n <= 2000; n++ {
		b := bucket(n)
		if bound := h.Bound(b); bound != 0 && n > bound {
			t.Fatalf("%d is in bucket %d, up to %d", n, b, bound)
		}
		if b > 0 && n <= h.Bound(b-1) {
			t.Fatalf("%d is in bucket %d, fits %d", n, b, b-1)
		}
	}
}

func TestStatsCountBothWays(t *testing.T) {
	inEachMode(t, func(t *testing.T, o Options) {
		to := listenOn(t, loopbacks[0], o)
		from := dialTo(t, to.LocalAddrPort(), o)
		sent := packetsOf(path.Path{}, 100, 100, 100, 100, 30, 0, 200)
		mustWrite(t, from, sent)
		collect(t, to, len(sent))
		tx, rx := from.Stats().Sent, to.Stats().Received
		for _, l := range []struct {
			name string
			Traffic
		}{{"sent", tx}, {"received", rx}} {
			if l.Packets != 7 || l.Bytes != 630 {
				t.Errorf("%s: %d datagrams, %d bytes, want 7, 630", l.name, l.Packets, l.Bytes)
			}
			var messages, calls uint64
			for i := range l.Segments {
				messages += l.Segments[i]
				calls += l.Batch[i]
			}
			if messages == 0 || messages > 7 || calls == 0 || calls > l.Calls {
				t.Errorf("%s: %d messages, %d calls that moved any, of %d", l.name, messages, calls, l.Calls)
			}
		}
		if from.Stats().GSO.On && (tx.Segments[3] != 1 || tx.Segments[0] != 2) { // 5 datagrams in one, two alone
			t.Errorf("segments per message %v", tx.Segments)
		}
		if to.Stats().Sent.Packets != 0 || from.Stats().Received.Packets != 0 {
			t.Error("what was sent is counted as received, or the other way round")
		}
	})
}

func TestCountersAreShared(t *testing.T) {
	var all Counters
	to := listenOn(t, loopbacks[0], Options{})
	for range 3 {
		mustWrite(t, dialTo(t, to.LocalAddrPort(), Options{Counters: &all}), packetsOf(path.Path{}, 10, 20))
	}
	if n := all.Stats().Sent.Packets; n != 6 {
		t.Errorf("%d datagrams counted, want 6", n)
	}
	collect(t, to, 6)
	if n := to.Stats().Received.Packets; n != 6 {
		t.Errorf("%d datagrams received, want 6", n)
	}
}

func TestBuffersAreReported(t *testing.T) {
	inEachMode(t, func(t *testing.T, o Options) {
		o.ReceiveBuffer, o.SendBuffer = 256<<10, 128<<10
		s := listenOn(t, loopbacks[0], o).Stats()
		if s.ReceiveBuffer != (Buffer{256 << 10, 256 << 10}) || s.SendBuffer != (Buffer{128 << 10, 128 << 10}) {
			t.Errorf("receive %+v, send %+v", s.ReceiveBuffer, s.SendBuffer)
		}
	})
}

func TestOffloadReasons(t *testing.T) {
	for _, m := range modes {
		s := listenOn(t, loopbacks[0], m.Options).Stats()
		for _, o := range []Offload{s.GSO, s.GRO} {
			if o.On == (o.Reason != "") {
				t.Errorf("%s: on %v, reason %q", m.name, o.On, o.Reason)
			}
		}
		if m.NoGSO && s.GSO.On || m.NoGRO && s.GRO.On || m.Portable && (s.GSO.On || s.GRO.On) {
			t.Errorf("%s: GSO %+v, GRO %+v", m.name, s.GSO, s.GRO)
		}
	}
}
