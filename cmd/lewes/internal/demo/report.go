package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Report is the result of a demo.
type Report struct {
	OK      bool       `json:"ok"`
	Seconds float64    `json:"seconds"`
	KEM     string     `json:"kem"`
	AEAD    string     `json:"aead"`
	Sent    int        `json:"sent"`
	Back    int        `json:"back"` // echoed without a difference
	Bytes   int        `json:"bytes"`
	RTT     RoundTrips `json:"rtt"`
	Keys    uint32     `json:"generation"` // of the key set at the end; the handshake's is 0
	Parties Parties    `json:"parties"`
	Checks  []Check    `json:"checks"`
	Hands   Handshake  `json:"handshake"`
}

// RoundTrips are quantiles in microseconds.
type RoundTrips struct {
	P50 float64 `json:"p50_us"`
	P99 float64 `json:"p99_us"`
	Max float64 `json:"max_us"`
}

// Parties are the parties' addresses and the peers that each one saw.
type Parties struct {
	Client    string `json:"client"`
	Entry     string `json:"entry"`
	EntryOut  string `json:"entry_out"`
	Exit      string `json:"exit"`
	ExitOut   string `json:"exit_out"`
	Target    string `json:"target"`
	EntrySaw  string `json:"entry_saw_sender"`
	EntryTo   string `json:"entry_saw_target"`
	ExitSaw   string `json:"exit_saw_sender"`
	ExitTo    string `json:"exit_saw_target"`
	TargetSaw string `json:"target_saw_sender"`
}

// Handshake is the time to connect, in milliseconds.
type Handshake struct {
	Total float64 `json:"total_ms"`
	Exit  float64 `json:"exit_ms"` // the inner handshake alone
}

// Check is a claim and its verification.
type Check struct {
	Claim string `json:"claim"`
	OK    bool   `json:"ok"`
	Found string `json:"found,omitempty"` // the observation that contradicts the claim
}

// check records a claim; found describes the observation if it does not hold.
func (r *Report) check(ok bool, claim string, found string, args ...any) {
	c := Check{Claim: claim, OK: ok}
	if !ok {
		c.Found = fmt.Sprintf(found, args...)
	}
	r.Checks = append(r.Checks, c)
}

// failure returns an error that lists the claims that do not hold.
func (r *Report) failure() error {
	var errs []error
	for _, c := range r.Checks {
		if !c.OK {
			errs = append(errs, fmt.Errorf("claim does not hold: %s (%s)", c.Claim, c.Found))
		}
	}
	return errors.Join(errs...)
}

// Run runs the demo and writes its progress and result to w. The report is nil if the parties could not
// be started or connected; the error is nil only if every claim holds.
func Run(ctx context.Context, datagrams int, w io.Writer) (*Report, error) {
	begun := time.Now()
	d, err := start()
	if err != nil {
		return nil, err
	}
	defer d.close()
	fmt.Fprintln(w, "Started an exit, an entry, an echo target and a client on this machine.")
	r := &Report{Sent: datagrams}
	if err := d.connect(ctx, r); err != nil {
		return nil, err
	}
	fmt.Fprintf(w, "The client connected to the entry, and through it to the exit, in %.0f ms (%s, %s).\n", r.Hands.Total, r.KEM, r.AEAD)
	fmt.Fprintf(w, "Sending %d datagrams, with a rekey in the middle …\n", datagrams)
	if err := d.exchange(ctx, r, datagrams); err != nil {
		return nil, err
	}
	d.judge(ctx, r)
	r.Seconds = time.Since(begun).Seconds()
	err = r.failure()
	r.OK = err == nil
	r.print(w)
	return r, err
}

// picture has room for each party's address below it.
const picture = `
   client  ===sealed==>   entry   ===sealed==>    exit   ---plain--->   target
   %-21s  %-21s  %-21s  %s

                who sends?                          where to?
   entry saw    %-34s  %s
   exit saw     %-34s  %s
   target saw   %-34s  -
`

func (r *Report) print(w io.Writer) {
	p := &r.Parties
	fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf(picture,
		p.Client, p.Entry, p.Exit, p.Target, p.EntrySaw, p.EntryTo, p.ExitSaw, p.ExitTo, p.TargetSaw), "\n"))
	fmt.Fprintln(w)
	for _, c := range r.Checks {
		if c.OK {
			fmt.Fprintf(w, "  ok   %s\n", c.Claim)
		} else {
			fmt.Fprintf(w, "  NO   %s: %s\n", c.Claim, c.Found)
		}
	}
	fmt.Fprintf(w, "\n  %d of %d datagrams came back (%d bytes each way), %d lost\n", r.Back, r.Sent, r.Bytes, r.Sent-r.Back)
	fmt.Fprintf(w, "  round trip: median %.0f µs, 99th percentile %.0f µs, maximum %.0f µs\n", r.RTT.P50, r.RTT.P99, r.RTT.Max)
	fmt.Fprintf(w, "  %s for the handshake, %s for the datagrams, %.1f s in total\n", r.KEM, r.AEAD, r.Seconds)
}
