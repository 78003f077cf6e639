// Package version describes this binary.
package version

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"lewes/state/wire"
)

// Set by the linker where the build has no repository to read, as in the image:
// -X lewes/cmd/lewes/internal/version.release=v1.2.3.
var release, revision string

// Info describes a binary.
type Info struct {
	Version  string `json:"version"`            // of the release or module; "(devel)" for a build from a working copy
	Revision string `json:"revision,omitempty"` // of the repository, if the build recorded it
	Time     string `json:"time,omitempty"`     // of that revision
	Modified *bool  `json:"modified,omitempty"` // the files differed from the revision; nil: unknown
	Go       string `json:"go"`
	System   string `json:"system"` // GOOS/GOARCH
	Protocol int    `json:"protocol"`
}

// Read returns the description of this binary.
func Read() Info {
	info, _ := debug.ReadBuildInfo()
	return read(info, release, revision)
}

// read combines what the go command recorded, nil if nothing, with what the linker set.
func read(info *debug.BuildInfo, release, revision string) Info {
	i := Info{Version: release, Revision: revision, Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH, Protocol: wire.Version}
	if info == nil {
		info = new(debug.BuildInfo)
	}
	i.Version = cmp.Or(i.Version, info.Main.Version, "(devel)")
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			i.Revision = s.Value
		case "vcs.time":
			i.Time = s.Value
		case "vcs.modified":
			modified := s.Value == "true"
			i.Modified = &modified
		}
	}
	return i
}

// String returns one line for each fact.
func (i Info) String() string {
	s := fmt.Sprintf("lewes %s\nprotocol  LP/%d\n", i.Version, i.Protocol)
	if i.Revision != "" {
		s += "revision  " + i.Revision
		if i.Modified != nil && *i.Modified {
			s += ", modified"
		}
		s += "\n"
	}
	if i.Time != "" {
		s += "date      " + i.Time + "\n"
	}
	return s + fmt.Sprintf("go        %s\nsystem    %s", i.Go, i.System)
}

// Short returns the version, with the start of the revision unless the version contains it.
func (i Info) Short() string {
	if len(i.Revision) >= 12 && !strings.Contains(i.Version, i.Revision[:12]) {
		return i.Version + " " + i.Revision[:12]
	}
	return i.Version
}

// Changed returns "true" if the files differed from the revision, "false", or "unknown".
func (i Info) Changed() string {
	if i.Modified == nil {
		return "unknown"
	}
	return fmt.Sprint(*i.Modified)
}
