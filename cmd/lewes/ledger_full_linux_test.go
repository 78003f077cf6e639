package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"lewes/transport/client"
	"lewes/transport/uri"
)

// TestLedgerOnFullDisk fills the disk of a gateway's ledger: a ticket is refused by its code, and the status shows why. Once there is
// space, the same ticket is taken, without a restart.
func TestLedgerOnFullDisk(t *testing.T) {
	t.Parallel()
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	m := newMint(t)
	g := launchGateway(t, fmt.Sprintf("[access]\nmode = \"open\"\n[registration]\naccess = \"tickets\"\nledger = %q\nissuers = [%q]\n", filepath.Join(disk, "ledger"), m.source))
	to, err := uri.Parse(g.uri)
	if err != nil {
		t.Fatal(err)
	}
	s := dialSpender(t, to, 1)
	if s == nil {
		return
	}
	if err := s.spend(m.ticket(to.Identity)); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(disk, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 2<<20), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}

	// Pages that the ledger has already may still take some.
	ticket := m.ticket(to.Identity)
	for range 50 {
		r, err := s.session.Register(context.Background(), client.RegisterRequest{Mode: client.ModeRelay, TicketType: client.TicketBlindRSA2048, Credential: ticket})
		if err != nil {
			t.Fatal(err)
		}
		if r.Code == client.RegisterStorageFailed {
			break
		}
		if r.Code != client.RegisterOK {
			t.Fatalf("%v (%s)", r.Code, r.Detail)
		}
		s.spent = append(s.spent, ticket)
		ticket = m.ticket(to.Identity)
	}
	has(t, mustLewes(t, environment(g.dir), "status", "--state", g.dir), "the ledger cannot be read or written")
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := s.spend(ticket); err != nil {
		t.Errorf("with space: %v", err)
	}
	hasNot(t, mustLewes(t, environment(g.dir), "status", "--state", g.dir), "the ledger cannot be read or written")
}
