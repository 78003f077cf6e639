package gatewayd

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"lewes/cmd/lewes/internal/config"
	"lewes/cmd/lewes/internal/control"
	"lewes/crypto/identity"
	"lewes/router"
	"lewes/router/account"
	"lewes/router/meter"
	"lewes/router/registrar"
	"lewes/router/wireguard"
	"lewes/state/ledger"
	"lewes/state/wire"
)

// ledgerWait is how long a successor waits for its predecessor to close the ledger until it reports that.
const ledgerWait = 30 * time.Second

// registration carries out the registrations of a gateway. A nil *registration means that they are off.
type registration struct {
	*registrar.Registrar
	path    string        // of the ledger
	wait    time.Duration // for another process to close it
	gateway identity.PublicKey
	log     *zap.Logger
	device  *wireguard.Device // nil: no mode dvpn
	running sync.WaitGroup    // of the device
	stop    context.CancelFunc

	access   config.RegistrationAccess
	standing func(identity.PublicKey) account.Standing
	book     atomic.Pointer[meter.Book] // nil: the gateway has not started

	mu     sync.Mutex
	ledger *ledger.Ledger // guarded by mu; nil: not open
	closed bool           // guarded by mu
}

// newRegistration returns the registration of a configuration, without its ledger. The caller closes it.
func newRegistration(c *config.Config, key *identity.PrivateKey, access *accessControl, verifier registrar.Verifier, log *zap.Logger) (*registration, error) {
	if c.Registration.Access == config.RegistrationOff {
		if c.WireGuard.Device != "" {
			log.Warn("no client gets a WireGuard peer: registrations are off", zap.String("key", "registration.access"))
		}
		return nil, nil
	}
	if c.Registration.Access == config.RegistrationTickets && c.Access.Mode == config.AccessListed {
		log.Warn(`only clients in the list can pay with tickets; access.mode = "open" is for everyone`)
	}
	r := &registration{path: c.LedgerFile(), wait: ledgerWait, gateway: key.Public(), log: log, access: c.Registration.Access, standing: access.standing}
	var err error
	if r.device, err = newWireGuard(c, key, r, c.Registration.OnFailure == config.OnFailureStop, log); err != nil {
		return nil, err
	}
	settings := registrar.Config{
		Access:  map[config.RegistrationAccess]registrar.Access{config.RegistrationOpen: registrar.Open, config.RegistrationListed: registrar.Listed, config.RegistrationTickets: registrar.Tickets}[c.Registration.Access],
		Modes:   []wire.Mode{wire.ModeRelay},
		Tickets: verifier, Standing: access.standing, Unrecorded: r.unrecorded, Logger: log,
	}
	if r.device != nil {
		settings.Device, settings.Modes = r.device, append(settings.Modes, wire.ModeDVPN)
	}
	if c.Registration.MixNode != "" {
		settings.Modes = append(settings.Modes, wire.ModeMixnet)
	}
	sealing := key.LedgerKey()
	defer clear(sealing[:])
	settings.Sealing = &sealing
	r.Registrar = registrar.New(settings)
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	if r.device != nil {
		r.running.Go(func() { r.device.Run(ctx) })
	}
	return r, nil
}

// wireGuard returns the device of mode dvpn, or nil.
func (r *registration) wireGuard() *wireguard.Device {
	if r == nil {
		return nil
	}
	return r.device
}

// unrecorded returns what a client has used and the ledger does not have yet.
func (r *registration) unrecorded(client identity.PublicKey) uint64 {
	book := r.book.Load()
	if book == nil {
		return 0
	}
	return book.Unrecorded(client)
}

// Charge charges the traffic of WireGuard peers. Those of clients that are not admitted any more have ended.
func (r *registration) Charge(ctx context.Context, used map[identity.PublicKey]uint64) (ended []identity.PublicKey, err error) {
	for client := range used {
		if !r.standing(client).Admitted {
			ended = append(ended, client)
		}
	}
	book := r.book.Load()
	if book == nil {
		return ended, nil // the gateway starts, and charges it a moment later
	}
	empty, err := book.Charge(ctx, used)
	if err != nil && !errors.Is(err, meter.ErrUnrecorded) {
		r.log.Warn("cannot read an account that has a WireGuard peer", zap.Error(err))
		err = nil // the book has taken its bytes
	}
	return append(ended, empty...), err
}

// End ends the peer of an account. If that was paid for meanwhile, by a session that has ended or of a predecessor, the
// book learns of it.
func (r *registration) End(ctx context.Context, client identity.PublicKey) error {
	err := r.Registrar.End(ctx, client)
	if book := r.book.Load(); book != nil && err == nil {
		err = book.Refresh(client)
	}
	return err
}

// settings returns the router's configuration.
func (r *registration) settings() router.Registration {
	if r == nil {
		return router.Registration{}
	}
	return router.Registration{Registrar: r.Registrar, Required: r.Required()}
}

// open opens the ledger, waiting for a predecessor to close it, and sets up what it has.
func (r *registration) open(ctx context.Context, wait time.Duration) error {
	if r == nil {
		return nil
	}
	l, err := r.openLedger(ctx, wait)
	if err != nil {
		return err
	}
	if l.Restored() {
		r.log.Warn("the ledger is a restored backup: tickets that were spent since may be spent again", zap.String("file", r.path))
	}
	if err := r.Recover(ctx, l); err != nil {
		return errors.Join(err, l.Close())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return l.Close()
	}
	r.ledger = l
	r.SetLedger(l)
	r.setBookLedger()
	return nil
}

// openLedger waits in pieces, so that the end of ctx ends it.
func (r *registration) openLedger(ctx context.Context, wait time.Duration) (*ledger.Ledger, error) {
	for until := time.Now().Add(wait); ; {
		l, err := ledger.Open(r.path, ledger.Options{Gateway: r.gateway, Now: time.Now()})
		if err == nil || !errors.Is(err, ledger.ErrInUse) || ctx.Err() != nil || time.Now().After(until) {
			return l, err
		}
	}
}

// openBeside opens the ledger of a successor, which serves already. While that fails the gateway goes on with the
// registrations that it took over, and refuses new ones. It waits on for a process that has the ledger open.
func (r *registration) openBeside(ctx context.Context) {
	for {
		err := r.open(ctx, r.wait)
		if err == nil {
			r.log.Info("opened the ledger", zap.String("file", r.path))
			return
		}
		if ctx.Err() != nil {
			return
		}
		r.SetFailed(err)
		r.log.Error("cannot open the ledger; serving the registrations that were taken over, and refusing others", zap.Error(err))
		if !errors.Is(err, ledger.ErrInUse) {
			return
		}
	}
}

// ledgerTimeout bounds the sending of a copy of the ledger.
const ledgerTimeout = 10 * time.Minute

// ledgerStats returns the counters of the open ledger.
func (r *registration) ledgerStats() ledger.Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ledger == nil {
		return ledger.Stats{}
	}
	return r.ledger.Stats()
}

var errNoLedger = errors.New("the gateway has no ledger open: registrations are off, or it is about to take over")

// writeLedger writes the bytes of the open ledger.
func (r *registration) writeLedger(w http.ResponseWriter) {
	var l *ledger.Ledger
	if r != nil {
		r.mu.Lock()
		l = r.ledger
		r.mu.Unlock()
	}
	if l == nil {
		control.Answer(w, nil, errNoLedger)
		return
	}
	control.Extend(w, ledgerTimeout)
	f, size, err := r.copyLedger(l)
	if err != nil {
		control.Answer(w, nil, err)
		return
	}
	defer os.Remove(f.Name()) // where an open file keeps its name
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	if _, err := io.Copy(w, f); err != nil {
		r.log.Warn("cannot send the copy of the ledger", zap.Error(err)) // the client misses the rest
	}
}

// copyLedger returns a copy without a name, at its start. A client may read slowly: the ledger, which cannot be closed
// or grow while it is read, must not wait for that.
func (r *registration) copyLedger(l *ledger.Ledger) (f *os.File, size int64, err error) {
	if f, err = os.CreateTemp(filepath.Dir(r.path), ".ledger-copy-*"); err != nil {
		return nil, 0, err
	}
	_ = os.Remove(f.Name())
	err = l.Snapshot(func(n int64, from io.WriterTo) error {
		size = n
		_, err := from.WriteTo(f)
		return err
	})
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = f.Close()
		_ = os.Remove(f.Name())
	}
	return f, size, err
}

// stopDevice charges what WireGuard peers have used, and leaves them on the device.
func (r *registration) stopDevice() {
	if r != nil {
		r.stop()
		r.running.Wait()
	}
}

// close waits for the registrations under way and closes the ledger, which a successor may open then.
func (r *registration) close() {
	if r == nil {
		return
	}
	r.Close()
	r.stopDevice()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	if r.ledger == nil {
		return
	}
	r.closeBook()
	if err := r.ledger.Close(); err != nil {
		r.log.Error("cannot close the ledger", zap.Error(err))
	}
	r.ledger = nil
}
