package udp

import (
	"bytes"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"lewes/state/path"
	"lewes/transport"
)

// drawBatch makes batches in which trains occur often: few paths, few lengths.
func drawBatch(t *rapid.T) []transport.Packet {
	paths := []path.Path{
		path.NewUDP(netip.MustParseAddrPort("192.0.2.1:1"), netip.Addr{}, 0),
		path.NewUDP(netip.MustParseAddrPort("192.0.2.1:2"), netip.Addr{}, 0),
	}
	sizes := []int{0, 1, 99, 100, 100, 100, 100, 1200, 1200, 1200, 20000, 66000}
	var batch []transport.Packet
	for range rapid.IntRange(0, 150).Draw(t, "packets") {
		p := transport.Packet{
			Data: make([]byte, rapid.SampledFrom(sizes).Draw(t, "size")),
			Path: paths[min(rapid.IntRange(0, 9).Draw(t, "path")/9, 1)],
		}
		if rapid.IntRange(0, 3).Draw(t, "train") == 0 {
			p.Segment = rapid.SampledFrom([]int{-1, 1, 99, 100, 1200, 70000}).Draw(t, "segment")
			if p.Segment == 1 && len(p.Data) > 1200 {
				p.Segment = 100
			}
		}
		batch = append(batch, p)
	}
	return batch
}

// wanted is what must leave for a batch: each datagram by the packet that it is of.
type wanted struct {
	packet, offset, size int
}

func datagramsOf(batch []transport.Packet) (all []wanted) {
	for i := range batch {
		offset := 0
		for d := range batch[i].Segments() {
			all = append(all, wanted{i, offset, len(d)})
			offset += len(d)
		}
	}
	return all
}

// datagramsIn is what the kernel makes of runs: bytes cut at every size.
func datagramsIn(t *rapid.T, batch []transport.Packet, r *gsoMessage) (all []wanted) {
	at := r.from
	left := r.bytes
	for n := range r.segments {
		size := min(r.size, left)
		if n < r.segments-1 && size != r.size {
			t.Fatalf("run %+v: datagram %d of %d is short", *r, n, r.segments)
		}
		if at.offset+size > len(batch[at.packet].Data) {
			t.Fatalf("run %+v: datagram %d reaches over the end of packet %d", *r, n, at.packet)
		}
		all = append(all, wanted{at.packet, at.offset, size})
		left -= size
		at.offset += size
		if at.offset == len(batch[at.packet].Data) {
			at = cursor{packet: at.packet + 1}
		}
	}
	if left != 0 || at != r.to {
		t.Fatalf("run %+v ends at %+v with %d bytes left", *r, at, left)
	}
	return all
}

func TestMessagesCoverBatchInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		batch := drawBatch(t)
		onePath := rapid.Bool().Draw(t, "connected")
		segments := rapid.SampledFrom([]int{1, 2, maxSegments}).Draw(t, "segments")
		buffers := rapid.IntRange(1, 80).Draw(t, "buffers")
		var got []wanted
		for c := newGSOBatcher(batch, onePath, segments); c.more(); {
			r := c.next(buffers)
			got = append(got, datagramsIn(t, batch, &r)...)
			switch {
			case r.segments < 1 || r.segments > segments:
				t.Fatalf("run %+v of %d segments", r, r.segments)
			case r.buffers != r.last()-r.from.packet+1 || r.buffers > buffers:
				t.Fatalf("run %+v touches %d packets, %d allowed", r, r.last()-r.from.packet+1, buffers)
			case r.segments > 1 && (r.bytes > maxTrain || r.size == 0):
				t.Fatalf("train %+v of %d bytes", r, r.bytes)
			}
			for i := r.from.packet; i < r.last() && !onePath; i++ {
				if batch[i].Path != batch[i+1].Path {
					t.Fatalf("run %+v has two paths", r)
				}
			}
		}
		want := datagramsOf(batch)
		if len(got) != len(want) {
			t.Fatalf("%d datagrams leave, want %d", len(got), len(want))
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("datagram %d is %+v, want %+v", i, got[i], want[i])
			}
		}
	})
}

// What is sent again one by one is exactly what was in the train.
func TestMessagesSplitIntoDatagrams(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		batch := drawBatch(t)
		for c := newGSOBatcher(batch, false, maxSegments); c.more(); {
			r := c.next(512)
			want := datagramsIn(t, batch, &r)
			again := gsoBatcher{packets: batch, at: r.from, end: r.to, segments: 1}
			for i := 0; again.more(); i++ {
				one := again.next(1)
				if one.segments != 1 || i >= len(want) || (wanted{one.from.packet, one.from.offset, one.bytes}) != want[i] {
					t.Fatalf("datagram %d of %+v is %+v", i, r, one)
				}
				want[i].size = -1
			}
			for i := range want {
				if want[i].size != -1 {
					t.Fatalf("datagram %d of %+v is not sent again", i, r)
				}
			}
		}
	})
}

func TestExpectedTrains(t *testing.T) {
	way := path.NewUDP(netip.MustParseAddrPort("192.0.2.1:1"), netip.Addr{}, 0)
	other := path.NewUDP(netip.MustParseAddrPort("192.0.2.2:1"), netip.Addr{}, 0)
	same := func(n, size int) []int { return bytesOf(n, size) }
	for _, c := range []struct {
		name  string
		sizes []int
		from  int // packets from here on go another way
		want  []int
	}{
		{"equal", same(10, 1200), 999, []int{10}},
		{"last one shorter", append(same(10, 1200), 1), 999, []int{11}},
		{"behind a shorter one nothing", append(same(3, 1200), 100, 100, 100), 999, []int{4, 2}},
		{"longer one starts anew", []int{100, 100, 101, 101}, 999, []int{2, 2}},
		{"64 datagrams", same(130, 100), 999, []int{64, 64, 2}},
		{"65,000 bytes", same(60, 1200), 999, []int{54, 6}},
		{"exactly 65,000 bytes", same(14, 5000), 999, []int{13, 1}},
		{"empty ones alone", []int{100, 0, 100, 0, 0}, 999, []int{1, 1, 1, 1, 1}},
		{"another way", same(6, 100), 4, []int{4, 2}},
		{"too large to join", []int{40000, 40000}, 999, []int{1, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			batch := packetsOf(way, c.sizes...)
			for i := range batch {
				if i >= c.from {
					batch[i].Path = other
				}
			}
			var got []int
			for gsoBatcher := newGSOBatcher(batch, false, maxSegments); gsoBatcher.more(); {
				r := gsoBatcher.next(512)
				got = append(got, r.segments)
			}
			if !equal(got, c.want) {
				t.Errorf("trains of %v, want %v", got, c.want)
			}
		})
	}
}

func bytesOf(n, size int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = size
	}
	return s
}

func equal(a, b []int) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// Any batch arrives as it was sent, whatever became of it on the way.
func TestAnyBatchArrives(t *testing.T) {
	inEachMode(t, func(t *testing.T, o Options) {
		to := listenOn(t, loopbacks[0], o)
		from := listenOn(t, loopbacks[0], o)
		way := path.NewUDP(to.LocalAddrPort(), loopbacks[0], 0)
		rapid.Check(t, func(r *rapid.T) {
			batch := drawBatch(r)
			total := 0
			var sent []transport.Packet
			for i := range batch {
				p := batch[i]
				if p.Count() == 1 && len(p.Data) > 65507 || total+p.Count() > 300 {
					continue
				}
				p.Data, p.Path = payload(uint32(i), len(p.Data)), way
				total += p.Count()
				sent = append(sent, p)
			}
			if n, err := from.WriteBatch(sent); n != len(sent) || err != nil {
				r.Fatalf("WriteBatch took %d of %d: %v", n, len(sent), err)
			}
			got := tryCollect(t, to, total, 5e9)
			if len(got) != total {
				r.Fatalf("%d datagrams arrived, want %d", len(got), total)
			}
			i := 0
			for k := range sent {
				for want := range sent[k].Segments() {
					if !bytes.Equal(got[i].data, want) {
						r.Fatalf("datagram %d (%d bytes) differs from what was sent (%d bytes)", i, len(got[i].data), len(want))
					}
					i++
				}
			}
		})
	})
}
