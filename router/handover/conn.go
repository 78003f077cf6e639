package handover

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Kind is the type of a frame.
type Kind uint8

// The kinds of frame. Their numbers are part of the format, which other versions of the program read.
const (
	Hello    Kind = iota + 1
	Sockets       // descriptors, which later frames identify by cookie
	Ready         // the successor is ready for more
	Refused       // the successor refuses; the payload is the reason
	Keys          // KEM keys of the gateway
	Shard         // state of a shard without its sessions
	Sessions      // sessions of a shard
	End           // last frame of the state
	Loaded        // the successor has loaded the state
	Commit        // the successor owns the state from here on
	Serving       // the successor serves
	Ports         // local ports that the gateway's sockets towards targets do not use for a while
	Accounts      // accounts of registered clients, before the sessions
)

var kindNames = [...]string{Hello: "Hello", Sockets: "Sockets", Ready: "Ready", Refused: "Refused", Keys: "Keys", Shard: "Shard", Sessions: "Sessions",
	End: "End", Loaded: "Loaded", Commit: "Commit", Serving: "Serving", Ports: "Ports", Accounts: "Accounts"}

func (k Kind) String() string {
	if int(k) < len(kindNames) && kindNames[k] != "" {
		return kindNames[k]
	}
	return fmt.Sprintf("frame %d", uint8(k))
}

const (
	headerSize = 6
	// MaxPayload bounds the payload of a frame, in bytes.
	MaxPayload = 32 << 20
	// MaxFiles bounds the descriptors of a frame.
	MaxFiles = 253
)

// ErrFrame means that the received bytes are not a valid or expected frame.
var ErrFrame = errors.New("handover: invalid frame")

// Frame is a received frame.
type Frame struct {
	Kind    Kind
	Payload []byte     // the receiver's, to be wiped
	Files   []*os.File // the receiver's, to be closed
}

// Close closes the frame's files and wipes its payload.
func (f *Frame) Close() {
	for _, file := range f.Files {
		_ = file.Close()
	}
	f.Files = nil
	clear(f.Payload)
}

// AppendHeader appends the header of a frame.
func AppendHeader(b []byte, kind Kind, files, payload int) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(payload))
	return append(b, byte(kind), byte(files))
}

// parseHeader parses a header.
func parseHeader(b []byte) (kind Kind, files, payload int, err error) {
	n := binary.LittleEndian.Uint32(b)
	if n > MaxPayload || b[5] > MaxFiles {
		return 0, 0, 0, fmt.Errorf("%w: %d bytes with %d descriptors", ErrFrame, n, b[5])
	}
	return Kind(b[4]), int(b[5]), int(n), nil
}

// Conn is one end of a handover connection. Send is safe for concurrent use; only one goroutine may
// receive.
type Conn struct {
	unix *net.UnixConn

	sending sync.Mutex

	in     []byte // received bytes
	start  int    // of the unread bytes in in
	oob    []byte
	queued []*os.File // received files of later frames
}

// bufferSize is the size of the receive buffer in bytes.
const bufferSize = 256 << 10

// New returns a Conn over a connected Unix stream socket, which it owns from then on.
func New(unix *net.UnixConn) *Conn {
	return &Conn{unix: unix, in: make([]byte, 0, bufferSize), oob: make([]byte, rightsSpace)}
}

// FromFile returns a Conn over an inherited socket, and closes the file.
func FromFile(file *os.File) (*Conn, error) {
	defer file.Close()
	c, err := net.FileConn(file)
	if err != nil {
		return nil, fmt.Errorf("handover: descriptor %s: %w", file.Name(), err)
	}
	unix, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, fmt.Errorf("handover: descriptor %s is not a Unix socket", file.Name())
	}
	return New(unix), nil
}

// SetDeadline sets the deadline of pending and later calls.
func (c *Conn) SetDeadline(t time.Time) error { return c.unix.SetDeadline(t) }

// Break closes the socket: pending calls fail at both ends. It is safe for concurrent use, and does
// not replace Close.
func (c *Conn) Break() { _ = c.unix.Close() }

// Close closes the socket and the files that were not received. It must not run concurrently with
// Receive.
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

// Send sends a frame. The caller keeps fds.
func (c *Conn) Send(kind Kind, payload []byte, fds ...int) error {
	if len(payload) > MaxPayload || len(fds) > MaxFiles {
		return fmt.Errorf("handover: sending %v: %w: %d bytes with %d descriptors", kind, ErrFrame, len(payload), len(fds))
	}
	c.sending.Lock()
	defer c.sending.Unlock()
	header := AppendHeader(make([]byte, 0, headerSize), kind, len(fds), len(payload))
	err := c.write(header, fds)
	if err == nil && len(payload) > 0 { // else the frame is complete; the other end may have exited
		_, err = c.unix.Write(payload)
	}
	if err != nil {
		return fmt.Errorf("handover: sending %v: %w", kind, err)
	}
	return nil
}

// inFlightWait is the pause of a sender while the system's limit of descriptors in flight is reached.
const inFlightWait = time.Millisecond

func (c *Conn) write(b []byte, fds []int) error {
	rights := rightsOf(fds)
	for {
		n, _, err := c.unix.WriteMsgUnix(b, rights, nil)
		if errors.Is(err, errTooMany) {
			time.Sleep(inFlightWait)
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

// Receive returns the next frame. It returns io.EOF if the other end closed between two frames.
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
		return Frame{}, fmt.Errorf("%w: %v with %d descriptors, received %d", ErrFrame, kind, files, len(c.queued))
	}
	f = Frame{Kind: kind, Payload: make([]byte, size)}
	f.Files, c.queued = c.queued[:files:files], c.queued[files:]
	if err := c.read(f.Payload); err != nil {
		f.Close()
		return Frame{}, fmt.Errorf("handover: receiving %v: %w", kind, err)
	}
	return f, nil
}

// read fills b with received bytes, and wipes them in the buffer.
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

// fill reads until n bytes are unread.
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
