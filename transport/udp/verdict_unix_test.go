//go:build unix

package udp

import (
	"errors"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"lewes/state/path"
	"lewes/transport"
)

var errnos = []syscall.Errno{
	syscall.EMSGSIZE, syscall.EAGAIN, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNREFUSED, syscall.EHOSTUNREACH,
	syscall.ENETUNREACH, syscall.EPERM, syscall.EACCES, syscall.EINVAL, syscall.EADDRNOTAVAIL, syscall.EIO, syscall.EOPNOTSUPP,
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name string
		e    syscall.Errno
		a    attempt
		want verdict
	}{
		{"full", syscall.EAGAIN, attempt{segments: 1}, wait},
		{"full, a train", syscall.EAGAIN, attempt{segments: 9, connected: true, source: true}, wait},
		{"no buffers", syscall.ENOBUFS, attempt{segments: 1}, lost},
		{"no buffers, a train", syscall.ENOBUFS, attempt{segments: 2}, unsegmented},
		{"refused", syscall.ECONNREFUSED, attempt{segments: 1, connected: true}, again},
		{"refused too often", syscall.ECONNREFUSED, attempt{segments: 1, connected: true, repeats: maxRepeats}, lost},
		{"too large may be an earlier one's", syscall.EMSGSIZE, attempt{segments: 1, connected: true}, again},
		{"too large, twice", syscall.EMSGSIZE, attempt{segments: 1, connected: true, repeats: 1}, lost},
		{"too large, a train", syscall.EMSGSIZE, attempt{segments: 3}, unsegmented},
		{"too large, not connected", syscall.EMSGSIZE, attempt{segments: 1}, lost},
		{"no route from there", syscall.ENETUNREACH, attempt{segments: 1, source: true}, withoutSource},
		{"no route at all", syscall.ENETUNREACH, attempt{segments: 1}, lost},
		{"address gone", syscall.EINVAL, attempt{segments: 5, source: true}, withoutSource},
		{"not the address, the train", syscall.EINVAL, attempt{segments: 5}, unsegmented},
		{"device without checksums", syscall.EIO, attempt{segments: 5, source: true, connected: true}, unsegmented},
		{"firewall", syscall.EPERM, attempt{segments: 1, connected: true, source: true}, lost},
		{"firewall, a train", syscall.EPERM, attempt{segments: 2}, unsegmented},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := judge(c.e, &c.a); got != c.want {
				t.Errorf("verdict %d, want %d", got, c.want)
			}
		})
	}
}

// Whatever the system answers, in whatever order, a message comes to an end.
func TestJudgeComesToAnEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := attempt{
			connected: rapid.Bool().Draw(t, "connected"),
			source:    rapid.Bool().Draw(t, "source"),
			segments:  rapid.IntRange(1, 3).Draw(t, "segments"),
		}
		for steps := 0; ; steps++ {
			if steps > maxRepeats+2 {
				t.Fatalf("still going after %d steps", steps)
			}
			switch judge(rapid.SampledFrom(errnos).Draw(t, "errno"), &a) {
			case again:
				a.repeats++
			case withoutSource:
				if !a.source {
					t.Fatal("there is no source to leave out")
				}
				a.source = false
			case unsegmented:
				if a.segments < 2 {
					t.Fatal("one datagram cannot be cut")
				}
				return
			default:
				return
			}
		}
	})
}

func TestEveryErrorHasAName(t *testing.T) {
	for e, want := range map[syscall.Errno]error{
		syscall.EMSGSIZE:     transport.ErrTooLarge,
		syscall.EAGAIN:       transport.ErrFull,
		syscall.ENOBUFS:      transport.ErrFull,
		syscall.ECONNREFUSED: transport.ErrRefused,
		syscall.EHOSTUNREACH: transport.ErrUnreachable,
		syscall.EPERM:        transport.ErrDenied,
		syscall.EINVAL:       transport.ErrAddress,
		syscall.EIO:          syscall.EIO,
	} {
		err := cause(e)
		if !errors.Is(err, want) || !errors.Is(err, e) {
			t.Errorf("%v: errors.Is finds not both %v and %v", err, want, e)
		}
	}
	seen := map[string]bool{}
	for k := range numKinds + 1 {
		if s := k.String(); s == "" || seen[s] {
			t.Errorf("kind %d is called %q", k, s)
		} else {
			seen[s] = true
		}
	}
}

func TestOutcomeCountsPackets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Failures as they come: of messages in order, which may share a packet
		// with the one before.
		const packets = 40
		var o outcome
		var c Counters
		failed := map[int]bool{}
		datagrams, at := 0, 0
		for at < packets {
			first := at
			last := min(first+rapid.IntRange(0, 3).Draw(t, "length"), packets-1)
			if rapid.Bool().Draw(t, "failed") {
				n := rapid.IntRange(1, 9).Draw(t, "datagrams")
				o.fail(&c, first, last, n, rapid.SampledFrom(errnos).Draw(t, "errno"))
				datagrams += n
				for i := first; i <= last; i++ {
					failed[i] = true
				}
			}
			at = last + rapid.IntRange(0, 1).Draw(t, "shared")
			if at == first {
				at++
			}
		}
		n, err := o.result(make([]transport.Packet, packets), nil)
		if n != packets-len(failed) {
			t.Fatalf("%d taken, want %d", n, packets-len(failed))
		}
		if (err == nil) != (len(failed) == 0) {
			t.Fatalf("%d failed, error %v", len(failed), err)
		}
		if got := c.Stats().SendErrors.Total(); got != uint64(datagrams) {
			t.Fatalf("%d datagrams counted, want %d", got, datagrams)
		}
		var e *transport.SendError
		if errors.As(err, &e) {
			for i := range e.Index {
				if failed[i] {
					t.Fatalf("Index %d, but packet %d failed before", e.Index, i)
				}
			}
			if !failed[e.Index] || e.Failed != len(failed) {
				t.Fatalf("Index %d, Failed %d; failed %v", e.Index, e.Failed, failed)
			}
		}
	})
}

func TestReportsComeWithoutFailures(t *testing.T) {
	var o outcome
	var c Counters
	o.note(&c, syscall.ECONNREFUSED)
	n, err := o.result(make([]transport.Packet, 3), &path.Path{})
	var e *transport.SendError
	if n != 3 || !errors.Is(err, transport.ErrRefused) || errors.As(err, &e) {
		t.Errorf("%d, %v, want 3 taken and ErrRefused alone", n, err)
	}
	o.fail(&c, 1, 1, 1, syscall.EPERM)
	n, err = o.result(make([]transport.Packet, 3), &path.Path{})
	if n != 2 || !errors.Is(err, transport.ErrRefused) || !errors.Is(err, transport.ErrDenied) {
		t.Errorf("%d, %v, want 2 taken, ErrDenied and ErrRefused", n, err)
	}
}
