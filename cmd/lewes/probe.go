package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"lewes/transport/client"
)

const (
	// probeTries is the number of times the datagram is sent; it may get lost.
	probeTries = 3
	// probeWait is the wait for each answer.
	probeWait = time.Second
)

func newProbe() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "probe URI",
		Short: "test the connection to a gateway step by step",
		Long: `Probe resolves a gateway's name, connects and pings it. With --target it also sends a
datagram through it and waits for the answer. It prints the time that each step took and
the negotiated parameters. If a step fails, it prints the step and the reason, and the exit
code is 1. If UDP fails and TCP works, it prints that and goes on over TCP, and the exit code
is 4.`,
		Example: `  lewes probe lewes://9qA…@gw.example.com
  lewes probe --target 9.9.9.9:53 lewes://9qA…@gw.example.com     # a DNS query through it
  lewes probe --transport tcp lewes://9qA…@gw.example.com         # test TCP
  lewes probe --via lewes://4mZ…@entry.example lewes://9qA…@exit.example
  lewes probe --json lewes://9qA…@gw.example.com | jq -r .failed`,
		Args: arguments(1, 1, "the URI printed by the gateway, lewes://IDENTITY@host:port"),
	}
	var flags gatewayFlags
	flags.register(cmd)
	target := cmd.Flags().String("target", "", "`host:port` that answers a datagram")
	payload := cmd.Flags().String("payload", "", "`text` of the datagram (default a DNS query for port 53, else \"lewes probe\")")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p := probe{payload: []byte(*payload)}
		if *target != "" {
			var err error
			if p.target, err = parseTarget(*target); err != nil {
				return usagef("--target: %w", err)
			}
		}
		return flags.run(cmd, args[0], func(ctx context.Context, config client.Config) error {
			p.config = config
			err := p.run(ctx)
			if ctx.Err() != nil { // by a signal
				err = errors.New("interrupted")
				p.result.Error = err.Error()
			}
			return errors.Join(err, output(cmd, *asJSON, &p.result, p.result.String()))
		})
	}
	return cmd
}

// probe tests the connection to one gateway.
type probe struct {
	config  client.Config
	target  string // empty to send no datagram
	payload []byte
	result  probeResult
}

// probeResult is the output of probe.
type probeResult struct {
	Gateway string   `json:"gateway"`
	Via     []string `json:"via,omitempty"`
	Client  string   `json:"client"` // this client's identity, as Gateway sees it
	// Ephemeral: Client was drawn for this process.
	Ephemeral bool `json:"ephemeral,omitempty"`

	OK     bool   `json:"ok"`
	Failed string `json:"failed,omitempty"` // the step
	Error  string `json:"error,omitempty"`
	KEM    string `json:"kem,omitempty"`
	AEAD   string `json:"aead,omitempty"`
	// Transport carries the packets to the first gateway; Reason is set if it is not the preferred
	// one; Local is this machine's address.
	Transport string      `json:"transport,omitempty"`
	Reason    string      `json:"transport_reason,omitempty"`
	Local     string      `json:"local,omitempty"`
	Steps     []probeStep `json:"steps"`
}

// probeStep is the result of one step.
type probeStep struct {
	Name   string   `json:"step"`
	Result string   `json:"result"`       // ok, failed or skipped
	Millis *float64 `json:"ms,omitempty"` // nil if unknown
	Detail string   `json:"detail,omitempty"`
}

// Steps in order.
const (
	stepName      = "name"      // resolve the host
	stepUDP       = "udp"       // only if it failed and TCP works
	stepEntry     = "entry"     // connect to each gateway of --via
	stepHello     = "hello"     // the gateway answered and has the identity of the URI
	stepKey       = "key"       // received the KEM key, signed by the identity
	stepHandshake = "handshake" // established the session
	stepRegister  = "register"  // registered, and paid if needed; only with gateways that take tickets
	stepPing      = "ping"
	stepDatagram  = "datagram"
)

func (r *probeResult) ok(name string, took time.Duration, detail string) {
	r.Steps = append(r.Steps, probeStep{name, "ok", new(milliseconds(took)), detail})
}

// completed records the steps of a failed handshake before the failed one. Their times are unknown.
func (r *probeResult) completed(failed string) {
	for _, name := range []string{stepEntry, stepHello, stepKey, stepHandshake} {
		if name == failed {
			return
		}
		if name != stepEntry || len(r.Via) > 0 {
			r.Steps = append(r.Steps, probeStep{Name: name, Result: "ok"})
		}
	}
}

// fail records the failed step and returns its error.
func (r *probeResult) fail(name string, took time.Duration, err error) error {
	r.Steps = append(r.Steps, probeStep{name, "failed", new(milliseconds(took)), ""})
	r.Failed, r.Error = name, err.Error()
	return fmt.Errorf("step %q failed: %w", name, err)
}

func (p *probe) run(ctx context.Context) error {
	r := &p.result
	ids, err := p.config.Identities()
	if err != nil {
		return err
	}
	r.Gateway, r.Via, r.Client = p.config.Gateway.String(), texts(p.config.Via), ids[len(ids)-1].String()
	r.Ephemeral = !p.config.Gateway.Tickets && (p.config.Identity == nil || ids[len(ids)-1] != p.config.Identity.Public())
	session, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer session.Close()
	rtt, err := session.Ping(ctx)
	if err != nil {
		return r.fail(stepPing, p.config.Timeout, err)
	}
	r.ok(stepPing, rtt, "")
	if p.target == "" {
		r.Steps = append(r.Steps, probeStep{stepDatagram, "skipped", nil, "send one with --target HOST:PORT"})
	} else if err := p.datagram(ctx, session); err != nil {
		return err
	}
	r.OK = true
	if r.Failed == stepUDP {
		return errFallback
	}
	return nil
}

// connect establishes the session and splits its time into steps.
func (p *probe) connect(ctx context.Context) (*client.Session, error) {
	r, resolver := &p.result, new(timedResolver)
	p.config.Resolver = resolver
	p.config.NoReconnect = true
	begun := time.Now()
	session, err := client.Dial(ctx, p.config)
	if resolver.host != "" && resolver.err == nil {
		r.ok(stepName, resolver.took, resolver.host+" is "+strings.Join(resolver.found, ", "))
	}
	if err != nil {
		failed := p.failedStep(err, resolver)
		if failed != stepName {
			r.completed(failed)
		}
		return nil, r.fail(failed, time.Since(begun)-resolver.took, withRemedy(err, &p.config))
	}
	info := session.Info()
	steps := info.Handshake
	r.KEM, r.AEAD = info.KEM.String(), info.AEAD
	r.Transport, r.Reason, r.Local = info.Transport.String(), info.TransportReason, info.Local.String()
	if info.Transport == client.TCP && p.config.Transport == client.Auto {
		r.Failed = stepUDP
		r.Steps = append(r.Steps, probeStep{stepUDP, "failed", nil, cmp.Or(r.Reason, "it is blocked on the way")})
	}
	if len(p.config.Via) > 0 {
		r.ok(stepEntry, steps.Started.Sub(begun)-resolver.took, "connected to every entry")
	}
	r.ok(stepHello, steps.Answered.Sub(steps.Started), "")
	r.ok(stepKey, steps.Key.Sub(steps.Answered), r.KEM+", signed by the gateway's identity")
	r.ok(stepHandshake, steps.Established.Sub(steps.Key), r.AEAD)
	return session, nil
}

// failedStep returns the step at which Dial failed.
func (p *probe) failedStep(err error, resolver *timedResolver) string {
	var dial *client.DialError
	switch {
	case resolver.err != nil:
		return stepName
	case !errors.As(err, &dial) || dial.Step() <= client.StepHello && dial.Gateway.Identity == p.config.Gateway.Identity:
		return stepHello
	case dial.Gateway.Identity != p.config.Gateway.Identity:
		return stepEntry
	case dial.Step() == client.StepKey:
		return stepKey
	case dial.Step() == client.StepRegister:
		return stepRegister
	}
	return stepHandshake
}

// datagram sends a datagram to the target and waits for an answer.
func (p *probe) datagram(ctx context.Context, session *client.Session) error {
	begun := time.Now()
	size, rtt, err := p.exchange(ctx, session)
	if err != nil {
		if op := (*net.OpError)(nil); errors.As(err, &op) {
			err = op.Err
		}
		return p.result.fail(stepDatagram, time.Since(begun), withRemedy(err, &p.config))
	}
	p.result.ok(stepDatagram, rtt, fmt.Sprintf("%d bytes to %s, %d bytes back", len(p.payload), p.target, size))
	return nil
}

// exchange sends the datagram until it is answered, and returns the size of the answer.
func (p *probe) exchange(ctx context.Context, session *client.Session) (size int, rtt time.Duration, err error) {
	conn, err := session.DialContext(ctx, "udp", p.target)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if len(p.payload) == 0 {
		p.payload = defaultPayload(p.target)
	}
	answer := make([]byte, 1<<16)
	for range probeTries {
		sent := time.Now()
		if _, err := conn.Write(p.payload); err != nil {
			return 0, 0, err
		}
		_ = conn.SetReadDeadline(sent.Add(probeWait)) // Read reports a closed conn
		size, err = conn.Read(answer)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return size, time.Since(sent), err
		}
	}
	return 0, 0, fmt.Errorf("no answer from %s to %d datagrams: it is down, or it does not answer this payload (--payload)", p.target, probeTries)
}

// defaultPayload returns a payload that the service at the target's port is likely to answer.
func defaultPayload(target string) []byte {
	if !strings.HasSuffix(target, ":53") {
		return []byte("lewes probe")
	}
	return []byte("\x4c\x57" + "\x01\x00" + // id, recursion desired
		"\x00\x01\x00\x00\x00\x00\x00\x00" + // one question
		"\x00" + "\x00\x02" + "\x00\x01") // the root's name servers
}

// timedResolver is the system's resolver and records the last lookup.
type timedResolver struct {
	host  string
	found []string
	took  time.Duration
	err   error
}

func (t *timedResolver) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	begun := time.Now()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, network, host)
	t.host, t.took, t.err, t.found = host, time.Since(begun), err, nil
	for _, a := range addrs {
		t.found = append(t.found, a.Unmap().String())
	}
	return addrs, err
}

// String formats the result as a table.
func (r *probeResult) String() string {
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "gateway\t%s\n", r.Gateway)
	for _, v := range r.Via {
		fmt.Fprintf(w, "via\t%s\n", v)
	}
	fmt.Fprintf(w, "client\t%s", r.Client)
	if r.Ephemeral {
		fmt.Fprint(w, " (ephemeral)")
	}
	fmt.Fprintln(w)
	if r.Transport != "" {
		fmt.Fprintf(w, "over\t%s from %s", r.Transport, r.Local)
		if r.Reason != "" {
			fmt.Fprintf(w, ": %s", r.Reason)
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush() // to memory
	for _, s := range r.Steps {
		took := "-"
		if s.Millis != nil {
			took = fmt.Sprintf("%.1f ms", *s.Millis)
		}
		fmt.Fprintf(w, "\n%s\t%s\t%s\t%s", s.Name, s.Result, took, s.Detail)
	}
	_ = w.Flush()
	return table.String()
}
