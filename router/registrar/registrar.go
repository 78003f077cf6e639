package registrar

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"lewes/crypto/identity"
	"lewes/router/account"
	"lewes/state/ledger"
	"lewes/state/wire"
)

const (
	// MaxQueue bounds the Registers that are under way or wait; a further one is answered by busy.
	MaxQueue = 256
	// MaxClient is the part of them that one client may have: they wait for each other.
	MaxClient = MaxQueue / 4
	// Tolerance is the largest offset of a Register's timestamp.
	Tolerance = 300 * time.Second
	// patience bounds the wait for processors, locks and the device, in total.
	patience = 10 * time.Second
)

// Access selects who may register.
type Access uint8

const (
	// Open admits every client, without limits.
	Open Access = iota + 1
	// Listed admits the clients of the list, within their limits there.
	Listed
	// Tickets admits clients that pay with tickets.
	Tickets
)

// Config is the configuration of a Registrar.
type Config struct {
	Access  Access
	Modes   []wire.Mode // on offer; ModeBalance always is
	Tickets Verifier    // with Access Tickets
	Device  Device      // with ModeDVPN
	// Standing returns what the list of clients says of an identity.
	Standing func(identity.PublicKey) account.Standing
	// Unrecorded returns the bytes that a client has used and that are not in the ledger yet; nil means none.
	Unrecorded func(identity.PublicKey) uint64
	// Sealing seals the preshared keys in the ledger (identity.PrivateKey.LedgerKey). New copies it.
	Sealing *[32]byte
	Logger  *zap.Logger
	Now     func() time.Time // the system's clock; nil means time.Now
}

// Request is a Register of a session.
type Request struct {
	Client   identity.PublicKey
	Exporter [32]byte // of the session; erased once the request is done
	Message  []byte   // the Registrar owns it from Submit on
}

// Registration is what a client has once its Register is answered by CodeOK.
type Registration struct {
	Mode      wire.Mode
	Grants    []ledger.Grant
	Unlimited bool // nothing is counted
	Paid      bool // by a ticket of this Register, whose result never changes
}

// Registrar carries out Registers. It is safe for concurrent use.
type Registrar struct {
	config Config
	sealer sealer
	slots  chan struct{} // taken by requests
	cpu    chan struct{} // taken by public-key operations
	locks  keyedLocks
	ledger atomic.Pointer[ledgerState]
	counts [numCodes]atomic.Uint64

	mu      sync.Mutex
	closed  bool                       // guarded by mu
	clients map[identity.PublicKey]int // guarded by mu: their Registers under way
	running sync.WaitGroup
}

const numCodes = int(wire.CodeClock) + 1

// ledgerState is a ledger, or the reason why there is none.
type ledgerState struct {
	Ledger
	failed error // nil: not open yet
}

// New returns a Registrar without a ledger: until SetLedger, what needs one is busy.
func New(config Config) *Registrar {
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Logger == nil {
		config.Logger = zap.NewNop()
	}
	r := &Registrar{
		config: config,
		sealer: newSealer(config.Sealing),
		slots:  make(chan struct{}, MaxQueue), clients: make(map[identity.PublicKey]int),
		cpu: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)), // the shards have the rest
	}
	r.config.Sealing = nil
	r.ledger.Store(new(ledgerState))
	return r
}

// SetLedger gives the Registrar its ledger. The caller closes that after Close. Recover comes first.
func (r *Registrar) SetLedger(l Ledger) { r.ledger.Store(&ledgerState{Ledger: l}) }

// SetFailed makes the Registrar refuse what needs the ledger, which cannot be opened.
func (r *Registrar) SetFailed(err error) { r.ledger.Store(&ledgerState{failed: err}) }

// ErrNotOpen is LedgerErr before SetLedger: a successor waits for its predecessor.
var ErrNotOpen = errors.New("the ledger is not open yet")

// LedgerErr returns why registrations that need the ledger fail; nil: they do not.
func (r *Registrar) LedgerErr() error {
	switch s := r.ledger.Load(); {
	case s.failed != nil:
		return s.failed
	case s.Ledger == nil:
		return ErrNotOpen
	default:
		return s.Err()
	}
}

// Required reports whether a session needs a registration before it carries data.
func (r *Registrar) Required() bool { return r.config.Access != Open }

// Submit has a Register carried out and its result passed to done, in another goroutine. It returns
// false if too many are under way, of the client or of all, or the Registrar is closed; done is not called then.
func (r *Registrar) Submit(q *Request, done func(*wire.RegisterResult, Registration)) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.clients[q.Client] == MaxClient {
		return false
	}
	select {
	case r.slots <- struct{}{}:
	default:
		return false
	}
	client := q.Client
	r.clients[client]++
	r.running.Go(func() {
		defer r.leave(client)
		result, registration := r.handle(q)
		r.Count(result.Code)
		done(result, registration)
	})
	return true
}

func (r *Registrar) leave(client identity.PublicKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.clients[client]--; r.clients[client] == 0 {
		delete(r.clients, client)
	}
	<-r.slots
}

// Count counts a result.
func (r *Registrar) Count(code wire.RegisterCode) { r.counts[code].Add(1) }

// Results returns how many Registers had each code.
func (r *Registrar) Results() map[wire.RegisterCode]uint64 {
	results := make(map[wire.RegisterCode]uint64, numCodes)
	for code := range r.counts {
		results[wire.RegisterCode(code)] = r.counts[code].Load()
	}
	return results
}

// UnderWay returns the number of Registers under way.
func (r *Registrar) UnderWay() int { return len(r.slots) }

// Close refuses further Registers and waits for those under way. The ledger can be closed then.
func (r *Registrar) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.running.Wait()
}
