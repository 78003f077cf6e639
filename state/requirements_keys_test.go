package state

import (
	"bytes"
	"testing"
	"time"

	"lewes/state/wire"
)

// TestSpentKeysEndTheSessionAtOnce fails to open one packet too many: the session
// wants to be ticked at once and ends.
//
// Shows R6.3.
func TestSpentKeysEndTheSessionAtOnce(t *testing.T) {
	for _, underWay := range []bool{false, true} {
		_, g := established(t)
		s := g.only()
		if underWay {
			s.RequestRekey(epoch, &g.out)
			g.take()
		}
		s.keys.current.failed = MaxPackets - 2
		forged := wire.Finish(append(wire.Begin(nil, s.keys.current.index, wire.LevelTransport, 50, wire.TypePing), make([]byte, 30)...))
		now := epoch.Add(time.Millisecond)
		for n, want := range []int{1, 0} {
			g.handle(now, bytes.Clone(forged), clientAt)
			for !g.next().After(now) {
				g.tick(now)
			}
			g.settle()
			if g.sessions.Len() != want {
				t.Fatalf("subsession under way %v: %d sessions after %d packets that failed", underWay, g.sessions.Len(), MaxPackets-1+uint64(n))
			}
			if want == 0 {
				break
			}
		}
		if len(g.closed) != 1 || g.closed[0] != ErrPacketLimit {
			t.Errorf("closed for %v", g.closed)
		}
	}
}
