package metrics

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Serve serves http://address/metrics until ctx ends. It returns the address that it listens on.
func Serve(ctx context.Context, address string, source Source) (net.Addr, error) {
	listener, err := Listen(ctx, address)
	if err != nil {
		return nil, err
	}
	ServeOn(ctx, listener, source)
	return listener.Addr(), nil
}

// Listen listens on an IP address and port, for ServeOn.
func Listen(ctx context.Context, address string) (*net.TCPListener, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("metrics.listen %q: %w", address, err)
	}
	return listener.(*net.TCPListener), nil
}

// Handler returns the handler of /metrics.
func Handler(source Source) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(New(source), collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

// ServeOn serves /metrics on the connections of listener until ctx ends. It owns the listener.
func ServeOn(ctx context.Context, listener net.Listener, source Source) {
	mux := http.NewServeMux()
	mux.Handle("/metrics", Handler(source))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	go func() {
		defer stop()
		if err := server.Serve(listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
			_ = listener.Close()
		}
	}()
}
