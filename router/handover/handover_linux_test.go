package handover

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync"
	"testing"
	"time"
)

func pair(t *testing.T) (a, b *Conn) {
	t.Helper()
	a, file, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	if b, err = FromFile(file); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Conn{a, b} {
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	}
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

// descriptors returns how many files this process has open.
func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// TestFramesAndDescriptors sends frames of all sizes from several goroutines, with and
// without descriptors: each comes whole, with its own, and nothing stays open.
func TestFramesAndDescriptors(t *testing.T) {
	a, b := pair(t)
	before := descriptors(t)
	var readers, writers []*os.File
	for range 3 {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		readers, writers = append(readers, r), append(writers, w)
	}
	var senders sync.WaitGroup
	for n := range 3 {
		senders.Go(func() {
			for i := range 60 {
				fds := make([]int, (i%3)*(MaxFiles/2))
				for at := range fds {
					fds[at] = int(writers[n].Fd())
				}
				payload := bytes.Repeat([]byte{byte(n)}, i*i*100)
				if err := a.Send(Kind(n+1), payload, fds...); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	var came [4]int
	for range 180 {
		f, err := b.Receive()
		if err != nil {
			t.Fatal(err)
		}
		i := came[f.Kind]
		came[f.Kind]++
		if len(f.Payload) != i*i*100 || len(f.Files) != i%3*(MaxFiles/2) || !bytes.Equal(f.Payload, bytes.Repeat([]byte{byte(f.Kind - 1)}, i*i*100)) {
			t.Fatalf("frame %d of %v: %d bytes, %d files", i, f.Kind, len(f.Payload), len(f.Files))
		}
		if len(f.Files) > 0 {
			if _, err := f.Files[len(f.Files)-1].Write([]byte{1}); err != nil {
				t.Fatal(err)
			}
		}
		f.Close()
	}
	senders.Wait()
	for n := range readers {
		_ = writers[n].Close()
		if got, _ := io.ReadAll(readers[n]); len(got) != 40 {
			t.Errorf("%d frames of sender %d had its own descriptors, want 40", len(got), n)
		}
		_ = readers[n].Close()
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d files are open, before %d", after, before)
	}
}

// TestBadFrames feeds what no Conn sends.
func TestBadFrames(t *testing.T) {
	for name, b := range map[string][]byte{
		"too long":               {0xff, 0xff, 0xff, 0xff, 1, 0},
		"more files than may be": {0, 0, 0, 0, 1, 254},
		"files that never came":  {0, 0, 0, 0, 2, 3},
	} {
		a, c := pair(t)
		if _, err := a.unix.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Receive(); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, half := range [][]byte{{1, 0}, {9, 0, 0, 0, 1, 0, 'h', 'a', 'l', 'f'}} {
		a, c := pair(t)
		_, _ = a.unix.Write(half)
		_ = a.Close()
		if _, err := c.Receive(); err == nil || errors.Is(err, ErrFrame) {
			t.Errorf("cut off after %d bytes: %v", len(half), err)
		}
	}
	a, c := pair(t)
	_ = a.Close()
	if _, err := c.Receive(); err != io.EOF {
		t.Errorf("closed: %v", err)
	}
	if err := c.Send(Hello, make([]byte, MaxPayload+1)); !errors.Is(err, ErrFrame) {
		t.Errorf("sending too much: %v", err)
	}
}
