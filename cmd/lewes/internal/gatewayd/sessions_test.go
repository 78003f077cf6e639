//go:build unix

package gatewayd

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"slices"
	"syscall"
	"testing"
	"time"

	"lewes/cmd/lewes/internal/config"
	"lewes/cmd/lewes/internal/control"
	"lewes/crypto/identity"
	"lewes/router"
	"lewes/router/unlisted"
	"lewes/state/path"
	"lewes/state/wire"
)

func exampleSession() *router.SessionInfo {
	at := time.Date(2026, 3, 1, 12, 0, 0, 5, time.UTC)
	return &router.SessionInfo{
		Handle: [16]byte{1, 2, 15: 255}, Identity: identity.FromSeed(&[32]byte{1}).Public(), Started: at, Last: at.Add(time.Hour), Moved: at,
		Up: router.Traffic{Packets: 1, Bytes: 2}, Down: router.Traffic{Packets: 3, Bytes: 4}, First: path.UDP,
		Path: path.NewTCP(netip.MustParseAddrPort("198.51.100.7:4711"), netip.Addr{}, 1), RTT: 12500 * time.Microsecond,
		MaxPacket: 1452, Flows: 5, Forwards: 6, Entry: identity.FromSeed(&[32]byte{2}).Public(),
		Mode: wire.ModeRelay, Left: 7,
	}
}

func TestSessionAsJSON(t *testing.T) {
	i := exampleSession()
	want := Session{
		Name: `a"b\c`, Identity: i.Identity, Handle: "010200000000000000000000000000ff", Since: i.Started, Last: i.Last,
		Up: Traffic{1, 2}, Down: Traffic{3, 4}, Transport: "tcp", Why: "moved here from udp", RTT: 0.0125, PathMTU: 1480,
		Address: "198.51.100.x", Entry: i.Entry, EntryName: "north", Flows: 5, Forwards: 6,
		Registered: "relay", Remaining: new(uint64(7)),
	}
	var got Session
	if err := json.Unmarshal(appendSession(nil, i, want.Name, want.EntryName, false), &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\n%+v, want\n%+v", err, got, want)
	}
	if err := json.Unmarshal(appendSession(nil, i, "", "", true), &got); err != nil || got.Address != "198.51.100.7:4711" {
		t.Errorf("%+v, %v", got, err)
	}
	unlimited := router.SessionInfo{Identity: i.Identity, Mode: wire.ModeDVPN, Left: wire.Unlimited}
	got = Session{}
	if err := json.Unmarshal(appendSession(nil, &unlimited, "", "", false), &got); err != nil || got.Registered != "dvpn" || got.Remaining != nil {
		t.Errorf("%+v, %v", got, err)
	}
	least := router.SessionInfo{Identity: i.Identity, Path: path.NewUDP(netip.MustParseAddrPort("[2001:db8:1:2::3]:5"), netip.Addr{}, 0), MaxPacket: 1232}
	got = Session{}
	if err := json.Unmarshal(appendSession(nil, &least, "", "", false), &got); err != nil || got.Address != "2001:db8:1::x" || got.PathMTU != 1280 || got.Transport != "udp" || got.Why != "since the start" {
		t.Errorf("%+v, %v", got, err)
	}
}

// manySessions is a source of many equal sessions.
type manySessions int

func (manySessions) MeasureRTT(context.Context) int { return 0 }
func (manySessions) Unlisted() []unlisted.Entry     { return nil }

func (n manySessions) Sessions(_ context.Context, yield func([]router.SessionInfo) error) error {
	some := slices.Repeat([]router.SessionInfo{*exampleSession()}, 128)
	for left := int(n); left > 0; left -= len(some) {
		if err := yield(some[:min(left, len(some))]); err != nil {
			return err
		}
	}
	return nil
}

// TestListIsOneObject decodes a list of several slices.
func TestListIsOneObject(t *testing.T) {
	for _, n := range []int{0, 1, 300} {
		var list ClientList
		w := httptest.NewRecorder()
		listing().writeClients(t.Context(), w, manySessions(n), false, new(control.Throttle))
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || len(list.Sessions) != n || list.Unlisted == nil {
			t.Errorf("%d sessions of %d, %v", len(list.Sessions), n, err)
		}
	}
}

// listing returns a process that can list sessions.
func listing() *Process {
	p := &Process{access: openAccess()}
	p.gatewayNames.Store(gatewayNames(config.Default()))
	return p
}

// BenchmarkList writes a list of 100,000 sessions. The shards' part of its cost is BenchmarkSessions in
// package router. core-% is the share of a core that a list every 15 s takes.
func BenchmarkList(b *testing.B) {
	const sessions, every = 100_000, 15 * time.Second
	p, w := listing(), discard{make(http.Header)}
	before := processorTime(b)
	for b.Loop() {
		p.writeClients(b.Context(), w, manySessions(sessions), false, new(control.Throttle))
	}
	each := (processorTime(b) - before) / time.Duration(b.N) // without the pauses
	b.ReportMetric(float64(each.Nanoseconds())/sessions, "ns/session")
	b.ReportMetric(100*each.Seconds()/every.Seconds(), "core-%")
}

// processorTime returns the time that this process has used.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// discard is an http.ResponseWriter.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}
