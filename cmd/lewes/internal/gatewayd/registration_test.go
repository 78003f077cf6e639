package gatewayd

import (
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"

	"lewes/cmd/lewes/internal/config"
	"lewes/crypto/identity"
	"lewes/router/account"
	"lewes/router/registrar"
	"lewes/state/ledger"
	"lewes/state/wire"
)

func testRegistration(t *testing.T, dir string, seed byte) *registration {
	t.Helper()
	c := config.Default()
	c.StateDir, c.Access.Mode, c.Registration.Access = dir, config.AccessOpen, config.RegistrationTickets
	access, err := newAccessControl(c, false, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	r, err := newRegistration(c, identity.FromSeed(&[32]byte{seed}), access, noTickets{}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	return r
}

// noTickets takes no ticket.
type noTickets struct{ registrar.Verifier }

func (noTickets) Check(time.Time, wire.TicketType, []byte) (registrar.Token, error) {
	return registrar.Token{}, registrar.ErrTicketInvalid
}

// ask returns the code of a Register that needs the ledger.
func (r *registration) ask() wire.RegisterCode {
	done := make(chan wire.RegisterCode, 1)
	m := wire.Register{RequestID: 1, Mode: wire.ModeRelay, Timestamp: uint64(time.Now().Unix()), TicketType: wire.TicketUnknown, Credential: []byte{1}}
	r.Submit(&registrar.Request{Message: m.Append(nil)}, func(result *wire.RegisterResult, _ registrar.Registration) { done <- result.Code })
	return <-done
}

// TestLedgerPassesToSuccessor: a successor answers by busy until its predecessor has closed the ledger, and opens it
// then.
func TestLedgerPassesToSuccessor(t *testing.T) {
	dir := t.TempDir()
	predecessor, successor := testRegistration(t, dir, 1), testRegistration(t, dir, 1)
	if err := predecessor.open(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if err := successor.open(t.Context(), 0); !errors.Is(err, ledger.ErrInUse) {
		t.Errorf("opened twice: %v", err)
	}
	if got := successor.ask(); got != wire.CodeBusy {
		t.Errorf("before the ledger is open: %v", got)
	}
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		successor.openBeside(t.Context())
	}()
	predecessor.close()
	<-opened
	if got := successor.ask(); got != wire.CodeTicketInvalid {
		t.Errorf("with its ledger: %v", got)
	}
}

// TestSuccessorWaitsOn: a ledger that stays in use is reported, and opened once it is free.
func TestSuccessorWaitsOn(t *testing.T) {
	dir := t.TempDir()
	other, successor := testRegistration(t, dir, 1), testRegistration(t, dir, 1)
	if err := other.open(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	successor.wait = time.Millisecond
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		successor.openBeside(t.Context())
	}()
	for successor.ask() != wire.CodeStorageFailed {
		time.Sleep(time.Millisecond)
	}
	other.close()
	<-opened
	if got := successor.ask(); got != wire.CodeTicketInvalid {
		t.Errorf("with its ledger: %v", got)
	}
}

// slowReader is an http.ResponseWriter whose client reads nothing until it is told to.
type slowReader struct {
	*httptest.ResponseRecorder
	begun, read chan struct{}
}

func (s *slowReader) Write(b []byte) (int, error) {
	select {
	case <-s.begun:
	default:
		close(s.begun)
	}
	<-s.read
	return s.ResponseRecorder.Write(b)
}

// TestSlowBackupKeepsNothingOpen: the ledger can be closed, for a successor, while a client reads a copy.
func TestSlowBackupKeepsNothingOpen(t *testing.T) {
	dir := t.TempDir()
	r := testRegistration(t, dir, 1)
	if err := r.open(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	w := &slowReader{httptest.NewRecorder(), make(chan struct{}), make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.writeLedger(w)
	}()
	<-w.begun
	r.close()
	if err := testRegistration(t, dir, 1).open(t.Context(), 0); err != nil {
		t.Error(err)
	}
	close(w.read)
	<-done
	if _, err := ledger.Receive(filepath.Join(t.TempDir(), "copy"), w.Body); err != nil {
		t.Errorf("the copy: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".ledger-copy-*")); err != nil || len(left) != 0 {
		t.Errorf("%v is left (%v)", left, err)
	}
}

// TestSuccessorWithoutLedger: a ledger that cannot be opened is refused with its reason, stays as it is, and
// registrations that need it fail.
func TestSuccessorWithoutLedger(t *testing.T) {
	dir := t.TempDir()
	foreign := testRegistration(t, dir, 2)
	if err := foreign.open(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	foreign.close()
	before, err := os.ReadFile(filepath.Join(dir, "ledger"))
	if err != nil {
		t.Fatal(err)
	}
	r := testRegistration(t, dir, 1)
	if err := r.open(t.Context(), 0); !errors.Is(err, ledger.ErrForeign) {
		t.Errorf("a foreign ledger: %v", err)
	}
	r.openBeside(t.Context())
	if got := r.ask(); got != wire.CodeStorageFailed {
		t.Errorf("without a ledger: %v", got)
	}
	if after, err := os.ReadFile(filepath.Join(dir, "ledger")); err != nil || string(after) != string(before) {
		t.Errorf("the foreign ledger changed (%v)", err)
	}
}

func TestRegistrationIsOffByDefault(t *testing.T) {
	r, err := newRegistration(config.Default(), nil, nil, nil, zap.NewNop())
	if r != nil || err != nil || r.settings().Required || r.wireGuard() != nil || r.open(t.Context(), 0) != nil {
		t.Errorf("%v (%v)", r, err)
	}
	r.close()
}

// TestRequiredRegistrations: only listed and tickets are required.
func TestRequiredRegistrations(t *testing.T) {
	for access, want := range map[registrar.Access]bool{registrar.Open: false, registrar.Listed: true, registrar.Tickets: true} {
		r := registrar.New(registrar.Config{Access: access, Sealing: new([32]byte), Standing: func(identity.PublicKey) account.Standing { return account.Standing{} }})
		if r.Required() != want {
			t.Errorf("access %d: required is %v", access, r.Required())
		}
	}
}
