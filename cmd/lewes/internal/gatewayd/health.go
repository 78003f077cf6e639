package gatewayd

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"

	"lewes/cmd/lewes/internal/config"
	"lewes/cmd/lewes/internal/version"
	"lewes/router"
	"lewes/router/metrics"
)

// Endpoints of the metrics address, and of the control socket.
const (
	LiveEndpoint    = "/livez"
	ReadyEndpoint   = "/readyz"
	MetricsEndpoint = "/metrics"
)

// problem is what an operator has to mend or know.
type problem struct {
	Code    string `json:"code"` // snake_case
	Text    string `json:"text"`
	Refuses bool   `json:"refuses_clients"` // new clients, so that the gateway is not ready
	about   string // for those who may read the status only
}

func (p problem) String() string {
	if p.about != "" {
		return p.Text + ": " + p.about
	}
	return p.Text
}

// Readiness is the answer of ReadyEndpoint. It names no client and no gateway: every user of the machine
// may ask for it.
type Readiness struct {
	Ready    bool      `json:"ready"`
	Problems []problem `json:"problems"`
}

// readiness reports whether the gateway accepts new clients. Each problem is listed once.
func readiness(problems []problem) Readiness {
	r := Readiness{true, []problem{}}
	for _, p := range problems {
		r.Ready = r.Ready && !p.Refuses
		p.about = ""
		if !slices.Contains(r.Problems, p) {
			r.Problems = append(r.Problems, p)
		}
	}
	return r
}

// health returns the handlers of the endpoints.
func (p *Process) health(g *router.Gateway) map[string]http.HandlerFunc {
	build := version.Read()
	return map[string]http.HandlerFunc{
		// Stats takes the lock of every shard: a shard that hangs gets no answer.
		LiveEndpoint: func(w http.ResponseWriter, _ *http.Request) {
			g.Stats()
			_, _ = io.WriteString(w, "ok\n") // the client may have gone
		},
		ReadyEndpoint: func(w http.ResponseWriter, _ *http.Request) {
			r := readiness(p.status(g).problems)
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Cache-Control", "no-store")
			if !r.Ready {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			_ = json.NewEncoder(w).Encode(r) // the client may have gone
		},
		MetricsEndpoint: metrics.Handler(g, metrics.Build{Version: build.Version, Revision: build.Revision, Modified: build.Changed(), Go: build.Go}, p.moreMetrics()...).ServeHTTP,
	}
}

// moreMetrics returns the counters of the parts that the configuration has.
func (p *Process) moreMetrics() (all []func() any) {
	if p.wireGuard != nil {
		all = append(all, func() any { return p.wireGuard.Stats() })
	}
	if p.registration != nil {
		all = append(all, func() any { return p.registration.ledgerStats() })
	}
	if p.config.Registration.Access == config.RegistrationTickets {
		all = append(all, func() any { return p.issuers.stats(time.Now()) })
	}
	return all
}

// serveMetrics serves health and metrics if configured, through the predecessor's listener if it has the
// same address. The error is of an address that the configuration requires.
func (p *Process) serveMetrics(ctx context.Context, g *router.Gateway, inherited map[string]*os.File) error {
	addr, required := p.config.Metrics.Address()
	p.metricsRequired = required
	if addr == "" {
		return nil
	}
	listener, _ := inheritedListener(inherited, metricsFile+addr).(*net.TCPListener)
	if listener == nil {
		var err error
		if listener, err = metrics.Listen(ctx, addr); err != nil {
			p.metricsError = err.Error()
			if required {
				return fmt.Errorf("%w; set another address, or metrics.required = false to go on without metrics", err)
			}
			p.log.Warn("no metrics: cannot listen on their address; set another metrics.listen, or \"\" for none", zap.Error(err))
			return nil
		}
	}
	if file, err := listener.File(); err == nil { // fails on Windows, where there is no handover
		p.extras[metricsFile+addr] = file
	}
	p.metricsURL = "http://" + listener.Addr().String() + MetricsEndpoint
	mux := http.NewServeMux()
	for path, h := range p.health(g) {
		mux.HandleFunc("GET "+path, h)
	}
	p.metrics = metrics.ServeOn(ctx, listener, mux)
	p.log.Info("metrics", zap.String("url", p.metricsURL))
	return nil
}
