package udp

import (
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"lewes/state/path"
	"lewes/transport"
)

func needGSO(t testing.TB) {
	t.Helper()
	if err := Probe().GSO; err != nil {
		t.Skipf("no segmentation offload here: %v", err)
	}
}

// segmented says whether a message asks for segmentation.
func segmented(h *mmsghdr) bool {
	if h.Controllen == 0 {
		return false
	}
	c := (*unix.Cmsghdr)(unsafe.Pointer(h.Control))
	return c.Level == unix.SOL_UDP && c.Type == unix.UDP_SEGMENT
}

// hook stands in for sendmmsg on c: refuse is asked about each message, with its
// place in all that were tried, and names the error or 0.
func hook(c *Conn, refuse func(n int, h *mmsghdr) unix.Errno) {
	var mu sync.Mutex
	tried := 0
	c.io.(*mmsg).sendHook = func(fd uintptr, h []mmsghdr) (int, unix.Errno) {
		mu.Lock()
		defer mu.Unlock()
		for i := range h {
			e := refuse(tried, &h[i])
			tried++
			if e == 0 {
				continue
			}
			if i == 0 {
				return 0, e
			}
			return sendmmsg(fd, h[:i])
		}
		return sendmmsg(fd, h)
	}
}

func TestProbe(t *testing.T) {
	s := Probe()
	t.Logf("GSO: %v, GRO: %v", s.GSO, s.GRO)
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	if major := u.Release[0] - '0'; u.Release[1] == '.' && major < 6 {
		t.Skip("kernels before 6 may lack it")
	}
	if s.GSO != nil || s.GRO != nil {
		t.Errorf("a kernel from 6 up has both; GSO: %v, GRO: %v", s.GSO, s.GRO)
	}
}

func TestTrainIsOneMessage(t *testing.T) {
	needGSO(t)
	for _, addr := range loopbacks {
		to, from := listenOn(t, addr, Options{}), listenOn(t, addr, Options{})
		way := path.NewUDP(to.LocalAddrPort(), addr, 0)
		sent := packetsOf(way, append(bytesOf(63, 1000), 7)...)
		mustWrite(t, from, sent)
		if s := from.Stats().Sent; s.Calls != 1 || s.Segments[6] != 1 {
			t.Errorf("%d calls, segments %v, want one message of 64", s.Calls, s.Segments)
		}
		batch := make([]transport.Packet, 8)
		n, err := to.ReadBatch(batch)
		if err != nil {
			t.Fatal(err)
		}
		if n != 1 || batch[0].Segment != 1000 || len(batch[0].Data) != 63007 {
			t.Fatalf("%d packets, the first %d bytes in segments of %d", n, len(batch[0].Data), batch[0].Segment)
		}
		var got []datagram
		for d := range batch[0].Segments() {
			got = append(got, datagram{data: d})
		}
		sameDatagrams(t, got, sent)
	}
}

func TestFallbackLosesNothing(t *testing.T) {
	needGSO(t)
	for _, e := range []unix.Errno{unix.EIO, unix.EINVAL, unix.EOPNOTSUPP} {
		t.Run(e.Error(), func(t *testing.T) {
			var said []Event
			to := listenOn(t, loopbacks[0], Options{})
			from := listenOn(t, loopbacks[0], Options{Notify: func(ev Event) {
				if ev.Kind == GSOOff {
					said = append(said, ev)
				}
			}})
			hook(from, func(_ int, h *mmsghdr) unix.Errno {
				if segmented(h) {
					return e
				}
				return 0
			})
			way := path.NewUDP(to.LocalAddrPort(), loopbacks[0], 0)
			other := path.NewUDP(to.LocalAddrPort(), netip.Addr{}, 0)
			var sent []transport.Packet
			for range 3 { // several trains in one batch, single datagrams between them
				sent = append(sent, packetsOf(way, 900, 900, 900, 20)...)
				sent = append(sent, packetsOf(other, 33, 0)...)
				sent = append(sent, transport.Packet{Data: payload(9, 1000), Segment: 300, Path: way})
			}
			total := 0
			for i := range sent {
				total += sent[i].Count()
			}
			mustWrite(t, from, sent)
			sameDatagrams(t, collect(t, to, total), sent)
			s := from.Stats()
			if s.GSO.On || s.GSO.Reason == "" || s.GSOFallbacks != 1 {
				t.Errorf("GSO %+v, %d fallbacks", s.GSO, s.GSOFallbacks)
			}
			if s.SendErrors.Total() != 0 || s.SourceDropped != 0 || s.Sent.Packets != uint64(total) {
				t.Errorf("errors %v, source dropped %d, sent %d of %d", s.SendErrors, s.SourceDropped, s.Sent.Packets, total)
			}
			resent := s.GSOResent

			mustWrite(t, from, sent)
			sameDatagrams(t, collect(t, to, total), sent)
			if s := from.Stats(); s.GSOResent != resent {
				t.Errorf("trains are still tried: %d resent, were %d", s.GSOResent, resent)
			}
			if len(said) != 1 || !errors.Is(said[0].Err, e) || said[0].Local != from.LocalAddrPort() {
				t.Errorf("said %v, want it once", said)
			}
		})
	}
}

func TestFallbackAffectsOneSocket(t *testing.T) {
	needGSO(t)
	to := listenOn(t, loopbacks[0], Options{})
	one, two := dialTo(t, to.LocalAddrPort(), Options{}), dialTo(t, to.LocalAddrPort(), Options{})
	hook(one, func(_ int, h *mmsghdr) unix.Errno {
		if segmented(h) {
			return unix.EIO
		}
		return 0
	})
	mustWrite(t, one, packetsOf(path.Path{}, 10, 10))
	mustWrite(t, two, packetsOf(path.Path{}, 10, 10))
	if one.Stats().GSO.On || !two.Stats().GSO.On {
		t.Errorf("GSO of the refused socket %v, of the other %v", one.Stats().GSO.On, two.Stats().GSO.On)
	}
}

// A train that fails for a reason of its own must not cost the socket its offload.
func TestOtherErrorsKeepGSO(t *testing.T) {
	needGSO(t)
	for _, e := range []unix.Errno{unix.EMSGSIZE, unix.EPERM, unix.ENOBUFS, unix.ENETUNREACH} {
		t.Run(e.Error(), func(t *testing.T) {
			to, from := listenOn(t, loopbacks[0], Options{}), listenOn(t, loopbacks[0], Options{})
			hook(from, func(n int, _ *mmsghdr) unix.Errno {
				if n == 0 {
					return e
				}
				return 0
			})
			sent := packetsOf(path.NewUDP(to.LocalAddrPort(), netip.Addr{}, 0), 100, 100, 100)
			mustWrite(t, from, sent)
			sameDatagrams(t, collect(t, to, 3), sent)
			if s := from.Stats(); !s.GSO.On || s.GSOResent != 1 || s.GSOFallbacks != 0 {
				t.Errorf("GSO %+v, %d resent, %d fallbacks", s.GSO, s.GSOResent, s.GSOFallbacks)
			}
		})
	}
	t.Run("EINVAL for every datagram", func(t *testing.T) {
		from := listenOn(t, loopbacks[0], Options{})
		hook(from, func(int, *mmsghdr) unix.Errno { return unix.EINVAL })
		n, err := from.WriteBatch(packetsOf(path.NewUDP(from.LocalAddrPort(), netip.Addr{}, 0), 100, 100, 100))
		if n != 0 || !errors.Is(err, transport.ErrAddress) {
			t.Errorf("WriteBatch: %d, %v", n, err)
		}
		if s := from.Stats(); !s.GSO.On || s.SendErrors[Address] != 3 {
			t.Errorf("GSO %+v, errors %v", s.GSO, s.SendErrors)
		}
	})
}

func TestFallbackUnderManyWriters(t *testing.T) {
	needGSO(t)
	var mu sync.Mutex
	said := 0
	to := listenOn(t, loopbacks[0], Options{})
	from := listenOn(t, loopbacks[0], Options{Notify: func(ev Event) {
		if ev.Kind == GSOOff {
			mu.Lock()
			said++
			mu.Unlock()
		}
	}})
	from.io.(*mmsg).sendHook = func(fd uintptr, h []mmsghdr) (int, unix.Errno) {
		for i := range h {
			if segmented(&h[i]) {
				if i == 0 {
					return 0, unix.EIO
				}
				return sendmmsg(fd, h[:i])
			}
		}
		return sendmmsg(fd, h)
	}
	const writers, batches, size = 6, 10, 8
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			p := packetsOf(path.NewUDP(to.LocalAddrPort(), loopbacks[0], 0), bytesOf(size, 600)...)
			for range batches {
				if n, err := from.WriteBatch(p); n != size || err != nil {
					t.Errorf("WriteBatch: %d, %v", n, err)
				}
			}
		})
	}
	collect(t, to, writers*batches*size)
	wg.Wait()
	if s := from.Stats(); s.GSO.On || s.GSOFallbacks != 1 || said != 1 {
		t.Errorf("GSO %+v, %d fallbacks, said %d times", s.GSO, s.GSOFallbacks, said)
	}
}

// One message that the system does not take: every other one is sent, and the one
// is counted by what was wrong with it.
func TestFailedPacketDoesNotAffectOthers(t *testing.T) {
	for _, c := range []struct {
		errno unix.Errno
		kind  ErrorKind
		want  error
	}{
		{unix.ENOBUFS, NoBuffers, transport.ErrFull},
		{unix.EAGAIN, Full, transport.ErrFull},
		{unix.EMSGSIZE, TooLarge, transport.ErrTooLarge},
		{unix.EPERM, Denied, transport.ErrDenied},
		{unix.ECONNREFUSED, Refused, transport.ErrRefused},
		{unix.ENETUNREACH, Unreachable, transport.ErrUnreachable},
		{unix.EBUSY, Other, unix.EBUSY},
	} {
		for _, victim := range []int{0, 3, 6} {
			t.Run(c.errno.Error(), func(t *testing.T) {
				to, from := listenOn(t, loopbacks[0], Options{}), listenOn(t, loopbacks[0], Options{})
				sent := packetsOf(path.NewUDP(to.LocalAddrPort(), netip.Addr{}, 0), 10, 20, 30, 40, 50, 60, 70)
				hook(from, func(_ int, h *mmsghdr) unix.Errno {
					if int(h.Iov.Len) == 10*(victim+1) {
						return c.errno
					}
					return 0
				})
				n, err := from.WriteBatch(sent)
				var failed *transport.SendError
				if n != 6 || !errors.Is(err, c.want) || !errors.As(err, &failed) || failed.Index != victim || failed.Failed != 1 {
					t.Fatalf("WriteBatch: %d, %v (%+v)", n, err, failed)
				}
				sameDatagrams(t, collect(t, to, 6), append(append([]transport.Packet{}, sent[:victim]...), sent[victim+1:]...))
				if s := from.Stats(); s.SendErrors[c.kind] != 1 || s.SendErrors.Total() != 1 {
					t.Errorf("counted %v", s.SendErrors)
				}
			})
		}
	}
}

func TestSendWait(t *testing.T) {
	full := func(c *Conn, times int) {
		hook(c, func(n int, _ *mmsghdr) unix.Errno {
			if n < times {
				return unix.EAGAIN
			}
			return 0
		})
	}
	to := listenOn(t, loopbacks[0], Options{})
	way := path.NewUDP(to.LocalAddrPort(), netip.Addr{}, 0)

	patient := listenOn(t, loopbacks[0], Options{SendWait: 5 * time.Second})
	full(patient, 20)
	sent := packetsOf(way, 100, 100, 50)
	mustWrite(t, patient, sent)
	sameDatagrams(t, collect(t, to, 3), sent)

	at := listenOn(t, loopbacks[0], Options{SendWait: 30 * time.Millisecond})
	full(at, 1<<30)
	start := time.Now()
	if n, err := at.WriteBatch(packetsOf(way, 100, 50, 70)); n != 0 || !errors.Is(err, transport.ErrFull) {
		t.Errorf("WriteBatch: %d, %v, want ErrFull", n, err)
	}
	// The socket is writable all the while, so the wait ends by the clock alone.
	if d := time.Since(start); d < 30*time.Millisecond || d > 3*time.Second {
		t.Errorf("waited %v, want about 30 ms for the whole batch", d)
	}
	if n := at.Stats().SendErrors[Full]; n != 3 {
		t.Errorf("SendErrors[Full] %d, want 3", n)
	}
}

// A send buffer that holds one datagram at most.
func TestSmallSendBufferNeverBlocksForever(t *testing.T) {
	to := listenOn(t, loopbacks[0], Options{})
	from := listenOn(t, loopbacks[0], Options{SendBuffer: 4608, NoGSO: true})
	sent := packetsOf(path.NewUDP(to.LocalAddrPort(), netip.Addr{}, 0), bytesOf(64, 1200)...)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 20 {
			n, err := from.WriteBatch(sent)
			if (n == len(sent)) != (err == nil) {
				t.Errorf("WriteBatch: %d of %d, %v", n, len(sent), err)
			}
		}
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("WriteBatch blocks")
	}
}

func TestKernelDropsAreCounted(t *testing.T) {
	for _, pooled := range []bool{false, true} {
		to := listenOn(t, loopbacks[0], Options{ReceiveBuffer: 32 << 10, NoGRO: true, Pooled: pooled})
		from := dialTo(t, to.LocalAddrPort(), Options{NoGSO: true})
		const flood = 500
		mustWrite(t, from, packetsOf(path.Path{}, bytesOf(flood, 1000)...))
		got := len(tryCollect(t, to, flood, 50*time.Millisecond))
		if got == flood {
			t.Fatal("nothing was dropped: the test shows nothing")
		}
		// The next ones tell, each of them all that were dropped so far.
		for range 3 {
			mustWrite(t, from, packetsOf(path.Path{}, 10))
			collect(t, to, 1)
		}
		if n := to.Stats().KernelDrops; n != uint64(flood-got) {
			t.Errorf("pooled %v: KernelDrops %d, want %d", pooled, n, flood-got)
		}
	}
}

func TestSmallBufferEventIsDeduplicated(t *testing.T) {
	limit := 1 << 30
	var said []Event
	l, err := Listen(t.Context(), Config{
		Addrs: []netip.AddrPort{netip.AddrPortFrom(loopbacks[0], 0)},
		Steer: Steer{Secret: 5, Shards: 3},
		// Twice this does not fit the kernel's int: it grants less to anyone.
		Options: Options{ReceiveBuffer: limit + limit/2, Notify: func(e Event) { said = append(said, e) }},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b := l.Groups[0].Conns[0].Stats().ReceiveBuffer
	if b.Granted >= b.Requested {
		t.Skipf("the kernel granted %+v", b)
	}
	if len(said) != 1 || said[0].Kind != BufferSmall {
		t.Fatalf("said %v, want one event for three sockets", said)
	}
	t.Log(said[0])
}
