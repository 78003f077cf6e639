package udp

import "syscall"

// attempt is what was tried so far with a message that the system refused.
type attempt struct {
	connected bool // the socket is
	source    bool // the message names the address to leave from
	segments  int  // datagrams in the message
	repeats   int  // how often it was sent again because the error may have been an earlier one's
}

// verdict is what to do with the message.
type verdict uint8

const (
	lost          verdict = iota // count it, tell of it, go on with the next
	again                        // the error may belong to an earlier datagram: the same once more
	wait                         // for room in the send buffer, as long as SendWait allows
	withoutSource                // let the system choose the address to leave from
	unsegmented                  // each datagram by itself
)

// maxRepeats bounds how often a message is sent again for errors that may be
// another's: other goroutines' datagrams may be refused in between.
const maxRepeats = 3

// judge says what to do about a message that was refused with e. No verdict comes
// up without end: again is bounded by repeats, wait by the caller's time, the other
// two take away what they are about.
func judge(e syscall.Errno, a *attempt) verdict {
	kind := kindOf(e)
	switch {
	case kind == Full:
		return wait
	case a.connected && (kind == Refused || kind == Unreachable) && a.repeats < maxRepeats,
		a.connected && kind == TooLarge && a.repeats < 1:
		// A connected socket keeps the last ICMP error and gives it to the next
		// call, whose own datagram has not been looked at.
		return again
	case a.source && (kind == Address || kind == Unreachable):
		return withoutSource
	case a.segments > 1:
		return unsegmented
	}
	return lost
}
