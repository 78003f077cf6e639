package main

import (
	"io"
	"net/http"

	"github.com/spf13/cobra"

	"lewes/cmd/lewes/internal/control"
	"lewes/cmd/lewes/internal/gatewayd"
)

func newTrace() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trace NAME|IDENTITY|HANDLE",
		Short: "stream the events of a session of the running gateway",
		Long: `Trace prints what happens to one session from now on, until the session ends or you press
Ctrl-C: changes of its address and between UDP and TCP, new keys, flows that are opened, refused
and closed, and the end. The first record names the session as it is. The output is a JSON text
sequence (RFC 7464) in the manner of qlog: each record is a line of JSON after the byte 0x1e.
It contains no payload. Addresses are masked, and names of targets hidden, unless
--show-addresses. A client with several sessions needs the handle of one. It is for root and the
gateway's user.`,
		Example: `  lewes trace anna-phone
  lewes trace 2f0c8bc59e1f4a5d9a7b6c5d4e3f2a1b | jq --seq 'select(.name == "lewes:flow_refused")'`,
		Args: arguments(1, 1, "NAME, IDENTITY or HANDLE"),
	}
	var flags controlFlags
	flags.register(cmd)
	addresses := cmd.Flags().Bool("show-addresses", false, "print whole addresses, and the names of targets")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, stop := untilSignal(cmd.Context(), cmd.ErrOrStderr())
		defer stop()
		return flags.do(func(c control.Client) error {
			body, err := c.Stream(ctx, http.MethodPost, gatewayd.TraceEndpoint, gatewayd.TraceRequest{Who: args[0], Addresses: *addresses})
			if err != nil {
				return err
			}
			defer body.Close()
			_, err = io.Copy(cmd.OutOrStdout(), body)
			if ctx.Err() != nil {
				return nil
			}
			return err
		})
	}
	return cmd
}
