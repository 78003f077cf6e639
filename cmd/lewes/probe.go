package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"lewes/transport/client"
)

const (
	// probeTries is how often the datagram goes, each time for probeWait: datagrams
	// get lost.
	probeTries = 3
	probeWait  = time.Second
)

func newProbe() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "probe URI",
		Short: "try a gateway step by step, and say which step fails",
		Long: `Probe resolves a gateway's name, shakes hands with it and pings it, and with --target
sends a datagram through it and waits for an answer. It prints how long each step took
and what was agreed on. If a step fails it says which and why, and exits with 1.`,
		Example: `  lewes probe lewes://9qA…@gw.example.com
  lewes probe --target 9.9.9.9:53 lewes://9qA…@gw.example.com     # a DNS question through it
  lewes probe --transport tcp lewes://9qA…@gw.example.com         # does TCP pass?
  lewes probe --via lewes://4mZ…@entry.example lewes://9qA…@exit.example
  lewes probe --json lewes://9qA…@gw.example.com | jq -r .failed`,
		Args: arguments(1, 1, "the gateway by the URI that it prints, lewes://IDENTITY@host:port"),
	}
	var flags gatewayFlags
	flags.register(cmd)
	target := cmd.Flags().String("target", "", "`host:port` to send a datagram to, which answers")
	payload := cmd.Flags().String("payload", "", "`text` of the datagram (default a DNS question where the port is 53, else \"lewes probe\")")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p := probe{payload: []byte(*payload)}
		if *target != "" {
			var err error
			if p.target, err = parseTarget(*target); err != nil {
				return usagef("--target: %w", err)
			}
		}
		var err error
		if p.config, err = flags.config(args[0], cmd.ErrOrStderr()); err != nil {
			return err
		}
		defer wipeKeys(&p.config)
		ctx, stop := untilSignal(cmd.Context(), cmd.ErrOrStderr())
		defer stop()
		result, err := p.run(ctx)
		if *asJSON {
			return errors.Join(err, writeJSON(cmd.OutOrStdout(), result))
		}
		if tableErr := result.print(cmd); err == nil {
			err = tableErr
		}
		return err
	}
	return cmd
}

// probe tries one gateway.
type probe struct {
	config  client.Config
	target  string // empty: no datagram is sent
	payload []byte
}

// probeResult is what came of it.
type probeResult struct {
	Gateway string   `json:"gateway"`
	Via     []string `json:"via,omitempty"`
	Client  string   `json:"client"` // this client's identity
	OK      bool     `json:"ok"`
	Failed  string   `json:"failed,omitempty"` // the step
	Error   string   `json:"error,omitempty"`
	KEM     string   `json:"kem,omitempty"`
	AEAD    string   `json:"aead,omitempty"`
	// Transport is what carries packets to the first gateway, Reason why it is not the
	// first choice, Local this machine's address there.
	Transport string      `json:"transport,omitempty"`
	Reason    string      `json:"transport_reason,omitempty"`
	Local     string      `json:"local,omitempty"`
	Steps     []probeStep `json:"steps"`
}

// probeStep is one step that was tried.
type probeStep struct {
	Name   string   `json:"step"`
	Result string   `json:"result"`       // ok, failed or skipped
	Millis *float64 `json:"ms,omitempty"` // nil where it is not known
	Detail string   `json:"detail,omitempty"`
}

// The steps, in their order.
const (
	stepName      = "name"      // the host's address
	stepEntry     = "entry"     // a session with each gateway of --via
	stepHello     = "hello"     // something answers that knows the identity
	stepKey       = "key"       // the KEM key, signed by the identity
	stepHandshake = "handshake" // the session stands
	stepPing      = "ping"
	stepDatagram  = "datagram"
)

func (r *probeResult) ok(name string, took time.Duration, detail string) {
	r.Steps = append(r.Steps, probeStep{name, "ok", new(milliseconds(took)), detail})
}

// reached notes the steps before one, which went well; how long each took is not
// known of a handshake that failed.
func (r *probeResult) reached(step string) {
	for _, name := range []string{stepEntry, stepHello, stepKey, stepHandshake} {
		if name == step {
			return
		}
		if name != stepEntry || len(r.Via) > 0 {
			r.Steps = append(r.Steps, probeStep{Name: name, Result: "ok"})
		}
	}
}

// fail ends the probe at a step.
func (r *probeResult) fail(name string, took time.Duration, err error) error {
	r.Steps = append(r.Steps, probeStep{name, "failed", new(milliseconds(took)), ""})
	r.Failed, r.Error = name, err.Error()
	return fmt.Errorf("step %q failed: %w", name, err)
}

func (p *probe) run(ctx context.Context) (*probeResult, error) {
	r := &probeResult{Gateway: p.config.Gateway.String(), Client: p.config.Identity.Public().String()}
	for _, v := range p.config.Via {
		r.Via = append(r.Via, v.String())
	}
	session, err := p.connect(ctx, r)
	if err != nil {
		return r, err
	}
	defer session.Close()
	rtt, err := session.Ping(ctx)
	if err != nil {
		return r, r.fail(stepPing, p.config.Timeout, err)
	}
	r.ok(stepPing, rtt, "")
	if p.target == "" {
		r.Steps = append(r.Steps, probeStep{stepDatagram, "skipped", nil, "to send one, name a target with --target HOST:PORT"})
	} else if err := p.datagram(ctx, r, session); err != nil {
		return r, err
	}
	r.OK = true
	return r, nil
}

// connect makes the session, and splits the time that it took into steps.
func (p *probe) connect(ctx context.Context, r *probeResult) (*client.Session, error) {
	resolver := &timedResolver{}
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
			r.reached(failed)
		}
		return nil, r.fail(failed, time.Since(begun)-resolver.took, withRemedy(err, &p.config))
	}
	info := session.Info()
	steps := info.Handshake
	r.KEM, r.AEAD = info.KEM.String(), info.AEAD
	r.Transport, r.Reason, r.Local = info.Transport.String(), info.TransportReason, info.Local.String()
	if len(p.config.Via) > 0 {
		r.ok(stepEntry, steps.Started.Sub(begun)-resolver.took, "sessions with the gateways on the way")
	}
	r.ok(stepHello, steps.Answered.Sub(steps.Started), "")
	r.ok(stepKey, steps.Key.Sub(steps.Answered), r.KEM+", signed by the gateway's identity")
	r.ok(stepHandshake, steps.Established.Sub(steps.Key), r.AEAD)
	return session, nil
}

// failedStep returns how far the making of a session came.
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
	}
	return stepHandshake
}

// datagram sends a datagram to the target and waits for an answer.
func (p *probe) datagram(ctx context.Context, r *probeResult, session *client.Session) error {
	begun := time.Now()
	fail := func(err error) error {
		if op := (*net.OpError)(nil); errors.As(err, &op) {
			err = op.Err
		}
		if refused := (*client.FlowError)(nil); errors.As(err, &refused) {
			err = fmt.Errorf("%w; ask the gateway's operator to allow it, or choose another target", err)
		}
		return r.fail(stepDatagram, time.Since(begun), err)
	}
	conn, err := session.DialContext(ctx, "udp", p.target)
	if err != nil {
		return fail(err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	payload := p.payload
	if len(payload) == 0 {
		payload = defaultPayload(p.target)
	}
	answer := make([]byte, 1<<16)
	for range probeTries {
		sent := time.Now()
		if _, err := conn.Write(payload); err != nil {
			return fail(err)
		}
		_ = conn.SetReadDeadline(sent.Add(probeWait)) // on a closed conn Read says so
		n, err := conn.Read(answer)
		if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
			continue
		}
		if err != nil {
			return fail(err)
		}
		r.ok(stepDatagram, time.Since(sent), fmt.Sprintf("%d bytes to %s, %d bytes back", len(payload), p.target, n))
		return nil
	}
	return fail(fmt.Errorf("no answer came from %s to %d datagrams: it is down, or it does not answer this payload (--payload)", p.target, probeTries))
}

// defaultPayload is something that is answered at a target's port.
func defaultPayload(target string) []byte {
	if !strings.HasSuffix(target, ":53") {
		return []byte("lewes probe")
	}
	return []byte("\x4c\x57" + "\x01\x00" + // id, recursion desired
		"\x00\x01\x00\x00\x00\x00\x00\x00" + // one question
		"\x00" + "\x00\x02" + "\x00\x01") // the root's name servers
}

// timedResolver is the system's resolver, and remembers what it did last.
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

// print shows the result as a table.
func (r *probeResult) print(cmd *cobra.Command) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "gateway\t%s\n", r.Gateway)
	for _, v := range r.Via {
		fmt.Fprintf(w, "via\t%s\n", v)
	}
	fmt.Fprintf(w, "client\t%s\n", r.Client)
	if r.Transport != "" {
		fmt.Fprintf(w, "over\t%s from %s", r.Transport, r.Local)
		if r.Reason != "" {
			fmt.Fprintf(w, ": %s", r.Reason)
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, s := range r.Steps {
		took := "-"
		if s.Millis != nil {
			took = fmt.Sprintf("%.1f ms", *s.Millis)
		}
		fmt.Fprintf(w, "\n%s\t%s\t%s\t%s", s.Name, s.Result, took, s.Detail)
	}
	fmt.Fprintln(w)
	return w.Flush()
}
