package version

import (
	"encoding/json"
	"runtime/debug"
	"strings"
	"testing"
)

// TestUnknownModified shows that a build without a repository does not claim that its files were
// unchanged.
func TestUnknownModified(t *testing.T) {
	recorded := func(modified string) *debug.BuildInfo {
		b := &debug.BuildInfo{Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "0123456789abcdef"}, {Key: "vcs.modified", Value: modified}}}
		b.Main.Version = "v1.2.3"
		return b
	}
	for _, row := range []struct {
		name                         string
		info                         *debug.BuildInfo
		release, revision            string
		version, short, changed, key string
	}{
		{"nothing recorded", nil, "", "", "(devel)", "(devel)", "unknown", ""},
		{"set by the linker", nil, "v1.0.0", "fedcba9876543210", "v1.0.0", "v1.0.0 fedcba987654", "unknown", ""},
		{"clean", recorded("false"), "", "", "v1.2.3", "v1.2.3 0123456789ab", "false", `"modified":false`},
		{"modified", recorded("true"), "", "", "v1.2.3", "v1.2.3 0123456789ab", "true", `"modified":true`},
	} {
		t.Run(row.name, func(t *testing.T) {
			i := read(row.info, row.release, row.revision)
			if i.Version != row.version || i.Short() != row.short || i.Changed() != row.changed {
				t.Errorf("%+v, short %q, changed %q", i, i.Short(), i.Changed())
			}
			text, err := json.Marshal(i)
			if err != nil {
				t.Fatal(err)
			}
			if has := strings.Contains(string(text), "modified"); has != (row.key != "") || !strings.Contains(string(text), row.key) {
				t.Errorf("%s", text)
			}
			if got := strings.Contains(i.String(), ", modified"); got != (row.changed == "true") {
				t.Errorf("%s", i)
			}
		})
	}
}
