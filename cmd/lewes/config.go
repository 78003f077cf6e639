package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"lewes/cmd/lewes/internal/config"
)

func newConfig() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "check a gateway's configuration, or print the default",
		Example: `  lewes config default > gateway.toml
  lewes config check gateway.toml`,
	}
	group(cmd)
	cmd.AddCommand(newConfigCheck(), newConfigDefault())
	return cmd
}

func newConfigCheck() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "say what is wrong with a configuration",
		Long: `Check reads a configuration as the gateway would and says all that is wrong with it,
line by line; for a key that it does not know it names the one that may be meant. The
exit code is 0 where nothing is wrong.`,
		Example: `  lewes config check /etc/lewes/gateway.toml`,
		Args:    arguments(1, 1, "the configuration file to check"),
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		_, err := config.Load(args[0])
		if *asJSON {
			if jsonErr := writeJSON(cmd.OutOrStdout(), checkedConfig(args[0], err)); jsonErr != nil {
				return jsonErr
			}
			return err
		}
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is a usable configuration\n", args[0])
		return err
	}
	return cmd
}

func newConfigDefault() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "default",
		Short:   "print the default configuration, every key explained",
		Example: `  lewes config default > gateway.toml`,
		Args:    arguments(0, 0, ""),
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		_, err := fmt.Fprint(cmd.OutOrStdout(), config.DefaultText())
		return err
	}
	return cmd
}

// checked is what config check --json prints.
type checked struct {
	File     string          `json:"file"`
	OK       bool            `json:"ok"`
	Problems []configProblem `json:"problems,omitempty"`
	More     int             `json:"more,omitempty"` // problems that were left out
}

type configProblem struct {
	Line   int    `json:"line,omitempty"`
	Key    string `json:"key,omitempty"`
	Reason string `json:"reason"`
}

func checkedConfig(file string, err error) checked {
	c := checked{File: file, OK: err == nil}
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
