package registrar

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/router/account"
	"lewes/router/wireguard"
	"lewes/state/ledger"
	"lewes/state/wire"
)

func check(t *testing.T, r *wire.RegisterResult, want wire.RegisterCode) {
	t.Helper()
	if r.Code != want {
		t.Fatalf("%v (%v), not %v", r.Code, r.Error, want)
	}
}

// TestTicketIsSpentOnce: the same request has its first result in other sessions, and nobody else can use its
// ticket.
//
// Shows R9.3, R9.17.
func TestTicketIsSpentOnce(t *testing.T) {
	w := newWorld(t, Tickets)
	alice, again, bob := session{1, 1}, session{1, 2}, session{2, 1}
	first := w.register(alice, wire.ModeRelay, pay(1, 7))
	check(t, first, wire.CodeOK)
	if first.Remaining != 1000 || first.ExpiresAt != uint64(w.now.Add(time.Hour).Unix()) {
		t.Errorf("%d bytes until %d", first.Remaining, first.ExpiresAt)
	}
	w.now = w.now.Add(time.Minute)
	w.l.accounts[identity.PublicKey{1}].Grants[0].Used = 300
	if r := w.register(again, wire.ModeRelay, pay(1, 7)); !reflect.DeepEqual(r, first) {
		t.Errorf("%+v, not the first result %+v", r, first)
	}
	check(t, w.register(bob, wire.ModeRelay, pay(1, 7)), wire.CodeAlreadySpent)
	check(t, w.register(alice, wire.ModeDVPN, pay(1, 7)), wire.CodeAlreadySpent) // another mode is another request
	if r := w.register(again, wire.ModeBalance, nil); r.Code != wire.CodeOK || r.Remaining != 700 {
		t.Errorf("balance: %+v", r)
	}
	if r := w.register(alice, wire.ModeRelay, pay(1, 8)); r.Code != wire.CodeOK || r.Remaining != 1700 {
		t.Errorf("a second ticket: %+v", r)
	}
	if w.l.commits != 2 {
		t.Errorf("%d commits", w.l.commits)
	}
}

// TestTicketIsAskedForFirst: a Register without a credential has what stands, or the tickets that the gateway takes.
//
// Shows R9.20.
func TestTicketIsAskedForFirst(t *testing.T) {
	w := newWorld(t, Tickets)
	alice := session{1, 1}
	for _, mode := range []wire.Mode{wire.ModeRelay, wire.ModeDVPN, wire.ModeMixnet, wire.ModeBalance} {
		r := w.register(alice, mode, nil)
		check(t, r, wire.CodeTicketNeeded)
		if len(r.Tickets) != 1 || w.l.commits != 0 || len(w.device.taken) != 0 {
			t.Errorf("%v: %+v, %d commits, %d addresses", mode, r, w.l.commits, len(w.device.taken))
		}
	}
	check(t, w.register(alice, wire.ModeRelay, pay(1, 1)), wire.CodeOK)
	for _, mode := range []wire.Mode{wire.ModeRelay, wire.ModeDVPN, wire.ModeMixnet, wire.ModeBalance} {
		if r := w.register(alice, mode, nil); r.Code != wire.CodeOK || r.Remaining != 1000 {
			t.Errorf("%v: %+v", mode, r)
		}
	}
	w.now = w.now.Add(time.Hour)
	check(t, w.register(alice, wire.ModeRelay, nil), wire.CodeTicketNeeded)
}

// TestRefusalsSpendNothing: everything that can refuse comes before the commit, and leaves no address reserved.
//
// Shows R9.2, R9.15, R9.16.
func TestRefusalsSpendNothing(t *testing.T) {
	paid := pay(1, 1)
	for _, c := range []struct {
		name   string
		access Access
		mode   wire.Mode
		change func(*wire.Register)
		setUp  func(*world)
		want   wire.RegisterCode
	}{
		{name: "mode", mode: wire.ModeDVPN, change: paid, setUp: func(w *world) { w.config.Modes = []wire.Mode{wire.ModeRelay} }, want: wire.CodeModeNotOffered},
		{name: "client behind", change: func(m *wire.Register) { paid(m); m.Timestamp -= 301 }, want: wire.CodeClock},
		{name: "client ahead", change: func(m *wire.Register) { paid(m); m.Timestamp += 301 }, want: wire.CodeClock},
		{name: "clock of 1970", change: func(m *wire.Register) { paid(m); m.Timestamp = 0 }, want: wire.CodeClock},
		{name: "not listed", access: Listed, want: wire.CodeNotAllowed},
		{name: "proof", mode: wire.ModeDVPN, change: func(m *wire.Register) { paid(m); m.WGProof = make([]byte, 16) }, want: wire.CodeBadRequest},
		{name: "no address", mode: wire.ModeDVPN, change: paid, setUp: func(w *world) { w.device.size = 0 }, want: wire.CodeNoAddressFree},
		{name: "no device", mode: wire.ModeDVPN, change: paid, setUp: func(w *world) { w.device.full = errDevice }, want: wire.CodeDeviceFailed},
		{name: "peer of others", mode: wire.ModeDVPN, change: paid, setUp: func(w *world) { w.device.full = wireguard.ErrForeignPeer }, want: wire.CodeDeviceFailed},
		{name: "form", mode: wire.ModeDVPN, change: func(m *wire.Register) { paid(m); m.Credential = m.Credential[1:] }, want: wire.CodeTicketInvalid},
		{name: "expired", mode: wire.ModeDVPN, change: pay(2, 1), want: wire.CodeTicketExpired},
		{name: "signature", mode: wire.ModeDVPN, change: pay(3, 1), want: wire.CodeTicketInvalid},
		{name: "key", mode: wire.ModeDVPN, change: pay(4, 1), want: wire.CodeUnknownIssuerKey},
		{name: "key below the floor", mode: wire.ModeDVPN, change: paid, setUp: func(w *world) { w.l.fail = ledger.ErrKeyClosed }, want: wire.CodeTicketExpired},
		{name: "65th grant", mode: wire.ModeDVPN, change: paid, setUp: func(w *world) { w.l.fail = ledger.ErrGrants }, want: wire.CodeNotAllowed},
		{name: "full disk", mode: wire.ModeDVPN, change: paid, setUp: func(w *world) { w.l.fail = ledger.ErrFull }, want: wire.CodeStorageFailed},
		{name: "no ledger yet", change: paid, setUp: func(w *world) { w.Registrar.ledger.Store(new(ledgerState)) }, want: wire.CodeBusy},
		{name: "no ledger", change: paid, setUp: func(w *world) { w.SetFailed(ledger.ErrDamaged) }, want: wire.CodeStorageFailed},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, Tickets)
			if c.access != 0 {
				w.config.Access = c.access
			}
			if c.setUp != nil {
				c.setUp(w)
			}
			if c.mode == 0 {
				c.mode = wire.ModeRelay
			}
			r := w.register(session{1, 1}, c.mode, c.change)
			check(t, r, c.want)
			if w.l.commits != 0 || len(w.l.spent) != 0 || len(w.device.taken) != 0 || len(w.device.peers) != 0 {
				t.Errorf("%d commits, %d spent, %d addresses, %d peers", w.l.commits, len(w.l.spent), len(w.device.taken), len(w.device.peers))
			}
			if len(r.Error) == 0 || len(r.Error) > wire.MaxDetail {
				t.Errorf("text %q", r.Error)
			}
			if w.Results()[c.want] != 1 {
				t.Errorf("counted %v", w.Results())
			}
		})
	}
}

// TestMalformedRegisterIsBadRequest: a malformed Register is answered, and changes nothing.
//
// Shows R9.2.
func TestMalformedRegisterIsBadRequest(t *testing.T) {
	w := newWorld(t, Tickets)
	whole := w.message(session{1, 1}, wire.ModeRelay, pay(1, 1)).Message
	for _, message := range [][]byte{whole[:4], whole[:len(whole)-1], append(bytes.Clone(whole), 0), append(bytes.Clone(whole[:4]), 0xa0)} {
		check(t, w.submit(&Request{Message: message}), wire.CodeBadRequest)
	}
	if w.l.commits != 0 {
		t.Errorf("%d commits", w.l.commits)
	}
}

// TestUncertainCommitKeepsAddresses: what may have been written keeps its addresses.
func TestUncertainCommitKeepsAddresses(t *testing.T) {
	w := newWorld(t, Tickets)
	w.l.fail = fmt.Errorf("%w: sync", ledger.ErrStorage)
	check(t, w.register(session{1, 1}, wire.ModeDVPN, pay(1, 1)), wire.CodeStorageFailed)
	if len(w.device.taken) != 1 {
		t.Error("an address that may be in the ledger is free")
	}
}

func TestOneTicketSpentByManyAtOnce(t *testing.T) {
	for _, clients := range []byte{1, 100} {
		w := newWorld(t, Tickets)
		var all sync.WaitGroup
		busy := uint64(0)
		for i := range byte(100) {
			q := w.message(session{1 + i%clients, i}, wire.ModeRelay, pay(1, 1))
			all.Add(1)
			if !w.Submit(q, func(*wire.RegisterResult, Registration) { all.Done() }) {
				busy++
				all.Done()
			}
		}
		all.Wait()
		grants := 0
		for _, a := range w.l.accounts {
			grants += len(a.Grants)
		}
		want := 100 - busy
		if clients > 1 {
			want = 1
		}
		if results := w.Results(); grants != 1 || results[wire.CodeOK] != want || results[wire.CodeAlreadySpent] != 100-busy-want {
			t.Errorf("%d clients: %d grants, %v", clients, grants, results)
		}
	}
}

// TestFailedDeviceKeepsGrant: the grant stays, and a repeat goes on at the device, even in another session.
func TestFailedDeviceKeepsGrant(t *testing.T) {
	w := newWorld(t, Tickets)
	w.device.fail = errDevice
	r := w.register(session{1, 1}, wire.ModeDVPN, pay(1, 1))
	check(t, r, wire.CodeDeviceFailed)
	if r.Remaining != 1000 {
		t.Errorf("%d bytes remain", r.Remaining)
	}
	w.device.fail = nil
	r = w.register(session{1, 2}, wire.ModeDVPN, pay(1, 1))
	check(t, r, wire.CodeOK)
	if p := w.device.peers[[32]byte{1}]; r.Remaining != 1000 || r.Peer.IPv4 != p.IPv4 || p.PSK != w.device.PSK(p.Key, [32]byte{2}) {
		t.Errorf("%+v with peer %+v", r, p)
	}
	if len(w.device.taken) != 1 || len(w.l.spent) != 1 {
		t.Errorf("%d addresses, %d spent", len(w.device.taken), len(w.l.spent))
	}
}

// TestPresharedKeyIsTheLastSessions: a repeat in another session changes the preshared key, at the device and in
// the ledger.
//
// Shows R9.6, R9.33.
func TestPresharedKeyIsTheLastSessions(t *testing.T) {
	w := newWorld(t, Tickets)
	first := w.register(session{1, 1}, wire.ModeDVPN, pay(1, 1))
	for exporter := range byte(3) {
		r := w.register(session{1, exporter}, wire.ModeDVPN, pay(1, 1))
		if !reflect.DeepEqual(r, first) {
			t.Errorf("%+v, not %+v", r, first)
		}
		p := w.device.peers[[32]byte{1}]
		if len(w.device.peers) != 1 || p.PSK != w.device.PSK(p.Key, [32]byte{exporter}) {
			t.Errorf("session %d: %d peers, %+v", exporter, len(w.device.peers), p)
		}
		at, _ := w.l.accounts[identity.PublicKey{1}].Attachment(ledger.DVPN)
		if sealed, err := w.sealer.open(identity.PublicKey{1}, &at); err != nil || sealed != p || at.State != ledger.On {
			t.Errorf("the ledger has %+v (%v) in state %v", sealed, err, at.State)
		}
	}
}

func TestNewKeyReplacesPeer(t *testing.T) {
	w := newWorld(t, Tickets)
	first := w.register(session{1, 1}, wire.ModeDVPN, pay(1, 1))
	r := w.register(session{1, 1}, wire.ModeDVPN, func(m *wire.Register) { m.WGPublicKey = bytes.Repeat([]byte{5}, 32) })
	check(t, r, wire.CodeOK)
	if r.Peer.IPv4 != first.Peer.IPv4 || len(w.device.peers) != 1 || w.device.peers[[32]byte(bytes.Repeat([]byte{5}, 32))].IPv4 != r.Peer.IPv4 {
		t.Errorf("%+v after %+v: %d peers", r.Peer, first.Peer, len(w.device.peers))
	}
	if a := w.l.accounts[identity.PublicKey{1}]; len(a.Attachments) != 1 || a.Attachments[0].State != ledger.On {
		t.Errorf("%+v", a.Attachments)
	}
}

// TestProvedKeyMoves: who proves a key has it, and nobody without a proof.
//
// Shows R9.31, R9.32.
func TestProvedKeyMoves(t *testing.T) {
	w := newWorld(t, Tickets)
	check(t, w.register(session{1, 1}, wire.ModeDVPN, pay(1, 1)), wire.CodeOK)
	key := append([]byte{1}, make([]byte, 31)...)
	stolen := func(m *wire.Register) { pay(1, 2)(m); m.WGPublicKey, m.WGProof = key, make([]byte, 16) }
	check(t, w.register(session{2, 1}, wire.ModeDVPN, stolen), wire.CodeBadRequest)
	if w.device.peers[[32]byte(key)].Account != (identity.PublicKey{1}) {
		t.Fatal("the owner lost its peer")
	}
	check(t, w.register(session{2, 1}, wire.ModeDVPN, func(m *wire.Register) { pay(1, 2)(m); m.WGPublicKey = key }), wire.CodeOK)
	if w.device.peers[[32]byte(key)].Account != (identity.PublicKey{2}) || len(w.l.accounts[identity.PublicKey{1}].Attachments) != 0 {
		t.Error("the key did not move")
	}
}

// TestQueueIsBounded: the 257th Register is refused at once, and Close waits for the others.
//
// Shows R9.18.
func TestQueueIsBounded(t *testing.T) {
	w := newWorld(t, Tickets)
	w.device.gate = make(chan struct{})
	var done sync.WaitGroup
	for i := range MaxQueue {
		if i%MaxClient == 0 && i > 0 && w.Submit(w.message(session{byte(i / MaxClient), 1}, wire.ModeRelay, nil), nil) {
			t.Error("accepted one more of the same client")
		}
		q := w.message(session{byte(1 + i/MaxClient), 1}, wire.ModeDVPN, pay(1, uint64(i)))
		done.Add(1)
		if !w.Submit(q, func(*wire.RegisterResult, Registration) { done.Done() }) {
			t.Fatalf("refused after %d", i)
		}
	}
	if w.Submit(w.message(session{200, 1}, wire.ModeRelay, nil), nil) {
		t.Error("accepted one more")
	}
	close(w.device.gate)
	w.Close()
	done.Wait()
	if w.UnderWay() != 0 || len(w.clients) != 0 || w.Submit(w.message(session{2, 1}, wire.ModeRelay, nil), nil) {
		t.Error("a closed registrar has Registers under way, or takes one")
	}
}

// TestOpenNeedsNoLedger: where nothing is counted, relay stands by itself, without its ledger too.
func TestOpenNeedsNoLedger(t *testing.T) {
	w := newWorld(t, Open)
	w.SetFailed(errors.New("damaged"))
	for _, mode := range []wire.Mode{wire.ModeRelay, wire.ModeMixnet, wire.ModeBalance} {
		if r := w.register(session{1, 1}, mode, nil); r.Code != wire.CodeOK || r.Remaining != wire.Unlimited {
			t.Errorf("%v: %+v", mode, r)
		}
	}
	check(t, w.register(session{1, 1}, wire.ModeDVPN, nil), wire.CodeStorageFailed)
}

// TestFullLedgerIsBusy: a ledger without room for an account, or for an attachment, has changed nothing.
func TestFullLedgerIsBusy(t *testing.T) {
	for _, full := range []error{ledger.ErrAccounts, ledger.ErrAttachments} {
		w := newWorld(t, Tickets)
		w.l.fail = full
		check(t, w.register(session{1, 1}, wire.ModeDVPN, pay(1, 1)), wire.CodeBusy)
		if len(w.device.taken) != 0 {
			t.Error("an address is lost")
		}
	}
}

// TestPaidPeerDoesNotEnd: an account that was used up keeps its peer if it is paid for before End has its turn.
func TestPaidPeerDoesNotEnd(t *testing.T) {
	w := newWorld(t, Tickets)
	check(t, w.register(session{1, 1}, wire.ModeDVPN, pay(1, 1)), wire.CodeOK)
	w.l.accounts[identity.PublicKey{1}].Grants[0].Used = 1000
	check(t, w.register(session{1, 1}, wire.ModeDVPN, pay(1, 2)), wire.CodeOK)
	if err := w.End(t.Context(), identity.PublicKey{1}); err != nil || len(w.device.peers) != 1 {
		t.Errorf("%d peers (%v)", len(w.device.peers), err)
	}
	w.l.accounts[identity.PublicKey{1}].Grants[1].Used = 1000
	if err := w.End(t.Context(), identity.PublicKey{1}); err != nil || len(w.device.peers) != 0 {
		t.Errorf("%d peers of an account with nothing left (%v)", len(w.device.peers), err)
	}
}

// TestRepeatHasTheDeviceOfNow: a repeat has the peer as the device has it now, whose key the preshared key needs.
func TestRepeatHasTheDeviceOfNow(t *testing.T) {
	w := newWorld(t, Tickets)
	check(t, w.register(session{1, 1}, wire.ModeDVPN, pay(1, 1)), wire.CodeOK)
	w.l.accounts[identity.PublicKey{1}].Grants[0].Used = 999
	if err := w.end(t.Context(), identity.PublicKey{1}, func(*ledger.Account) bool { return true }); err != nil {
		t.Fatal(err)
	}
	check(t, w.register(session{2, 1}, wire.ModeDVPN, pay(1, 2)), wire.CodeOK) // with the first one's address
	r := w.register(session{1, 2}, wire.ModeDVPN, pay(1, 1))
	if check(t, r, wire.CodeOK); r.Peer.IPv4 != w.device.peers[[32]byte{1}].IPv4 {
		t.Errorf("the result has %v, the device %v", r.Peer.IPv4, w.device.peers[[32]byte{1}].IPv4)
	}
}

// TestRecoverCompletesAttachments: a start sets up what was being added, and removes what was being removed.
func TestRecoverCompletesAttachments(t *testing.T) {
	w := newWorld(t, Tickets)
	for client := range byte(3) {
		check(t, w.register(session{client + 1, 1}, wire.ModeDVPN, pay(1, uint64(client))), wire.CodeOK)
	}
	w.l.accounts[identity.PublicKey{1}].Attachments[0].State = ledger.Adding
	w.l.accounts[identity.PublicKey{2}].Attachments[0].State = ledger.Removing
	before := w.device.peers
	w.device.peers = make(map[[32]byte]Peer)
	if err := w.Recover(t.Context(), w.l); err != nil {
		t.Fatal(err)
	}
	delete(before, [32]byte{2})
	if !reflect.DeepEqual(w.device.peers, before) {
		t.Errorf("peers %+v, not %+v", w.device.peers, before)
	}
	if at := w.l.accounts[identity.PublicKey{1}].Attachments[0]; at.State != ledger.On || len(w.l.accounts[identity.PublicKey{2}].Attachments) != 0 {
		t.Errorf("attachments %+v", at)
	}
	w.l.accounts[identity.PublicKey{3}].Grants[0].Used = 1000
	if err := w.End(t.Context(), identity.PublicKey{3}); err != nil || len(w.device.peers) != 1 || len(w.l.accounts[identity.PublicKey{3}].Attachments) != 0 {
		t.Errorf("End: %v, %d peers", err, len(w.device.peers))
	}
}

// TestListedClientHasItsPeriod: a listed client has the bytes of the list once in each period, by its next Register
// or by Renew, and a changed amount at once.
func TestListedClientHasItsPeriod(t *testing.T) {
	w := newWorld(t, Listed)
	alice, bob := session{1, 1}, session{2, 1}
	w.limits[identity.PublicKey{1}] = account.Limits{Bytes: 500, Period: time.Hour}
	w.limits[identity.PublicKey{2}] = account.Limits{}
	if r := w.register(bob, wire.ModeRelay, nil); r.Code != wire.CodeOK || r.Remaining != wire.Unlimited {
		t.Errorf("a client without limits: %+v", r)
	}
	if r := w.register(alice, wire.ModeBalance, nil); r.Remaining != 500 || w.l.commits != 0 {
		t.Errorf("balance: %+v, %d commits", r, w.l.commits)
	}
	for range 2 {
		if r := w.register(alice, wire.ModeRelay, nil); r.Code != wire.CodeOK || r.Remaining != 500 || w.l.commits != 1 {
			t.Errorf("%+v, %d commits", r, w.l.commits)
		}
	}
	w.l.accounts[identity.PublicKey{1}].Grants[0].Used = 500
	check(t, w.register(alice, wire.ModeRelay, nil), wire.CodeBandwidthUsedUp)
	check(t, w.register(alice, wire.ModeRelay, pay(1, 1)), wire.CodeBandwidthUsedUp)
	if _, found, err := w.Renew(t.Context(), identity.PublicKey{1}); found || err != nil {
		t.Errorf("renewed within the period (%v)", err)
	}
	w.now = w.now.Add(time.Hour)
	if grants, found, err := w.Renew(t.Context(), identity.PublicKey{1}); !found || err != nil || grants[len(grants)-1].Expires != w.now.Add(time.Hour) {
		t.Errorf("not renewed: %v (%v)", grants, err)
	}
	if r := w.register(alice, wire.ModeRelay, nil); r.Code != wire.CodeOK || r.Remaining != 500 {
		t.Errorf("the next period: %+v", r)
	}
	w.limits[identity.PublicKey{1}] = account.Limits{Bytes: 500, Period: time.Hour, Expires: w.now}
	check(t, w.register(alice, wire.ModeRelay, nil), wire.CodeNotAllowed)
}

// TestEndGoesOn: an end that the device failed is completed by the next one, and the client can register again.
func TestEndGoesOn(t *testing.T) {
	w := newWorld(t, Tickets)
	alice := identity.PublicKey{1}
	check(t, w.register(session{1, 1}, wire.ModeDVPN, pay(1, 1)), wire.CodeOK)
	w.l.accounts[alice].Grants[0].Used = 1000
	w.device.fail = errDevice
	if err := w.End(t.Context(), alice); !errors.Is(err, errDevice) || w.l.accounts[alice].Attachments[0].State != ledger.Removing {
		t.Errorf("%v, %+v", err, w.l.accounts[alice].Attachments)
	}
	w.device.fail = nil
	for range 2 {
		if err := w.End(t.Context(), alice); err != nil || len(w.l.accounts[alice].Attachments) != 0 || len(w.device.peers) != 0 {
			t.Errorf("%v, %+v, %d peers", err, w.l.accounts[alice].Attachments, len(w.device.peers))
		}
	}
	w.l.accounts[alice].Grants[0].Used = 0
	check(t, w.register(session{1, 1}, wire.ModeDVPN, nil), wire.CodeOK)
}
