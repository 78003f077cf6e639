package load

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"lewes/bench/measure"
	"lewes/bench/pace"
	"lewes/bench/payload"
	"lewes/bench/sink"
	"lewes/transport"
)

// Load sends and counts on lanes.
type Load struct {
	lanes  []placed
	meter  *Meter
	closes []func()
}

// Unseal opens a packet that came back and returns its payload, nil where it does
// not open.
type Unseal func(packet []byte) (payload []byte)

// New returns a Load for lanes on one socket, which it closes. What comes back is
// opened by unseal; nil takes payloads as they are.
func New(conn transport.Conn, unseal Unseal, lanes ...Lane) *Load {
	l := &Load{meter: new(Meter)}
	for _, lane := range lanes {
		l.lanes = append(l.lanes, placed{lane, conn})
	}
	if unseal == nil {
		unseal = func(packet []byte) []byte { return packet }
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.read(conn, unseal)
	}()
	l.closes = append(l.closes, func() {
		_ = conn.Close()
		<-ended
	})
	return l
}

// read feeds the meter.
func (l *Load) read(conn transport.Conn, unseal Unseal) {
	batch := make([]transport.Packet, 32)
	for {
		n, err := conn.ReadBatch(batch)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			time.Sleep(time.Millisecond)
		}
		for i := range batch[:n] {
			if !l.meter.take(&batch[i]) {
				continue
			}
			for packet := range batch[i].Segments() {
				l.meter.first(unseal(packet))
				break
			}
		}
	}
}

// Close closes the sockets.
func (l *Load) Close() {
	for _, c := range l.closes {
		c()
	}
}

// openingRate bounds how fast flows are opened: a gateway makes a socket for each.
const openingRate = 5000

// Open sends on every lane a datagram that opens its flow to a target. The receiver
// counts the flows; those that are missing are opened by another Open.
func (l *Load) Open(ctx context.Context, target netip.AddrPort) error {
	datagram := make([]byte, payload.Size)
	payload.Put(datagram, payload.Opening, measure.Now())
	if len(l.lanes) == 0 {
		return errors.New("load: there is no lane")
	}
	next := 0
	send := func(n int) (int, error) {
		for range min(n, len(l.lanes)-next) {
			lane := l.lanes[next]
			next++
			packet, err := lane.Opening(target, datagram)
			if err != nil {
				return 0, fmt.Errorf("load: opening flow %d: %w", next, err)
			}
			if _, err := write(lane.conn, []transport.Packet{{Data: packet}}); err != nil {
				return 0, err
			}
		}
		return n, nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for next < len(l.lanes) {
		left := time.Duration(len(l.lanes)-next) * time.Second / openingRate
		if _, err := pace.Run(ctx, pace.Plan{Rate: openingRate, For: left + time.Millisecond}, send); err != nil {
			return err
		}
	}
	return nil
}

// Send sends on the lanes, in turn.
func (l *Load) Send(ctx context.Context, p Plan) (pace.Result, error) {
	if len(l.lanes) == 0 {
		return pace.Result{}, errors.New("load: there is no lane")
	}
	return newSender(l.lanes, p).run(ctx)
}

// Overhead is what the lanes' packets have more than their payloads.
func (l *Load) Overhead() int {
	if len(l.lanes) == 0 {
		return 0
	}
	return l.lanes[0].Overhead()
}

// Expect starts to count what comes back anew: payloads of a size, of a run.
func (l *Load) Expect(run uint32, size int) { l.meter.Expect(run, size+l.Overhead()) }

// Count returns what has come back so far.
func (l *Load) Count() sink.Count { return l.meter.Count() }
