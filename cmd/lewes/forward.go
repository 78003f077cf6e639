package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"go.uber.org/zap/zapcore"

	"lewes/cmd/lewes/internal/gatewayd"
	"lewes/transport/client"
	"lewes/transport/client/portforward"
)

func newForward() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "forward --gateway URI [--via URI]... LOCAL=TARGET...",
		Short: "send what comes to local UDP ports through a gateway",
		Long: `Forward takes datagrams on local UDP ports and sends them, sealed, to a gateway, from
where they go on to their targets; the answers come back the same way. Each program
that sends to a local port has a flow of its own. What names a target is resolved at
the gateway, not here.

LOCAL is a port, or address:port; where no address is named it is 127.0.0.1, which
only this machine can reach. Port 0 lets the system choose one. TARGET is host:port.

Forward runs until it is told to end (SIGINT or SIGTERM), and stays connected by
itself, over UDP where that passes, else over TCP: its log says when and why it changes
from one to the other. It ends with exit code 1 when it cannot connect at first, or when the gateway
refuses every target. It prints one line once it is ready.`,
		Example: `  lewes forward --gateway lewes://9qA…@gw.example.com 5353=9.9.9.9:53
  dig -p 5353 @127.0.0.1 example.com

  # where UDP does not pass: without --transport it finds out by itself
  lewes forward --transport tcp --gateway lewes://9qA…@gw.example.com 5353=9.9.9.9:53

  # through an entry, several ports at once
  lewes forward --gateway lewes://9qA…@exit.example --via lewes://4mZ…@entry.example \
      5353=9.9.9.9:53 127.0.0.1:1123=time.example:123`,
		Args: arguments(1, -1, "what to forward, as LOCAL=TARGET"),
	}
	var flags gatewayFlags
	gateway := cmd.Flags().String("gateway", "", "`URI` of the gateway from which the datagrams go on to their targets (required)")
	flags.register(cmd)
	verbose := cmd.Flags().BoolP("verbose", "v", false, "log more")
	asJSON := cmd.Flags().Bool("json", false, "print the line and the log as JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *gateway == "" {
			return usagef("--gateway is missing: name the gateway by the URI that it prints, lewes://IDENTITY@host:port")
		}
		var mappings []portforward.Mapping
		for _, arg := range args {
			m, err := parseMapping(arg)
			if err != nil {
				return &usageError{err}
			}
			mappings = append(mappings, m)
		}
		config, err := flags.config(*gateway, cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		defer wipeKeys(&config)
		level := zapcore.InfoLevel
		if *verbose {
			level = zapcore.DebugLevel
		}
		config.Logger = gatewayd.Slog(gatewayd.NewLogger(cmd.ErrOrStderr(), level, *asJSON))
		ctx, stop := untilSignal(cmd.Context(), cmd.ErrOrStderr())
		defer stop()
		return forward(ctx, config, mappings, func(s *client.Session, mappings []portforward.Mapping) error {
			return writeReady(cmd, *asJSON, &config, s.Info().Transport, mappings)
		})
	}
	return cmd
}

// forward runs until ctx is done, the session has ended or no target is left.
func forward(ctx context.Context, config client.Config, mappings []portforward.Mapping, ready func(*client.Session, []portforward.Mapping) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// Before the session: a port in use fails at once.
	f, err := portforward.Listen(ctx, mappings, config.Logger)
	if err != nil {
		return err
	}
	defer f.Close()
	config.OnEvent = func(e client.Event) { cancelWhenClosed(e, &config, cancel) }
	session, err := client.Dial(ctx, config)
	if err != nil {
		return withRemedy(err, &config)
	}
	defer session.Close()
	if err := ready(session, f.Mappings()); err != nil {
		return err
	}
	if err := gatewayd.Notify("READY=1"); err != nil {
		config.Logger.Warn(err.Error())
	}
	err = f.Run(ctx, session)
	if err := gatewayd.Notify("STOPPING=1"); err != nil {
		config.Logger.Warn(err.Error())
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	if err != nil {
		return fmt.Errorf("%w; ask the gateway's operator to allow it, or choose another target", err)
	}
	return nil
}

// cancelWhenClosed ends the program with the session; the session logs the reason.
func cancelWhenClosed(e client.Event, config *client.Config, cancel context.CancelCauseFunc) {
	if e.Kind == client.Closed && e.Gateway == config.Gateway.Identity && !errors.Is(e.Err, client.ErrClosed) {
		cancel(e.Err)
	}
}

// forwarding is the line that forward prints when it is ready.
type forwarding struct {
	Gateway   string          `json:"gateway"`
	Via       []string        `json:"via,omitempty"`
	Transport string          `json:"transport"` // at the beginning
	Mappings  []forwardedPort `json:"mappings"`
}

type forwardedPort struct {
	Local  string `json:"local"`
	Target string `json:"target"`
}

func writeReady(cmd *cobra.Command, asJSON bool, config *client.Config, over client.Transport, mappings []portforward.Mapping) error {
	f := forwarding{Gateway: config.Gateway.String(), Transport: over.String()}
	for _, v := range config.Via {
		f.Via = append(f.Via, v.String())
	}
	var ports []string
	for _, m := range mappings {
		f.Mappings = append(f.Mappings, forwardedPort{m.Local.String(), m.Target})
		ports = append(ports, m.Local.String()+" to "+m.Target)
	}
	if asJSON {
		return writeJSONLine(cmd.OutOrStdout(), f)
	}
	way := "gateway " + config.Gateway.Address()
	if len(config.Via) > 0 {
		var entries []string
		for _, v := range config.Via {
			entries = append(entries, v.Address())
		}
		way = "entry " + strings.Join(entries, ", ") + " and " + way
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "ready: %s through %s over %s\n", strings.Join(ports, ", "), way, over)
	return err
}
