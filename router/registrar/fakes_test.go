package registrar

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/kdf"
	"lewes/router/account"
	"lewes/router/wireguard"
	"lewes/state/ledger"
	"lewes/state/wire"
)

var (
	_ Ledger = (*ledger.Ledger)(nil)
	_ Device = (*wireguard.Device)(nil)
)

// memoryLedger is a Ledger without a file.
type memoryLedger struct {
	mu       sync.Mutex
	accounts map[identity.PublicKey]*ledger.Account
	spent    map[[32]byte][32]byte
	results  map[[32]byte][]byte
	commits  int   // that changed something
	fail     error // of every change
}

func newLedger() *memoryLedger {
	return &memoryLedger{accounts: make(map[identity.PublicKey]*ledger.Account), spent: make(map[[32]byte][32]byte), results: make(map[[32]byte][]byte)}
}

func (l *memoryLedger) Account(id identity.PublicKey) (ledger.Account, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.accounts[id]; a != nil {
		return clone(a), true, nil
	}
	return ledger.Account{}, false, nil
}

func clone(a *ledger.Account) ledger.Account {
	return ledger.Account{ID: a.ID, Grants: append([]ledger.Grant(nil), a.Grants...), Attachments: append([]ledger.Attachment(nil), a.Attachments...)}
}

func (l *memoryLedger) Spent(t ledger.Ticket, _ identity.PublicKey, request [32]byte) (spent, same bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	by, spent := l.spent[t.Spent]
	return spent, spent && by == request, nil
}

func (l *memoryLedger) Commit(_ context.Context, e ledger.Entry) (ledger.Receipt, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return ledger.Receipt{}, l.fail
	}
	a := l.accounts[e.Account]
	if a == nil {
		a = &ledger.Account{ID: e.Account}
	}
	r := ledger.Receipt{Outcome: ledger.New}
	if e.Ticket != nil {
		if request, spent := l.spent[e.Ticket.Spent]; spent && request != e.Request {
			return r, ledger.ErrSpent
		} else if spent {
			r.Outcome = ledger.Repeated
		}
	}
	if e.Grant != nil && r.Outcome == ledger.New {
		if len(a.Grants) == ledger.MaxGrants {
			return r, ledger.ErrGrants
		}
		a.Grants = append(a.Grants, *e.Grant)
	}
	if e.Ticket != nil {
		l.spent[e.Ticket.Spent] = e.Request
	}
	if e.Attach != nil {
		l.attach(a, *e.Attach)
	}
	l.accounts[e.Account] = a
	l.commits++
	r.Account = clone(a)
	if e.Result != nil && r.Outcome == ledger.New {
		l.results[e.Request] = e.Result(r.Account)
	}
	return r, nil
}

// attach adds an attachment as Adding: it takes its key from other accounts, and an earlier one of the
// account is Removing.
func (l *memoryLedger) attach(to *ledger.Account, at ledger.Attachment) {
	at.State = ledger.Adding
	for _, a := range l.accounts {
		var kept []ledger.Attachment
		for _, other := range a.Attachments {
			switch {
			case at.Mode == ledger.DVPN && other.WireGuardKey == at.WireGuardKey, at.Mode == ledger.Mixnet && a == to && other.Mode == at.Mode:
				continue
			case at.Mode == ledger.DVPN && a == to && other.Mode == at.Mode:
				other.State = ledger.Removing
			}
			kept = append(kept, other)
		}
		a.Attachments = kept
	}
	to.Attachments = append(to.Attachments, at)
}

func (l *memoryLedger) SetAttachment(_ context.Context, id identity.PublicKey, at ledger.Attachment, _ time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.accounts[id]; a != nil {
		for i := range a.Attachments {
			if a.Attachments[i].Mode == at.Mode && a.Attachments[i].WireGuardKey == at.WireGuardKey {
				a.Attachments[i] = at
				return l.fail
			}
		}
	}
	return ledger.ErrNoAttachment
}

func (l *memoryLedger) RemoveAttachment(_ context.Context, id identity.PublicKey, mode ledger.Mode, key [32]byte, _ time.Duration, _ time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.accounts[id]; a != nil {
		for i := range a.Attachments {
			if a.Attachments[i].Mode == mode && a.Attachments[i].WireGuardKey == key {
				a.Attachments = append(a.Attachments[:i], a.Attachments[i+1:]...)
				return l.fail
			}
		}
	}
	return ledger.ErrNoAttachment
}

func (*memoryLedger) Err() error { return nil }

func (*memoryLedger) Reservations(func(netip.Addr, ledger.Reservation) error) error { return nil }

func (l *memoryLedger) Attachments(yield func(identity.PublicKey, ledger.Attachment) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, a := range l.accounts {
		for _, at := range a.Attachments {
			if err := yield(id, at); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *memoryLedger) Result(request [32]byte) ([]byte, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	result, found := l.results[request]
	return result, found, nil
}

// fakeTickets takes credentials whose first byte is the number of a key, from 1 to 3: 2 is expired, 3 has
// invalid signatures. Others are unknown.
type fakeTickets struct{ verified sync.Map }

func (f *fakeTickets) Check(_ time.Time, kind wire.TicketType, credential []byte) (Token, error) {
	switch {
	case kind != wire.TicketBlindRSA2048 || len(credential) != 9:
		return Token{}, ErrTicketInvalid
	case credential[0] == 2:
		return Token{}, ErrTicketExpired
	case credential[0] != 1 && credential[0] != 3:
		return Token{}, ErrUnknownIssuerKey
	}
	t := ledger.Ticket{
		Issuer: "issuer.example", KeyID: [32]byte{credential[0]}, Spent: kdf.Hash(credential),
		From: time.Unix(1_700_000_000, 0), Until: time.Unix(4_000_000_000, 0),
	}
	return Token{Ticket: t, Bytes: 1000, Valid: time.Hour, Private: credential[0]}, nil
}

func (f *fakeTickets) Verify(t *Token) error {
	f.verified.Store(t.Spent, true)
	if t.Private == byte(3) {
		return ErrTicketInvalid
	}
	return nil
}

func (f *fakeTickets) Offers(time.Time) []wire.TicketOffer {
	return []wire.TicketOffer{{Type: wire.TicketBlindRSA2048, Issuer: "issuer.example", TokenKeyID: [32]byte{1}, Bytes: 1000, Seconds: 3600}}
}

// ticket returns a credential of a key.
func ticket(key byte, number uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{key}, number)
}

// fakeDevice is a Device with addresses for size peers.
type fakeDevice struct {
	mu    sync.Mutex
	peers map[[32]byte]Peer
	taken map[netip.Addr]identity.PublicKey
	size  int
	fail  error         // of Set
	full  error         // of Reserve; nil: none
	gate  chan struct{} // nil, or Set waits for it
}

func newDevice(size int) *fakeDevice {
	return &fakeDevice{peers: make(map[[32]byte]Peer), taken: make(map[netip.Addr]identity.PublicKey), size: size}
}

// proofOf returns the proof of a key that a fakeDevice accepts.
func proofOf(key, exporter [32]byte) []byte {
	sum := kdf.Hash([]byte("proof"), key[:], exporter[:])
	return sum[:16]
}

func (d *fakeDevice) Proves(key, exporter [32]byte, proof []byte) bool {
	return bytes.Equal(proof, proofOf(key, exporter))
}

func (d *fakeDevice) PSK(key, exporter [32]byte) [32]byte {
	return kdf.Hash([]byte("psk"), key[:], exporter[:])
}

func (d *fakeDevice) Reserve(_ time.Time, client identity.PublicKey, _ [32]byte, standing *Peer) (ipv4, ipv6 netip.Addr, release func(), err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.full != nil {
		return ipv4, ipv6, nil, d.full
	}
	if standing != nil {
		return standing.IPv4, standing.IPv6, func() {}, nil
	}
	for i := range d.size {
		ip := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		if _, taken := d.taken[ip]; !taken {
			d.taken[ip] = client
			return ip, netip.Addr{}, func() {
				d.mu.Lock()
				defer d.mu.Unlock()
				delete(d.taken, ip)
			}, nil
		}
	}
	return ipv4, ipv6, nil, wireguard.ErrNoAddress
}

func (*fakeDevice) RestTime() time.Duration { return ledger.MinRest }

func (*fakeDevice) Rest(identity.PublicKey, netip.Addr, time.Time) {}

func (d *fakeDevice) Set(_ context.Context, p Peer) error {
	if d.gate != nil {
		<-d.gate
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail != nil {
		return d.fail
	}
	for key, old := range d.peers {
		if old.Account == p.Account {
			delete(d.peers, key)
		}
	}
	d.peers[p.Key] = p
	return nil
}

func (d *fakeDevice) Remove(_ context.Context, p Peer) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.peers[p.Key].Account == p.Account {
		delete(d.peers, p.Key)
	}
	delete(d.taken, p.IPv4)
	return d.fail
}

func (d *fakeDevice) Reconcile(_ context.Context, peers []Peer) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.peers)
	clear(d.taken)
	for _, p := range peers {
		d.peers[p.Key] = p
		d.taken[p.IPv4] = p.Account
	}
	return d.fail
}

func (d *fakeDevice) Data() (publicKey [32]byte, endpoint string) {
	return [32]byte{9}, "gw.example:51820"
}

var errDevice = errors.New("no such device")

// world is a Registrar and what it uses.
type world struct {
	t *testing.T
	*Registrar
	l       *memoryLedger
	tickets *fakeTickets
	device  *fakeDevice
	now     time.Time
	limits  map[identity.PublicKey]account.Limits // of listed clients
	nextID  uint32
}

func newWorld(t *testing.T, access Access) *world {
	w := &world{
		t: t, l: newLedger(), tickets: new(fakeTickets), device: newDevice(4), now: time.Unix(2_000_000_000, 0),
		limits: make(map[identity.PublicKey]account.Limits),
	}
	w.Registrar = New(Config{
		Access: access, Modes: []wire.Mode{wire.ModeRelay, wire.ModeDVPN, wire.ModeMixnet}, Tickets: w.tickets, Device: w.device, Sealing: new([32]byte),
		Standing: func(id identity.PublicKey) account.Standing {
			l, listed := w.limits[id]
			return account.Standing{Admitted: true, Listed: listed, Limits: l}
		},
		Now: func() time.Time { return w.now },
	})
	w.SetLedger(w.l)
	t.Cleanup(w.Close)
	return w
}

// session is one of a client's sessions.
type session struct {
	client, exporter byte
}

// message returns a Register of the session.
func (w *world) message(s session, mode wire.Mode, change func(*wire.Register)) *Request {
	w.nextID++
	m := wire.Register{RequestID: w.nextID, Mode: mode, Timestamp: uint64(w.now.Unix())}
	if mode == wire.ModeMixnet {
		m.ClientID = make([]byte, 32)
	}
	if mode == wire.ModeDVPN {
		m.WGPublicKey = append([]byte{s.client}, make([]byte, 31)...)
	}
	if change != nil {
		change(&m)
	}
	if mode == wire.ModeDVPN && m.WGProof == nil {
		m.WGProof = proofOf([32]byte(m.WGPublicKey), [32]byte{s.exporter})
	}
	return &Request{Client: identity.PublicKey{s.client}, Exporter: [32]byte{s.exporter}, Message: m.Append(nil)}
}

// register has a Register carried out.
func (w *world) register(s session, mode wire.Mode, change func(*wire.Register)) *wire.RegisterResult {
	w.t.Helper()
	return w.submit(w.message(s, mode, change))
}

func (w *world) submit(q *Request) *wire.RegisterResult {
	w.t.Helper()
	done := make(chan *wire.RegisterResult, 1)
	if !w.Submit(q, func(r *wire.RegisterResult, _ Registration) { done <- r }) {
		w.t.Fatal("the queue is full")
	}
	return <-done
}

// pay adds a ticket to a Register.
func pay(key byte, number uint64) func(*wire.Register) {
	return func(m *wire.Register) { m.TicketType, m.Credential = wire.TicketBlindRSA2048, ticket(key, number) }
}
