package gatewayd

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/router"
	"lewes/state/path"
)

func exampleSession() *router.SessionInfo {
	at := time.Date(2026, 3, 1, 12, 0, 0, 5, time.UTC)
	return &router.SessionInfo{
		Handle: [16]byte{1, 2, 15: 255}, Identity: identity.FromSeed(&[32]byte{1}).Public(), Started: at, Last: at.Add(time.Hour), Moved: at,
		Up: router.Traffic{Packets: 1, Bytes: 2}, Down: router.Traffic{Packets: 3, Bytes: 4}, First: path.UDP,
		Path: path.NewTCP(netip.MustParseAddrPort("198.51.100.7:4711"), netip.Addr{}, 1), RTT: 12500 * time.Microsecond,
		MaxPacket: 1452, Flows: 5, Forwards: 6, Entry: identity.FromSeed(&[32]byte{2}).Public(),
	}
}

func TestSessionAsJSON(t *testing.T) {
	i := exampleSession()
	want := Session{
		Name: `a"b\c`, Identity: i.Identity, Handle: "010200000000000000000000000000ff", Since: i.Started, Last: i.Last,
		Up: Traffic{1, 2}, Down: Traffic{3, 4}, Transport: "tcp", Why: "moved here from udp", RTT: 0.0125, PathMTU: 1480,
		Address: "198.51.100.x", Entry: i.Entry, EntryName: "north", Flows: 5, Forwards: 6,
	}
	var got Session
	if err := json.Unmarshal(appendSession(nil, i, want.Name, want.EntryName, false), &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\n%+v, want\n%+v", err, got, want)
	}
	if err := json.Unmarshal(appendSession(nil, i, "", "", true), &got); err != nil || got.Address != "198.51.100.7:4711" {
		t.Errorf("%+v, %v", got, err)
	}
	least := router.SessionInfo{Identity: i.Identity, Path: path.NewUDP(netip.MustParseAddrPort("[2001:db8:1:2::3]:5"), netip.Addr{}, 0), MaxPacket: 1232}
	got = Session{}
	if err := json.Unmarshal(appendSession(nil, &least, "", "", false), &got); err != nil || got.Address != "2001:db8:1::x" || got.PathMTU != 1280 || got.Transport != "udp" || got.Why != "since the start" {
		t.Errorf("%+v, %v", got, err)
	}
}

// BenchmarkSession appends one session of a list. Beside BenchmarkSessions in package router, it is the
// cost of clients list --live.
func BenchmarkSession(b *testing.B) {
	i, text := exampleSession(), make([]byte, 0, 1<<10)
	b.ReportAllocs()
	for b.Loop() {
		text = appendSession(text[:0], i, "anna-phone", "", false)
	}
}
