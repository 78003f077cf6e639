package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
)

// jsonFlag adds --json.
func jsonFlag(cmd *cobra.Command) *bool {
	return cmd.Flags().Bool("json", false, "print as JSON")
}

// output prints v as indented JSON, or text.
func output(cmd *cobra.Command, asJSON bool, v any, text string) error {
	if asJSON {
		return writeJSON(cmd.OutOrStdout(), "  ", v)
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), text)
	return err
}

// outputLine prints v as one line of JSON, or text.
func outputLine(cmd *cobra.Command, asJSON bool, v any, text string) error {
	if asJSON {
		return writeJSON(cmd.OutOrStdout(), "", v)
	}
	return output(cmd, false, nil, text)
}

func writeJSON(w io.Writer, indent string, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	return e.Encode(v)
}

// texts formats each value with its String method.
func texts[T fmt.Stringer](values []T) (s []string) {
	for _, v := range values {
		s = append(s, v.String())
	}
	return s
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
