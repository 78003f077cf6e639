package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// maxDemoDatagrams bounds what a demo keeps in memory: each payload, to compare.
const maxDemoDatagrams = 1_000_000

func newDemo() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "see it work: client, entry, exit and target on this machine alone",
		Long: `Demo runs all parties in this one process, over the loopback interface: a client, an
entry gateway, an exit gateway and a target that echoes. It makes keys for them,
shakes hands with both gateways, sends datagrams through both and compares each echo
byte for byte, renews the keys in the middle, and watches the parties' sockets: the
entry is to see who sends and not where to, the exit where to and not who.

It exits with 0 only if every datagram came back and every line that it prints with an
"ok" was checked. Nothing is left behind: no file, no process, no key.`,
		Example: `  lewes demo
  lewes demo --datagrams 20000
  lewes demo --json | jq .rtt`,
		Args: arguments(0, 0, ""),
	}
	datagrams := cmd.Flags().Int("datagrams", 1000, "how many datagrams to send")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *datagrams < 2 || *datagrams > maxDemoDatagrams {
			return usagef("--datagrams %d: send from 2 to %d", *datagrams, maxDemoDatagrams)
		}
		ctx, stop := untilSignal(cmd.Context(), cmd.ErrOrStderr())
		defer stop()
		show := &demoStory{w: cmd.OutOrStdout(), quiet: *asJSON}
		report, err := runDemo(ctx, *datagrams, show)
		if report == nil {
			return err
		}
		if *asJSON {
			if jsonErr := writeJSON(cmd.OutOrStdout(), report); jsonErr != nil {
				return jsonErr
			}
		} else {
			show.tell(report)
		}
		return errors.Join(err, report.failure())
	}
	return cmd
}

// demoReport is what a demo found out.
type demoReport struct {
	OK      bool          `json:"ok"`
	Seconds float64       `json:"seconds"`
	KEM     string        `json:"kem"`
	AEAD    string        `json:"aead"`
	Sent    int           `json:"sent"`
	Back    int           `json:"back"` // of those, byte for byte what was sent
	Bytes   int           `json:"bytes"`
	RTT     roundTrips    `json:"rtt"`
	Keys    uint32        `json:"generation"` // of the keys at the end; 0 are the handshake's
	Parties demoParties   `json:"parties"`
	Checks  []demoCheck   `json:"checks"`
	Hands   demoHandshake `json:"handshake"`
}

// roundTrips are times in microseconds.
type roundTrips struct {
	P50 float64 `json:"p50_us"`
	P99 float64 `json:"p99_us"`
	Max float64 `json:"max_us"`
}

// demoParties are the addresses at which the parties met.
type demoParties struct {
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

// demoHandshake says how long it took to connect, in milliseconds.
type demoHandshake struct {
	Total float64 `json:"total_ms"`
	Exit  float64 `json:"exit_ms"` // the inner one alone
}

// demoCheck is a claim, and whether it held.
type demoCheck struct {
	Claim string `json:"claim"`
	OK    bool   `json:"ok"`
	// Found is what was seen instead.
	Found string `json:"found,omitempty"`
}

// check notes a claim; found says what was seen where it did not hold.
func (r *demoReport) check(ok bool, claim string, found string, args ...any) {
	c := demoCheck{Claim: claim, OK: ok}
	if !ok {
		c.Found = fmt.Sprintf(found, args...)
	}
	r.Checks = append(r.Checks, c)
}

// failure returns an error that names each claim that did not hold.
func (r *demoReport) failure() error {
	var wrong []string
	for _, c := range r.Checks {
		if !c.OK {
			wrong = append(wrong, fmt.Sprintf("not so: %s (%s)", c.Claim, c.Found))
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return errors.New(strings.Join(wrong, "; "))
}

// runDemo runs all parties and returns what it found out. The report is nil where
// they could not even be started.
func runDemo(ctx context.Context, datagrams int, show *demoStory) (*demoReport, error) {
	begun := time.Now()
	d, err := startDemo()
	if err != nil {
		return nil, err
	}
	defer d.close()
	show.line("An exit, an entry, a target that echoes and a client are up, all on this machine.")
	report := &demoReport{Sent: datagrams}
	if err := d.connect(ctx, report); err != nil {
		return nil, err
	}
	show.line("The client shook hands with the entry, and through it with the exit, in %.0f ms (%s, %s).", report.Hands.Total, report.KEM, report.AEAD)
	show.line("Sending %d datagrams, and renewing the keys in the middle …", datagrams)
	if err := d.exchange(ctx, report, datagrams); err != nil {
		return nil, err
	}
	d.judge(ctx, report)
	report.Seconds = time.Since(begun).Seconds()
	report.OK = report.failure() == nil
	return report, nil
}
