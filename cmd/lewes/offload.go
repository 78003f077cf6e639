package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"lewes/cmd/config"
	"lewes/transport/udp"
)

// offloadFlags are the options that stand above what the configuration says of offloads.
type offloadFlags struct {
	cmd      *cobra.Command
	offload  *string
	gso, gro *bool
}

func newOffloadFlags(cmd *cobra.Command) *offloadFlags {
	flags := cmd.Flags()
	return &offloadFlags{
		cmd:     cmd,
		offload: flags.String("offload", "", "`auto`, on or off: whether the kernel cuts and joins datagrams, whatever the configuration says"),
		gso:     flags.Bool("gso", true, "the half of offload that sends, whatever the configuration says"),
		gro:     flags.Bool("gro", true, "the half of offload that receives, whatever the configuration says"),
	}
}

// apply changes what was given on the command line, and nothing else.
func (f *offloadFlags) apply(l *config.Listen) error {
	if f.cmd.Flags().Changed("offload") {
		switch o := config.Offload(*f.offload); o {
		case config.OffloadAuto, config.OffloadOn, config.OffloadOff:
			l.Offload = o
		default:
			return usagef("--offload %q is none of %q, %q and %q", *f.offload, config.OffloadAuto, config.OffloadOn, config.OffloadOff)
		}
	}
	if f.cmd.Flags().Changed("gso") {
		l.GSO = *f.gso
	}
	if f.cmd.Flags().Changed("gro") {
		l.GRO = *f.gro
	}
	return nil
}

// checkOffloads says what the kernel refuses of what is insisted on.
func checkOffloads(c *config.Listen, kernel udp.Support) error {
	if c.Offload != config.OffloadOn {
		return nil
	}
	for _, half := range []struct {
		key    string
		wanted bool
		err    error
	}{{"gso", c.GSO, kernel.GSO}, {"gro", c.GRO, kernel.GRO}} {
		if half.wanted && half.err != nil {
			return fmt.Errorf("listen.offload is %q, and this kernel refuses %s: %w; set offload to %q, or %s to false", c.Offload, half.key, half.err, config.OffloadAuto, half.key)
		}
	}
	return nil
}
