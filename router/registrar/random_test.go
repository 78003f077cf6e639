package registrar

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/state/ledger"
	"lewes/state/wire"
)

// TestRandomRegistrations has a few clients register, with tickets and keys that they share, beside a device that fails
// at times, ends and restarts: tickets, accounts, addresses and the device agree all the time.
func TestRandomRegistrations(t *testing.T) {
	const clients, keys, numbers, steps = 4, 3, 60, 200
	random := rand.New(rand.NewPCG(1, 2))
	path := filepath.Join(t.TempDir(), "ledger")
	device := newDevice(16)
	now := time.Unix(2_000_000_000, 0)
	var r *Registrar
	var l *ledger.Ledger
	restart := func() {
		if r != nil {
			r.Close()
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
		device.fail = nil
		r = New(Config{
			Access: Tickets, Modes: []wire.Mode{wire.ModeRelay, wire.ModeDVPN, wire.ModeMixnet}, Tickets: new(fakeTickets), Device: device, Sealing: new([32]byte),
			Now: func() time.Time { return now },
		})
		var err error
		if l, err = ledger.Open(path, ledger.Options{Gateway: identity.PublicKey{9}, Now: now}); err == nil {
			err = r.Recover(context.Background(), l)
		}
		if err != nil {
			t.Fatal(err)
		}
		r.SetLedger(l)
	}
	restart()
	defer func() {
		r.Close()
		_ = l.Close()
	}()
	owner := make(map[uint64]identity.PublicKey) // of spent tickets
	failed := false                              // the device has failed since the last restart
	for step := range steps {
		now = now.Add(time.Second)
		client := identity.PublicKey{1 + byte(random.IntN(clients))}
		switch n := random.IntN(20); {
		case n == 0:
			restart()
			failed = false
		case n == 1:
			device.fail, failed = errDevice, true
		case n == 2:
			device.fail = nil
		case n == 3:
			if err := r.end(t.Context(), client, func(*ledger.Account) bool { return true }); err != nil && device.fail == nil {
				t.Fatalf("step %d: end: %v", step, err)
			}
		default:
			m := wire.Register{RequestID: 1, Mode: wire.ModeRelay + wire.Mode(random.IntN(3)), Timestamp: uint64(now.Unix())}
			number := uint64(random.IntN(numbers))
			paid := random.IntN(2) == 0
			if paid {
				pay(1, number)(&m)
			}
			exporter := byte(random.IntN(3))
			switch m.Mode {
			case wire.ModeMixnet:
				m.ClientID = make([]byte, 32)
			case wire.ModeDVPN:
				m.WGPublicKey = append([]byte{1 + byte(random.IntN(keys))}, make([]byte, 31)...)
				m.WGProof = proofOf([32]byte(m.WGPublicKey), [32]byte{exporter})
			}
			done := make(chan *wire.RegisterResult, 1)
			if !r.Submit(&Request{Client: client, Exporter: [32]byte{exporter}, Message: m.Append(nil)}, func(result *wire.RegisterResult, _ Registration) { done <- result }) {
				t.Fatal("the queue is full")
			}
			result := <-done
			by, spent := owner[number]
			switch result.Code {
			case wire.CodeOK, wire.CodeDeviceFailed:
				if paid && spent && by != client {
					t.Fatalf("step %d: ticket %d is taken from %v and %v", step, number, by, client)
				}
				if paid {
					owner[number] = client
				}
			case wire.CodeAlreadySpent:
				if !spent {
					t.Fatalf("step %d: ticket %d is called spent", step, number)
				}
			case wire.CodeTicketNeeded, wire.CodeNoAddressFree:
			default:
				t.Fatalf("step %d: %v of %+v: %+v", step, client, m, result)
			}
			if result.Code == wire.CodeDeviceFailed && device.fail == nil {
				t.Fatalf("step %d: the device did not fail", step)
			}
		}
		checkAgreement(t, step, r, l, device, owner, failed)
	}
	t.Logf("%d tickets were spent", len(owner))
}

// checkAgreement compares the ledger with the tickets that were spent, and with the device unless it failed.
func checkAgreement(t *testing.T, step int, r *Registrar, l *ledger.Ledger, d *fakeDevice, owner map[uint64]identity.PublicKey, failed bool) {
	t.Helper()
	grants, peers, taken := 0, 0, make(map[netip.Addr]bool)
	err := l.Accounts(func(a ledger.Account) error {
		grants += len(a.Grants)
		for _, at := range a.Attachments {
			if at.Mode != ledger.DVPN {
				continue
			}
			p, err := r.sealer.open(a.ID, &at)
			if err != nil {
				return err
			}
			if at.State != ledger.Removing && taken[p.IPv4] {
				t.Fatalf("step %d: address %v has two owners", step, p.IPv4)
			}
			if at.State != ledger.Removing {
				taken[p.IPv4] = true
				peers++
			}
			if !failed && (at.State != ledger.On || d.peers[p.Key] != p) {
				t.Fatalf("step %d: attachment %+v with peer %+v", step, at, d.peers[p.Key])
			}
		}
		return nil
	})
	if err != nil || grants != len(owner) {
		t.Fatalf("step %d: %d grants of %d tickets (%v)", step, grants, len(owner), err)
	}
	if !failed && len(d.peers) != peers {
		t.Fatalf("step %d: %d peers, %d attachments", step, len(d.peers), peers)
	}
}
