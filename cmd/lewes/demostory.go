package main

import (
	"fmt"
	"io"
	"strings"
)

// demoStory tells people about a demo.
type demoStory struct {
	w     io.Writer
	quiet bool
}

func (s *demoStory) line(format string, args ...any) {
	if !s.quiet {
		fmt.Fprintf(s.w, format+"\n", args...)
	}
}

// demoPicture has room for each party's address below it.
const demoPicture = `
   client  ===sealed==>   entry   ===sealed==>    exit   ---plain--->   target
   %-21s  %-21s  %-21s  %s

                who sends?                          where to?
   entry saw    %-34s  %s
   exit saw     %-34s  %s
   target saw   %-34s  -

`

// tell prints what was found out.
func (s *demoStory) tell(r *demoReport) {
	p := &r.Parties
	s.line("%s", strings.TrimRight(fmt.Sprintf(demoPicture,
		p.Client, p.Entry, p.Exit, p.Target,
		p.EntrySaw, p.EntryTo,
		p.ExitSaw, p.ExitTo,
		p.TargetSaw), "\n"))
	s.line("")
	for _, c := range r.Checks {
		if c.OK {
			s.line("  ok   %s", c.Claim)
		} else {
			s.line("  NO   %s: %s", c.Claim, c.Found)
		}
	}
	s.line("")
	s.line("  %d of %d datagrams came back (%d bytes each way), %d lost", r.Back, r.Sent, r.Bytes, r.Sent-r.Back)
	s.line("  round trip: median %.0f µs, 99 %% within %.0f µs, longest %.0f µs", r.RTT.P50, r.RTT.P99, r.RTT.Max)
	s.line("  %s for the handshake, %s for the datagrams, %.1f s in all", r.KEM, r.AEAD, r.Seconds)
}
