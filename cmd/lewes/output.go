package main

import (
	"encoding/json"
	"io"
	"time"

	"github.com/spf13/cobra"
)

// jsonFlag adds --json, which every command has that prints facts.
func jsonFlag(cmd *cobra.Command) *bool {
	return cmd.Flags().Bool("json", false, "print as JSON")
}

// writeJSON prints v as one JSON value over several lines.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// writeJSONLine prints v as one line, for a reader that takes line after line.
func writeJSONLine(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
