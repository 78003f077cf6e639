package issuer

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/net/netutil"

	"lewes/crypto/tickets"
)

const (
	requestPath = "/token-request"

	// Bounds of the server.
	maxConnections = 1024
	maxHeader      = 8 << 10
	readTimeout    = 10 * time.Second
	writeTimeout   = 30 * time.Second
	idleTimeout    = time.Minute
	signingWait    = 5 * time.Second // for one of the signatures, then busy
	shutdownWait   = 5 * time.Second

	// leftHeader carries how many tickets a voucher is still good for.
	leftHeader = "Lewes-Tickets-Left"
)

var (
	errForeignKey = errors.New("the key is not of the voucher's plan, or not of this epoch")
	errBusy       = errors.New("all signatures are being made")
)

// Serve answers requests on l until ctx ends, which it closes. A request under way has a few seconds to
// end.
func (i *Issuer) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler:           i.handler(),
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(io.Discard, "", 0), // its lines contain addresses of clients
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(netutil.LimitListener(l, maxConnections)) }()
	keys := time.NewTicker(checkKeys)
	defer keys.Stop()
	for {
		select {
		case err := <-served:
			return err
		case <-keys.C: // makes keys at the start of an epoch, before a client asks
			if _, _, err := i.current(i.config.Now()); err != nil {
				i.config.Log.Error("no keys", zap.Error(err))
			}
		case <-ctx.Done():
			wait, cancel := context.WithTimeout(context.Background(), shutdownWait)
			defer cancel()
			if server.Shutdown(wait) != nil {
				_ = server.Close()
			}
			<-served
			return nil
		}
	}
}

func (i *Issuer) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+tickets.DirectoryPath, i.serveDirectory)
	mux.HandleFunc("POST "+requestPath, i.serveRequest)
	mux.HandleFunc("GET "+requestPath, i.serveBalance)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if fault := recover(); fault != nil { // the server's own line would have the client's address
				i.config.Log.Error("request handler panicked", zap.Any("panic", fault), zap.Stack("stack"))
				panic(http.ErrAbortHandler)
			}
		}()
		mux.ServeHTTP(w, r)
	})
}

func (i *Issuer) serveDirectory(w http.ResponseWriter, _ *http.Request) {
	text, _, err := i.current(i.config.Now())
	if err != nil {
		i.fail(w, err)
		return
	}
	w.Header().Set("Content-Type", tickets.DirectoryMediaType)
	w.Header().Set("Cache-Control", "max-age="+strconv.Itoa(int(tickets.ClockTolerance/time.Second)))
	_, _ = w.Write(text)
}

// serveBalance answers what a voucher is for and how much is left of it.
func (i *Issuer) serveBalance(w http.ResponseWriter, r *http.Request) {
	v, err := bearer(r)
	if err != nil {
		i.fail(w, err)
		return
	}
	b, err := i.vouchers.balance(v)
	if err != nil {
		i.fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(struct {
		Left    int    `json:"left"`
		Bytes   uint64 `json:"bytes"`
		Seconds uint32 `json:"seconds"`
	}{b.left, b.Bytes, b.Seconds})
}

// serveRequest signs a request that a voucher pays for. All that can refuse it stands before the
// voucher is charged, and that before the signature.
func (i *Issuer) serveRequest(w http.ResponseWriter, r *http.Request) {
	v, err := bearer(r)
	if err != nil {
		i.fail(w, err)
		return
	}
	if r.Header.Get("Content-Type") != tickets.RequestMediaType {
		http.Error(w, "the media type is not "+tickets.RequestMediaType, http.StatusUnsupportedMediaType)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, tickets.RequestSize))
	if err != nil {
		i.fail(w, tickets.ErrMessage)
		return
	}
	request, err := tickets.ParseRequest(body)
	if err != nil {
		i.fail(w, err)
		return
	}
	response, left, err := i.sign(r.Context(), v, request)
	if err != nil {
		i.fail(w, err)
		return
	}
	w.Header().Set("Content-Type", tickets.ResponseMediaType)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set(leftHeader, strconv.Itoa(left))
	_, _ = w.Write(response[:])
}

// sign charges the voucher and signs. It returns how many tickets the voucher is still good for.
func (i *Issuer) sign(ctx context.Context, v tickets.Voucher, request tickets.Request) (tickets.Response, int, error) {
	now := i.config.Now()
	_, keys, err := i.current(now)
	if err != nil {
		return tickets.Response{}, 0, err
	}
	var key *liveKey
	for n := range keys {
		if keys[n].Public.ID().Truncated() == request.Truncated {
			key = &keys[n]
		}
	}
	if key == nil {
		return tickets.Response{}, 0, errForeignKey
	}
	if err := key.Public.Check(request); err != nil {
		return tickets.Response{}, 0, err
	}
	if _, err := i.vouchers.balance(v); err != nil {
		return tickets.Response{}, 0, err // whoever has no voucher takes no place
	}
	if err := i.acquire(ctx); err != nil {
		return tickets.Response{}, 0, err
	}
	defer func() { <-i.signing }()
	b, err := i.vouchers.spend(v, request, func(b balance) error {
		start := tickets.EpochStart(key.Epoch, i.config.Epoch)
		if key.Denomination != b.Denomination || now.Before(start.Add(-tickets.ClockTolerance)) || !now.Before(start.Add(i.config.Epoch+tickets.ClockTolerance)) {
			return errForeignKey
		}
		return nil
	})
	if err != nil {
		return tickets.Response{}, 0, err
	}
	response, err := key.private.Sign(request)
	return response, b.left, err
}

// acquire waits for one of the signatures, for a while.
func (i *Issuer) acquire(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, signingWait)
	defer cancel()
	select {
	case i.signing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return errBusy
	}
}

// bearer returns the voucher of a request.
func bearer(r *http.Request) (tickets.Voucher, error) {
	scheme, code, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return tickets.Voucher{}, errNoVoucher
	}
	v, err := tickets.ParseVoucher(code)
	if err != nil {
		return v, errNoVoucher
	}
	return v, nil
}

// fail answers with an error. Only errors of the issuer itself are logged.
func (i *Issuer) fail(w http.ResponseWriter, err error) {
	status, text := http.StatusInternalServerError, "the issuer has a fault; its log names it"
	for _, known := range []struct {
		err    error
		status int
	}{
		{errNoVoucher, http.StatusUnauthorized},
		{errUsedUp, http.StatusPaymentRequired},
		{tickets.ErrMessage, http.StatusUnprocessableEntity},
		{errForeignKey, http.StatusUnprocessableEntity},
		{errBusy, http.StatusServiceUnavailable},
	} {
		if errors.Is(err, known.err) {
			status, text = known.status, known.err.Error()
		}
	}
	switch status {
	case http.StatusInternalServerError:
		i.config.Log.Error("request failed", zap.Error(err))
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", "Bearer")
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
	}
	http.Error(w, text, status)
}
