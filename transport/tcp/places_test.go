package tcp

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"lewes/state/path"
)

// queue adds connections to places without sockets.
type queue struct {
	places
	last   uint64
	source map[*serverConn]netip.Addr
}

func newQueue(limit, perSource int) *queue {
	return &queue{places: newPlaces(limit, perSource), source: map[*serverConn]netip.Addr{}}
}

// open adds a connection, and returns it with the one that loses its place.
func (q *queue) open(source string) (c, victim *serverConn, err error) {
	q.last++
	c = &serverConn{path: path.Path{Conn: q.last}}
	at := netip.MustParseAddr(source)
	q.source[c] = at
	victim, err = q.add(c, at)
	return c, victim, err
}

// TestSourceOf compares sources.
func TestSourceOf(t *testing.T) {
	for _, row := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"2001:db8::1", "2001:db8::ffff:1:2:3", true},
		{"2001:db8:0:1::1", "2001:db8:0:2::1", false},
		{"fe80::1%eth0", "fe80::2%eth1", true},
	} {
		if same := prefixOf(netip.MustParseAddr(row.a), sourceBits) == prefixOf(netip.MustParseAddr(row.b), sourceBits); same != row.same {
			t.Errorf("%s and %s are one source: %v", row.a, row.b, same)
		}
	}
}

// TestFullSiteGivesWay fills all places from the sources of one IPv6 /48, each of which holds less
// than an IPv4 address and than a source of another /48 do: that /48 loses its oldest connections.
//
// Shows R12.10.
func TestFullSiteGivesWay(t *testing.T) {
	q := newQueue(100, 10)
	for range 5 {
		for _, source := range []string{"192.0.2.1", "2001:db8:2::1"} {
			if _, victim, err := q.open(source); victim != nil || err != nil {
				t.Fatal(victim, err)
			}
		}
	}
	var site []*serverConn
	for n := range 90 {
		c, victim, err := q.open(fmt.Sprintf("2001:db8:1:%x::1", n%45))
		if victim != nil || err != nil {
			t.Fatal(victim, err)
		}
		site = append(site, c)
	}
	for n := range 60 {
		_, victim, err := q.open(fmt.Sprintf("198.51.100.%d", n))
		if victim != site[n] || !errors.Is(err, errFull) {
			t.Fatalf("connection %d took the place of %v: %v", n, q.source[victim], err)
		}
	}
}

// TestOneEachLosesOldest has every source hold one connection.
//
// Shows R12.10.
func TestOneEachLosesOldest(t *testing.T) {
	q := newQueue(50, 10)
	var all []*serverConn
	for n := range 200 {
		c, victim, _ := q.open(fmt.Sprintf("192.0.2.%d", n))
		if all = append(all, c); n >= 50 && victim != all[n-50] {
			t.Fatalf("connection %d took the place of %v", n, q.source[victim])
		}
	}
}

// TestPlacesAgainstModel opens, authenticates and closes connections at random, and compares each
// choice with one that looks at every connection.
//
// Shows R12.10.
func TestPlacesAgainstModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	q := newQueue(60, 5)
	type known struct {
		c        *serverConn
		unproved bool
	}
	var open []known
	count := func(match func(*serverConn) bool) (all, unproved int) {
		for _, k := range open {
			if match(k.c) {
				all++
				if k.unproved {
					unproved++
				}
			}
		}
		return all, unproved
	}
	at := func(c *serverConn, bits int) netip.Prefix { return prefixOf(q.source[c], bits) }
	// most returns the oldest unauthenticated connection of the prefix with most among those of
	// the same wider prefix.
	most := func(candidates []known, bits int) (best []known) {
		groups := map[netip.Prefix][]known{}
		for _, k := range candidates {
			if k.unproved {
				groups[at(k.c, bits)] = append(groups[at(k.c, bits)], k)
			}
		}
		size := 0
		for _, g := range groups {
			size = max(size, len(g))
		}
		for _, g := range groups {
			if len(g) == size {
				best = append(best, g...)
			}
		}
		return best
	}
	remove := func(c *serverConn) {
		open = slices.DeleteFunc(open, func(k known) bool { return k.c == c })
	}
	full, perSource, none := 0, 0, 0
	for step := range 30_000 {
		what := rng.IntN(8)
		if step/1000%3 == 2 && what > 3 { // times at which most authenticate
			what = 1
		}
		switch what {
		case 0:
			if len(open) > 0 {
				c := open[rng.IntN(len(open))].c
				if !q.remove(c) || q.remove(c) {
					t.Fatal("a place is freed twice, or not at all")
				}
				remove(c)
			}
		case 1:
			if len(open) > 0 {
				k := &open[rng.IntN(len(open))]
				if victim := q.authenticate(k.c, k.c); victim != nil {
					t.Fatal("a connection of an account with one is evicted")
				}
				k.unproved = false
			}
		default:
			source := fmt.Sprintf("192.0.2.%d", rng.IntN(1+rng.IntN(20)))
			if rng.IntN(2) == 0 {
				source = fmt.Sprintf("2001:db8:%d:%d::1", rng.IntN(1+rng.IntN(5)), rng.IntN(1+rng.IntN(4)))
			}
			c, victim, err := q.open(source)
			open = append(open, known{c, true})
			var want []known
			var reason error
			if held, _ := count(func(o *serverConn) bool { return at(o, sourceBits) == at(c, sourceBits) }); held > 5 {
				for _, k := range open {
					if k.unproved && at(k.c, sourceBits) == at(c, sourceBits) {
						want = []known{k}
						break
					}
				}
				reason = errSourceFull
				perSource++
			} else if len(open) > 60 {
				sites := most(open, siteBits)
				// Among sites with equally many, the victims' age decides.
				bySite := map[netip.Prefix][]known{}
				for _, k := range sites {
					bySite[at(k.c, siteBits)] = append(bySite[at(k.c, siteBits)], k)
				}
				for _, site := range bySite {
					want = append(want, most(site, sourceBits)...)
				}
				slices.SortFunc(want, func(a, b known) int { return int(a.c.path.Conn) - int(b.c.path.Conn) })
				reason = errFull
				full++
			}
			switch {
			case !errors.Is(err, reason):
				t.Fatalf("step %d: %v, want %v", step, err, reason)
			case want == nil && victim != nil:
				t.Fatalf("step %d: a connection was evicted without need", step)
			case want == nil:
			case want[0].c == c:
				if none++; victim != nil {
					t.Fatalf("step %d: a connection was evicted", step)
				}
				remove(c)
			case victim != want[0].c:
				t.Fatalf("step %d: %v was evicted, want %v", step, q.source[victim], q.source[want[0].c])
			default:
				remove(victim)
			}
		}
		if n := q.len(); n != len(open) {
			t.Fatalf("step %d: %d are open, want %d", step, n, len(open))
		}
		if _, unproved := count(func(*serverConn) bool { return true }); q.all.unproved != unproved {
			t.Fatalf("step %d: %d are not authenticated, want %d", step, q.all.unproved, unproved)
		}
	}
	if full < 1000 || perSource < 1000 || none < 10 {
		t.Errorf("%d times full, %d times at the bound of a source, %d times without a victim", full, perSource, none)
	}
	for _, k := range open {
		q.remove(k.c)
	}
	if len(q.holders) != 0 || len(q.all.parts) != 0 {
		t.Errorf("%d holders are left", len(q.holders))
	}
}

// TestAccountHoldsThird has one account take all connections that it gets, from many sources, then
// others: it alone gets a third, loses its oldest ones, and leaves room for the others.
//
// Shows R12.10.
func TestAccountHoldsThird(t *testing.T) {
	q := newQueue(300, 10)
	held := map[string][]*serverConn{}
	take := func(account string, n int) {
		t.Helper()
		c, victim, err := q.open(fmt.Sprintf("2001:db8:%x:%x::1", len(account), n))
		if victim != nil || err != nil {
			t.Fatalf("%s: no place for connection %d: %v", account, n, err)
		}
		held[account] = append(held[account], c)
		if victim = q.authenticate(c, account); victim == nil {
			return
		}
		if victim != held[account][0] {
			t.Fatalf("%s: another connection than the account's oldest is evicted", account)
		}
		held[account] = held[account][1:]
	}
	for n := range 1000 {
		take("greedy", n)
	}
	if n := len(held["greedy"]); n != 100 || q.len() != 100 {
		t.Errorf("one account has %d of 300 connections; %d are open", n, q.len())
	}
	for n := range 1000 {
		take("greedier", n)
	}
	if n := len(held["greedier"]); n < 60 {
		t.Errorf("the next account has %d connections", n)
	}
	for n := range 10 {
		take(fmt.Sprint("other", n), n)
		if len(held[fmt.Sprint("other", n)]) != 1 {
			t.Errorf("account %d has no connection", n)
		}
	}
	for _, list := range held {
		for _, c := range list {
			q.remove(c)
		}
	}
	if len(q.accounts) != 0 || len(q.holders) != 0 {
		t.Errorf("%d accounts, %d prefixes are left", len(q.accounts), len(q.holders))
	}
}
