package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"lewes/bench/e2e/link"
	"lewes/bench/e2e/netns"
	"lewes/bench/worker"
)

// workerArg makes the program a worker of itself.
const workerArg = "worker"

func main() {
	if len(os.Args) == 2 && os.Args[1] == workerArg {
		exit(worker.Main(map[string]worker.Role{netns.RoleName: netns.Role}))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	exit(command(os.Geteuid(), os.Stdout).ExecuteContext(ctx))
}

func exit(err error) {
	var failed *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &failed) && failed.Exited():
		os.Exit(failed.ExitCode()) // of the command that shell ran
	}
	fmt.Fprintln(os.Stderr, "localnet:", err)
	os.Exit(1)
}

// knobs are the faults of the link, as flags.
type knobs struct {
	loss     float64
	delay    time.Duration
	blockUDP bool
}

func (k *knobs) flags(cmd *cobra.Command) {
	cmd.Flags().Float64Var(&k.loss, "loss", 0, "`percent` of packets lost between client and entry, each way")
	cmd.Flags().DurationVar(&k.delay, "delay", 0, "delay between client and entry, each way")
	cmd.Flags().BoolVar(&k.blockUDP, "block-udp", false, "drop UDP between client and entry")
}

// faults returns the faults of each direction.
func (k *knobs) faults() (f link.Faults, err error) {
	if k.loss < 0 || k.loss > 100 {
		return f, fmt.Errorf("--loss is a percentage, from 0 to 100, not %v", k.loss)
	}
	if k.delay < 0 {
		return f, fmt.Errorf("--delay is %v, less than 0", k.delay)
	}
	f.Loss, f.Delay = k.loss/100, k.delay
	if k.blockUDP {
		f.Block = []link.Match{{Protocol: link.UDP}}
	}
	return f, nil
}

// command returns the command line for a user.
func command(uid int, out io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "localnet",
		Short: "A network on this machine in which to try lewes, or to test a release",
		Long: `Localnet makes a network on this machine in which to try lewes, or to test a release:

  client -- NAT ~~ entry -- exit -- target (DNS and HTTP/3)

Each is a network namespace of its own; nothing in it can reach the machine or the Internet.
It needs Linux, root, the program ip (iproute2) and /dev/net/tun. It does not use nftables
or iptables. Ctrl-C or down removes everything.`,
		Example: `  localnet up --loss 5 --delay 40ms    # in one terminal
  localnet shell                       # in another
  localnet set --block-udp
  localnet down`,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Name() == "help" || cmd.Name() == "completion" {
				return nil
			}
			return allowed(uid)
		},
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetOut(out)
	program, socket := "", ""
	root.PersistentFlags().StringVar(&program, "program", besideThis("lewes"), "`file` with the lewes program to run")
	root.PersistentFlags().StringVar(&socket, "socket", "/run/lewes-localnet.sock", "`file` over which the commands reach the network")
	root.AddCommand(upCommand(&program, &socket), setCommand(&socket), shellCommand(&socket), downCommand(&socket), testCommand(&program))
	return root
}

func besideThis(name string) string {
	self, err := os.Executable()
	if err != nil {
		return name
	}
	return filepath.Join(filepath.Dir(self), name)
}

// allowed fails for a user who cannot make network namespaces.
func allowed(uid int) error {
	if uid != 0 {
		return errors.New("root is required, to make network namespaces: run it with sudo")
	}
	return nil
}

func upCommand(program, socket *string) *cobra.Command {
	var k knobs
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Make the network and hold it until Ctrl-C or down",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := k.faults()
			if err != nil {
				return err
			}
			return up(cmd.Context(), cmd.OutOrStdout(), *program, *socket, f)
		},
	}
	k.flags(cmd)
	return cmd
}

func setCommand(socket *string) *cobra.Command {
	var k knobs
	cmd := &cobra.Command{
		Use:   "set",
		Short: "Replace the faults of the link: without flags it has none",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			f, err := k.faults()
			if err != nil {
				return err
			}
			return call(*socket, "Set", f, nil)
		},
	}
	k.flags(cmd)
	return cmd
}

func downCommand(socket *string) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Remove the network",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			err := call(*socket, "Down", worker.None{}, nil)
			if errors.Is(err, io.ErrUnexpectedEOF) {
				return nil // the process has ended
			}
			return err
		},
	}
}

func shellCommand(socket *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "shell [MACHINE [COMMAND ARGUMENT...]]",
		Short: "Run a shell or a command on a machine: client (the default), entry, exit or target",
		Long: `Shell runs a shell or a command on a machine: client (the default), entry, exit or target.
There PATH has the lewes program, whose default state directory is the machine's, and $ENTRY and
$EXIT are the URIs of the gateways.`,
		Example: `  localnet shell client dig @127.0.0.1 example.com
  localnet shell client sh -c 'lewes probe $ENTRY'
  localnet shell exit lewes clients list --live`,
		DisableFlagsInUseLine: true,
		RunE: func(_ *cobra.Command, args []string) error {
			var s Shell
			if err := call(*socket, "Shell", worker.None{}, &s); err != nil {
				return err
			}
			return shell(s, args)
		},
	}
	cmd.Flags().SetInterspersed(false) // what follows the machine is the command's
	return cmd
}

// shell runs a program in the namespace of a machine. The terminal's signals are for that program.
func shell(s Shell, args []string) error {
	if len(args) == 0 {
		args = []string{client}
	}
	m, ok := s[args[0]]
	if !ok {
		return fmt.Errorf("no machine is called %q: there are %s", args[0], strings.Join(machines, ", "))
	}
	name := os.Getenv("SHELL")
	if name == "" {
		name = "/bin/sh"
	}
	if args = args[1:]; len(args) == 0 {
		args = []string{name}
	}
	for _, v := range m.Env {
		if name, value, ok := strings.Cut(v, "="); ok {
			if err := os.Setenv(name, value); err != nil { // for exec.Command, which looks in PATH
				return err
			}
		}
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt)
	defer signal.Stop(signals)
	if err := netns.Do(m.PID, cmd.Start); err != nil {
		return err
	}
	return cmd.Wait()
}

func testCommand(program *string) *cobra.Command {
	return &cobra.Command{
		Use:   "test",
		Short: "Check a release in a network of its own",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return check(cmd.Context(), cmd.OutOrStdout(), *program)
		},
	}
}
