package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program: it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(stderr, "%s: %v\n", cmd.CommandPath(), err)
	if usage := (*usageError)(nil); errors.As(err, &usage) {
		fmt.Fprintf(stderr, "usage: %s\ntry:   %s --help\n", cmd.UseLine(), cmd.CommandPath())
		return exitUsage
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "lewes",
		Short: "a gateway for datagrams, and the client to it",
		Long: `Lewes carries UDP datagrams through gateways, sealed against everybody between:
from a program on this machine to a gateway, perhaps through another that hides who
sends, and out to the target.`,
		Example: `  lewes demo                                               # see it work, on this machine alone
  lewes gateway                                            # run a gateway; it prints its URI
  lewes forward --gateway lewes://… 5353=9.9.9.9:53        # send local port 5353 through it`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	group(root)
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetHelpCommand(&cobra.Command{Use: "help [COMMAND]", Short: "say how a command is used", Example: "  lewes help forward", RunE: func(cmd *cobra.Command, args []string) error {
		found, rest, err := root.Find(args)
		if err != nil || len(rest) > 0 {
			return usagef("there is no command %q", strings.Join(args, " "))
		}
		return found.Help()
	}})
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.AddCommand(newClients(), newConfig(), newDemo(), newForward(), newGateway(), newKeygen(), newProbe(), newVersion())
	return root
}

// group makes a command that only holds others.
func group(cmd *cobra.Command) {
	cmd.SuggestionsMinimumDistance = 2
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			_ = cmd.Help() // to standard output, which an unwilling reader may have closed
			return usagef("name a command")
		}
		near := ""
		if names := cmd.SuggestionsFor(args[0]); len(names) > 0 {
			near = "; did you mean " + strings.Join(names, " or ") + "?"
		}
		return usagef("there is no command %q%s", args[0], near)
	}
}

// usageError is an error in the command line.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

// arguments checks how many arguments a command has; most below 0 is any number.
func arguments(least, most int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < least && least == 1 && most == 1:
			return usagef("name %s", what)
		case len(args) < least:
			return usagef("%d arguments are too few: name %s", len(args), what)
		case most >= 0 && len(args) > most && most == 0:
			return usagef("%q is one argument too many: there are none here", args[0])
		case most >= 0 && len(args) > most:
			return usagef("%q is one argument too many: name %s", args[most], what)
		}
		return nil
	}
}
