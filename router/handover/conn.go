package handover

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Conn is one end of the conversation. Any number of goroutines may send, one
// receives.
type Conn struct {
	unix *net.UnixConn

	sending sync.Mutex

	in     []byte // of which start is the first byte that was not read yet
	start  int
	oob    []byte
	queued []*os.File // that came and belong to no frame yet
}

// bufferSize is how much is read at once.
const bufferSize = 256 << 10

// New returns a Conn of a connected Unix stream socket, which it then owns.
func New(unix *net.UnixConn) *Conn {
	return &Conn{unix: unix, in: make([]byte, 0, bufferSize), oob: make([]byte, rightsSpace)}
}

// FromFile returns a Conn of an inherited socket, and closes the file.
func FromFile(file *os.File) (*Conn, error) {
	defer file.Close()
	c, err := net.FileConn(file)
	if err != nil {
		return nil, fmt.Errorf("handover: descriptor %s: %w", file.Name(), err)
	}
	unix, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, fmt.Errorf("handover: descriptor %s is no Unix socket", file.Name())
	}
	return New(unix), nil
}

// SetDeadline ends what waits at t.
func (c *Conn) SetDeadline(t time.Time) error { return c.unix.SetDeadline(t) }

// Break breaks the conversation off: whatever waits on it, at either end, fails. It may
// be called by any goroutine. Close is still due.
func (c *Conn) Break() { _ = c.unix.Close() }

// Close breaks the conversation off, and closes what came and was not received. Nobody
// may be receiving.
func (c *Conn) Close() error {
	for _, file := range c.queued {
		_ = file.Close()
	}
	c.queued = nil
	clear(c.in[:cap(c.in)])
	if err := c.unix.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Send sends a frame; fds stay the caller's.
func (c *Conn) Send(kind Kind, payload []byte, fds ...int) error {
	if len(payload) > MaxPayload || len(fds) > MaxFiles {
		return fmt.Errorf("handover: sending %v: %w: %d bytes with %d descriptors", kind, ErrFrame, len(payload), len(fds))
	}
	c.sending.Lock()
	defer c.sending.Unlock()
	header := AppendHeader(make([]byte, 0, headerSize), kind, len(fds), len(payload))
	if err := c.write(header, fds); err != nil {
		return fmt.Errorf("handover: sending %v: %w", kind, err)
	}
	if len(payload) == 0 {
		return nil // it is out, and the other end may be gone
	}
	if _, err := c.unix.Write(payload); err != nil {
		return fmt.Errorf("handover: sending %v: %w", kind, err)
	}
	return nil
}

// crowdedWait is how long a sender waits when more descriptors are on their way than
// the system lets be.
const crowdedWait = time.Millisecond

func (c *Conn) write(b []byte, fds []int) error {
	rights := rightsOf(fds)
	for {
		n, _, err := c.unix.WriteMsgUnix(b, rights, nil)
		if errors.Is(err, errTooMany) {
			time.Sleep(crowdedWait)
			continue
		}
		if err != nil {
			return err
		}
		if n < len(b) {
			_, err = c.unix.Write(b[n:])
		}
		return err
	}
}

// Receive returns the next frame. io.EOF says that the other end has closed between
// two frames.
func (c *Conn) Receive() (f Frame, err error) {
	if err := c.fill(headerSize); err != nil {
		if errors.Is(err, io.EOF) && len(c.in) == c.start {
			return Frame{}, io.EOF
		}
		return Frame{}, fmt.Errorf("handover: %w", err)
	}
	kind, files, size, err := parseHeader(c.in[c.start:])
	if err != nil {
		return Frame{}, err
	}
	c.start += headerSize
	if files > len(c.queued) {
		return Frame{}, fmt.Errorf("%w: %v says %d descriptors, and %d came", ErrFrame, kind, files, len(c.queued))
	}
	f = Frame{Kind: kind, Payload: make([]byte, size)}
	f.Files, c.queued = c.queued[:files:files], c.queued[files:]
	if err := c.read(f.Payload); err != nil {
		f.Close()
		return Frame{}, fmt.Errorf("handover: receiving %v: %w", kind, err)
	}
	return f, nil
}

// read fills b.
func (c *Conn) read(b []byte) error {
	for len(b) > 0 {
		if c.start == len(c.in) {
			if err := c.fill(1); err != nil {
				return err
			}
		}
		n := copy(b, c.in[c.start:])
		clear(c.in[c.start : c.start+n])
		c.start += n
		b = b[n:]
	}
	return nil
}

// fill reads until n bytes are there.
func (c *Conn) fill(n int) error {
	for len(c.in)-c.start < n {
		c.in = c.in[:copy(c.in[:cap(c.in)], c.in[c.start:])]
		c.start = 0
		got, oob, flags, _, err := c.unix.ReadMsgUnix(c.in[len(c.in):cap(c.in)], c.oob)
		if err != nil {
			return err
		}
		files, err := filesOf(c.oob[:oob], flags)
		c.queued = append(c.queued, files...)
		if err != nil {
			return err
		}
		if got == 0 {
			if len(c.in) > 0 {
				return io.ErrUnexpectedEOF
			}
			return io.EOF
		}
		c.in = c.in[:len(c.in)+got]
	}
	return nil
}
