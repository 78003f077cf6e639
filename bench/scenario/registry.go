package scenario

import (
	"context"
	"fmt"
	"strings"
)

// Scenario is one of the things that a bench measures.
type Scenario struct {
	Name  string
	About string // a line
	run   func(context.Context, *crew) error
}

// All returns the scenarios in the order in which they run.
func All() []Scenario {
	return []Scenario{
		{"bulk-out", "one client, one flow, as fast as it goes: client → gateway → target", bulkOut},
		{"bulk-back", "the same from the target: target → gateway → client", bulkBack},
		{"both", "both ways at once", bulkBoth},
		{"sizes", "bulk-out with payloads from 64 to 1400 bytes", sizes},
		{"sparse", "10,000 sessions in turn, a datagram each, so that nothing coalesces", sparse},
		{"many-flows", "10,000 flows of 40 sessions in turn, a datagram each", manyFlows},
		{"exit", "through an entry gateway to an exit: client → entry → exit → target", forwarding},
		{"shards", "one shard against two", shards},
		{"tcp", "over TCP, a connection for each packet, against datagrams one by one", overTCP},
		{"latency", "what a gateway adds to the way of a datagram, idle and half loaded", latency},
		{"handshakes", "new sessions, and what they do to datagrams of old ones", handshakes},
		{"subsessions", "new keys for established sessions", subsessions},
		{"idle", "memory of sessions that rest", idle},
	}
}

// Find returns the scenarios of a list of names. A name that there is not is an error that
// tells the nearest.
func Find(names []string) (found []Scenario, err error) {
	all := All()
next:
	for _, name := range names {
		for _, s := range all {
			if s.Name == strings.TrimSpace(name) {
				found = append(found, s)
				continue next
			}
		}
		return nil, fmt.Errorf("there is no scenario %q; did you mean %s? All of them: %s", name, nearest(name, all), list(all))
	}
	return found, nil
}

func list(all []Scenario) string {
	var names []string
	for _, s := range all {
		names = append(names, s.Name)
	}
	return strings.Join(names, ", ")
}

// nearest returns the name that takes the fewest changes of a letter.
func nearest(name string, all []Scenario) string {
	best, least := "", -1
	for _, s := range all {
		if d := distance([]rune(strings.ToLower(name)), []rune(s.Name)); least < 0 || d < least {
			best, least = s.Name, d
		}
	}
	return best
}

// distance is how many letters have to be put in, left out or changed to make a into b.
func distance(a, b []rune) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range a {
		last := row[0]
		row[0] = i + 1
		for j := range b {
			change := last
			if a[i] != b[j] {
				change++
			}
			last = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
