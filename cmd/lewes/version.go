package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"lewes/state/wire"
)

// build is what is known about this binary.
type build struct {
	Version  string `json:"version"`            // of the module; "(devel)" for one built from its folder
	Revision string `json:"revision,omitempty"` // of the repository, where the build recorded it
	Time     string `json:"time,omitempty"`     // of that revision
	Modified bool   `json:"modified"`           // the files differed from the revision
	Go       string `json:"go"`
	System   string `json:"system"` // GOOS/GOARCH
	Protocol int    `json:"protocol"`
}

func readBuild() build {
	b := build{
		Version:  "(devel)",
		Go:       runtime.Version(),
		System:   runtime.GOOS + "/" + runtime.GOARCH,
		Protocol: wire.Version,
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if v := info.Main.Version; v != "" {
		b.Version = v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

func (b build) String() string {
	s := fmt.Sprintf("lewes %s\nprotocol  LP/%d\n", b.Version, b.Protocol)
	if b.Revision != "" {
		s += "revision  " + b.Revision
		if b.Modified {
			s += ", changed since"
		}
		s += "\n"
	}
	if b.Time != "" {
		s += "of        " + b.Time + "\n"
	}
	return s + fmt.Sprintf("go        %s\nsystem    %s\n", b.Go, b.System)
}

func newVersion() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "print what this binary was made from",
		Example: `  lewes version
  lewes version --json | jq -r .revision`,
		Args: arguments(0, 0, ""),
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *asJSON {
			return writeJSON(cmd.OutOrStdout(), readBuild())
		}
		_, err := fmt.Fprint(cmd.OutOrStdout(), readBuild())
		return err
	}
	return cmd
}
