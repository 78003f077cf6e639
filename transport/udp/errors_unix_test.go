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

func TestClassifySendError(t *testing.T) {
	for _, c := range []struct {
		name string
		e    syscall.Errno
		a    sendAttempt
		want sendAction
	}{
		{"full", syscall.EAGAIN, sendAttempt{segments: 1}, actionWait},
		{"full, a train", syscall.EAGAIN, sendAttempt{segments: 9, connected: true, source: true}, actionWait},
		{"no buffers", syscall.ENOBUFS, sendAttempt{segments: 1}, actionFail},
		{"no buffers, a train", syscall.ENOBUFS, sendAttempt{segments: 2}, actionDropGSO},
		{"refused", syscall.ECONNREFUSED, sendAttempt{segments: 1, connected: true}, actionRetry},
		{"refused too often", syscall.ECONNREFUSED, sendAttempt{segments: 1, connected: true, retries: maxRetries}, actionFail},
		{"too large may be an earlier one's", syscall.EMSGSIZE, sendAttempt{segments: 1, connected: true}, actionRetry},
		{"too large, twice", syscall.EMSGSIZE, sendAttempt{segments: 1, connected: true, retries: 1}, actionFail},
		{"too large, a train", syscall.EMSGSIZE, sendAttempt{segments: 3}, actionDropGSO},
		{"too large, not connected", syscall.EMSGSIZE, sendAttempt{segments: 1}, actionFail},
		{"no route from there", syscall.ENETUNREACH, sendAttempt{segments: 1, source: true}, actionDropSource},
		{"no route at all", syscall.ENETUNREACH, sendAttempt{segments: 1}, actionFail},
		{"address gone", syscall.EINVAL, sendAttempt{segments: 5, source: true}, actionDropSource},
		{"not the address, the train", syscall.EINVAL, sendAttempt{segments: 5}, actionDropGSO},
		{"device without checksums", syscall.EIO, sendAttempt{segments: 5, source: true, connected: true}, actionDropGSO},
		{"firewall", syscall.EPERM, sendAttempt{segments: 1, connected: true, source: true}, actionFail},
		{"firewall, a train", syscall.EPERM, sendAttempt{segments: 2}, actionDropGSO},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := classifySendError(c.e, &c.a); got != c.want {
				t.Errorf("action %d, want %d", got, c.want)
			}
		})
	}
}

// Whatever the system answers, in whatever order, a message comes to an end.
func TestSendActionsAreFinite(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := sendAttempt{
			connected: rapid.Bool().Draw(t, "connected"),
			source:    rapid.Bool().Draw(t, "source"),
			segments:  rapid.IntRange(1, 3).Draw(t, "segments"),
		}
		for steps := 0; ; steps++ {
			if steps > maxRetries+2 {
				t.Fatalf("still going after %d steps", steps)
			}
			switch classifySendError(rapid.SampledFrom(errnos).Draw(t, "errno"), &a) {
			case actionRetry:
				a.retries++
			case actionDropSource:
				if !a.source {
					t.Fatal("there is no source to leave out")
				}
				a.source = false
			case actionDropGSO:
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

func TestErrorsWrapTransportErrors(t *testing.T) {
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
		err := wrapErrno(e)
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

func TestWriteResultCountsPackets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Failures as they come: of messages in order, which may share a packet
		// with the one before.
		const packets = 40
		var o writeResult
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

func TestAsyncErrorIsNoSendFailure(t *testing.T) {
	var o writeResult
	var c Counters
	o.addAsync(&c, syscall.ECONNREFUSED)
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
