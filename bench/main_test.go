//go:build linux

package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestList(t *testing.T) {
	var out bytes.Buffer
	if err := run([]string{"--list"}, &out, &out); err != nil || !strings.Contains(out.String(), "bulk-out ") {
		t.Errorf("%s, %v", out.String(), err)
	}
}

func TestUsageErrors(t *testing.T) {
	for args, want := range map[string]string{
		"--scenario bulkout":    `unknown scenario "bulkout"`,
		"--duration 2h":         "--duration 2h0m0s",
		"--rounds -1":           "--rounds -1",
		"--sessions 2000000000": "--sessions 2000000000",
		"bulk-out":              `unexpected argument "bulk-out"`,
		"--no-such-flag":        "no-such-flag",
	} {
		var misuse *usageError
		err := run(strings.Fields(args), new(bytes.Buffer), new(bytes.Buffer))
		if !errors.As(err, &misuse) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", args, err)
		}
	}
}
