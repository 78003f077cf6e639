package client

import (
	"errors"
	"testing"
	"time"
)

// TestLastIDWaits leaves one id to be had and opens flows to two targets in turn.
//
// Shows R8.11.
func TestLastIDWaits(t *testing.T) {
	const second = time.Second
	for _, use := range []string{"closed at once", "used for a while", "a datagram comes late"} {
		var table flowTable
		table.init()
		const last = 4711
		for id := range 1 << 16 {
			if id != last {
				table.retired[uint16(id)] = &retiredID{lastUse: 1 << 60}
			}
		}
		s := &Session{}
		open := func(n int, at time.Duration) error {
			f := &flow{s: s, to: destinationNumber(n)}
			_, _, err := table.add(f, at)
			if err == nil && f.id.Load() != last {
				t.Fatalf("%s: id %d", use, f.id.Load())
			}
			return err
		}
		if err := open(1, 1000*second); err != nil {
			t.Fatal(err)
		}
		used := 1000 * second
		if use == "used for a while" {
			used = 1500 * second
			table.find(last).lastUse.Store(int64(used))
		}
		table.remove(table.find(last))
		if use == "a datagram comes late" {
			used = 1060 * second
			table.noteClosed(last, used)
		}
		var bound *FlowError
		if err := open(2, used+120*second-1); !errors.As(err, &bound) || bound.Reason != ReasonLimit {
			t.Errorf("%s: another target within 120 s of the last use: %v", use, err)
		}
		if err := open(2, used+120*second); err != nil {
			t.Errorf("%s: another target after 120 s: %v", use, err)
		}
	}
}
