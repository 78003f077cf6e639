package main

import (
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"lewes/cmd/lewes/internal/config"
)

// TestLeastMemoryLimit: a memory limit below the least is refused, with the least that works; with that one a
// client connects, and memory is not short.
func TestLeastMemoryLimit(t *testing.T) {
	t.Parallel()
	addresses := []string{"127.0.0.1", "127.0.0.2", "127.0.0.3"}
	for _, other := range addresses[1:] { // not every system has these
		if conn, err := net.ListenPacket("udp", other+":0"); err != nil {
			addresses = addresses[:1]
		} else {
			_ = conn.Close()
		}
	}
	for _, shards := range []int{1, 3, 12} {
		for _, addresses := range [][]string{addresses[:1], addresses} {
			dir := t.TempDir()
			file := filepath.Join(dir, "gateway.toml")
			configure := func(limit config.Size) string {
				return fmt.Sprintf("state_dir = %q\nmemory_limit = %q\n[listen]\naddresses = [\"%s\"]\nport = 0\nshards = %d\n[tcp]\nport = 0\n[access]\nmode = \"open\"\n"+withMetrics,
					dir, limit, strings.Join(addresses, `", "`), shards)
			}
			writeFile(t, file, configure(1<<20), 0o600)
			var least config.Size
			for _, args := range [][]string{{"config", "check", file}, {"gateway", "--config", file}} {
				sentence := fails(t, environment(dir), exitFailed, args...)
				m := regexp.MustCompile(`memory_limit: 1MiB is less .* the least for this one is (\S+):`).FindStringSubmatch(sentence)
				if m == nil || least.UnmarshalText([]byte(m[1])) != nil {
					t.Fatalf("the least is not named: %s", sentence)
				}
			}
			writeFile(t, file, configure(least), 0o600)
			p := launch(t, environment(dir), "gateway", "--config", file)
			g := &runningGateway{p, dir, p.awaitLine("lewes://")}
			g.awaitLog("  ready  ")
			_, key := newClient(t)
			if _, err := dial(t, g.uri, key).Ping(t.Context()); err != nil {
				t.Error(err)
			}
			// The readers allocate their buffers, and the use is read, after the start.
			figures := g.until("the memory of all readers in use", func(f map[string]float64) bool { return f["lewes_memory_used_bytes"] > 0.4*float64(least) })
			used := figures["lewes_memory_used_bytes"]
			t.Logf("%d shards, %d addresses: %.1f MiB are used, the least limit is %v", shards, len(addresses), used/(1<<20), least)
			if used > 0.75*float64(least) {
				t.Errorf("%d shards, %d addresses: %.0f bytes are used under the least limit, %v", shards, len(addresses), used, least)
			}
			if figures[`lewes_hellos_refused_total{reason="memory"}`] != 0 {
				t.Error("a hello was refused for memory")
			}
			if code := g.end(); code != exitOK {
				t.Errorf("exit code %d", code)
			}
			hasNot(t, g.stderr(), "memory is short")
		}
	}
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "gateway.toml"), fmt.Sprintf("state_dir = %q\n", dir)+loopbackListen, 0o600)
	has(t, fails(t, environment(dir, "GOMEMLIMIT=8MiB"), exitFailed, "gateway", "--config", filepath.Join(dir, "gateway.toml")), "GOMEMLIMIT=8MiB is less", "the least is ")
}
