package main

import (
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"lewes/cmd/lewes/internal/config"
	"lewes/cmd/lewes/internal/gatewayd"
)

func newGateway() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "gateway",
		Short: "run a gateway",
		Long: `Gateway runs a gateway until SIGINT or SIGTERM; a second signal, a second or more later,
exits immediately. It needs no configuration: on the first start it creates its identity in
the state directory. It listens on UDP port 51264 and TCP port 41264, prints the URI that
clients need on standard output, logs "ready" when it serves, and notifies systemd.

SIGUSR2 upgrades it: a new process runs the program's file with the same arguments, reads
the configuration, and takes over all sockets, sessions and flows without losing a
datagram. If that fails, the error is logged and the old process continues. SIGHUP reloads
the configuration in place and logs the changes that need an upgrade or a restart. lewes
upgrade and lewes reload do the same and wait for the outcome; lewes status and lewes clients
list --live show the running gateway.

It serves /livez, /readyz and /metrics on 127.0.0.1:9264 if that port is free, or on the address
of metrics.listen.

No client may use a gateway until you add it: see lewes clients --help.`,
		Example: `  lewes gateway
  lewes gateway --config /etc/lewes/gateway.toml
  lewes gateway --offload off                              # for a network driver that damages GSO trains
  lewes config default > gateway.toml                      # all configuration keys`,
		Args: arguments(0, 0, ""),
	}
	file := cmd.Flags().String("config", "", "configuration `FILE`")
	dir := cmd.Flags().String("state", "", "state `directory` (overrides the configuration)")
	offloads := newOffloadFlags(cmd)
	asJSON := cmd.Flags().Bool("json", false, "print the URIs as one line of JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		path := *file
		if path != "" {
			var err error
			if path, err = filepath.Abs(path); err != nil {
				return err
			}
		}
		p := &gatewayd.Process{
			ConfigFile: path,
			Load: func() (*config.Config, error) {
				c, err := config.LoadOrDefault(*file, *dir)
				if err != nil {
					return nil, err
				}
				return c, offloads.apply(&c.Listen)
			},
			Log: cmd.ErrOrStderr(),
			OnReady: func(a *gatewayd.Advertisement) error {
				return outputLine(cmd, *asJSON, a, strings.Join(a.URIs, "\n"))
			},
		}
		ignoreBrokenPipes()
		ctx, stop := untilSignal(cmd.Context(), cmd.ErrOrStderr())
		defer stop()
		return p.Run(ctx)
	}
	return cmd
}
