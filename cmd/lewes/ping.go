package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"lewes/transport/client"
)

// pingWait is the wait for the answer to a ping; later ones count as lost.
const pingWait = 2 * time.Second

func newPing() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ping URI",
		Short: "measure round trip, jitter and loss to a gateway",
		Long: `Ping connects to a gateway and sends it pings inside the session, each once. It prints the round
trip of each, and at the end how many were lost, the least, mean and largest round trip, and the
jitter: the mean difference between one round trip and the next. The size is that of the UDP
payload; one that is larger than the path takes is lost. The exit code is 1 if none is answered.`,
		Example: `  lewes ping lewes://9qA…@gw.example.com
  lewes ping -c 100 -i 50ms lewes://9qA…@gw.example.com
  lewes ping -s 1452 lewes://9qA…@gw.example.com                  # does a packet of full size get through?
  lewes ping --json lewes://9qA…@gw.example.com | jq .lost`,
		Args: arguments(1, 1, "the URI printed by the gateway, lewes://IDENTITY@host:port"),
	}
	var flags gatewayFlags
	flags.register(cmd)
	n := cmd.Flags().IntP("count", "c", 5, "number of pings; 0: until interrupted")
	interval := cmd.Flags().DurationP("interval", "i", time.Second, "time between pings, at least 10ms")
	size := cmd.Flags().IntP("size", "s", 64, "size of a packet in bytes, without IP and UDP headers")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *n < 0 {
			return usagef("--count %d is less than 0", *n)
		}
		if *interval < 10*time.Millisecond {
			return usagef("--interval %v is less than 10ms", *interval)
		}
		if *size < 64 || *size > client.DefaultMaxPacket {
			return usagef("--size %d is not within 64 and %d", *size, client.DefaultMaxPacket)
		}
		return flags.run(cmd, args[0], func(ctx context.Context, config client.Config) error {
			config.NoRegister = true // pings need none, and it may cost a ticket
			session, err := client.Dial(ctx, config)
			if err != nil {
				return withRemedy(err, &config)
			}
			defer session.Close()
			r := pingResult{Gateway: config.Gateway.String(), Size: *size, Transport: session.Info().Transport.String()}
			each := func(int, time.Duration, error) {}
			if !*asJSON {
				each = func(seq int, rtt time.Duration, err error) {
					text := fmt.Sprintf("%.1f ms", milliseconds(rtt))
					if err != nil {
						text = "no answer"
					}
					fmt.Fprintf(cmd.OutOrStdout(), "ping %d  %s\n", seq, text)
				}
			}
			if err := r.run(ctx, session, *n, *interval, each); err != nil {
				return err
			}
			if err := output(cmd, *asJSON, &r, "\n"+r.String()); err != nil {
				return err
			}
			if r.Sent > 0 && r.Received == 0 {
				return errors.New("no ping was answered")
			}
			return nil
		})
	}
	return cmd
}

// pingResult is the output of ping.
type pingResult struct {
	Gateway   string    `json:"gateway"`
	Transport string    `json:"transport"`
	Size      int       `json:"size"` // bytes of a packet, without IP and UDP headers
	Sent      int       `json:"sent"`
	Received  int       `json:"received"`
	Lost      int       `json:"lost"`
	Min       float64   `json:"min_ms"`
	Mean      float64   `json:"mean_ms"`
	Max       float64   `json:"max_ms"`
	Jitter    float64   `json:"jitter_ms"`
	Times     []float64 `json:"ms"` // of those answered, in the order of sending
}

// run sends n pings, or for n = 0 until ctx is done, and calls each with the outcome of each as it is known. Those
// whose wait ctx ends count neither as sent nor as lost.
func (r *pingResult) run(ctx context.Context, session *client.Session, n int, interval time.Duration, each func(seq int, rtt time.Duration, err error)) error {
	type answer struct {
		seq int
		rtt time.Duration
	}
	var (
		mu      sync.Mutex // guards what follows, and r
		answers []answer
		failed  error
		pending sync.WaitGroup
	)
	every := time.NewTicker(interval)
	defer every.Stop()
	for seq := 1; (n == 0 || seq <= n) && ctx.Err() == nil; seq++ {
		pending.Go(func() {
			wait, cancel := context.WithTimeout(ctx, pingWait)
			defer cancel()
			rtt, err := session.PingOnce(wait, r.Size)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				answers = append(answers, answer{seq, rtt})
			case ctx.Err() != nil:
				return
			case !errors.Is(err, context.DeadlineExceeded):
				failed = err
				return
			}
			r.Sent++
			each(seq, rtt, err)
		})
		if seq == n {
			break
		}
		select {
		case <-every.C:
		case <-ctx.Done():
		case <-session.Done():
			return session.Err()
		}
	}
	pending.Wait()
	slices.SortFunc(answers, func(a, b answer) int { return a.seq - b.seq })
	for _, a := range answers {
		r.Times = append(r.Times, milliseconds(a.rtt))
	}
	r.summarize()
	return failed
}

// summarize computes the figures from Sent and Times.
func (r *pingResult) summarize() {
	r.Received = len(r.Times)
	r.Lost = r.Sent - r.Received
	if r.Received == 0 {
		r.Times = []float64{}
		return
	}
	r.Min, r.Max = slices.Min(r.Times), slices.Max(r.Times)
	sum, steps := r.Times[0], 0.0
	for i, t := range r.Times[1:] {
		sum += t
		steps += max(t-r.Times[i], r.Times[i]-t)
	}
	r.Mean, r.Jitter = sum/float64(r.Received), steps/float64(max(1, r.Received-1))
}

// percent returns the share that was lost.
func (r *pingResult) percent() float64 { return 100 * float64(r.Lost) / float64(max(1, r.Sent)) }

func (r *pingResult) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%d sent, %d answered, %.1f %% lost, %d bytes over %s", r.Sent, r.Received, r.percent(), r.Size, r.Transport)
	if r.Received > 0 {
		fmt.Fprintf(&text, "\nround trip min %.1f, mean %.1f, max %.1f ms; jitter %.1f ms", r.Min, r.Mean, r.Max, r.Jitter)
	}
	return text.String()
}
