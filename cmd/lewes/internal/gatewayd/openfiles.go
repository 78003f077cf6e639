package gatewayd

import (
	"runtime"

	"go.uber.org/zap"

	"lewes/cmd/lewes/internal/config"
	"lewes/router"
)

// bounds are the bounds that each take open files.
type bounds struct{ flows, connections, lookups int }

// filesOfLookup is the number of sockets of a name lookup, one for each family of addresses.
const filesOfLookup = 2

// files returns the open files that the bounds take.
func (b bounds) files() int { return b.flows + b.connections + filesOfLookup*b.lookups }

// fit reduces the bounds, all in proportion, until they leave a reserve of the process's open files:
// with none left it could read neither its list of clients nor its configuration. At least half of
// all files is for the bounds.
func (b bounds) fit(files, reserve int) bounds {
	room := files - min(reserve, files/2)
	if b.files() <= room {
		return b
	}
	part := float64(room) / float64(b.files())
	reduce := func(n int) int { return max(min(n, 1), int(float64(n)*part)) }
	return bounds{reduce(b.flows), reduce(b.connections), reduce(b.lookups)}
}

// reservedFiles returns the number of open files that a gateway needs beside its bounds.
func reservedFiles(c *config.Config) int {
	const others = 256 // files, logs, metrics, watches, files opened for a moment
	shards := c.Listen.Shards
	if shards == 0 {
		shards = runtime.GOMAXPROCS(0)
	}
	perShard := 2*max(2, len(c.Listen.Addresses)) + 2 + len(c.Gateways) // listening, return loop, other gateways
	return others + shards*perShard
}

// fitOpenFiles returns the bounds of a configuration and its number of TCP connections, reduced to the
// limit on open files if necessary. The Go runtime has raised the soft limit to the hard one.
func fitOpenFiles(c *config.Config, files int, log *zap.Logger) (limits router.Limits, connections int) {
	limits, connections = limitsOf(c), c.TCP.MaxConnections
	want := bounds{flows: limits.MaxFlows, lookups: router.DefaultLookups}
	if c.TCP.Enabled {
		want.connections = connections
	}
	reserve := reservedFiles(c)
	got := want.fit(files, reserve)
	if got == want {
		return limits, connections
	}
	log.Warn("limit on open files too low for the configured bounds; reducing them (ulimit -n, LimitNOFILE=)",
		zap.Int("open_files", files), zap.Int("needed", want.files()+reserve),
		zap.Int("flows_max", want.flows), zap.Int("flows_max_reduced", got.flows),
		zap.Int("tcp_max_connections", want.connections), zap.Int("tcp_max_connections_reduced", got.connections),
		zap.Int("lookups", want.lookups), zap.Int("lookups_reduced", got.lookups))
	limits.MaxFlows, limits.MaxLookups = got.flows, got.lookups
	return limits, got.connections
}
