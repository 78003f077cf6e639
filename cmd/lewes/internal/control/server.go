package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Bounds of a Server.
const (
	MaxConnections = 32
	maxReaders     = 24       // connections of users who may only read
	maxHeader      = 16 << 10 // bytes; a request has 64 KiB
	maxBody        = 48 << 10
	readTimeout    = 5 * time.Second // for a request
	// WriteTimeout bounds an answer, or each piece of a streamed one.
	WriteTimeout = 10 * time.Second
	idleTimeout  = 30 * time.Second
)

// Server serves the endpoints that are registered before Serve.
type Server struct {
	log    *zap.Logger
	audit  *zap.Logger
	uid    int // of this process
	mux    *http.ServeMux
	server *http.Server

	closing chan struct{} // closed by Shutdown
}

// NewServer returns a server without endpoints. audit receives a line for each request that acts or
// reveals, and log those that are refused.
func NewServer(log, audit *zap.Logger) *Server {
	s := &Server{log: log, audit: audit, uid: os.Geteuid(), mux: http.NewServeMux(), closing: make(chan struct{})}
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, http.StatusNotFound, fmt.Errorf("there is no %s %s", r.Method, r.URL.Path))
	})
	s.server = &http.Server{
		Handler:           s.mux,
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      WriteTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          discardLog(),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
		ConnState: func(c net.Conn, state http.ConnState) {
			if c, ok := c.(*conn); ok {
				c.busy.Store(state == http.StateActive)
			}
		},
	}
	s.server.RegisterOnShutdown(sync.OnceFunc(func() { close(s.closing) }))
	return s
}

// discardLog discards the errors of connections, which any user can cause.
func discardLog() *log.Logger { return log.New(io.Discard, "", 0) }

type connKey struct{}

// Read registers an endpoint for whoever can connect.
func (s *Server) Read(pattern string, h http.HandlerFunc) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		h(w, r)
	})
}

// Act registers an endpoint that acts or reveals, under the name in the log.
func (s *Server) Act(pattern, action string, h http.HandlerFunc) {
	s.Read(pattern, func(w http.ResponseWriter, r *http.Request) {
		if s.Authorize(w, r, action) {
			h(w, r)
		}
	})
}

// Authorize reports whether the request's user may act, and logs it. Otherwise it answers the request.
func (s *Server) Authorize(w http.ResponseWriter, r *http.Request, action string) bool {
	c, _ := r.Context().Value(connKey{}).(*conn)
	if c == nil || !c.peer.known {
		fail(w, http.StatusForbidden, errors.New("this system does not say who asks: only root and the gateway's user may do this"))
		return false
	}
	fields := []zap.Field{zap.String("action", action), zap.Int("uid", c.peer.uid), zap.Int("pid", c.peer.pid)}
	if !c.peer.operator(s.uid) {
		s.log.Warn("control request refused", fields...)
		fail(w, http.StatusForbidden, fmt.Errorf("user %d may not do this: only root and the gateway's user, %d, may", c.peer.uid, s.uid))
		return false
	}
	s.audit.Info("control request", fields...)
	return true
}

// Serve serves until Shutdown or Close. It owns the listener.
func (s *Server) Serve(listener *net.UnixListener) error {
	err := s.server.Serve(newBoundedListener(listener, s.uid))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Shutdown stops accepting and waits until ctx ends for the requests under way. The socket's file stays.
func (s *Server) Shutdown(ctx context.Context) { _ = s.server.Shutdown(ctx) }

// Closing is closed when Shutdown waits for the requests under way.
func (s *Server) Closing() <-chan struct{} { return s.closing }

// Close ends all connections. The socket's file stays.
func (s *Server) Close() { _ = s.server.Close() }

// Extend gives an answer more time: d before it, or its next piece, is written. The request must have
// been read.
func Extend(w http.ResponseWriter, d time.Duration) {
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(time.Time{}) // its end would cancel the request's context
	_ = c.SetWriteDeadline(time.Now().Add(d + WriteTimeout))
}

// failure is the answer to a request that failed.
type failure struct {
	Error string `json:"error"`
}

func fail(w http.ResponseWriter, code int, err error) { writeJSON(w, code, failure{err.Error()}) }

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // the client may have gone
}

// Answer writes v, or err if it is not nil.
func Answer(w http.ResponseWriter, v any, err error) {
	if err != nil {
		fail(w, http.StatusConflict, err)
		return
	}
	writeJSON(w, http.StatusOK, v)
}

// Decode reads the request's JSON object into v. Otherwise it answers the request.
func Decode(w http.ResponseWriter, r *http.Request, v any) bool {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil && d.More() {
		err = errors.New("more than one value")
	}
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("invalid request: %w", err))
		return false
	}
	return true
}
