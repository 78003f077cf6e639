package wallet

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/tickets"
)

// issuerKeys are keys with different truncated ids that all tests share.
var issuerKeys = sync.OnceValue(func() (keys [2]*tickets.PrivateKey) {
	for i := 0; i < len(keys); {
		k, err := tickets.GenerateKey()
		if err != nil {
			panic(err)
		}
		if keys[i] = k; i == 0 || k.Public().ID().Truncated() != keys[0].Public().ID().Truncated() {
			i++
		}
	}
	return keys
})

// testIssuer is an issuer over loopback HTTP.
type testIssuer struct {
	*httptest.Server
	t *testing.T

	mu      sync.Mutex
	pin     *identity.PrivateKey
	keys    []tickets.Key // as listed
	signers map[byte]*tickets.PrivateKey
	length  time.Duration
	left    int
	signed  map[tickets.Request]bool
	fail    func(r *http.Request) int // status to answer instead; 0: none
	crash   func()                    // called before an answer
	asked   int                       // token requests
	seen    []tickets.Request         // in the order in which they came
	sent    []tickets.Response
}

const testBytes, testSeconds = 1000, 3600

var testVoucher = tickets.Voucher{1, 2, 3}

func newIssuer(t *testing.T, left int) *testIssuer {
	keys := issuerKeys()
	epoch := tickets.EpochAt(testNow, tickets.DefaultEpoch)
	i := &testIssuer{
		t: t, pin: identity.FromSeed(&[identity.SeedSize]byte{77}), left: left, length: tickets.DefaultEpoch,
		signed: make(map[tickets.Request]bool), signers: make(map[byte]*tickets.PrivateKey),
	}
	for n, k := range keys {
		i.keys = append(i.keys, tickets.Key{Denomination: tickets.Denomination{Bytes: testBytes, Seconds: testSeconds}, Epoch: epoch + uint32(n), Public: k.Public()})
		i.signers[k.Public().ID().Truncated()] = k
	}
	i.Server = httptest.NewServer(i)
	t.Cleanup(i.Close)
	return i
}

func (i *testIssuer) issuer() tickets.Issuer {
	issuer, err := tickets.ParseIssuer(i.URL + "#" + i.pin.Public().String())
	if err != nil {
		i.t.Fatal(err)
	}
	return issuer
}

func (i *testIssuer) order(count int) Order {
	return Order{Gateway: testGateway, Issuer: i.issuer(), Voucher: testVoucher, Count: count}
}

func (i *testIssuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.fail != nil {
		if status := i.fail(r); status != 0 {
			http.Error(w, "these are\x00 my words\nand more", status)
			return
		}
	}
	if r.URL.Path == tickets.DirectoryPath {
		d := tickets.Directory{Issuer: i.issuer().Name(), Epoch: i.length, Keys: i.keys, RequestURI: "/token-request"}
		text, err := d.Sign(i.pin)
		if err != nil {
			i.t.Error(err)
		}
		_, _ = w.Write(text)
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+testVoucher.Text() {
		http.Error(w, "no such voucher", http.StatusUnauthorized)
		return
	}
	if r.Method == http.MethodGet {
		_ = json.NewEncoder(w).Encode(balance{i.left, testBytes, testSeconds})
		return
	}
	body, _ := io.ReadAll(r.Body)
	request, err := tickets.ParseRequest(body)
	if err != nil || r.Header.Get("Content-Type") != tickets.RequestMediaType {
		i.t.Errorf("a request of %d bytes, %v", len(body), err)
	}
	i.asked++
	signer := i.signers[request.Truncated]
	switch {
	case signer == nil:
		http.Error(w, "unknown key", http.StatusUnprocessableEntity)
		return
	case !i.signed[request] && i.left == 0:
		http.Error(w, "", http.StatusPaymentRequired)
		return
	case !i.signed[request]:
		i.signed[request] = true
		i.left--
	}
	response, err := signer.Sign(request)
	if err != nil {
		i.t.Error(err)
	}
	i.seen, i.sent = append(i.seen, request), append(i.sent, response)
	if i.crash != nil {
		i.crash()
	}
	_, _ = w.Write(response[:])
}

// good checks that the wallet has n tickets that testGateway takes, and no unfinished fetch.
func (i *testIssuer) good(w *Wallet, n int) {
	i.t.Helper()
	v := tickets.NewVerifier(testGateway)
	if err := v.SetIssuers([]*tickets.Directory{{Issuer: i.issuer().Name(), Epoch: i.length, Keys: i.keys}}); err != nil {
		i.t.Fatal(err)
	}
	c := read(i.t, w)
	if len(c.Tickets) != n || len(c.Fetches) != 0 {
		i.t.Fatalf("%d tickets and %d unfinished fetches, want %d tickets", len(c.Tickets), len(c.Fetches), n)
	}
	spent := make(map[[32]byte]bool)
	for _, x := range c.Tickets {
		ticket, err := v.Check(x.Token, testNow)
		if err == nil {
			err = ticket.Verify()
		}
		if err != nil {
			i.t.Fatal(err)
		}
		spent[ticket.Spent] = true
		if x.Bytes != testBytes || x.Seconds != testSeconds || x.Until != ticket.Until.Unix() || x.ID != hex32(ticket.Key) {
			i.t.Errorf("stored as %+v", x.key)
		}
	}
	if len(spent) != n {
		i.t.Errorf("%d different tickets of %d", len(spent), n)
	}
}

func TestFetch(t *testing.T) {
	w, i := newWallet(t, 0), newIssuer(t, 20)
	last := 0
	got, err := w.Fetch(t.Context(), i.order(17), func(got, total int) {
		if got <= last || total != 17 {
			t.Errorf("progress %d of %d after %d", got, total, last)
		}
		last = got
	})
	if err != nil || got != 17 || last != 17 {
		t.Fatalf("%d tickets, %d reported, %v", got, last, err)
	}
	i.good(w, 17)
	if _, err := w.Fetch(t.Context(), i.order(4), nil); err == nil || !strings.Contains(err.Error(), "good for 3 tickets, not for 4") {
		t.Errorf("more than the voucher is good for: %v", err)
	}
	if got, err := w.Fetch(t.Context(), i.order(0), nil); err != nil || got != 3 { // all that are left
		t.Fatalf("%d tickets, %v", got, err)
	}
	i.good(w, 20)
	if _, err := w.Fetch(t.Context(), i.order(0), nil); !errors.Is(err, ErrUsedUp) {
		t.Errorf("a voucher that is used up: %v", err)
	}
}

// A process that ends at any answer costs neither voucher nor ticket: the next one sends the same requests.
//
// Shows R9.37.
func TestFetchResumesAfterCrash(t *testing.T) {
	w, i := newWallet(t, 0), newIssuer(t, 3)
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		sent := 0
		i.crash = func() {
			if sent++; sent == 2 {
				cancel() // the answer is lost, and nothing is stored after it
			}
		}
		w.disk.rename = func(from, to string) error { // a killed process stores nothing more
			if ctx.Err() != nil {
				return context.Canceled
			}
			return os.Rename(from, to)
		}
		if _, err := w.Fetch(ctx, i.order(0), nil); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		again, err := Open(w.Path())
		if err != nil {
			t.Fatal(err)
		}
		again.now, w = w.now, again
		if c := read(t, w); len(c.Fetches) != 1 || len(c.Fetches[0].Seeds) != 3 {
			t.Fatalf("stored: %+v", c.Fetches)
		}
	}
	i.crash = nil
	if got, err := w.Resume(t.Context(), nil); err != nil || got != 3 {
		t.Fatalf("%d tickets, %v", got, err)
	}
	i.good(w, 3)
	if len(i.signed) != 3 || i.left != 0 {
		t.Errorf("the issuer signed %d requests, %d are left", len(i.signed), i.left)
	}
}

// Two processes that go on with one fetch get its tickets once.
func TestFetchTwiceAtOnce(t *testing.T) {
	w, i := newWallet(t, 0), newIssuer(t, 5)
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() {
			other, err := Open(w.Path())
			if err != nil {
				t.Error(err)
				return
			}
			other.now = w.now
			if _, err := other.Fetch(t.Context(), i.order(5), nil); err != nil && !errors.Is(err, ErrUsedUp) && !strings.Contains(err.Error(), "the voucher is good for") {
				t.Error(err)
			}
		})
	}
	group.Wait()
	i.good(w, 5)
}

// A fetch that crashed in one epoch is finished in the next: with the old key where the issuer answers that, else with the
// current one.
func TestFetchAcrossEpochs(t *testing.T) {
	for _, old := range []bool{true, false} {
		w, i := newWallet(t, 0), newIssuer(t, 2)
		ctx, cancel := context.WithCancel(t.Context())
		i.fail = func(r *http.Request) int {
			if r.Method == http.MethodPost {
				cancel()
				return http.StatusInternalServerError
			}
			return 0
		}
		if _, err := w.Fetch(ctx, i.order(0), nil); err == nil {
			t.Fatal("fetched")
		}
		i.fail = nil
		if !old {
			delete(i.signers, i.keys[0].Public.ID().Truncated())
		}
		w.now = func() time.Time { return testNow.Add(tickets.DefaultEpoch) }
		if got, err := w.Resume(t.Context(), nil); err != nil || got != 2 {
			t.Fatalf("%d tickets, %v", got, err)
		}
		if c := read(t, w); (c.Tickets[0].Epoch == i.keys[0].Epoch) != old {
			t.Errorf("ticket of epoch %d", c.Tickets[0].Epoch)
		}
	}
}

// Issuers that could recognize a client later, or that are not who the user named, are refused before anything is stored.
//
// Shows R9.30.
func TestFetchRefusesIssuer(t *testing.T) {
	other := issuerKeys()[1].Public()
	for name, c := range map[string]struct {
		change func(*testIssuer)
		want   error
		words  string
	}{
		"another key than before": {func(i *testIssuer) { i.keys = i.keys[:1]; i.keys[0].Public = other }, tickets.ErrSecondKey, "recognize this client's tickets"},
		"epochs of another length": {func(i *testIssuer) {
			i.length /= 2
			for n := range i.keys {
				i.keys[n].Epoch *= 2
			}
		}, tickets.ErrSecondKey, "instead of 604800"},
		"a wrong pin": {func(i *testIssuer) { i.pin = identity.FromSeed(&[identity.SeedSize]byte{78}) }, tickets.ErrPin, "never take it from the gateway"},
	} {
		w, i := newWallet(t, 0), newIssuer(t, 9)
		order := i.order(1)
		if _, err := w.Fetch(t.Context(), order, nil); err != nil {
			t.Fatal(err)
		}
		asked := i.asked
		i.mu.Lock()
		c.change(i)
		i.mu.Unlock()
		_, err := w.Fetch(t.Context(), order, nil)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.words) || i.asked != asked {
			t.Errorf("%s: %v after %d requests", name, err, i.asked-asked)
		}
		if c := read(t, w); len(c.Fetches) != 0 || len(c.Tickets) != 1 {
			t.Errorf("%s: %d fetches were stored", name, len(c.Fetches))
		}
	}
}

// What an issuer may answer, each with its sentence.
func TestFetchErrors(t *testing.T) {
	for name, c := range map[string]struct {
		fail  func(*http.Request) int
		order func(*Order)
		want  error
		words string
	}{
		"unknown voucher": {nil, func(o *Order) { o.Voucher[0]++ }, ErrVoucherUnknown, "(no such voucher)"},
		"failing":         {func(*http.Request) int { return 500 }, nil, nil, "500 Internal Server Error (these are my words)"},
		"a redirect":      {func(*http.Request) int { return 302 }, nil, nil, "302 Found"},
		"down":            {nil, func(o *Order) { o.Issuer.URL = &url.URL{Scheme: "http", Host: "127.0.0.1:1"} }, ErrUnreachable, "connect"},
	} {
		w, i := newWallet(t, 0), newIssuer(t, 1)
		i.fail = c.fail
		o := i.order(1)
		if c.order != nil {
			c.order(&o)
		}
		_, err := w.Fetch(t.Context(), o, nil)
		if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.words) || !strings.Contains(err.Error(), o.Issuer.Name()) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), o.Voucher.Text()) {
			t.Errorf("%s: %v contains the voucher", name, err)
		}
	}
}

// A busy issuer is asked again after the pause that it names.
func TestFetchWaitsForBusyIssuer(t *testing.T) {
	s := newSession(tickets.Issuer{}, testVoucher)
	for value, want := range map[string]time.Duration{"": busyPause, "-1": busyPause, "7": 7 * time.Second, "99999": maxBusyPause} {
		h := http.Header{}
		h.Set("Retry-After", value)
		if got := retryAfter(h); got != want {
			t.Errorf("Retry-After %q: %v", value, got)
		}
	}
	s.client.Transport = roundTrip(func() *http.Response {
		return &http.Response{StatusCode: http.StatusServiceUnavailable, Body: http.NoBody, Header: http.Header{}}
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.requests = "http://127.0.0.1/x"
	if _, err := s.do(ctx, http.MethodGet, s.requests, nil, 1); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "busy") {
		t.Error(err)
	}
}

type roundTrip func() *http.Response

func (f roundTrip) RoundTrip(*http.Request) (*http.Response, error) { return f(), nil }
