package load

import (
	"time"

	"lewes/state"
	"lewes/state/wire"
	"lewes/transport/tcp"
)

// pollWait is how long a Poll asks the gateway to wait, pollAgain how long the next
// one waits after one that failed.
const (
	pollWait  = 5 * time.Second
	pollAgain = 10 * time.Millisecond
)

// poll keeps a Poll of the session with the gateway until the Conn is closed: one
// follows the other.
func poll(conn *tcp.Conn, s *state.Session) {
	m := wire.Poll{WaitMillis: uint16(pollWait.Milliseconds())}
	packet := wire.Finish(m.Append(wire.Begin(nil, 0, wire.LevelTransport, 0, wire.TypePoll)))
	if s.Sender().Seal(packet) != nil {
		return // the session has ended
	}
	_ = conn.Send(packet, pollWait, func(_ int, err error) { // it fails when it is closed
		if err != nil {
			time.Sleep(pollAgain)
		}
		poll(conn, s)
	})
}
