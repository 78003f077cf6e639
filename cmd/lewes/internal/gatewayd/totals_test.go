//go:build unix

package gatewayd

import (
	"context"
	"encoding/binary"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"lewes/crypto/identity"
	"lewes/router"
	"lewes/router/unlisted"
)

// liveSessions is a source of sessions. during is called in the middle of a list.
type liveSessions struct {
	all    []router.SessionInfo
	during func()
}

func (liveSessions) MeasureRTT(context.Context) int { return 0 }
func (liveSessions) Unlisted() []unlisted.Entry     { return nil }

func (l liveSessions) Sessions(_ context.Context, yield func([]router.SessionInfo) error) error {
	for i := range l.all {
		if err := yield(l.all[i : i+1]); err != nil {
			return err
		}
	}
	if l.during != nil {
		l.during()
	}
	return nil
}

func countedSession(client, handle byte, datagrams uint64) router.SessionInfo {
	s := *exampleSession()
	s.Identity, s.Handle = identity.FromSeed(&[32]byte{client}).Public(), [16]byte{handle}
	s.Up, s.Down = router.Traffic{Packets: datagrams, Bytes: 100 * datagrams}, router.Traffic{Packets: 2 * datagrams, Bytes: 200 * datagrams}
	return s
}

// upOf returns the datagrams of the clients 1, 2 and 3 in totals.
func upOf(all map[identity.PublicKey]Total) (n [3]uint64) {
	for i := range n {
		n[i] = all[identity.FromSeed(&[32]byte{byte(1 + i)}).Public()].Up.Datagrams
	}
	return n
}

// TestTotals: the total of a listed client has each of its sessions once, through ends during a list, a crash, a
// takeover and a stop. Client 3 is not in the list.
func TestTotals(t *testing.T) {
	file := filepath.Join(t.TempDir(), "totals")
	stranger := identity.FromSeed(&[32]byte{3}).Public()
	removed := map[identity.PublicKey]bool{stranger: true}
	fresh := func(tookOver bool) *totals {
		s := newTotals(file, time.Minute, func(client identity.PublicKey) bool { return !removed[client] }, zap.NewNop())
		s.load(tookOver)
		return s
	}
	expect := func(what string, s *totals, g sessionSource, want [3]uint64) {
		t.Helper()
		all, err := s.all(t.Context(), g, func(time.Duration) {})
		if got := upOf(all); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", what, got, err, want)
		}
	}
	onDisk := func(what string, want [3]uint64) {
		t.Helper()
		all, err := ReadTotals(file)
		if got := upOf(all); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", what, got, err, want)
		}
	}
	s := fresh(false)
	g := liveSessions{all: []router.SessionInfo{countedSession(1, 1, 10), countedSession(1, 2, 5), countedSession(2, 3, 7), countedSession(3, 4, 1)}}
	expect("live", s, g, [3]uint64{15, 7, 0})
	ending := g
	ending.during = func() { // after the list has passed it
		ended := countedSession(1, 1, 12)
		s.noteEnd(&ended)
	}
	expect("a session that ends during the list", s, ending, [3]uint64{17, 7, 0})
	g.all = g.all[1:]
	s.write(t.Context(), g)
	onDisk("an interval", [3]uint64{17, 7, 0})

	s = fresh(false)
	expect("after a crash", s, liveSessions{}, [3]uint64{17, 7, 0})
	g = liveSessions{all: []router.SessionInfo{countedSession(1, 5, 3), countedSession(2, 6, 1)}}
	s.write(t.Context(), g)
	s.close() // as the last write of a predecessor, which has handed over its sessions
	s.write(t.Context(), g)
	onDisk("the predecessor has written again after the last time", [3]uint64{17, 7, 0})
	s = fresh(true)
	expect("after a takeover", s, g, [3]uint64{20, 8, 0})
	s.write(t.Context(), g)
	expect("a takeover from a process that has not written last", fresh(true), g, [3]uint64{20, 8, 0})

	removed[identity.FromSeed(&[32]byte{2}).Public()] = true
	s.noteEnd(&g.all[0])
	s.noteEnd(&g.all[1])
	s.close()
	onDisk("a client has left the list", [3]uint64{20, 0, 0})
	all, err := ReadTotals(file)
	want := Total{exampleSession().Started.Truncate(time.Second), Traffic{20, 2000}, Traffic{40, 4000}}
	if got := all[g.all[0].Identity]; err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// TestTotalsKeepADamagedFile: a file that is not whole is reported and stays as it is.
func TestTotalsKeepADamagedFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "totals")
	s := newTotals(file, time.Minute, func(identity.PublicKey) bool { return true }, zap.NewNop())
	ended := countedSession(1, 1, 1)
	s.noteEnd(&ended)
	s.close()
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.TrimPrefix(string(whole), totalsHead)
	damaged := map[string]bool{"": true, totalsHead[1:]: true, string(whole) + "x\n": true, strings.Replace(string(whole), " 1 ", " -1 ", 1): true, totalsHead + "x" + line: true}
	for n := range len(line) - 1 {
		damaged[string(whole[:len(totalsHead)+1+n])] = true
	}
	for text := range maps.Keys(damaged) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s := newTotals(file, time.Minute, func(identity.PublicKey) bool { return true }, zap.NewNop())
		s.load(false)
		s.noteEnd(&ended)
		s.close()
		if got, err := os.ReadFile(file); !s.broken.Load() || err != nil || string(got) != text {
			t.Fatalf("%q: broken %v; now %q, %v", text, s.broken.Load(), got, err)
		}
	}
}

// TestTotalsWithoutDisk: a write that fails is a problem until the next one succeeds.
func TestTotalsWithoutDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "missing")
	s := newTotals(filepath.Join(dir, "totals"), time.Minute, func(identity.PublicKey) bool { return true }, zap.NewNop())
	s.load(false)
	for _, broken := range []bool{true, false} {
		s.write(t.Context(), liveSessions{})
		if s.broken.Load() != broken {
			t.Errorf("broken: %v", !broken)
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

// distinctSessions is a source of sessions, each of a client of its own.
type distinctSessions int

func (distinctSessions) MeasureRTT(context.Context) int { return 0 }
func (distinctSessions) Unlisted() []unlisted.Entry     { return nil }

func (n distinctSessions) Sessions(_ context.Context, yield func([]router.SessionInfo) error) error {
	some := slices.Repeat([]router.SessionInfo{*exampleSession()}, 128)
	for at := 0; at < int(n); at += len(some) {
		for i := range some {
			binary.LittleEndian.PutUint64(some[i].Handle[:], uint64(at+i))
			binary.LittleEndian.PutUint64(some[i].Identity[:], uint64(at+i))
		}
		if err := yield(some); err != nil {
			return err
		}
	}
	return nil
}

// BenchmarkTotals writes the totals of 100,000 clients with a session each, to disk. core-% is the share of a core at
// one write a minute.
func BenchmarkTotals(b *testing.B) {
	const sessions = 100_000
	s := newTotals(filepath.Join(b.TempDir(), "totals"), time.Minute, func(identity.PublicKey) bool { return true }, zap.NewNop())
	before := processorTime(b)
	for b.Loop() {
		s.write(b.Context(), distinctSessions(sessions))
	}
	each := (processorTime(b) - before) / time.Duration(b.N)
	b.ReportMetric(100*each.Seconds()/s.every.Seconds(), "core-%")
}
