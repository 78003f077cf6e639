package transport_test

import (
	"errors"
	"fmt"
	"net"
	"testing"

	"lewes/transport"
)

// TestWriteEach: a packet that fails keeps none behind it from being sent, unless the
// Conn is closed.
func TestWriteEach(t *testing.T) {
	first, second := errors.New("first"), errors.New("second")
	closed := fmt.Errorf("writing: %w", net.ErrClosed)
	for _, row := range []struct {
		results []error
		taken   int
		failed  *transport.SendError
		err     error
		calls   int
	}{
		{nil, 0, nil, nil, 0},
		{[]error{nil, nil}, 2, nil, nil, 2},
		{[]error{nil, first, nil, second, nil}, 3, &transport.SendError{Index: 1, Failed: 2, Err: first}, nil, 5},
		{[]error{first}, 0, &transport.SendError{Index: 0, Failed: 1, Err: first}, nil, 1},
		{[]error{nil, first, nil, closed, nil}, 2, nil, closed, 4},
	} {
		calls := 0
		p := make([]transport.Packet, len(row.results))
		taken, err := transport.WriteEach(p, func(one *transport.Packet) error {
			if one != &p[calls] {
				t.Error("packets are not written in turn")
			}
			calls++
			return row.results[calls-1]
		})
		var failed *transport.SendError
		switch {
		case taken != row.taken || calls != row.calls:
			t.Errorf("%v: %d taken of %d tried", row.results, taken, calls)
		case row.failed != nil && (!errors.As(err, &failed) || *failed != *row.failed):
			t.Errorf("%v: %v, want %v", row.results, err, row.failed)
		case row.failed == nil && err != row.err:
			t.Errorf("%v: %v, want %v", row.results, err, row.err)
		}
	}
}

// A Conn that sends one by one allocates nothing for a batch that is sent.
func TestWriteEachDoesNotAllocate(t *testing.T) {
	p := make([]transport.Packet, 8)
	sent := 0
	write := func(*transport.Packet) error { sent++; return nil }
	if n := testing.AllocsPerRun(100, func() { _, _ = transport.WriteEach(p, write) }); n != 0 {
		t.Errorf("%v allocations a batch", n)
	}
}
