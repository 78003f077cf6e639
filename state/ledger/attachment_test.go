package ledger

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"lewes/crypto/identity"
)

func attachEntry(account identity.PublicKey, a *Attachment) Entry {
	return Entry{Account: account, Attach: a, Now: start}
}

// Registering again with the same key keeps the address and takes the new PSK; with another key, the old peer is to be removed.
func TestAttachmentIsReplaced(t *testing.T) {
	l := fresh(t)
	commit(t, l, attachEntry(client(1), peer(1, "10.0.0.2")))
	again := peer(1, "10.0.0.2")
	again.PSK, again.IPv4 = []byte{8}, netip.Addr{}
	r := commit(t, l, attachEntry(client(1), again))
	if got, _ := r.Account.Attachment(DVPN); len(r.Account.Attachments) != 1 || got.IPv4 != netip.MustParseAddr("10.0.0.2") || got.PSK[0] != 8 {
		t.Errorf("same key: %+v", r.Account.Attachments)
	}
	r = commit(t, l, attachEntry(client(1), peer(2, "10.0.0.3")))
	if a := r.Account.Attachments; len(a) != 2 || a[0].State != Removing || a[1].State != Adding {
		t.Errorf("another key: %+v", a)
	}
	if err := l.RemoveAttachment(context.Background(), client(1), DVPN, [32]byte{6, 1}, 0, start); err != nil {
		t.Fatal(err)
	}
	on := *peer(2, "10.0.0.77") // the address is ignored
	on.State = On
	if err := l.SetAttachment(context.Background(), client(1), on, start); err != nil {
		t.Fatal(err)
	}
	a, _, _ := l.Account(client(1))
	if got := a.Attachments; len(got) != 1 || got[0].State != On || got[0].IPv4 != netip.MustParseAddr("10.0.0.3") {
		t.Errorf("after removal: %+v", got)
	}
	if err := l.RemoveAttachment(context.Background(), client(1), DVPN, [32]byte{6, 1}, 0, start); !errors.Is(err, ErrNoAttachment) {
		t.Errorf("removed twice: %v", err)
	}
}

// A key may get another address, such as after a change of the pool, and its former one rests.
func TestSameKeyGetsAnotherAddress(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	l := open(t, path)
	commit(t, l, attachEntry(client(1), peer(1, "10.0.0.2")))
	commit(t, l, attachEntry(client(2), peer(2, "10.0.0.3")))
	if _, err := l.Commit(context.Background(), attachEntry(client(1), peer(1, "10.0.0.3"))); !errors.Is(err, ErrAddress) {
		t.Errorf("the address of another account: %v", err)
	}
	r := commit(t, l, attachEntry(client(1), peer(1, "10.1.0.2")))
	if a := r.Account.Attachments; len(a) != 1 || a[0].IPv4 != netip.MustParseAddr("10.1.0.2") {
		t.Errorf("%+v", a)
	}
	if _, err := l.Commit(context.Background(), attachEntry(client(2), peer(2, "10.0.0.2"))); !errors.Is(err, ErrAddress) {
		t.Errorf("the former address: %v", err)
	}
	_ = l.Close()
	if r, err := Check(path); err != nil || r.Err() != nil || r.Addresses != 3 {
		t.Errorf("%v, %+v", err, r)
	}
}

// A proved key moves to its prover in one step, and the address of its former owner rests.
func TestKeyMoves(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	l := open(t, path)
	commit(t, l, attachEntry(client(1), peer(1, "10.0.0.2")))
	r := commit(t, l, attachEntry(client(2), peer(1, "10.0.0.3")))
	if r.Moved == nil || r.Moved.IPv4 != netip.MustParseAddr("10.0.0.2") {
		t.Fatalf("moved: %+v", r.Moved)
	}
	_ = l.Close()
	l = open(t, path)
	if a, _, _ := l.Account(client(1)); len(a.Attachments) != 0 {
		t.Errorf("former owner: %+v", a.Attachments)
	}
	if a, _, _ := l.Account(client(2)); len(a.Attachments) != 1 || a.Attachments[0].WireGuardKey != [32]byte{6, 1} {
		t.Errorf("owner: %+v", a.Attachments)
	}
	got := map[string]bool{}
	_ = l.Reservations(func(ip netip.Addr, r Reservation) error {
		got[ip.String()] = r.Until.IsZero()
		return nil
	})
	if held, ok := got["10.0.0.2"]; held || !ok || !got["10.0.0.3"] || len(got) != 2 {
		t.Errorf("reservations: %v", got)
	}
}

// An address has one owner, also after a restart, and rests before it has another.
func TestAddressHasOneOwner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	l := open(t, path)
	commit(t, l, attachEntry(client(1), peer(1, "10.0.0.2")))
	refused := func(now time.Time) bool {
		e := attachEntry(client(2), peer(2, "10.0.0.2"))
		e.Now = now
		_, err := l.Commit(context.Background(), e)
		if err != nil && !errors.Is(err, ErrAddress) {
			t.Fatal(err)
		}
		return err != nil
	}
	if !refused(start) {
		t.Error("held address taken")
	}
	_ = l.Close()
	l = open(t, path)
	if !refused(start) {
		t.Error("held address taken after a restart")
	}
	if err := l.RemoveAttachment(context.Background(), client(1), DVPN, [32]byte{6, 1}, time.Hour, start); err != nil {
		t.Fatal(err)
	}
	if !refused(start.Add(time.Hour - time.Second)) {
		t.Error("resting address taken")
	}
	if refused(start.Add(time.Hour)) {
		t.Error("address not free after its rest")
	}
}

// A new key of an account takes over the address of the old one, which does not rest when that is removed.
func TestNewKeyKeepsTheAddress(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "ledger"))
	commit(t, l, attachEntry(client(1), peer(1, "10.0.0.2")))
	commit(t, l, attachEntry(client(1), peer(2, "10.0.0.2")))
	if err := l.RemoveAttachment(context.Background(), client(1), DVPN, [32]byte{6, 1}, time.Hour, start); err != nil {
		t.Fatal(err)
	}
	for _, now := range []time.Time{start, start.Add(2 * time.Hour)} {
		e := attachEntry(client(2), peer(3, "10.0.0.2"))
		e.Now = now
		if _, err := l.Commit(context.Background(), e); !errors.Is(err, ErrAddress) {
			t.Errorf("the address of another account: %v", err)
		}
	}
	err := l.Reservations(func(ip netip.Addr, r Reservation) error {
		if r.Owner != client(1) || !r.Until.IsZero() {
			t.Errorf("%v: %+v", ip, r)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
