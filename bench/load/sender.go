package load

import (
	"context"
	"errors"
	"time"

	"lewes/bench/measure"
	"lewes/bench/pace"
	"lewes/bench/payload"
	"lewes/bench/rawudp"
	"lewes/transport"
)

// Plan says what to send.
type Plan struct {
	Run  uint32        `json:"run"`
	Rate float64       `json:"rate"` // datagrams a second, of all lanes together
	For  time.Duration `json:"for"`
	Size int           `json:"size"` // bytes of payload, at least payload.Size
	// Train is how many datagrams a lane sends before the next has its turn. They lie
	// beside each other, so that they may leave as one train.
	Train int `json:"train"`
}

// placed is a lane and the socket that its packets leave by.
type placed struct {
	Lane
	conn transport.Conn
}

// sender is a sending under way.
type sender struct {
	lanes   []placed
	plan    Plan
	lane    int
	payload []byte
	buffer  []byte
	packets []transport.Packet
}

// burst is how many datagrams are handed to the system at once, at least one train. Their
// buffer stays in the processor's cache.
const burst = 64

func newSender(lanes []placed, p Plan) *sender {
	overhead := 0
	for _, l := range lanes {
		overhead = max(overhead, l.Overhead())
	}
	p.Size = max(p.Size, payload.Size)
	p.Train = min(max(p.Train, 1), rawudp.SegmentsIn(p.Size+overhead))
	most := max(burst/p.Train, 1) * p.Train
	return &sender{
		lanes:   lanes,
		plan:    p,
		payload: make([]byte, p.Size),
		buffer:  make([]byte, most*(p.Size+overhead)),
		packets: make([]transport.Packet, 0, most),
	}
}

func (s *sender) run(ctx context.Context) (pace.Result, error) {
	return pace.Run(ctx, pace.Plan{Rate: s.plan.Rate, For: s.plan.For, Unit: s.plan.Train, Most: cap(s.packets)}, s.send)
}

// send builds and sends n datagrams, a whole number of trains.
func (s *sender) send(n int) (sent int, err error) {
	payload.Put(s.payload, s.plan.Run, measure.Now())
	free := s.buffer
	s.packets = s.packets[:0]
	for i := range n {
		lane := s.lanes[s.lane]
		size := len(s.payload) + lane.Overhead()
		packet := free[:size:size]
		free = free[size:]
		if err := lane.Build(packet, s.payload); err != nil {
			return sent, err
		}
		s.packets = append(s.packets, transport.Packet{Data: packet})
		if (i+1)%s.plan.Train != 0 {
			continue
		}
		s.lane = (s.lane + 1) % len(s.lanes)
		if i+1 < n && s.lanes[s.lane].conn == lane.conn {
			continue
		}
		took, err := write(lane.conn, s.packets)
		if sent += took; err != nil {
			return sent, err
		}
		s.packets = s.packets[:0]
	}
	return sent, nil
}

// write writes a batch and returns how much of it was taken. Packets that were not count
// as not sent, which is no error here; a closed socket is.
func write(conn transport.Conn, packets []transport.Packet) (int, error) {
	n, err := conn.WriteBatch(packets)
	var some *transport.SendError
	if err == nil || n == len(packets) || errors.As(err, &some) {
		return n, nil
	}
	return n, err
}
