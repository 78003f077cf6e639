//go:build unix

package control

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestThrottleLeavesAShare(t *testing.T) {
	var throttle Throttle
	now := time.Unix(1_700_000_000, 0)
	if pause := throttle.Spend(now, throttleBurst); pause != 0 {
		t.Errorf("%v after the burst", pause)
	}
	total, used := time.Duration(0), 10*time.Millisecond
	for range 100 {
		pause := throttle.Spend(now, used)
		total += pause
		now = now.Add(pause)
	}
	if want := 100 * used * throttleShare; total != want {
		t.Errorf("paused for %v, want %v", total, want)
	}
	now = now.Add(throttleBurst * throttleShare)
	if pause := throttle.Spend(now, throttleBurst); pause != 0 {
		t.Errorf("%v after a rest", pause)
	}
}

func TestListenReplacesSocketThatNobodyServes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "x.sock")
	first, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := SetGroup(path, ""); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]os.FileMode{path: socketMode, filepath.Dir(path): dirMode} {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", file, info.Mode(), err)
		}
	}
	if _, err := Listen(path); !errors.Is(err, ErrInUse) {
		t.Errorf("a socket in use: %v", err)
	}
	_ = first.Close()
	second, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	_ = second.Close()
	if err := SetGroup(path, "no such group"); err == nil {
		t.Error("an unknown group is accepted")
	}
}

// TestRoomForOperators fills a listener: readers leave room for operators, and what makes room for
// another connection has no request under way.
func TestRoomForOperators(t *testing.T) {
	l := newBoundedListener(nil, 1000)
	at := time.Unix(1_700_000_000, 0)
	open := func(uid int) *conn {
		at = at.Add(1)
		return &conn{UnixConn: new(net.UnixConn), peer: peer{known: true, uid: uid}, opened: at, of: l}
	}
	reader := open(7)
	reader.busy.Store(true)
	l.add(reader)
	idle := open(7)
	l.add(idle)
	for range maxReaders - 2 {
		c := open(7)
		c.busy.Store(true)
		if gone, ok := l.add(c); gone != nil || !ok {
			t.Fatal("no room for readers")
		}
	}
	if gone, ok := l.add(open(8)); gone != idle || !ok {
		t.Errorf("%v, %v makes room for another reader", gone, ok)
	}
	for c := range l.open {
		c.busy.Store(true)
	}
	if _, ok := l.add(open(9)); ok {
		t.Error("a reader takes the room of operators")
	}
	quiet := open(0)
	l.add(quiet)
	for range MaxConnections - maxReaders - 1 {
		c := open(1000)
		c.busy.Store(true)
		if gone, ok := l.add(c); gone != nil || !ok {
			t.Fatal("no room for operators")
		}
	}
	if gone, ok := l.add(open(9)); ok || gone != nil {
		t.Error("a reader displaces an operator")
	}
	if gone, ok := l.add(open(0)); !ok || gone != quiet {
		t.Error("a busy connection makes room")
	}
	if len(l.open) != MaxConnections {
		t.Errorf("%d connections", len(l.open))
	}
}

func TestOperator(t *testing.T) {
	for _, row := range []struct {
		peer peer
		uid  int
		want bool
	}{
		{peer{true, 0, 1}, 1000, true},
		{peer{true, 1000, 1}, 1000, true},
		{peer{true, 1001, 1}, 1000, false},
		{peer{false, 0, 0}, 1000, false},
		{peer{true, overflowUID, 1}, overflowUID, false}, // any user without a number here
	} {
		if got := row.peer.operator(row.uid); got != row.want {
			t.Errorf("%+v for %d: %v", row.peer, row.uid, got)
		}
	}
}
