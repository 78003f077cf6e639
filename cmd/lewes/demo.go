package main

import (
	"errors"
	"io"

	"github.com/spf13/cobra"

	"lewes/cmd/lewes/internal/demo"
)

// maxDemoDatagrams bounds the memory of a demo, which keeps every payload to compare it.
const maxDemoDatagrams = 1_000_000

func newDemo() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "see it work: client, entry, exit and target on this machine",
		Long: `Demo runs all parties in this one process, over the loopback interface: a client, an
entry gateway, an exit gateway and an echo target. It generates keys for them, connects
through both gateways, sends datagrams and compares every echo byte for byte, rekeys in
the middle, and watches the parties' sockets: the entry must see the client's address but
not the target, and the exit the target but not the client's address.

The exit code is 0 only if every datagram came back and every claim printed with "ok" was
verified. Demo leaves nothing behind: no file, no process, no key.`,
		Example: `  lewes demo
  lewes demo --datagrams 20000
  lewes demo --json | jq .rtt`,
		Args: arguments(0, 0, ""),
	}
	datagrams := cmd.Flags().Int("datagrams", 1000, "number of datagrams to send")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *datagrams < 2 || *datagrams > maxDemoDatagrams {
			return usagef("--datagrams %d is not from 2 to %d", *datagrams, maxDemoDatagrams)
		}
		ctx, stop := untilSignal(cmd.Context(), cmd.ErrOrStderr())
		defer stop()
		w := cmd.OutOrStdout()
		if *asJSON {
			w = io.Discard
		}
		report, err := demo.Run(ctx, *datagrams, w)
		if report != nil && *asJSON {
			err = errors.Join(writeJSON(cmd.OutOrStdout(), report), err)
		}
		return err
	}
	return cmd
}
