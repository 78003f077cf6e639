//go:build linux

package netns

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"lewes/bench/load"
	"lewes/bench/measure"
	"lewes/bench/sink"
	"lewes/bench/worker"
)

const testVar = "LEWES_TEST_NETNS"

func TestMain(m *testing.M) {
	if os.Getenv(testVar) == "" {
		os.Exit(m.Run())
	}
	if err := worker.Main(map[string]worker.Role{RoleName: Role, "sink": sink.Role, "load": load.Role}); err != nil {
		_, _ = os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
}

func TestDatagramsBetweenTwoMachines(t *testing.T) {
	l := worker.Launcher{Path: os.Args[0], Env: []string{testVar + "=1"}}
	pair, err := NewPair(t.Context(), l)
	if errors.Is(err, worker.ErrNoNamespaces) || errors.Is(err, ErrNoIP) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer pair.Close()

	var at netip.AddrPort
	far, err := l.Start(t.Context(), "sink", sink.Params{At: netip.AddrPortFrom(pair[1].Addr, 0)}, &at, pair[1].Where())
	if err != nil {
		t.Fatal(err)
	}
	defer far.Stop()
	near, err := l.Start(t.Context(), "load", load.Params{To: at}, nil, pair[0].Where())
	if err != nil {
		t.Fatal(err)
	}
	defer near.Stop()
	if err := far.Call(t.Context(), "expect", 1, nil); err != nil {
		t.Fatal(err)
	}
	var sent measure.Sent
	if err := near.Call(t.Context(), "send", measure.Plan{Run: 1, Rate: 10_000, For: 50 * time.Millisecond, Size: 1200, Train: 8}, &sent); err != nil {
		t.Fatal(err)
	}
	var n sink.Count
	for end := time.Now().Add(3 * time.Second); n.Datagrams != sent.Sent; time.Sleep(5 * time.Millisecond) {
		if err := far.Call(t.Context(), "count", worker.None{}, &n); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(end) {
			t.Fatalf("%d sent, %+v arrived", sent.Sent, n)
		}
	}
	if err := pair[0].IP(t.Context(), "link", "show", "nothing"); err == nil || !strings.Contains(err.Error(), "ip link show nothing") {
		t.Errorf("an error of ip is told as %v", err)
	}
}
