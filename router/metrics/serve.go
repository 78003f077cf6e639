package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"
)

// Bounds of the HTTP server: any user of the machine may connect to it.
const (
	maxConnections = 32
	maxHeader      = 16 << 10 // bytes
	readTimeout    = 5 * time.Second
	writeTimeout   = 10 * time.Second
	idleTimeout    = 2 * time.Minute // Prometheus scrapes every minute or more often
)

// Listen listens on an IP address and port, for ServeOn.
func Listen(ctx context.Context, address string) (*net.TCPListener, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("metrics.listen %q: %w", address, err)
	}
	return listener.(*net.TCPListener), nil
}

// Handler returns the handler of /metrics, with the sources of New.
func Handler(source Source, build Build, more ...func() any) http.Handler {
	c := New(source, build, more...)
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write(c.page().text()) // the client may have gone
	})
}

// ServeOn serves handler on the connections of listener until ctx ends or the returned server is shut
// down. It owns the listener.
func ServeOn(ctx context.Context, listener net.Listener, handler http.Handler) *http.Server {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(io.Discard, "", 0), // any user can cause its lines
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	go func() {
		defer stop()
		if err := server.Serve(netutil.LimitListener(listener, maxConnections)); err != nil && !errors.Is(err, http.ErrServerClosed) {
			_ = listener.Close()
		}
	}()
	return server
}
