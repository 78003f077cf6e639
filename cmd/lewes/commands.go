package main

import (
	"cmp"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"lewes/cmd/lewes/internal/config"
	"lewes/cmd/lewes/internal/demo"
	"lewes/cmd/lewes/internal/version"
	"lewes/crypto/identity"
	"lewes/transport/uri"
)

func newConfig() *cobra.Command {
	return group(&cobra.Command{
		Use:   "config",
		Short: "check a gateway configuration, or print the default one",
		Example: `  lewes config default > gateway.toml
  lewes config check gateway.toml`,
	}, newConfigCheck(), newConfigDefault())
}

func newConfigCheck() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "list the errors in a configuration",
		Long: `Check reads a configuration as the gateway would and lists all errors with their lines; for
an unknown key it suggests the nearest one. If there is none, it lists egress rules that
contradict others or are redundant. The exit code is 0 if there is no error.`,
		Example: `  lewes config check /etc/lewes/gateway.toml`,
		Args:    arguments(1, 1, "FILE"),
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		warnings, err := config.Check(args[0])
		if err != nil && !*asJSON {
			return err
		}
		text := args[0] + " is valid"
		for _, w := range warnings {
			text += "\nwarning: " + w.String()
		}
		return cmp.Or(output(cmd, *asJSON, checkedConfig(args[0], warnings, err), text), err)
	}
	return cmd
}

func newConfigDefault() *cobra.Command {
	return &cobra.Command{
		Use:     "default",
		Short:   "print the default configuration with comments on every key",
		Example: `  lewes config default > gateway.toml`,
		Args:    arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return output(cmd, false, nil, strings.TrimSuffix(config.DefaultText(), "\n"))
		},
	}
}

// checked is the output of config check --json.
type checked struct {
	File     string          `json:"file"`
	OK       bool            `json:"ok"`
	Problems []configProblem `json:"problems,omitempty"`
	More     int             `json:"more,omitempty"` // further problems
	Warnings []configProblem `json:"warnings,omitempty"`
}

type configProblem struct {
	Line   int    `json:"line,omitempty"`
	Key    string `json:"key,omitempty"`
	Reason string `json:"reason"`
}

func checkedConfig(file string, warnings []config.Problem, err error) checked {
	c := checked{File: file, OK: err == nil}
	for _, w := range warnings {
		c.Warnings = append(c.Warnings, configProblem{w.Line, w.Key, w.Reason})
	}
	var invalid *config.Error
	switch {
	case errors.As(err, &invalid):
		for _, p := range invalid.Problems {
			c.Problems = append(c.Problems, configProblem{p.Line, p.Key, p.Reason})
		}
		c.More = invalid.More
	case err != nil:
		c.Problems = []configProblem{{Reason: err.Error()}}
	}
	return c
}

// maxDemoDatagrams bounds the memory of a demo, which keeps every payload to compare it.
const maxDemoDatagrams = 1_000_000

func newDemo() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "run a client, an entry, an exit and a target on this machine",
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
			err = errors.Join(output(cmd, true, report, ""), err)
		}
		return err
	}
	return cmd
}

func newKeygen() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keygen [FILE]",
		Short: "generate an identity and print its public key",
		Long: `Keygen generates an identity, an Ed25519 key, and writes it to FILE with mode 0600, by default
that of this client's identity. It never overwrites a file. It prints the public key in
base58, as used in a gateway's list of clients and in URIs.

You rarely need it: gateway and forward generate an identity on their first start. The
file format is PKCS#8 in PEM, as written by openssl.

With --show it prints the public key of an existing FILE.
An entry gateway, one given with --via, sees another one, derived from it: --for prints that.`,
		Example: `  lewes keygen                                             # this client's, before its first use
  lewes keygen gateway.key
  lewes keygen --show                                      # this client's, for its gateways
  lewes keygen --show --for lewes://4mZ…@entry.example     # this client's, for an entry
  lewes clients add "$(lewes keygen laptop.key)" laptop`,
		Args: arguments(0, 1, ""),
	}
	asJSON := jsonFlag(cmd)
	show := cmd.Flags().Bool("show", false, "print the public key of an existing FILE")
	entry := cmd.Flags().String("for", "", "with --show: print the public key that the entry gateway with this `URI` sees")
	state := cmd.Flags().String("state", "", "state `directory` of the client, without FILE (default: lewes in the user's state directory, /var/lib/lewes for root)")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		switch {
		case *entry != "" && !*show:
			return usagef("--for needs --show")
		case len(args) == 0:
			path, err := clientIdentityFile(*state)
			if err != nil {
				return err
			}
			args = []string{path}
			if !*show {
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					return err
				}
			}
		}
		read := config.CreateIdentity
		if *show {
			read = identity.Load
		}
		var gateway uri.Gateway
		if *entry != "" {
			if gateway, err = uri.Parse(*entry); err != nil {
				return usagef("--for: %w", err)
			}
		}
		key, err := read(args[0])
		if err != nil {
			return err
		}
		defer key.Wipe()
		public := key.Public()
		if *entry != "" {
			derived := key.ForEntry(gateway.Identity)
			defer derived.Wipe()
			public = derived.Public()
		}
		return output(cmd, *asJSON, struct {
			Identity identity.PublicKey `json:"identity"`
			File     string             `json:"file"`
		}{public, args[0]}, public.String())
	}
	return cmd
}

func newVersion() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "print this program's version and build",
		Example: `  lewes version
  lewes version --json | jq -r .revision`,
		Args: arguments(0, 0, ""),
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		b := version.Read()
		return output(cmd, *asJSON, b, b.String())
	}
	return cmd
}
