package gatewayd

import (
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"lewes/cmd/lewes/internal/config"
	"lewes/router"
)

// TestBoundsLeaveOpenFiles fits the bounds to several limits on open files.
func TestBoundsLeaveOpenFiles(t *testing.T) {
	c := config.Default()
	c.Listen.Shards = 2
	reserve := reservedFiles(c)
	want := bounds{c.Flows.Max, c.TCP.MaxConnections, router.DefaultLookups}
	for _, row := range []struct {
		files   int
		reduced bool
	}{{1 << 30, false}, {want.files() + reserve, false}, {want.files() + reserve - 1, true}, {65536, true}, {1024, true}, {400, true}, {48, true}} {
		core, logged := observer.New(zap.WarnLevel)
		limits, connections := fitOpenFiles(c, row.files, zap.New(core))
		got := bounds{limits.MaxFlows, connections, limits.MaxLookups}
		if !row.reduced {
			if limits != limitsOf(c) || connections != want.connections || logged.Len() != 0 {
				t.Errorf("%d files: %+v, %d lines", row.files, got, logged.Len())
			}
			continue
		}
		if left := row.files - got.files(); left < min(reserve, row.files/2)-filesOfLookup {
			t.Errorf("%d files: %+v leaves %d, want %d", row.files, got, left, reserve)
		}
		if got.flows < 1 || got.connections < 1 || got.lookups < 1 || got.flows > want.flows {
			t.Errorf("%d files: %+v", row.files, got)
		}
		if logged.Len() != 1 || logged.All()[0].ContextMap()["flows_max_reduced"] != int64(got.flows) {
			t.Errorf("%d files: logged %v", row.files, logged.All())
		}
	}
	c.TCP.Enabled = false
	if limits, _ := fitOpenFiles(c, want.files()-want.connections+reserve, zap.NewNop()); limits != limitsOf(c) {
		t.Errorf("without TCP: %+v", limits)
	}
	if n := openFiles(); n < 1 {
		t.Errorf("%d open files", n)
	}
}
