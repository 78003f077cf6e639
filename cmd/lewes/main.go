package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"lewes/cmd/lewes/internal/version"
	"lewes/crypto/identity"
	"lewes/router/textfile"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	exitDenied = 3 // policy test: the target is denied
	exitNoUDP  = 4 // probe: UDP fails and TCP works
)

// Errors that end the program with a code of their own; the command has printed the reason.
var (
	errDenied   = errors.New("the target is denied")
	errFallback = errors.New("UDP fails and TCP works")
	errFault    = errors.New("a check found a fault")
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

// run runs the program and returns its exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := misspelt(root, args)
	if err == nil {
		cmd, err = root.ExecuteContextC(ctx)
	}
	if err == nil {
		return exitOK
	}
	switch {
	case errors.Is(err, errDenied):
		return exitDenied
	case errors.Is(err, errFallback):
		return exitNoUDP
	case errors.Is(err, errFault):
		return exitFailed
	}
	if errors.Is(err, context.Canceled) { // by a signal
		err = errors.New("interrupted")
	}
	fmt.Fprintf(stderr, "%s: %s\n", cmd.CommandPath(), identity.Redact(err.Error()))
	if usage := (*usageError)(nil); errors.As(err, &usage) {
		fmt.Fprintf(stderr, "usage: %s\ntry:   %s --help\n", cmd.UseLine(), cmd.CommandPath())
		return exitUsage
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "lewes",
		Short: "datagram gateway and client",
		Long: `Lewes carries UDP datagrams, encrypted, from programs on this machine to a gateway, which
sends them to their targets. An entry gateway in between hides the client's address from
the gateway, and the targets from the entry.`,
		Example: `  lewes demo                                               # a complete setup on this machine
  lewes gateway                                            # run a gateway; it prints its URI
  lewes forward --gateway lewes://… 5353=9.9.9.9:53        # forward local port 5353 through it`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetHelpCommand(&cobra.Command{Use: "help [COMMAND]", Short: "show a command's help", Example: "  lewes help forward", RunE: func(_ *cobra.Command, args []string) error {
		found, rest, err := root.Find(args)
		if err != nil || len(rest) > 0 {
			return usagef("unknown command %q", strings.Join(args, " "))
		}
		return found.Help()
	}})
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		var unknown interface{ GetSpecifiedName() string }
		if errors.As(err, &unknown) {
			err = fmt.Errorf("%w%s", err, nearFlag(cmd, unknown.GetSpecifiedName()))
		}
		if strings.Contains(err.Error(), " flag: time: ") {
			err = fmt.Errorf("%w; write a number and a unit, such as 500ms, 10s or 2m", err)
		}
		return &usageError{err}
	})
	group(root, newBundle(), newClients(), newConfig(), newDemo(), newDoctor(), newDrain(), newForward(), newGateway(), newKeygen(), newLedger(), newPing(), newPolicy(), newProbe(), newRegister(),
		newReload(), newSessions(), newStatus(), newTickets(), newTrace(), newUpgrade(), newVersion())
	// Cobra's own flag needs a template, for which the linker keeps 2 MB of unused methods.
	asked, commands := root.Flags().Bool("version", false, "print this program's version and build"), root.RunE
	root.RunE = func(cmd *cobra.Command, args []string) error {
		if *asked && len(args) == 0 {
			return output(cmd, false, nil, version.Read().String())
		}
		return commands(cmd, args)
	}
	return root
}

// group adds subcommands to a command that does nothing by itself, and returns it.
func group(cmd *cobra.Command, subcommands ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(subcommands...)
	cmd.SuggestionsMinimumDistance = 2
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			_ = cmd.Help() // standard output may be closed
			return usagef("missing command")
		}
		near := ""
		if names := cmd.SuggestionsFor(args[0]); len(names) > 0 {
			near = "; did you mean " + strings.Join(names, " or ") + "?"
		}
		return usagef("unknown command %q%s", identity.Mask(args[0]), near)
	}
	return cmd
}

// nearFlag suggests the flag of a command that a misspelt name may stand for; empty if none is near.
func nearFlag(cmd *cobra.Command, name string) string {
	near, distance := "", min(3, len(name)/2) // exclusive
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if d := textfile.EditDistance(name, f.Name); d < distance && !f.Hidden {
			near, distance = "; did you mean --"+f.Name+"?", d
		}
	})
	return near
}

// misspelt returns an error, and the group it is about, if the word where a command is expected is none. Cobra parses flags first, and
// would report that the group has no such flag.
func misspelt(root *cobra.Command, args []string) (*cobra.Command, error) {
	root.InitDefaultHelpCmd()
	cmd, rest, err := root.Find(args)
	if err != nil || !cmd.HasSubCommands() {
		return root, nil
	}
	for i := 0; i < len(rest); i++ {
		name := strings.TrimLeft(rest[i], "-")
		switch flag := cmd.Flag(name); {
		case strings.HasPrefix(name, cobra.ShellCompRequestCmd):
			return root, nil
		case !strings.HasPrefix(rest[i], "-"):
			return cmd, cmd.RunE(cmd, rest[i:])
		case flag != nil && flag.NoOptDefVal == "":
			i++ // its value
		case flag == nil && !strings.Contains(name, "="):
			return root, nil // whether the next word is its value is unknown
		}
	}
	return root, nil
}

// usageError is an error in the command line.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

// arguments checks the number of arguments; a negative maximum means any number.
func arguments(least, most int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < least {
			return usagef("missing argument: %s", what)
		}
		if most >= 0 && len(args) > most {
			return usagef("unexpected argument %q", args[most])
		}
		return nil
	}
}

// secondSignal is how long after the first signal a second one counts: service managers and terminals
// send the first one twice.
const secondSignal = time.Second

// untilSignal returns a context that the first SIGINT, SIGTERM or further signal cancels. A second one
// exits the process.
func untilSignal(parent context.Context, stderr io.Writer, further ...os.Signal) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, append(further, os.Interrupt, syscall.SIGTERM)...)
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if s := awaitSecond(signals, done, cancel); s != nil {
			fmt.Fprintf(stderr, "lewes: second signal (%v): exiting immediately\n", s)
			os.Exit(exitFailed)
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		<-ended
		cancel()
	}
}

// awaitSecond calls first at the first signal, and returns the second one, or nil once done is closed.
// Signals within a second of the first mean the same one.
func awaitSecond(signals <-chan os.Signal, done <-chan struct{}, first func()) os.Signal {
	var counts time.Time // from when on a second signal counts; zero before the first one
	for {
		select {
		case <-done:
			return nil
		case s := <-signals:
			switch {
			case counts.IsZero():
				counts = time.Now().Add(secondSignal)
				first()
			case !time.Now().Before(counts):
				return s
			}
		}
	}
}

// hangup returns SIGHUP, which reports that the terminal was closed, unless the process was started to
// outlive its terminal (nohup).
func hangup() []os.Signal {
	if signal.Ignored(syscall.SIGHUP) {
		return nil
	}
	return []os.Signal{syscall.SIGHUP}
}

// ignoreBrokenPipes turns SIGPIPE, which ends a process that writes to a pipe without a reader, into
// errors of the writes. The reader of a log may end before the program does.
func ignoreBrokenPipes() { signal.Ignore(syscall.SIGPIPE) }
