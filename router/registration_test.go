package router

import (
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/router/account"
	"lewes/router/registrar"
	"lewes/state"
	"lewes/state/ledger"
	"lewes/state/parts"
	"lewes/state/path"
	"lewes/state/wire"
)

// registering makes a gateway answer Register where nothing is counted.
func registering(required bool) func(*Config) {
	return func(c *Config) {
		c.Registration = Registration{
			Registrar: registrar.New(registrar.Config{
				Access: registrar.Open, Modes: []wire.Mode{wire.ModeRelay}, Sealing: new([32]byte), Now: c.Clock,
				Standing: func(identity.PublicKey) account.Standing { return account.Standing{Admitted: true} },
			}),
			Required: required,
		}
	}
}

// register sends a Register and returns its result.
func (p *peer) register(change func(*wire.Register)) *wire.RegisterResult {
	p.r.t.Helper()
	m := wire.Register{Mode: wire.ModeRelay, Timestamp: uint64(p.r.now().Unix())}
	if change != nil {
		change(&m)
	}
	p.got = nil
	if _, err := p.session.Register(p.r.now(), &m, &p.out); err != nil {
		p.r.t.Fatal(err)
	}
	p.run()
	return p.result()
}

// result waits for a RegisterResult.
func (p *peer) result() *wire.RegisterResult {
	p.r.t.Helper()
	for {
		for _, m := range p.got {
			if m.t == wire.TypeRegisterResult {
				part, err := wire.ParsePart(m.content)
				if err != nil || part.Count != 1 {
					p.r.t.Fatalf("%+v: %v", part, err)
				}
				result, err := wire.ParseRegisterResult(part.Data)
				if err != nil {
					p.r.t.Fatal(err)
				}
				return &result
			}
		}
		p.receive(len(p.got) + 1)
	}
}

// TestRegisterIsAnswered: a Register goes through a worker, and a copy of it has the same result without one.
//
// Shows R9.3.
func TestRegisterIsAnswered(t *testing.T) {
	r := newRig(t, registering(false))
	p := r.connect(2, clientAt)
	if flags := p.session.Terms().Flags; flags != wire.AckRegisters {
		t.Errorf("flags %v", flags)
	}
	if result := p.register(nil); result.Code != wire.CodeOK || result.Remaining != wire.Unlimited || result.RequestID != 1 {
		t.Errorf("%+v", result)
	}
	if result := p.register(func(m *wire.Register) { m.Mode = wire.ModeMixnet; m.ClientID = make([]byte, 32) }); result.Code != wire.CodeModeNotOffered || result.RequestID != 2 {
		t.Errorf("%+v", result)
	}
	copied := wire.Register{RequestID: 2, Mode: wire.ModeMixnet, Timestamp: uint64(r.now().Unix()), ClientID: make([]byte, 32)}
	p.send(wire.TypeRegister, &wire.Part{Count: 1, MessageID: parts.ID(copied.Append(nil)), Data: copied.Append(nil)})
	if result := p.result(); result.Code != wire.CodeModeNotOffered || result.RequestID != 2 {
		t.Errorf("a copy: %+v", result)
	}
	if got := r.whole.Registrations(); got[wire.CodeOK] != 1 || got[wire.CodeModeNotOffered] != 1 {
		t.Errorf("counted %v", got)
	}
}

// TestRegisterIsNotExpected: a gateway without registration counts and ignores it.
//
// Shows R9.10.
func TestRegisterIsNotExpected(t *testing.T) {
	r := newRig(t, nil)
	p := r.connect(2, clientAt)
	if _, err := p.session.Register(r.now(), &wire.Register{Mode: wire.ModeRelay}, &p.out); err == nil {
		t.Error("a client registers where it must not")
	}
	m := wire.Register{RequestID: 1, Mode: wire.ModeRelay}
	p.send(wire.TypeRegister, &wire.Part{Count: 1, MessageID: parts.ID(m.Append(nil)), Data: m.Append(nil)})
	if len(p.got) != 0 || r.shard.Stats().Misplaced != 1 {
		t.Errorf("%d answers, %d counted", len(p.got), r.shard.Stats().Misplaced)
	}
}

// TestBusyRegistrar: a Register that finds no worker is answered at once.
func TestBusyRegistrar(t *testing.T) {
	r := newRig(t, registering(false))
	r.whole.config.Registration.Registrar.Close()
	if result := r.connect(2, clientAt).register(nil); result.Code != wire.CodeBusy {
		t.Errorf("%+v", result)
	}
	if got := r.whole.Registrations(); got[wire.CodeBusy] != 1 {
		t.Errorf("counted %v", got)
	}
}

// TestUnregisteredSessionEnds: where registration is required, a session without one ends after 30 s, and one with
// one does not.
//
// Shows R9.24.
func TestUnregisteredSessionEnds(t *testing.T) {
	r := newRig(t, registering(true))
	p, other := r.connect(2, clientAt), r.connect(3, secondAt)
	if flags := p.session.Terms().Flags; flags != wire.AckRegisters|wire.AckRegistrationRequired {
		t.Errorf("flags %v", flags)
	}
	if got := r.shard.Stats().Unregistered; got != 2 {
		t.Errorf("%d without a registration", got)
	}
	if result := p.register(nil); result.Code != wire.CodeOK {
		t.Fatalf("%+v", result)
	}
	r.advance(RegistrationTime - time.Millisecond)
	if got := r.shard.Stats(); got.Sessions != 2 || got.Unregistered != 1 {
		t.Errorf("%d sessions, %d without a registration", got.Sessions, got.Unregistered)
	}
	r.advance(time.Millisecond)
	if got := r.shard.Stats(); got.Sessions != 1 || got.Unregistered != 0 || got.UnregisteredExpired != 1 {
		t.Errorf("%d sessions, %d without a registration, %d closed", got.Sessions, got.Unregistered, got.UnregisteredExpired)
	}
	other.got = nil
	other.receive(1)
	if other.session.Phase() != state.Ended {
		t.Error("the client does not know")
	}
}

// TestUnregisteredSessionsAreBounded: at most a tenth of all sessions is without a registration, of which each shard has
// its part; the earliest gives way.
//
// Shows R9.24.
func TestUnregisteredSessionsAreBounded(t *testing.T) {
	r := newRig(t, func(c *Config) {
		registering(true)(c)
		c.MaxSessions, c.Shards = 60, 2
	})
	at := func(i int) path.Path {
		return path.Path{Peer: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, byte(i), 1}), 1111)}
	}
	first := r.connect(2, at(0))
	if result := first.register(nil); result.Code != wire.CodeOK {
		t.Fatalf("%+v", result)
	}
	for i := range 5 {
		r.connect(byte(3+i), at(i+1))
		r.advance(time.Second)
	}
	if got := r.shard.Stats(); got.Sessions != 4 || got.Unregistered != 3 || got.UnregisteredEvicted != 2 {
		t.Errorf("%d sessions, %d without a registration, %d evicted", got.Sessions, got.Unregistered, got.UnregisteredEvicted)
	}
	if first.serverSession().Phase() != state.Transport {
		t.Error("the registered session ended")
	}
}

// TestResultHasWhatIsLeft: a listed client registers, sends, and asks: the answer has what it has sent, of which the
// ledger does not know yet.
//
// Shows R9.19.
func TestResultHasWhatIsLeft(t *testing.T) {
	l, err := ledger.Open(filepath.Join(t.TempDir(), "ledger"), ledger.Options{Gateway: gatewayID.Public(), Now: epoch})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := metered(t, func(c *Config) {
		c.Registration.Registrar = registrar.New(registrar.Config{
			Access: registrar.Listed, Modes: []wire.Mode{wire.ModeRelay}, Sealing: new([32]byte), Now: c.Clock,
			Standing: func(identity.PublicKey) account.Standing {
				return account.Standing{Admitted: true, Listed: true, Limits: account.Limits{Bytes: 1000, Period: time.Hour}}
			},
		})
		c.Registration.Registrar.SetLedger(l)
	})
	defer r.whole.config.Registration.Registrar.Close()
	p := r.connect(2, clientAt)
	if p.data(1, target, "refused"); p.closedWith() != "1:7 " {
		t.Errorf("before the registration: %s", p.closedWith())
	}
	if result := p.register(nil); result.Code != wire.CodeOK || result.Remaining != 1000 || result.ExpiresAt != uint64(epoch.Add(time.Hour).Unix()) {
		t.Errorf("%+v", result)
	}
	p.data(1, target, "twelve bytes")
	for _, mode := range []wire.Mode{wire.ModeBalance, wire.ModeRelay} {
		if result := p.register(func(m *wire.Register) { m.Mode = mode }); result.Code != wire.CodeOK || result.Remaining != 988 {
			t.Errorf("%v: %+v", mode, result)
		}
	}
}
