package client

import (
	"errors"
	"maps"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func destinationNumber(n int) destination {
	return destination{addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(n >> 8)}), uint16(n))}
}

// For any sequence of opens and closes, ids are unique and none is used for another target
// within 120 s of its last use.
//
// Shows R8.11.
func TestFlowIDsRetire(t *testing.T) {
	// Few ids, so that they come round: all but 300 rest for good.
	const first = 1<<16 - 300
	resting := make(map[uint16]*retiredID)
	for id := range first {
		resting[uint16(id)] = &retiredID{lastUse: 1 << 60}
	}
	rapid.Check(t, func(t *rapid.T) {
		var table flowTable
		table.init()
		table.retired, table.next = maps.Clone(resting), first
		s := &Session{}
		shared := &packetConn{socket: socket{s: s}, targets: make(map[destination]*flow)}
		if err := table.register(shared); err != nil {
			t.Fatal(err)
		}
		type use struct {
			to destination
			at time.Duration
		}
		last := make(map[uint16]use)
		var open []*flow
		now := time.Hour
		touch := func(f *flow) {
			f.lastUse.Store(int64(now))
			last[uint16(f.id.Load())] = use{f.to, now}
		}
		forget := func(f *flow) {
			for i, g := range open {
				if g == f {
					open = append(open[:i], open[i+1:]...)
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"wait": func(t *rapid.T) {
				now += time.Duration(rapid.IntRange(0, 60).Draw(t, "seconds")) * time.Second
			},
			"open": func(t *rapid.T) {
				for range rapid.IntRange(1, 40).Draw(t, "flows") {
					f := &flow{s: s, to: destinationNumber(rapid.IntRange(1, 400).Draw(t, "target"))}
					if rapid.Bool().Draw(t, "shared") {
						f.owner = shared
					}
					got, evicted, err := table.add(f, now)
					if err != nil {
						var bound *FlowError
						if !errors.As(err, &bound) || bound.Reason != ReasonLimit {
							t.Fatal(err)
						}
						continue
					}
					if evicted != nil {
						if evicted.owner == nil {
							t.Fatal("somebody's own flow gave way")
						}
						for _, other := range open {
							waits := func(f *flow) bool {
								return f.answered.Load() == nil && now-time.Duration(f.lastUse.Load()) < answerWait
							}
							switch {
							case other.owner == nil:
							case waits(evicted) && !waits(other):
								t.Fatal("a flow gave way that waits for its answer")
							case waits(evicted) == waits(other) && other.lastUse.Load() < evicted.lastUse.Load():
								t.Fatal("a flow gave way that was not the one used least recently")
							}
						}
						forget(evicted)
					}
					if got != f {
						if got.to != f.to || got.owner != f.owner {
							t.Fatal("another target's flow")
						}
						continue
					}
					id := uint16(f.id.Load())
					for _, other := range open {
						if uint16(other.id.Load()) == id {
							t.Fatalf("id %d is used twice", id)
						}
					}
					if u, ok := last[id]; ok && u.to != f.to && now-u.at < 120*time.Second {
						t.Fatalf("id %d goes from %s to %s after %s", id, u.to, f.to, now-u.at)
					}
					touch(f)
					open = append(open, f)
				}
			},
			"answer": func(t *rapid.T) {
				if len(open) == 0 {
					t.Skip("none open")
				}
				f := rapid.SampledFrom(open).Draw(t, "flow")
				f.answered.Store(new(sessionConn))
				touch(f)
			},
			"close": func(t *rapid.T) {
				if len(open) == 0 {
					t.Skip("none open")
				}
				f := rapid.SampledFrom(open).Draw(t, "flow")
				table.remove(f)
				forget(f)
			},
			"use": func(t *rapid.T) {
				if len(open) == 0 {
					t.Skip("none open")
				}
				touch(rapid.SampledFrom(open).Draw(t, "flow"))
			},
			"straggler": func(t *rapid.T) {
				id := uint16(rapid.IntRange(first, 1<<16-1).Draw(t, "id"))
				if table.find(id) == nil {
					if u, ok := last[id]; ok && table.retired[id] != nil {
						last[id] = use{u.to, now}
					}
					table.noteClosed(id, now)
				}
			},
			"renumber": func(t *rapid.T) {
				if len(open) == 0 {
					t.Skip("none open")
				}
				f := rapid.SampledFrom(open).Draw(t, "flow")
				old := uint16(f.id.Load())
				if err := table.renumber(f, now); err != nil {
					return
				}
				id := uint16(f.id.Load())
				if u, ok := last[id]; id == old || ok && u.to != f.to && now-u.at < 120*time.Second {
					t.Fatalf("from id %d to %d", old, id)
				}
				last[old] = use{destination{}, now}
				touch(f)
			},
			"": func(t *rapid.T) {
				if len(table.byID) != len(open) || len(open) > MaxFlows {
					t.Fatalf("%d flows, want %d", len(table.byID), len(open))
				}
				for _, f := range open {
					if table.find(uint16(f.id.Load())) != f {
						t.Fatalf("id %d leads elsewhere", f.id.Load())
					}
					if f.owner != nil && table.target(shared, f.to) != f {
						t.Fatalf("target %s leads elsewhere", f.to)
					}
				}
			},
		})
	})
}

// Retired ids are removed once they may be used again.
func TestRetiredIDsAreSwept(t *testing.T) {
	var table flowTable
	table.init()
	s := &Session{}
	for n := range 5000 {
		f := &flow{s: s, to: destinationNumber(n + 1)}
		now := time.Duration(n) * time.Second
		if _, _, err := table.add(f, now); err != nil {
			t.Fatal(err)
		}
		table.remove(f)
	}
	if n := len(table.retired); n > 300 || len(table.former) != n {
		t.Errorf("%d ids and %d targets are remembered after a flow each second", n, len(table.former))
	}
}

// Each flow gets an unused id while there are some, then the target's former one.
func TestFlowIDsRunOut(t *testing.T) {
	var table flowTable
	table.init()
	s := &Session{}
	open := func(to destination) (uint16, error) {
		f := &flow{s: s, to: to}
		if _, _, err := table.add(f, time.Second); err != nil {
			return 0, err
		}
		table.remove(f)
		return uint16(f.id.Load()), nil
	}
	seen := make(map[uint16]bool)
	for n := range 1 << 16 {
		id, err := open(destinationNumber(1))
		if err != nil || seen[id] {
			t.Fatalf("flow %d: id %d, %v", n, id, err)
		}
		seen[id] = true
	}
	if _, err := open(destinationNumber(1)); err != nil {
		t.Errorf("the same target again: %v", err)
	}
	var bound *FlowError
	if _, err := open(destinationNumber(2)); !errors.As(err, &bound) || bound.Reason != ReasonLimit {
		t.Errorf("another target: %v", err)
	}
}

// With a single free id, a second target has to wait until it has retired.
//
// Shows R8.11.
func TestLastFreeIDWaitsForRetirement(t *testing.T) {
	const second = time.Second
	for _, use := range []string{"closed at once", "used for a while", "a datagram comes late"} {
		var table flowTable
		table.init()
		const last = 4711
		for id := range 1 << 16 {
			if id != last {
				table.retired[uint16(id)] = &retiredID{lastUse: 1 << 60}
			}
		}
		s := &Session{}
		open := func(n int, at time.Duration) error {
			f := &flow{s: s, to: destinationNumber(n)}
			_, _, err := table.add(f, at)
			if err == nil && f.id.Load() != last {
				t.Fatalf("%s: id %d", use, f.id.Load())
			}
			return err
		}
		if err := open(1, 1000*second); err != nil {
			t.Fatal(err)
		}
		used := 1000 * second
		if use == "used for a while" {
			used = 1500 * second
			table.find(last).lastUse.Store(int64(used))
		}
		table.remove(table.find(last))
		if use == "a datagram comes late" {
			used = 1060 * second
			table.noteClosed(last, used)
		}
		var bound *FlowError
		if err := open(2, used+120*second-1); !errors.As(err, &bound) || bound.Reason != ReasonLimit {
			t.Errorf("%s: another target within 120 s of the last use: %v", use, err)
		}
		if err := open(2, used+120*second); err != nil {
			t.Errorf("%s: another target after 120 s: %v", use, err)
		}
	}
}
