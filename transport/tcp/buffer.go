package tcp

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
)

// classes are the sizes of pooled buffers: the first holds a packet that would fit a
// datagram, the last the largest that there is, with its length.
var classes = [...]int{2 << 10, 16 << 10, 64<<10 + lengthSize}

var pools [len(classes)]sync.Pool

// buffer is a pooled piece of memory.
type buffer struct {
	class int
	data  []byte // what is in it
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

// errMemory: the packets that are on their way hold all that they may together.
var errMemory = errors.New("tcp: no memory for another packet")

// memory is what the buffers of packets that are being received, or wait to be read,
// may hold in all.
type memory struct {
	limit int64
	used  atomic.Int64
}

// take returns a buffer of a class and charges for it. A quarter of the memory is for
// packets that would fit a datagram, so that large ones that trickle in leave room for
// handshakes.
func (m *memory) take(class int) (*buffer, error) {
	limit := m.limit
	if class > 0 {
		limit -= limit / 4
	}
	if m.used.Add(int64(classes[class])) > limit {
		m.used.Add(-int64(classes[class]))
		return nil, errMemory
	}
	return newBuffer(class), nil
}

// give takes back a buffer that take gave out.
func (m *memory) give(b *buffer) {
	m.used.Add(-int64(classes[b.class]))
	b.free()
}

// read reads a packet of n bytes. It begins with the smallest buffer and takes a
// larger one only when that is full.
func (m *memory) read(r io.Reader, n int) (*buffer, error) {
	b, err := m.take(0)
	if err != nil {
		return nil, err
	}
	for {
		have := len(b.data)
		b.data = b.data[:min(n, cap(b.data))]
		if _, err := io.ReadFull(r, b.data[have:]); err != nil {
			m.give(b)
			return nil, err
		}
		if len(b.data) == n {
			return b, nil
		}
		larger, err := m.take(b.class + 1)
		if err != nil {
			m.give(b)
			return nil, err
		}
		larger.data = append(larger.data, b.data...)
		m.give(b)
		b = larger
	}
}

// grow returns the buffer with room for n more bytes. Beyond the largest class its
// memory is of no pool.
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
