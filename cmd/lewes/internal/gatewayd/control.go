package gatewayd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"

	"lewes/cmd/lewes/internal/config"
	"lewes/cmd/lewes/internal/control"
	"lewes/crypto/identity"
	"lewes/router"
	"lewes/state/path"
)

// Endpoints of a gateway's control socket.
const (
	StatusEndpoint  = "/v1/status"
	ClientsEndpoint = "/v1/clients"
	DoctorEndpoint  = "/v1/doctor"
	CloseEndpoint   = "/v1/sessions/close"
	ReloadEndpoint  = "/v1/reload"
	UpgradeEndpoint = "/v1/upgrade"
	DrainEndpoint   = "/v1/drain"
	TraceEndpoint   = "/v1/trace"
	LedgerEndpoint  = "/v1/ledger"
)

// controlFile names the listener of the control socket at a path among the files handed over.
func controlFile(path string) string {
	sum := sha256.Sum256([]byte(path))
	return "control " + hex.EncodeToString(sum[:16])
}

// controlTimeout bounds the wait of a process that was replaced for the requests under way.
const controlTimeout = 2 * time.Second

// command is a request on the control socket for the process's main goroutine.
type command struct {
	upgrade bool // else reload
	done    chan error
}

// Reloaded is the outcome of a reload.
type Reloaded struct {
	At             time.Time `json:"at"`
	Error          string    `json:"error,omitempty"`
	Changed        []string  `json:"changed"` // keys applied
	NeedsUpgrade   []string  `json:"needs_upgrade,omitempty"`
	NeedsRestart   []string  `json:"needs_restart,omitempty"`
	SessionsClosed int       `json:"sessions_closed"`
	FlowsClosed    int       `json:"flows_closed"`
}

// Upgraded is the outcome of a live handover.
type Upgraded struct {
	At           time.Time `json:"at"`
	Error        string    `json:"error,omitempty"` // why the old process goes on
	From         int       `json:"from_pid"`
	To           int       `json:"to_pid,omitempty"`
	Sessions     int       `json:"sessions"`
	Flows        int       `json:"flows"`
	PauseSeconds float64   `json:"pause_seconds,omitempty"` // in which nothing was served; the successor does not know it
}

// history is what the status shows of the past. It is safe for concurrent use.
type history struct {
	mu       sync.Mutex
	reloaded *Reloaded
	upgraded *Upgraded // the last attempt of this process, or the one that started it
}

func (h *history) noteReload(r *Reloaded) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reloaded = r
}

func (h *history) noteUpgrade(u *Upgraded) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.upgraded = u
}

func (h *history) get() (*Reloaded, *Upgraded) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.reloaded, h.upgraded
}

// serveControl serves the control socket, on the predecessor's listener if it has the same path. A
// gateway that cannot goes on without it.
func (p *Process) serveControl(ctx context.Context, g *router.Gateway, inherited map[string]*os.File) {
	name := p.config.ControlSocket()
	listener, _ := inheritedListener(inherited, controlFile(name)).(*net.UnixListener)
	if listener == nil {
		var err error
		if name == "" {
			err = errors.New("there is no state directory for it")
		} else {
			listener, err = control.Listen(name)
		}
		if err != nil {
			p.log.Warn("no control socket", zap.Error(err))
			return
		}
	}
	if err := control.SetGroup(name, p.config.Control.Group); err != nil {
		p.log.Warn("cannot let a group connect to the control socket", zap.String("group", p.config.Control.Group), zap.Error(err))
	}
	if file, err := listener.File(); err == nil {
		p.extras[controlFile(name)] = file
	}
	s := control.NewServer(p.log, p.audit)
	p.registerControl(s, g)
	p.control = s
	p.removeControl = func() { _ = os.Remove(name) }
	p.start(func() {
		if err := s.Serve(listener); err != nil {
			p.log.Error("control socket stopped", zap.Error(err))
		}
	})
	context.AfterFunc(ctx, s.Close)
}

// closeServers answers the requests under way after a handover, and leaves new ones to the successor.
func (p *Process) closeServers() {
	ctx, cancel := context.WithTimeout(context.Background(), controlTimeout)
	defer cancel()
	var closing sync.WaitGroup
	defer closing.Wait()
	if p.metrics != nil {
		closing.Go(func() { _ = p.metrics.Shutdown(ctx) })
	}
	if p.control != nil {
		closing.Go(func() { p.control.Shutdown(ctx) })
	}
}

// registerControl registers the endpoints.
func (p *Process) registerControl(s *control.Server, g *router.Gateway) {
	s.Read("GET "+StatusEndpoint, func(w http.ResponseWriter, _ *http.Request) { control.Answer(w, p.status(g), nil) })
	var throttle control.Throttle
	s.Read("GET "+ClientsEndpoint, func(w http.ResponseWriter, r *http.Request) {
		full := r.URL.Query().Get("addresses") == "full"
		if full && !s.Authorize(w, r, "show addresses") {
			return
		}
		p.writeClients(r.Context(), w, g, full, &throttle)
	})
	s.Read("GET "+DoctorEndpoint, p.examine(g).ServeHTTP)
	for path, h := range p.health(g) {
		s.Read("GET "+path, h)
	}
	s.Act("POST "+CloseEndpoint, "close sessions", func(w http.ResponseWriter, r *http.Request) { p.handleClose(w, r, g) })
	s.Act("POST "+DrainEndpoint, "drain", func(w http.ResponseWriter, r *http.Request) {
		var request struct {
			On bool `json:"on"`
		}
		if control.Decode(w, r, &request) {
			err := g.Drain(request.On)
			control.Answer(w, Drained{g.Draining(), g.Stats().Sessions}, err)
		}
	})
	s.Act("POST "+ReloadEndpoint, "reload", func(w http.ResponseWriter, r *http.Request) {
		control.Extend(w, upgradeTimeout)
		err := p.command(r.Context(), false)
		reloaded, _ := p.history.get()
		if err == nil && reloaded.Error != "" {
			err = errors.New(reloaded.Error)
		}
		control.Answer(w, reloaded, err)
	})
	s.Act("POST "+UpgradeEndpoint, "upgrade", func(w http.ResponseWriter, r *http.Request) {
		control.Extend(w, 2*upgradeTimeout)
		err := p.command(r.Context(), true)
		_, upgraded := p.history.get()
		control.Answer(w, upgraded, err)
	})
	s.Act("POST "+TraceEndpoint, "trace", func(w http.ResponseWriter, r *http.Request) { p.handleTrace(w, r, s, g) })
	s.Act("GET "+LedgerEndpoint, "copy the ledger", func(w http.ResponseWriter, _ *http.Request) { p.registration.writeLedger(w) })
	s.Act("GET /debug/pprof/", "profile", func(w http.ResponseWriter, r *http.Request) {
		seconds, _ := strconv.ParseFloat(r.URL.Query().Get("seconds"), 64)
		control.Extend(w, time.Duration(min(max(seconds, 30), 600)*float64(time.Second)))
		switch r.URL.Path {
		case "/debug/pprof/profile":
			pprof.Profile(w, r)
		case "/debug/pprof/trace":
			pprof.Trace(w, r)
		default:
			pprof.Index(w, r)
		}
	})
}

// command has the process's main goroutine reload or upgrade, and waits.
func (p *Process) command(ctx context.Context, upgrade bool) error {
	c := &command{upgrade, make(chan error, 1)}
	select {
	case p.commands <- c:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Drained is the state after a request to drain.
type Drained struct {
	Draining bool   `json:"draining"`
	Sessions uint64 `json:"sessions"` // that go on
}

// CloseRequest selects sessions.
type CloseRequest struct {
	Who string `json:"who"` // a client's name or identity, or a session's handle
}

// ClosedSessions is the answer to a CloseRequest.
type ClosedSessions struct {
	Closed int `json:"closed"`
}

func (p *Process) handleClose(w http.ResponseWriter, r *http.Request, g *router.Gateway) {
	var request CloseRequest
	if !control.Decode(w, r, &request) {
		return
	}
	match, err := p.access.match(request.Who)
	if err != nil {
		control.Answer(w, nil, err)
		return
	}
	closed := g.CloseSessions(r.Context(), match)
	if closed == 0 {
		err = fmt.Errorf("%q has no session", request.Who)
	} else {
		p.log.Info("closed sessions", zap.Int("sessions", closed))
	}
	control.Answer(w, ClosedSessions{closed}, err)
}

// match returns what selects the sessions of a name or identity, or of a handle.
func (a *accessControl) match(who string) (func(identity.PublicKey, [16]byte) bool, error) {
	var want [16]byte
	if b, err := hex.DecodeString(who); err == nil && len(b) == len(want) {
		copy(want[:], b)
		return func(_ identity.PublicKey, handle [16]byte) bool { return handle == want }, nil
	}
	if id, err := identity.ParsePublicKey(who); err == nil {
		return func(client identity.PublicKey, _ [16]byte) bool { return client == id }, nil
	}
	clients := make(map[identity.PublicKey]bool)
	if list := a.rule.Load().list; list != nil {
		for _, e := range list.Entries() {
			if e.Name == who && who != "" {
				clients[e.Identity] = true
			}
		}
	}
	if len(clients) == 0 {
		return nil, fmt.Errorf("%q is not a name in the list of clients, an identity, or a session's handle of 32 hexadecimal digits", who)
	}
	return func(client identity.PublicKey, _ [16]byte) bool { return clients[client] }, nil
}

// maskPrefix prints a network as the addresses in it are printed.
func maskPrefix(p netip.Prefix) string { return path.MaskAddr(p.Addr()) }

// closeFiles closes inherited files that are of no use.
func closeFiles(files map[string]*os.File) {
	for file := range maps.Values(files) {
		_ = file.Close()
	}
}

// gatewayNames returns the names of the gateways of the directory.
func gatewayNames(c *config.Config) *map[identity.PublicKey]string {
	names := make(map[identity.PublicKey]string)
	for _, g := range c.Gateways {
		names[g.URI.Identity] = g.Name
	}
	return &names
}
