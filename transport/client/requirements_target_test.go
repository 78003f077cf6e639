package client_test

import (
	"fmt"
	"net"
	"testing"
	"time"

	"lewes/state/wire"
	"lewes/transport/client"
)

// TestTargetForThreeSeconds sends on a flow to a target that never answers, just
// before and just after three seconds.
//
// Shows R8.5.
func TestTargetForThreeSeconds(t *testing.T) {
	connected(t, func(t *testing.T, w *world, _ *client.Session, c net.Conn) {
		w.g.with(func() { w.g.answer = func(arrival) ([][]byte, wire.FlowReason) { return nil, 0 } })
		for _, pause := range []time.Duration{0, 1500 * time.Millisecond, 1450 * time.Millisecond, 100 * time.Millisecond, time.Second} {
			time.Sleep(pause)
			write(t, c, "x")
		}
		time.Sleep(time.Second)
		var named []bool
		for _, a := range w.g.arrivals() {
			named = append(named, a.named)
		}
		if got := fmt.Sprint(named); got != "[true true true false false]" {
			t.Errorf("datagrams that name their target: %s; want those of the first three seconds", got)
		}
	})
}
