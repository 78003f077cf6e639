package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"lewes/cmd/lewes/internal/config"
	"lewes/cmd/lewes/internal/control"
	"lewes/cmd/lewes/internal/doctor"
	"lewes/cmd/lewes/internal/gatewayd"
	"lewes/transport/client"
)

func newDoctor() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor [URI]",
		Short: "check this machine and its gateway, or the way to a gateway",
		Long: `Without a URI, doctor checks the machine of a gateway: kernel, offloads (by sending), AES, clock and
connection tracking, and of the running gateway its health, buffers, open files, privileges and
ports. With a URI it checks a client's way to that gateway: the name, UDP and TCP over both
address families side by side, NAT, path MTU, loss and jitter, and the clock.

Each line is ok, a warning (it works, with a loss) or a fault, followed by the command that mends
it or shows more. The exit code is 1 if there is a fault.`,
		Example: `  lewes doctor
  lewes doctor lewes://9qA…@gw.example.com
  lewes doctor --json | jq '.findings[] | select(.grade != "ok")'`,
		Args: arguments(0, 1, ""),
	}
	var flags gatewayFlags
	flags.register(cmd) // with --state
	var running controlFlags
	running.registerFiles(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		finish := func(r *doctor.Report) error {
			if err := output(cmd, *asJSON, r, r.String()); err != nil || r.Faults == 0 {
				return err
			}
			return errFault
		}
		if len(args) == 0 {
			running.state = flags.state
			return finish(gatewayChecks(&running).Run(cmd.Context()))
		}
		return flags.run(cmd, args[0], func(ctx context.Context, config client.Config) error {
			config.NoRegister = true // the checks need none, and it may cost a ticket
			checks, done := newClientDoctor(&config)
			defer done()
			r := checks.Run(ctx)
			if ctx.Err() != nil { // by a signal
				return errors.New("interrupted")
			}
			return finish(r)
		})
	}
	return cmd
}

// gatewayChecks returns the checks of this machine, and those of the gateway that runs on it.
func gatewayChecks(flags *controlFlags) *doctor.Checks {
	checks := new(doctor.Checks)
	doctor.System(checks, "/")
	checks.Register("gateway", func(ctx context.Context, r *doctor.Results) {
		var of doctor.Report
		err := flags.do(func(c control.Client) error {
			s, err := readStatus(ctx, c)
			if err != nil {
				return err
			}
			r.OK("process %d runs, %s", s.PID, s.version())
			return c.Get(ctx, gatewayd.DoctorEndpoint, &of)
		})
		switch {
		case errors.Is(err, errNoGateway):
			r.Fault("lewes gateway", "none runs here, or its control socket is elsewhere: --state, --config or --socket; on a client's machine: lewes doctor URI")
			checkConfig(r, flags)
		case err != nil:
			r.Fault("sudo lewes doctor", "%v", err)
		}
		for _, f := range of.Findings {
			if !checks.Has(f.Check) { // the same machine, seen from the sandbox of a service
				r.Add(f)
			}
		}
	})
	return checks
}

// checkConfig loads the configuration of a gateway that does not run.
func checkConfig(r *doctor.Results, flags *controlFlags) {
	if flags.config == "" {
		return
	}
	if c, err := config.Load(flags.config); err != nil {
		r.Fault("lewes config check "+flags.config, "%v", err)
	} else {
		r.OK("%s is valid; state directory %s", flags.config, c.StateDir)
	}
}
