//go:build linux

package scenario

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"lewes/bench/report"
	"lewes/bench/worker"
	"lewes/crypto/identity"
	"lewes/crypto/tickets"
	"lewes/state/ledger"
)

const (
	// spenders is the number of registrations that wait for the ledger at once.
	spenders = 128
	// accounts is the number of accounts of a ledger at its start, a quick run has a hundredth of it.
	accounts = 100_000
)

// spending is a worker that spends tickets.
type spending struct {
	dir    string
	ledger *ledger.Ledger
	next   atomic.Uint64
	key    *tickets.PublicKey
	token  tickets.Token
}

// spendPlan is work for callers at once: For a time, or N times.
type spendPlan struct {
	Work    string
	Callers int
	For     time.Duration
	N       int
}

type spendResult struct {
	N    int
	Took time.Duration
}

// works are the kinds of work, each done once by a function.
var works = map[string]func(*spending) (func() error, error){
	"sync":   (*spending).sync,
	"verify": func(s *spending) (func() error, error) { return func() error { return s.token.Verify(s.key) }, nil },
	"spend":  func(s *spending) (func() error, error) { return s.spend, nil },
	"both": func(s *spending) (func() error, error) {
		return func() error { return errors.Join(s.token.Verify(s.key), s.spend()) }, nil
	},
}

func startSpending(context.Context, worker.None) (_ *worker.Service, err error) {
	s := new(spending)
	if s.dir, err = os.MkdirTemp("", "lewes-bench-"); err != nil {
		return nil, err
	}
	path := filepath.Join(s.dir, "ledger")
	if s.ledger, err = ledger.Open(path, ledger.Options{Gateway: identity.PublicKey{1}, Now: time.Now()}); err == nil {
		err = s.mint()
	}
	if err != nil {
		_ = os.RemoveAll(s.dir)
		return nil, err
	}
	return &worker.Service{
		Result: path,
		Calls: map[string]worker.Handler{
			"work":  worker.Method(s.work),
			"close": worker.Method(func(context.Context, worker.None) (worker.None, error) { return worker.None{}, s.ledger.Close() }),
		},
		Close: func() { _ = errors.Join(s.ledger.Close(), os.RemoveAll(s.dir)) },
	}, nil
}

// mint makes a ticket.
func (s *spending) mint() error {
	private, err := tickets.GenerateKey()
	if err != nil {
		return err
	}
	s.key = private.Public()
	var seed [tickets.SeedSize]byte
	challenge := tickets.Challenge("issuer.example", identity.PublicKey{1})
	request, err := tickets.Blind(&seed, s.key, challenge)
	if err != nil {
		return err
	}
	response, err := private.Sign(request)
	if err == nil {
		s.token, err = tickets.Finalize(&seed, s.key, challenge, response)
	}
	return err
}

func (s *spending) work(ctx context.Context, p spendPlan) (r spendResult, err error) {
	var count, failed atomic.Int64
	var running sync.WaitGroup
	first := make(chan error, p.Callers)
	began := time.Now()
	for range p.Callers {
		do, err := works[p.Work](s)
		if err != nil {
			return r, err
		}
		running.Go(func() {
			for failed.Load() == 0 && ctx.Err() == nil && (p.For == 0 || time.Since(began) < p.For) {
				if n := count.Add(1); p.N > 0 && n > int64(p.N) {
					return
				}
				if err := do(); err != nil {
					failed.Store(1)
					first <- err
				}
			}
		})
	}
	running.Wait()
	if failed.Load() != 0 {
		return r, <-first
	}
	return spendResult{int(count.Load()), time.Since(began)}, ctx.Err()
}

// spend commits a ticket of its own, for an account of its own.
func (s *spending) spend() error {
	now := time.Now()
	e := ledger.Entry{
		Ticket: &ledger.Ticket{Issuer: "issuer.example", From: now, Until: now.Add(24 * time.Hour).Truncate(24 * time.Hour)},
		Grant:  &ledger.Grant{Bytes: 1 << 30, Expires: now.Add(time.Hour), Source: ledger.SourceTicket},
		Now:    now,
	}
	binary.BigEndian.PutUint64(e.Ticket.Spent[:], 0x9e3779b97f4a7c15*s.next.Add(1)) // spread, as hashes are
	e.Request, e.Account = e.Ticket.Spent, identity.PublicKey(e.Ticket.Spent)
	_, err := s.ledger.Commit(context.Background(), e)
	return err
}

// sync does what a transaction of the ledger cannot do without: it writes a page and syncs, twice.
func (s *spending) sync() (func() error, error) {
	f, err := os.CreateTemp(s.dir, "floor")
	if err != nil {
		return nil, err
	}
	page, n := make([]byte, os.Getpagesize()), int64(0)
	return func() error {
		for range 2 {
			if _, err := f.WriteAt(page, n%256*int64(len(page))); err != nil {
				return err
			}
			if err := f.Sync(); err != nil {
				return err
			}
			n++
		}
		return nil
	}, nil
}

// startAccounts is a worker that opens a ledger.
func startAccounts(_ context.Context, path string) (*worker.Service, error) {
	began := time.Now()
	l, err := ledger.Open(path, ledger.Options{Gateway: identity.PublicKey{1}, Now: began})
	if err != nil {
		return nil, err
	}
	took := time.Since(began)
	return &worker.Service{Result: took, Close: func() { _ = l.Close() }}, nil
}

func register(ctx context.Context, e *env) error {
	var path string
	w, err := e.start(ctx, roleSpending, worker.None{}, &path, worker.Where{})
	if err != nil {
		return err
	}
	plans := make(map[*topology]spendPlan)
	add := func(subject string, kind report.Kind, work string, callers int) {
		t := &topology{row: report.Row{Subject: subject, Kind: kind}}
		e.topologies = append(e.topologies, t)
		plans[t] = spendPlan{Work: work, Callers: callers, For: e.settings.Trial}
	}
	add("two syncs of a page, 1 caller", report.Direct, "sync", 1)
	add("RSA-2048 verification", report.Direct, "verify", runtime.NumCPU())
	add("ledger, 1 caller", report.Gateway, "spend", 1)
	add(fmt.Sprintf("ledger, %d callers", spenders), report.Gateway, "spend", spenders)
	add(fmt.Sprintf("verification and ledger, %d callers", spenders), report.Gateway, "both", spenders)
	for round := range e.settings.Rounds {
		e.each(ctx, fmt.Sprintf("spending, %d of %d", round+1, e.settings.Rounds), func(t *topology) error {
			before, err := w.Usage(ctx)
			if err != nil {
				return err
			}
			var r spendResult
			if err := w.Call(ctx, "work", plans[t], &r); err != nil {
				return err
			}
			used, err := w.Usage(ctx)
			if err != nil {
				return err
			}
			used = used.Since(before)
			t.row.Add(report.Max, float64(r.N)/r.Took.Seconds())
			t.row.Add(report.CPU, float64(used.CPU)/float64(r.N))
			t.row.Add(report.Allocs, float64(used.Mallocs)/float64(r.N))
			return nil
		})
	}
	if err := e.addGroup(ctx, report.Group{Variant: "spends", Title: "Registrations, durable spends of tickets", Unit: "spend", Notes: []string{
		"a spend is the change of a spent ticket, a grant and a new account; the ledger is in " + os.TempDir(),
		"a transaction takes two syncs, which many callers share",
	}}); err != nil {
		return err
	}

	n := accounts
	if e.settings.Quick {
		n /= 100
	}
	e.progress("making %d accounts", n)
	if err := w.Call(ctx, "work", spendPlan{Work: "spend", Callers: spenders, N: n}, nil); err != nil {
		return err
	}
	if err := w.Call(ctx, "close", worker.None{}, nil); err != nil {
		return err
	}
	var took time.Duration
	opened, err := e.start(ctx, roleAccounts, path, &took, worker.Where{})
	if err != nil {
		return err
	}
	used, err := opened.Settle(ctx)
	if err != nil {
		return err
	}
	row := report.Row{Subject: "ledger, opened", Kind: report.Gateway}
	row.Add(report.Units, float64(n))
	row.Add(report.Resident, float64(used.Resident))
	e.report.AddGroup(report.Group{Scenario: e.scenario, Variant: "start", Title: "Registrations, the start of a gateway", Unit: "account", Rows: []report.Row{row}, Notes: []string{
		"target with 100,000 accounts: under 2 s and 100 MB",
		fmt.Sprintf("opened in %v, all pages verified; resident memory of the whole process, after the trials above added their accounts too", took.Round(time.Millisecond)),
	}})
	return nil
}
