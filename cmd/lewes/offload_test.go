package main

import (
	"path/filepath"
	"testing"

	"github.com/spf13/cobra"

	"lewes/cmd/lewes/internal/config"
)

// TestOffloadFlags shows that flags which are not given leave the configuration unchanged.
func TestOffloadFlags(t *testing.T) {
	configured := config.Listen{Offload: config.OffloadOn, GSO: false, GRO: true}
	for _, row := range []struct {
		args []string
		want config.Listen
	}{
		{nil, configured},
		{[]string{"--offload", "off"}, config.Listen{Offload: config.OffloadOff, GRO: true}},
		{[]string{"--offload=auto", "--gso"}, config.Listen{Offload: config.OffloadAuto, GSO: true, GRO: true}},
		{[]string{"--gro=false"}, config.Listen{Offload: config.OffloadOn}},
	} {
		cmd := new(cobra.Command)
		offloads := newOffloadFlags(cmd)
		if err := cmd.ParseFlags(row.args); err != nil {
			t.Fatal(err)
		}
		got := configured
		if err := offloads.apply(&got); err != nil {
			t.Error(err)
		}
		if got.Offload != row.want.Offload || got.GSO != row.want.GSO || got.GRO != row.want.GRO {
			t.Errorf("%v: %+v, want %+v", row.args, got, row.want)
		}
	}
}

func TestUnknownOffload(t *testing.T) {
	dir := t.TempDir()
	has(t, fails(t, environment(dir), exitUsage, "gateway", "--state", filepath.Join(dir, "state"), "--offload", "perhaps"),
		`--offload "perhaps"`, `"auto"`, `"on"`, `"off"`)
}
