package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"lewes/cmd/lewes/internal/gatewayd"
	"lewes/state/wire"
	"lewes/transport/client"
	"lewes/transport/client/portforward"
)

func newForward() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "forward --gateway URI [--via URI]... LOCAL=TARGET...",
		Short: "forward local UDP ports through a gateway",
		Long: `Forward receives datagrams on local UDP ports and sends them, encrypted, to a gateway, which
sends them to their targets. Answers return the same way. Each local sender gets a flow of
its own. The gateway resolves the names of targets.

LOCAL is a port or address:port; the default address is 127.0.0.1, which other machines
cannot reach. Port 0 selects a free port. TARGET is host:port.

Forward runs until SIGINT, SIGTERM or SIGHUP, and reconnects when the connection fails. It
uses UDP, or TCP where UDP is blocked, and logs each change and its reason. It prints one
line when it is ready. While a gateway does not admit this client, it waits, prints once how to add the
client, and tries again. The exit code is 1 if the first connection fails otherwise or the gateway denies
every target.`,
		Example: `  lewes forward --gateway lewes://9qA…@gw.example.com 5353=9.9.9.9:53
  dig -p 5353 @127.0.0.1 example.com

  # TCP only; the default detects where UDP is blocked
  lewes forward --transport tcp --gateway lewes://9qA…@gw.example.com 5353=9.9.9.9:53

  # several ports through an entry
  lewes forward --gateway lewes://9qA…@exit.example --via lewes://4mZ…@entry.example \
      5353=9.9.9.9:53 127.0.0.1:1123=time.example:123`,
		Args: arguments(1, -1, "LOCAL=TARGET"),
	}
	var flags gatewayFlags
	gateway := cmd.Flags().String("gateway", "", "`URI` of the gateway that sends to the targets (required)")
	flags.register(cmd)
	verbose := cmd.Flags().BoolP("verbose", "v", false, "log debug messages")
	asJSON := cmd.Flags().Bool("json", false, "print the ready line and the log as JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *gateway == "" {
			return usagef("missing --gateway: the URI printed by the gateway, lewes://IDENTITY@host:port")
		}
		ignoreBrokenPipes()
		var mappings []portforward.Mapping
		for _, arg := range args {
			m, err := parseMapping(arg)
			if err != nil {
				return &usageError{err}
			}
			mappings = append(mappings, m)
		}
		return flags.run(cmd, *gateway, func(ctx context.Context, config client.Config) error {
			usual := zapcore.InfoLevel
			if *verbose {
				usual = zapcore.DebugLevel
			}
			level := zap.NewAtomicLevelAt(usual)
			config.Logger = gatewayd.Slog(gatewayd.NewLogger(cmd.ErrOrStderr(), level, *asJSON))
			return forward(ctx, config, mappings, func(s *client.Session, mappings []portforward.Mapping) error {
				level.SetLevel(usual)
				return outputReady(cmd, *asJSON, &config, s.Info().Transport, mappings)
			}, func(err *client.DialError) {
				level.SetLevel(zapcore.WarnLevel) // an entry may connect at each try
				if *asJSON {
					config.Logger.Warn("waiting to be admitted", "error", withRemedy(err, &config).Error())
					return
				}
				if !flags.introduced {
					fmt.Fprintf(cmd.ErrOrStderr(), "%s: %v\n\n", cmd.CommandPath(), withRemedy(err, &config))
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "Waiting to be admitted by gateway %s …\n", err.Gateway.Address())
			})
		})
	}
	return cmd
}

// admissionInterval is the pause between handshakes with a gateway that does not admit this client. Each
// handshake repeats its messages for a while, so that it notices sooner that the client was added.
const admissionInterval = time.Second

// dialAdmitted is client.Dial, but tries again while a gateway does not admit this client. It calls waiting
// once.
func dialAdmitted(ctx context.Context, config *client.Config, waiting func(*client.DialError)) (*client.Session, error) {
	for first := true; ; first = false {
		session, err := client.Dial(ctx, *config)
		var dial *client.DialError
		if err == nil || ctx.Err() != nil || !errors.As(err, &dial) || !dial.Unlisted() {
			return session, withRemedy(err, config)
		}
		if first {
			waiting(dial)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(admissionInterval):
		}
	}
}

// forward runs until ctx is done, the session has closed, or the gateway has denied every target.
func forward(ctx context.Context, config client.Config, mappings []portforward.Mapping, ready func(*client.Session, []portforward.Mapping) error, waiting func(*client.DialError)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// Listen before connecting, to report a port in use at once.
	f, err := portforward.Listen(ctx, mappings, config.Logger)
	if err != nil {
		return err
	}
	defer f.Close()
	config.OnEvent = func(e client.Event) {
		if e.Kind == client.Closed && e.Gateway == config.Gateway.Identity && !errors.Is(e.Err, client.ErrClosed) {
			cancel(e.Err)
		}
	}
	running := &runningForward{started: time.Now(), config: &config, mappings: f.Mappings()}
	running.why.Store(new("connecting"))
	defer serveClientStatus(config.Logger.Warn, running.status)()
	session, err := dialAdmitted(ctx, &config, func(err *client.DialError) {
		running.why.Store(new(err.Error()))
		waiting(err)
	})
	switch cause := context.Cause(ctx); {
	case err == nil:
	case cause != nil && errors.Is(cause, context.Canceled):
		return nil // by a signal
	default:
		return err
	}
	defer session.Close()
	running.session.Store(session)
	if err := ready(session, f.Mappings()); err != nil { // its reader may have ended
		config.Logger.Warn("cannot print the ready line", "error", err)
	}
	notify := func(state string) {
		if err := gatewayd.Notify(state); err != nil {
			config.Logger.Warn("cannot notify systemd", "error", err)
		}
	}
	notify("READY=1")
	err = f.Run(ctx, session)
	notify("STOPPING=1")
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return withRemedy(err, &config)
}

// forwarding is the ready line of forward --json.
type forwarding struct {
	Gateway   string          `json:"gateway"`
	Via       []string        `json:"via,omitempty"`
	Transport string          `json:"transport"` // at the start
	Mappings  []forwardedPort `json:"mappings"`
}

type forwardedPort struct {
	Local  string `json:"local"`
	Target string `json:"target"`
}

func outputReady(cmd *cobra.Command, asJSON bool, config *client.Config, transport client.Transport, mappings []portforward.Mapping) error {
	f := forwarding{Gateway: config.Gateway.String(), Via: texts(config.Via), Transport: transport.String()}
	var ports []string
	for _, m := range mappings {
		f.Mappings = append(f.Mappings, forwardedPort{m.Local.String(), m.Target})
		ports = append(ports, m.Local.String()+" to "+m.Target)
	}
	gateways := "gateway " + config.Gateway.Address()
	for i := len(config.Via) - 1; i >= 0; i-- {
		gateways = "entry " + config.Via[i].Address() + " and " + gateways
	}
	return outputLine(cmd, asJSON, f, fmt.Sprintf("ready: %s through %s over %s", strings.Join(ports, ", "), gateways, transport))
}

// parseMapping parses LOCAL=TARGET.
func parseMapping(s string) (m portforward.Mapping, err error) {
	local, target, found := strings.Cut(s, "=")
	if !found {
		err = errors.New("no =")
	} else if m.Local, err = parseLocal(local); err == nil {
		m.Target, err = parseTarget(target)
	}
	if err != nil {
		return portforward.Mapping{}, fmt.Errorf("invalid mapping %q: %w; expected LOCAL=TARGET, such as 5353=9.9.9.9:53 or 127.0.0.1:5353=dns.example:53", s, err)
	}
	return m, nil
}

// parseLocal parses a port, or an address and a port. The default address is 127.0.0.1, so that other
// machines get access on request only.
func parseLocal(s string) (netip.AddrPort, error) {
	host, port := "", s
	if strings.Contains(s, ":") {
		var err error
		if host, port, err = net.SplitHostPort(s); err != nil {
			return netip.AddrPort{}, fmt.Errorf("local side %q is not a port or address:port", s)
		}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("local port %q is not a number from 0 to 65535", port)
	}
	addr := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if host != "" && host != "localhost" {
		if addr, err = netip.ParseAddr(host); err != nil {
			return netip.AddrPort{}, fmt.Errorf("local address %q is not an IP address", host)
		}
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), nil
}

// parseTarget parses host:port; the host may be a name, which the gateway resolves.
func parseTarget(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", fmt.Errorf("target %q is not host:port, such as 9.9.9.9:53", s)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", fmt.Errorf("target port %q is not a number from 1 to 65535", port)
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Zone() != "" {
			return "", fmt.Errorf("target address %q has a zone, which is local to this machine", host)
		}
		return netip.AddrPortFrom(addr.Unmap(), uint16(n)).String(), nil
	}
	if _, err := wire.NameTarget(host, uint16(n)); err != nil {
		return "", fmt.Errorf("target host %q is not an IP address or host name; write an internationalized name in its xn-- form", host)
	}
	return net.JoinHostPort(host, strconv.FormatUint(n, 10)), nil
}
