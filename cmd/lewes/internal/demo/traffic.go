package demo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"time"
)

const (
	// window is the number of datagrams in flight: enough to have some on both sides of the rekey,
	// few enough not to overrun a socket buffer.
	window = 16
	// lossTimeout is the age at which a datagram counts as lost.
	lossTimeout = 3 * time.Second
)

// traffic holds the client's datagrams and their fate.
type traffic struct {
	conn     net.Conn
	payloads [][]byte
	sent     []time.Time
	rtts     []time.Duration // of correct echoes
	back     []bool
	wrong    int // echoes that differ or are duplicates
}

// exchange sends datagrams through both gateways to the target and receives the echoes. In the middle
// the session rekeys while datagrams are in flight.
func (d *demo) exchange(ctx context.Context, r *Report, datagrams int) error {
	conn, err := d.session.DialContext(ctx, "udp", d.target.addr.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	t := &traffic{conn: conn, sent: make([]time.Time, datagrams), back: make([]bool, datagrams)}
	most := conn.(interface{ MaxPayload() int }).MaxPayload()
	for i := range datagrams {
		t.payloads = append(t.payloads, d.payload(i, most))
		r.Bytes += len(t.payloads[i])
	}
	rekeyed := make(chan error, 1)
	for next, inFlight := 0, 0; next < datagrams || inFlight > 0; {
		for ; next < datagrams && inFlight < window; next++ {
			if next == datagrams/2 {
				go func() { rekeyed <- d.session.Rekey(ctx) }()
			}
			t.sent[next] = time.Now()
			if _, err := conn.Write(t.payloads[next]); err != nil {
				return fmt.Errorf("send datagram %d of %d: %w", next+1, datagrams, err)
			}
			inFlight++
		}
		switch err := t.receive(ctx); {
		case errors.Is(err, os.ErrDeadlineExceeded):
			inFlight = 0 // the datagrams in flight are lost
		case err != nil:
			return fmt.Errorf("receive an echo: %w", err)
		case inFlight > 0:
			inFlight--
		}
	}
	if err := <-rekeyed; err != nil {
		return fmt.Errorf("rekey: %w", err)
	}
	r.Keys = d.session.Info().Generation
	r.Back = len(t.rtts)
	r.RTT = quantiles(t.rtts)
	r.check(r.Back == datagrams && t.wrong == 0, fmt.Sprintf("all %d datagrams came back, byte for byte", datagrams),
		"%d are missing, %d echoes differ or are duplicates", datagrams-r.Back, t.wrong)
	return nil
}

// payload returns a datagram of 20 to most bytes: the marker, its number, and random bytes.
func (d *demo) payload(number, most int) []byte {
	const head = len(d.marker) + 4
	p := make([]byte, head+rand.IntN(most-head+1))
	copy(p, d.marker[:])
	binary.BigEndian.PutUint32(p[len(d.marker):], uint32(number))
	for i := head; i < len(p); i++ {
		p[i] = byte(rand.Uint32())
	}
	return p
}

// receive receives one echo.
func (t *traffic) receive(ctx context.Context) error {
	if err := t.conn.SetReadDeadline(time.Now().Add(lossTimeout)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = t.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buffer := make([]byte, 1<<16)
	n, err := t.conn.Read(buffer)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	const head = 16 // length of the marker
	number := len(t.payloads)
	if n >= head+4 {
		number = int(binary.BigEndian.Uint32(buffer[head:n]))
	}
	if number >= len(t.payloads) || t.sent[number].IsZero() || t.back[number] || !bytes.Equal(buffer[:n], t.payloads[number]) {
		t.wrong++
		return nil
	}
	t.back[number] = true
	t.rtts = append(t.rtts, time.Since(t.sent[number]))
	return nil
}

func quantiles(d []time.Duration) RoundTrips {
	if len(d) == 0 {
		return RoundTrips{}
	}
	slices.Sort(d)
	at := func(q float64) float64 { return float64(d[int(q*float64(len(d)-1)+0.5)].Nanoseconds()) / 1000 }
	return RoundTrips{P50: at(0.5), P99: at(0.99), Max: at(1)}
}
