package gatewayd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"lewes/cmd/lewes/internal/config"
	"lewes/crypto/identity"
	"lewes/crypto/tickets"
	"lewes/router/registrar"
)

const (
	// issuerInterval is the time between fetches of an issuer's keys, which the issuer publishes an epoch ahead.
	issuerInterval = time.Hour
	// issuerRetry is the time after which a failed fetch is repeated, and files are looked at again.
	issuerRetry = time.Minute
	// issuerTimeout bounds a fetch.
	issuerTimeout = 30 * time.Second
)

// issuers keeps the keys of the issuers whose tickets the gateway takes. It is safe for concurrent use.
type issuers struct {
	verifier *tickets.Verifier
	dir      string // of the last directories that were fetched; empty: they are not kept
	client   *http.Client
	log      *zap.Logger
	wake     chan struct{}

	mu    sync.Mutex // guards the fields below
	known []*issuerKeys
}

// issuerKeys are those of one issuer.
type issuerKeys struct {
	source    config.Issuer
	directory *tickets.Directory // nil: none yet
	fetched   time.Time          // when the last attempt was made
	failed    bool               // the last attempt
}

// newIssuers returns issuers without sources.
func newIssuers(gateway identity.PublicKey, stateDir string, log *zap.Logger) *issuers {
	i := &issuers{
		verifier: tickets.NewVerifier(gateway), log: log, wake: make(chan struct{}, 1),
		client: &http.Client{
			Timeout:       issuerTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	if stateDir != "" {
		i.dir = filepath.Join(stateDir, "issuers")
	}
	return i
}

// replace replaces the sources. The keys of a file, and those that were kept of a new issuer until run has fetched
// its keys, are in use when it returns: a client that spends a ticket comes back as soon as the gateway does.
func (i *issuers) replace(sources []config.Issuer) {
	i.mu.Lock()
	defer i.mu.Unlock()
	var next []*issuerKeys
	for _, s := range sources {
		at := slices.IndexFunc(i.known, func(k *issuerKeys) bool { return k.source == s })
		if at >= 0 {
			next = append(next, i.known[at])
			continue
		}
		k := &issuerKeys{source: s}
		path := s.File
		if path == "" {
			path = i.keptFile(s)
		}
		if path != "" {
			if text, err := readDirectory(path); err == nil {
				k.directory, _ = parseDirectory(text, s) // nil: damaged, and soon fetched
			}
		}
		next = append(next, k)
	}
	i.known = next
	i.use()
	select {
	case i.wake <- struct{}{}:
	default:
	}
}

// use passes the keys to the verifier. Issuers that contradict an earlier one are left out. mu is held.
func (i *issuers) use() {
	var all []*tickets.Directory
	for _, k := range i.known {
		if k.directory == nil {
			continue
		}
		if err := i.verifier.SetIssuers(append(all, k.directory)); err != nil {
			k.failed = true
			i.log.Error("cannot use the keys of an issuer", zap.String("issuer", k.source.String()), zap.Error(err))
			continue
		}
		all = append(all, k.directory)
	}
	_ = i.verifier.SetIssuers(all) // which it took one by one
}

// failing returns the sources whose keys could not be read the last time.
func (i *issuers) failing() (sources []string) {
	if i == nil {
		return nil // not started yet
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, k := range i.known {
		if k.failed {
			sources = append(sources, k.source.URL+k.source.File)
		}
	}
	return sources
}

// stats returns the numbers of keys and failing issuers.
func (i *issuers) stats(now time.Time) registrar.IssuerStats {
	return registrar.IssuerStats{Failing: uint64(len(i.failing())), Keys: uint64(i.verifier.Keys(now))}
}

// run keeps the keys up to date until ctx is done.
func (i *issuers) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-i.wake:
		case <-timer.C:
		}
		i.refresh(ctx, time.Now())
		timer.Reset(issuerRetry)
	}
}

// refresh reads the keys of the issuers for which it is time.
func (i *issuers) refresh(ctx context.Context, now time.Time) {
	i.mu.Lock()
	var due []config.Issuer
	for _, k := range i.known {
		if since := now.Sub(k.fetched).Abs(); k.fetched.IsZero() || since >= issuerInterval || (k.failed || k.source.File != "") && since >= issuerRetry {
			due = append(due, k.source)
		}
	}
	i.mu.Unlock()
	for _, source := range due {
		text, d, err := i.read(ctx, source)
		if ctx.Err() != nil {
			return
		}
		i.note(source, text, d, err, now)
	}
}

// read fetches the directory of an issuer.
func (i *issuers) read(ctx context.Context, source config.Issuer) (text []byte, d *tickets.Directory, err error) {
	if source.File != "" {
		text, err = readDirectory(source.File)
	} else {
		text, err = i.fetch(ctx, source)
	}
	if err == nil {
		d, err = parseDirectory(text, source)
	}
	return text, d, err
}

// note records the outcome of a read. Keys that contradict known ones are refused: an issuer with two keys for
// one purpose could recognize clients.
func (i *issuers) note(source config.Issuer, text []byte, d *tickets.Directory, err error, now time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	at := slices.IndexFunc(i.known, func(k *issuerKeys) bool { return k.source == source })
	if at < 0 {
		return // removed in the meantime
	}
	k := i.known[at]
	if err == nil && k.directory != nil {
		err = d.Extends(k.directory)
	}
	first := k.fetched.IsZero()
	wasFailed := k.failed
	k.fetched, k.failed = now, err != nil
	if err != nil {
		if !wasFailed || first {
			i.log.Warn("cannot get the keys of an issuer; its known ones stay in use", zap.String("issuer", source.String()), zap.Bool("known", k.directory != nil), zap.Error(err))
		}
		return
	}
	k.directory = d
	i.use()
	if first || wasFailed {
		i.log.Info("using the keys of an issuer", zap.String("issuer", source.String()), zap.Int("keys", len(d.Keys)))
	}
	if path := i.keptFile(source); path != "" {
		if err := keep(path, text); err != nil {
			i.log.Warn("cannot keep the keys of an issuer", zap.Error(err))
		}
	}
}

func (i *issuers) fetch(ctx context.Context, source config.Issuer) ([]byte, error) {
	issuer, err := tickets.ParseIssuer(source.String())
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, issuer.DirectoryURL(), nil)
	if err != nil {
		return nil, err
	}
	response, err := i.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the issuer answers %s", response.Status)
	}
	return io.ReadAll(io.LimitReader(response.Body, tickets.MaxDirectorySize+1))
}

// parseDirectory parses a directory of a source, whose pin has signed it.
func parseDirectory(text []byte, source config.Issuer) (*tickets.Directory, error) {
	d, err := tickets.ParseDirectory(text, source.Pin)
	if err != nil || source.URL == "" {
		return d, err
	}
	issuer, err := tickets.ParseIssuer(source.String())
	if err != nil {
		return nil, err
	}
	if d.Issuer != issuer.Name() {
		return nil, fmt.Errorf("its keys are those of issuer %q", d.Issuer)
	}
	return d, nil
}

func readDirectory(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, tickets.MaxDirectorySize+1))
}

// keptFile returns where the directory of a source is kept, empty for a file or without a state directory.
func (i *issuers) keptFile(source config.Issuer) string {
	if i.dir == "" || source.URL == "" {
		return ""
	}
	_, host, _ := strings.Cut(source.URL, "://")
	return filepath.Join(i.dir, strings.NewReplacer(":", "_", "/", "_").Replace(host)+".json")
}

// keep replaces a file.
func keep(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return os.Rename(f.Name(), path)
}
