package tcp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"lewes/state/wire"
)

// lengthSize is the size of the length prefix of a packet: u32, big-endian.
const lengthSize = 4

// ErrBadLength means a length prefix is out of range (R10.6); the rest of the stream
// cannot be parsed.
var ErrBadLength = errors.New("invalid packet length")

func validLength(n int) bool { return wire.MinPacket <= n && n <= wire.MaxTCPPacket }

// parseLength parses a length prefix.
func parseLength(b *[lengthSize]byte) (int, error) {
	n := binary.BigEndian.Uint32(b[:])
	if n > wire.MaxTCPPacket || !validLength(int(n)) {
		return 0, fmt.Errorf("tcp: %w: %d bytes, want %d to %d", ErrBadLength, n, wire.MinPacket, wire.MaxTCPPacket)
	}
	return int(n), nil
}

// appendFrame appends a packet with its length prefix.
func appendFrame(dst, packet []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(packet)))
	return append(dst, packet...)
}

// classes are the sizes of pooled buffers. The smallest holds a packet of datagram size,
// the largest any packet with its length prefix.
var classes = [...]int{2 << 10, 16 << 10, 64<<10 + lengthSize}

var pools [len(classes)]sync.Pool

// buffer is a pooled byte slice.
type buffer struct {
	class int
	data  []byte
}

// newBuffer returns an empty buffer of a class.
func newBuffer(class int) *buffer {
	if b, ok := pools[class].Get().(*buffer); ok {
		return b
	}
	return &buffer{class: class, data: make([]byte, 0, classes[class])}
}

func (b *buffer) free() {
	if cap(b.data) != classes[b.class] {
		return
	}
	b.data = b.data[:0]
	pools[b.class].Put(b)
}

// grow returns b, or a larger copy, with room for n more bytes. Memory beyond the
// largest class is not pooled.
func (b *buffer) grow(n int) *buffer {
	need := len(b.data) + n
	if need <= cap(b.data) {
		return b
	}
	class := b.class
	for class < len(classes) && classes[class] < need {
		class++
	}
	if class == len(classes) {
		b.data = append(make([]byte, 0, max(need, 2*cap(b.data))), b.data...)
		return b
	}
	larger := newBuffer(class)
	larger.data = append(larger.data, b.data...)
	b.free()
	return larger
}

// errBudget means Config.MaxReceiving is reached.
var errBudget = errors.New("tcp: receive memory exhausted")

// bufferBudget bounds the memory of all packets that are being received or wait for ReadBatch.
type bufferBudget struct {
	limit int64
	used  atomic.Int64
}

// acquire returns a buffer of a class. Larger classes may use three quarters of the
// limit only, so that partly received large packets leave room for handshakes.
func (m *bufferBudget) acquire(class int) (*buffer, error) {
	limit := m.limit
	if class > 0 {
		limit -= limit / 4
	}
	if m.used.Add(int64(classes[class])) > limit {
		m.used.Add(-int64(classes[class]))
		return nil, errBudget
	}
	return newBuffer(class), nil
}

// release returns a buffer from acquire.
func (m *bufferBudget) release(b *buffer) {
	m.used.Add(-int64(classes[b.class]))
	b.free()
}

// read reads a packet of n bytes. It starts with the smallest buffer and takes a larger
// one only when that is full, so that a length alone reserves little.
func (m *bufferBudget) read(r io.Reader, n int) (*buffer, error) {
	b, err := m.acquire(0)
	if err != nil {
		return nil, err
	}
	for {
		have := len(b.data)
		b.data = b.data[:min(n, cap(b.data))]
		if _, err := io.ReadFull(r, b.data[have:]); err != nil {
			m.release(b)
			return nil, err
		}
		if len(b.data) == n {
			return b, nil
		}
		larger, err := m.acquire(b.class + 1)
		if err != nil {
			m.release(b)
			return nil, err
		}
		larger.data = append(larger.data, b.data...)
		m.release(b)
		b = larger
	}
}
