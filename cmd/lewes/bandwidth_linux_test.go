package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/transport/client"
	"lewes/transport/uri"
)

// TestBandwidth: a client of the list uses up its bandwidth across an upgrade and the end of the process by kill -9,
// which gives back no more than what was not recorded yet. It is notified on the way and refused at the end, and a
// higher limit in the list applies at once.
func TestBandwidth(t *testing.T) {
	t.Parallel()
	const limit = 20_000
	u := launchUpgradable(t, "[access]\nmode = \"listed\"\n[registration]\naccess = \"listed\"\n"+allowEcho)
	target, key, clients := echo(t), identity.FromSeed(&[32]byte{101}), filepath.Join(filepath.Dir(u.config), "clients")
	allow := func(bytes int) {
		t.Helper()
		writeFile(t, clients, fmt.Sprintf("%v anna bytes=%d/30d\n", key.Public(), bytes), 0o600)
	}
	allow(limit)
	u.awaitLog("reloaded the list of clients")

	events := make(chan client.Event, 100)
	dial := func() *client.Session {
		t.Helper()
		to, err := uri.Parse(u.uri)
		if err != nil {
			t.Fatal(err)
		}
		s, err := client.Dial(t.Context(), client.Config{
			Gateway: to, Identity: key, Keys: new(client.KeyCache), Timeout: time.Minute, OnEvent: func(e client.Event) { events <- e },
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	balance := func(s *client.Session, mode client.Mode) uint64 {
		t.Helper()
		r, err := s.Register(t.Context(), client.RegisterRequest{Mode: mode})
		if err != nil {
			t.Fatal(err)
		}
		return r.Remaining
	}
	// use has size bytes echoed on a new flow, which takes twice of it.
	use := func(s *client.Session, size int) error {
		t.Helper()
		conn, err := s.DialContext(t.Context(), "udp", target)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		for buffer := make([]byte, 1000); size > 0; size -= len(buffer) {
			if _, err := conn.Write(buffer); err != nil {
				return err
			}
			if _, err := io.ReadFull(conn, buffer); err != nil {
				return err
			}
		}
		return nil
	}
	s := dial()
	if got := balance(s, client.ModeRelay); got != limit {
		t.Fatalf("%d bytes at first", got)
	}
	if err := use(s, 3000); err != nil {
		t.Fatal(err)
	}
	u.upgrade()
	u.awaitLog("opened the ledger")
	if err := use(s, 2000); err != nil {
		t.Fatal(err)
	}
	if got := balance(s, client.ModeBalance); got != limit-10_000 {
		t.Errorf("%d bytes after an upgrade", got)
	}
	recorded := func() bool {
		_, text := request(t, filepath.Join(filepath.Dir(u.config), "run", "control.sock"), "GET", "/metrics", "")
		return strings.Contains(text, "\nlewes_bandwidth_used_bytes_total 4000\n") && strings.Contains(text, "\nlewes_bandwidth_unrecorded_bytes 0\n")
	}
	for began := time.Now(); !recorded(); time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > patience {
			t.Fatal("usage is not recorded")
		}
	}
	u.kill(syscall.SIGKILL)
	_ = s.Close()

	u.process = launchFile(t, u.program, environment(filepath.Dir(u.config)), "gateway", "--config", u.config)
	u.pid = u.cmd.Process.Pid
	u.uri = u.awaitLine("lewes://")
	s = dial()
	if got := balance(s, client.ModeRelay); got != limit-10_000 {
		t.Errorf("%d bytes after kill -9, when all that was used was recorded", got)
	}
	for len(events) > 0 {
		<-events
	}
	if err := use(s, 4000); err != nil {
		t.Fatal(err)
	}
	env := environment(t.TempDir())
	has(t, mustLewes(t, env, "clients", "list", "--live", "--state", filepath.Dir(u.config)), "  LEFT  ", "  2.0 KiB  ")
	has(t, mustLewes(t, env, "clients", "list", "--live", "--json", "--state", filepath.Dir(u.config)), `"registered":"relay","remaining_bytes":2000,`)
	awaitNotice(t, events, 2000, client.RegisterOK)
	if err := use(s, 2000); !errors.Is(err, syscall.ENOBUFS) {
		t.Errorf("beyond the bandwidth: %v", err)
	}
	awaitNotice(t, events, 0, client.RegisterBandwidthUsedUp)
	allow(limit + 10_000)
	u.awaitLog("reloaded the list of clients")
	if err := use(s, 4000); err != nil {
		t.Errorf("with a higher limit: %v", err)
	}
	if u.end() != exitOK {
		t.Error("the gateway failed")
	}
}

// awaitNotice waits for an unasked result.
func awaitNotice(t *testing.T, events <-chan client.Event, remaining uint64, code client.RegisterCode) {
	t.Helper()
	for timeout := time.After(patience); ; {
		select {
		case e := <-events:
			if e.Kind == client.Registered && e.Registration.Remaining == remaining && e.Registration.Code == code {
				return
			}
		case <-timeout:
			t.Fatalf("no notice of %d bytes", remaining)
		}
	}
}
