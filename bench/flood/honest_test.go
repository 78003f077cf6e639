//go:build linux

package flood

import (
	"context"
	"crypto/rand"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"lewes/bench/worker"
	"lewes/crypto/identity"
	"lewes/transport/client"
	"lewes/transport/uri"
)

// dials are honest handshakes: how many a second, and for how long.
type dials struct {
	Gateway uri.Gateway   `json:"gateway"`
	Rate    float64       `json:"rate"`
	For     time.Duration `json:"for"`
}

// dialResults are the outcomes of dials.
type dialResults struct {
	Tried  int             `json:"tried"`
	Delays []time.Duration `json:"delays"` // of the successful ones, ascending
	Err    string          `json:"err"`    // of the last one that failed
}

// honestRole is an honest client. Its calls are "dial" (dials) and "get" (a URL).
var honestRole = worker.Start(func(context.Context, worker.None) (*worker.Service, error) {
	return &worker.Service{Result: worker.None{}, Calls: map[string]worker.Handler{
		"dial": worker.Method(dial),
		"get": worker.Method(func(ctx context.Context, url string) (string, error) {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
			if err != nil {
				return "", err
			}
			answer, err := http.DefaultClient.Do(request)
			if err != nil {
				return "", err
			}
			defer answer.Body.Close()
			page, err := io.ReadAll(answer.Body)
			return string(page), err
		}),
	}}, nil
})

// dial makes handshakes with the library, each from its own socket and with a KKT exchange.
// A client that the gateway refuses or does not answer tries again until the test's patience
// ends.
func dial(ctx context.Context, d dials) (dialResults, error) {
	key, err := identity.Generate(rand.Reader)
	if err != nil {
		return dialResults{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience*3/4)
	defer cancel()
	var mu sync.Mutex
	var all sync.WaitGroup
	var results dialResults
	began := time.Now()
	for n := 0; ctx.Err() == nil; n++ {
		at := time.Duration(float64(n) / d.Rate * float64(time.Second))
		if at >= d.For {
			break
		}
		time.Sleep(at - time.Since(began))
		results.Tried++
		all.Go(func() {
			from := time.Now()
			var s *client.Session
			var err error
			for s == nil && ctx.Err() == nil {
				s, err = client.Dial(ctx, client.Config{Gateway: d.Gateway, Identity: key, Keys: new(client.KeyCache), NoReconnect: true})
			}
			took := time.Since(from)
			mu.Lock()
			defer mu.Unlock()
			if s == nil {
				if err != nil {
					results.Err = err.Error()
				}
				return
			}
			results.Delays = append(results.Delays, took)
			_ = s.Close()
		})
	}
	all.Wait()
	slices.Sort(results.Delays)
	return results, nil
}
