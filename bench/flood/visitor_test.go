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

// visits says how many honest handshakes to make a second, and for how long.
type visits struct {
	Gateway uri.Gateway   `json:"gateway"`
	Rate    float64       `json:"rate"`
	For     time.Duration `json:"for"`
}

// visited is what became of them.
type visited struct {
	Tried  int             `json:"tried"`
	Delays []time.Duration `json:"delays"` // of those that stood, the shortest first
	Err    string          `json:"err"`    // of one that did not
}

// handshakePatience is how long a handshake may take at most.
const handshakePatience = 8 * time.Second

// visitorRole is somebody honest. The calls are "visit" (visits) and "get" (a URL).
var visitorRole = worker.Start(func(context.Context, worker.None) (*worker.Service, error) {
	return &worker.Service{Result: worker.None{}, Calls: map[string]worker.Handler{
		"visit": worker.Method(visit),
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

// visit makes handshakes with the library, each from a socket of its own and with the
// exchange of the KEM key.
func visit(ctx context.Context, v visits) (visited, error) {
	key, err := identity.Generate(rand.Reader)
	if err != nil {
		return visited{}, err
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	var done visited
	began := time.Now()
	for n := 0; ctx.Err() == nil; n++ {
		at := time.Duration(float64(n) / v.Rate * float64(time.Second))
		if at >= v.For {
			break
		}
		time.Sleep(at - time.Since(began))
		done.Tried++
		all.Go(func() {
			from := time.Now()
			s, err := client.Dial(ctx, client.Config{Gateway: v.Gateway, Identity: key, Keys: new(client.KeyCache), Timeout: handshakePatience, NoReconnect: true})
			took := time.Since(from)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				done.Err = err.Error()
				return
			}
			done.Delays = append(done.Delays, took)
			_ = s.Close()
		})
	}
	all.Wait()
	slices.Sort(done.Delays)
	return done, nil
}
