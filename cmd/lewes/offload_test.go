package main

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/spf13/cobra"

	"lewes/cmd/config"
	"lewes/transport/udp"
)

// TestGatewayInsistsOnOffloads, where it is told to, and only then.
func TestGatewayInsistsOnOffloads(t *testing.T) {
	refuses := errors.New("protocol not available")
	for _, row := range []struct {
		offload  config.Offload
		gso, gro bool
		kernel   udp.Support
		refused  string
	}{
		{config.OffloadAuto, true, true, udp.Support{GSO: refuses, GRO: refuses}, ""},
		{config.OffloadOff, true, true, udp.Support{GSO: refuses, GRO: refuses}, ""},
		{config.OffloadOn, true, true, udp.Support{}, ""},
		{config.OffloadOn, false, false, udp.Support{GSO: refuses, GRO: refuses}, ""},
		{config.OffloadOn, true, false, udp.Support{GSO: refuses}, "gso"},
		{config.OffloadOn, false, true, udp.Support{GSO: refuses}, ""},
		{config.OffloadOn, false, true, udp.Support{GRO: refuses}, "gro"},
		{config.OffloadOn, true, false, udp.Support{GRO: refuses}, ""},
	} {
		err := checkOffloads(&config.Listen{Offload: row.offload, GSO: row.gso, GRO: row.gro}, row.kernel)
		switch {
		case (err != nil) != (row.refused != ""):
			t.Errorf("%+v: %v", row, err)
		case err != nil:
			has(t, err.Error(), `listen.offload is "on"`, "refuses "+row.refused, refuses.Error(), `set offload to "auto"`)
		}
	}
}

// TestOffloadFlags: what is not given leaves the configuration alone.
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
