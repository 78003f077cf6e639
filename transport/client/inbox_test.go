package client

import (
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func newInbox() *inbox {
	q := new(inbox)
	q.init()
	return q
}

func TestInboxWakesEveryReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, f := newInbox(), new(flow)
		const readers = 5
		got := make(chan string, 100)
		for range readers {
			go func() {
				for {
					d, err := q.get()
					if err != nil {
						got <- err.Error()
						return
					}
					got <- string(d.data())
					d.free()
				}
			}()
		}
		synctest.Wait()
		for range 20 {
			q.put(f, []byte("x"))
		}
		for range 20 {
			if s := <-got; s != "x" {
				t.Fatal(s)
			}
		}
		over := errors.New("over")
		q.put(f, []byte("x"))
		q.end(over)
		q.end(errors.New("the second end does not count"))
		counts := make(map[string]int)
		for range readers + 1 {
			counts[<-got]++
		}
		if counts["x"] != 1 || counts["over"] != readers {
			t.Errorf("%v", counts)
		}
		if lost := q.put(f, nil); lost != 1 {
			t.Error("taken after the end")
		}
	})
}

// Close takes effect at once, before queued datagrams and after another end.
func TestInboxClose(t *testing.T) {
	q := newInbox()
	q.put(new(flow), []byte("x"))
	q.end(errors.New("over"))
	q.end(net.ErrClosed)
	if _, err := q.get(); err != net.ErrClosed {
		t.Error(err)
	}
	if q.count != 0 || q.head != nil {
		t.Error("datagrams are kept")
	}
	if err := q.setDeadline(time.Now()); err != net.ErrClosed {
		t.Error(err)
	}
}

// A deadline's timer may fire for an earlier deadline.
func TestInboxDeadlineMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newInbox()
		began := time.Now()
		for _, at := range []time.Duration{time.Second, 500 * time.Millisecond, 2 * time.Second} {
			if err := q.setDeadline(began.Add(at)); err != nil {
				t.Fatal(err)
			}
		}
		q.expire() // of the first one
		if _, err := q.get(); err != os.ErrDeadlineExceeded || time.Since(began) != 2*time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		if err := q.setDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		q.expire()
		time.AfterFunc(time.Hour, func() { q.put(new(flow), nil) })
		if _, err := q.get(); err != nil {
			t.Error(err)
		}
		q.end(net.ErrClosed)
	})
}

func TestInboxTooLarge(t *testing.T) {
	q := newInbox()
	if lost := q.put(new(flow), make([]byte, bufferSize+1)); lost != 1 || q.count != 0 {
		t.Error("a payload that no packet holds was taken")
	}
	if lost := q.put(new(flow), make([]byte, bufferSize)); lost != 0 {
		t.Error("a payload that fits was lost")
	}
}
