package main

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
	// demoWindow is how many datagrams are on their way at a time: enough to have
	// some on either side of the renewal of keys, too few to overrun a socket.
	demoWindow = 16
	// demoPatience is how long the client waits for a datagram before it counts as
	// lost.
	demoPatience = 3 * time.Second
)

// traffic is the client's datagrams and what became of each.
type traffic struct {
	conn     net.Conn
	payloads [][]byte
	sent     []time.Time
	rtts     []time.Duration // of those that came back right
	back     []bool
	wrong    int // came back, but not as they were sent, or twice
}

// exchange sends datagrams through both gateways to the target and takes the
// echoes. In the middle the session gets new keys, while datagrams are on their
// way.
func (d *demo) exchange(ctx context.Context, r *demoReport, datagrams int) error {
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
	for next, flying := 0, 0; next < datagrams || flying > 0; {
		for ; next < datagrams && flying < demoWindow; next++ {
			if next == datagrams/2 {
				go func() { rekeyed <- d.session.Rekey(ctx) }()
			}
			t.sent[next] = time.Now()
			if _, err := conn.Write(t.payloads[next]); err != nil {
				return fmt.Errorf("sending datagram %d of %d: %w", next+1, datagrams, err)
			}
			flying++
		}
		switch err := t.take(ctx); {
		case errors.Is(err, os.ErrDeadlineExceeded):
			flying = 0 // those are lost
		case err != nil:
			return fmt.Errorf("waiting for an echo: %w", err)
		case flying > 0:
			flying--
		}
	}
	if err := <-rekeyed; err != nil {
		return fmt.Errorf("renewing the keys: %w", err)
	}
	r.Keys = d.session.Info().Generation
	for _, back := range t.back {
		if back {
			r.Back++
		}
	}
	r.RTT = quantiles(t.rtts)
	r.check(r.Back == datagrams && t.wrong == 0, fmt.Sprintf("each of %d datagrams came back, byte for byte", datagrams),
		"%d are missing, %d came back wrong or twice", datagrams-r.Back, t.wrong)
	return nil
}

// payload makes a datagram of 20 to most bytes: the marker, its number, and noise.
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

// take takes one echo.
func (t *traffic) take(ctx context.Context) error {
	if err := t.conn.SetReadDeadline(time.Now().Add(demoPatience)); err != nil {
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
	number, ok := t.match(buffer[:n])
	if !ok || t.back[number] {
		t.wrong++
		return nil
	}
	t.back[number] = true
	t.rtts = append(t.rtts, time.Since(t.sent[number]))
	return nil
}

// match finds the datagram that an echo is of, and compares them.
func (t *traffic) match(echo []byte) (number int, ok bool) {
	const at = 16
	if len(echo) < at+4 {
		return 0, false
	}
	number = int(binary.BigEndian.Uint32(echo[at:]))
	return number, number < len(t.payloads) && !t.sent[number].IsZero() && bytes.Equal(echo, t.payloads[number])
}

func quantiles(d []time.Duration) roundTrips {
	if len(d) == 0 {
		return roundTrips{}
	}
	slices.Sort(d)
	at := func(q float64) float64 { return float64(d[int(q*float64(len(d)-1)+0.5)].Nanoseconds()) / 1000 }
	return roundTrips{P50: at(0.5), P99: at(0.99), Max: at(1)}
}
