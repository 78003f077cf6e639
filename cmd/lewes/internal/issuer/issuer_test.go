package issuer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"lewes/crypto/identity"
	"lewes/crypto/tickets"
)

var (
	month = Plan{"month", tickets.Denomination{Bytes: 10 << 30, Seconds: 30 * 86400}}
	week  = Plan{"week", tickets.Denomination{Bytes: 1 << 30, Seconds: 7 * 86400}}

	begin = tickets.EpochStart(2900, tickets.DefaultEpoch).Add(time.Hour)
)

// keyFiles are the keys of both plans at begin, which take a while to make.
var keyFiles = sync.OnceValue(func() map[string][]byte {
	dir, err := os.MkdirTemp("", "issuer")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	i, err := Open(Config{Dir: dir, Name: "issuer.example", Epoch: tickets.DefaultEpoch, Plans: []Plan{month, week}, Log: zap.NewNop(), Now: func() time.Time { return begin }})
	if err != nil {
		panic(err)
	}
	defer i.Close()
	files := make(map[string][]byte)
	for _, k := range i.keys {
		path := i.keyFile(k.Denomination, k.Epoch)
		if files[path[len(dir):]], err = os.ReadFile(path); err != nil {
			panic(err)
		}
	}
	return files
})

// bench is an issuer with a clock of its own.
type bench struct {
	*testing.T
	dir    string
	now    time.Time
	log    *bytes.Buffer
	issuer *Issuer
	server http.Handler
}

func newBench(t *testing.T, plans ...Plan) *bench {
	b := &bench{T: t, dir: t.TempDir(), now: begin, log: new(bytes.Buffer)}
	for name, text := range keyFiles() {
		for _, p := range plans {
			if !strings.Contains(name, fmt.Sprintf("%d-%d-", p.Bytes, p.Seconds)) {
				continue
			}
			if err := errors.Join(os.MkdirAll(filepath.Join(b.dir, "keys"), 0o700), os.WriteFile(filepath.Join(b.dir, name), text, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.open(plans...)
	t.Cleanup(func() { b.issuer.Close() })
	return b
}

func (b *bench) config(plans ...Plan) Config {
	core := zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.Lock(zapcore.AddSync(b.log)), zapcore.DebugLevel)
	return Config{Dir: b.dir, Name: "issuer.example", Epoch: tickets.DefaultEpoch, Plans: plans, Log: zap.New(core), Now: func() time.Time { return b.now }}
}

func (b *bench) open(plans ...Plan) {
	b.Helper()
	i, err := Open(b.config(plans...))
	if err != nil {
		b.Fatal(err)
	}
	b.issuer, b.server = i, i.handler()
}

func (b *bench) reopen() {
	b.Helper()
	b.issuer.Close()
	b.open()
}

func (b *bench) voucher(p Plan, count int) tickets.Voucher {
	b.Helper()
	v, err := NewVoucher(b.dir, p, count)
	if err != nil {
		b.Fatal(err)
	}
	return v
}

// do makes a request to the issuer and returns its answer.
func (b *bench) do(method, path, authorization, mediaType string, body []byte) *http.Response {
	r := httptest.NewRequest(method, path, bytes.NewReader(body))
	r.Header.Set("Authorization", authorization)
	r.Header.Set("Content-Type", mediaType)
	w := httptest.NewRecorder()
	b.server.ServeHTTP(w, r)
	return w.Result()
}

func (b *bench) directory() *tickets.Directory {
	b.Helper()
	r := b.do("GET", tickets.DirectoryPath, "", "", nil)
	text, _ := io.ReadAll(r.Body)
	if r.StatusCode != 200 || r.Header.Get("Content-Type") != tickets.DirectoryMediaType {
		b.Fatalf("directory: %v %s", r.Status, text)
	}
	d, err := tickets.ParseDirectory(text, b.issuer.Pin())
	if err != nil {
		b.Fatal(err)
	}
	return d
}

// post sends a token request and returns the status, the body, and what is left of the voucher.
func (b *bench) post(v tickets.Voucher, request tickets.Request) (status int, body []byte, left string) {
	r := b.do("POST", requestPath, "Bearer "+v.Text(), tickets.RequestMediaType, request.Append(nil))
	body, _ = io.ReadAll(r.Body)
	return r.StatusCode, body, r.Header.Get(leftHeader)
}

// request returns a request for the n-th current key that costs no blinding.
func (b *bench) request(n int, blinded byte) tickets.Request {
	k := b.directory().Current(b.now)[n]
	return tickets.Request{Truncated: k.Public.ID().Truncated(), Blinded: [tickets.SignatureSize]byte{10: blinded, 255: 1}}
}

func TestIssueAndSpend(t *testing.T) {
	b := newBench(t, month)
	gateway := identity.FromSeed(&[32]byte{1}).Public()
	d := b.directory()
	key, challenge, seed := d.Current(b.now)[0], tickets.Challenge(d.Issuer, gateway), [32]byte{1}
	request, err := tickets.Blind(&seed, key.Public, challenge)
	if err != nil {
		t.Fatal(err)
	}
	status, body, left := b.post(b.voucher(month, 50), request)
	if status != 200 || left != "49" {
		t.Fatalf("%d %s, %s left", status, body, left)
	}
	response, err := tickets.ParseResponse(body)
	if err != nil {
		t.Fatal(err)
	}
	token, err := tickets.Finalize(&seed, key.Public, challenge, response)
	if err != nil {
		t.Fatal(err)
	}
	v := tickets.NewVerifier(gateway)
	if err := v.SetIssuers([]*tickets.Directory{d}); err != nil {
		t.Fatal(err)
	}
	ticket, err := v.Check(token.Append(nil), b.now)
	if err != nil || ticket.Verify() != nil || ticket.Denomination != month.Denomination {
		t.Errorf("the ticket is not good: %v", err)
	}
}

// TestRepeatIsFree covers lost answers, also across a restart and the end of an epoch.
//
// Shows R9.38.
func TestRepeatIsFree(t *testing.T) {
	b := newBench(t, month)
	v, first, second := b.voucher(month, 1), b.request(0, 1), b.request(0, 2)
	status, want, _ := b.post(v, first)
	if status != 200 {
		t.Fatalf("%d %s", status, want)
	}
	repeat := func(when string) {
		t.Helper()
		if status, body, left := b.post(v, first); status != 200 || !bytes.Equal(body, want) || left != "0" {
			t.Errorf("%s: %d %q, %s left", when, status, body, left)
		}
		if status, body, _ := b.post(v, second); status != 402 {
			t.Errorf("%s: another request: %d %s", when, status, body)
		}
	}
	repeat("at once")
	b.reopen()
	repeat("after a restart")
	b.now = b.now.Add(tickets.DefaultEpoch)
	repeat("in the next epoch")
}

// TestRefusalsCostNothing covers all that stands before the signature.
//
// Shows R9.38, R9.39.
func TestRefusalsCostNothing(t *testing.T) {
	b := newBench(t, month, week)
	v, stranger := b.voucher(month, 1), tickets.Voucher{1}
	good := b.request(0, 1)
	encoded := good.Append(nil)
	foreign := good
	for range 256 { // a truncated id that no key has
		foreign.Truncated++
		used := false
		for _, k := range b.directory().Keys {
			used = used || k.Public.ID().Truncated() == foreign.Truncated
		}
		if !used {
			break
		}
	}
	large := good
	for n := range large.Blinded {
		large.Blinded[n] = 0xff
	}
	next := good
	for _, k := range b.directory().Keys {
		if k.Epoch != b.directory().Current(b.now)[0].Epoch && k.Denomination == month.Denomination {
			next.Truncated = k.Public.ID().Truncated()
		}
	}
	for _, c := range []struct {
		what, authorization, mediaType string
		body                           []byte
		status                         int
	}{
		{"no voucher", "", tickets.RequestMediaType, encoded, 401},
		{"no bearer", "Basic " + v.Text(), tickets.RequestMediaType, encoded, 401},
		{"a typing error", "Bearer " + v.Text()[1:], tickets.RequestMediaType, encoded, 401},
		{"an unknown voucher", "Bearer " + stranger.Text(), tickets.RequestMediaType, encoded, 401},
		{"another media type", "Bearer " + v.Text(), "application/json", encoded, 415},
		{"empty", "Bearer " + v.Text(), tickets.RequestMediaType, nil, 422},
		{"short", "Bearer " + v.Text(), tickets.RequestMediaType, encoded[1:], 422},
		{"long", "Bearer " + v.Text(), tickets.RequestMediaType, append(bytes.Clone(encoded), 0), 422},
		{"another type", "Bearer " + v.Text(), tickets.RequestMediaType, append([]byte{0, 1}, encoded[2:]...), 422},
		{"another plan's key", "Bearer " + b.voucher(week, 1).Text(), tickets.RequestMediaType, encoded, 422},
		{"the next epoch's key", "Bearer " + v.Text(), tickets.RequestMediaType, next.Append(nil), 422},
		{"no key", "Bearer " + v.Text(), tickets.RequestMediaType, foreign.Append(nil), 422},
		{"a number above the modulus", "Bearer " + v.Text(), tickets.RequestMediaType, large.Append(nil), 422},
	} {
		if r := b.do("POST", requestPath, c.authorization, c.mediaType, c.body); r.StatusCode != c.status {
			t.Errorf("%s: %v", c.what, r.Status)
		}
	}
	if status, body, left := b.post(v, good); status != 200 || left != "0" {
		t.Errorf("the voucher was charged: %d %s", status, body)
	}
	for path, want := range map[string]int{"/": 404, "/vouchers": 404, tickets.DirectoryPath + "/x": 404} {
		if r := b.do("GET", path, "", "", nil); r.StatusCode != want {
			t.Errorf("%s: %v", path, r.Status)
		}
	}
}

func TestBalance(t *testing.T) {
	b := newBench(t, month)
	v := b.voucher(month, 3)
	b.post(v, b.request(0, 1))
	r := b.do("GET", requestPath, "Bearer "+v.Text(), "", nil)
	body, _ := io.ReadAll(r.Body)
	if want := `{"left":2,"bytes":10737418240,"seconds":2592000}` + "\n"; r.StatusCode != 200 || string(body) != want {
		t.Errorf("%v %s", r.Status, body)
	}
	if r := b.do("GET", requestPath, "Bearer "+tickets.Voucher{1}.Text(), "", nil); r.StatusCode != 401 {
		t.Errorf("an unknown voucher: %v", r.Status)
	}
}

// TestVoucherIsSpentOnce spends a voucher by many at once.
func TestVoucherIsSpentOnce(t *testing.T) {
	const count, clients = 5, 20
	b := newBench(t, month)
	v := b.voucher(month, count)
	request := b.request(0, 0)
	var signed, refused atomic.Int32
	var wg sync.WaitGroup
	for n := range byte(clients) {
		r := request
		r.Blinded[20] = n
		wg.Go(func() {
			switch _, _, err := b.issuer.sign(t.Context(), v, r); {
			case err == nil:
				signed.Add(1)
			case errors.Is(err, errUsedUp):
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if signed.Load() != count || refused.Load() != clients-count {
		t.Errorf("%d signed, %d refused", signed.Load(), refused.Load())
	}
}

// TestBusy covers a request that finds all signatures under way.
func TestBusy(t *testing.T) {
	b := newBench(t, month)
	v, request := b.voucher(month, 1), b.request(0, 1)
	for range signatures {
		b.issuer.signing <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := b.issuer.sign(ctx, v, request); !errors.Is(err, errBusy) {
		t.Errorf("got %v", err)
	}
	if _, _, err := b.issuer.sign(ctx, tickets.Voucher{1}, request); !errors.Is(err, errNoVoucher) {
		t.Errorf("without a voucher: %v", err)
	}
	for range signatures {
		<-b.issuer.signing
	}
	if status, body, left := b.post(v, request); status != 200 || left != "0" {
		t.Errorf("busy charged the voucher: %d %s", status, body)
	}
}

// TestEntryWrittenInPart covers a crash while an entry was written: it was never answered.
func TestEntryWrittenInPart(t *testing.T) {
	b := newBench(t, month)
	v := b.voucher(month, 2)
	first, second := b.request(0, 1), b.request(0, 2)
	b.post(v, first)
	path := b.issuer.vouchers.path(v)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("0123456789"); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	for _, r := range []tickets.Request{second, first, second} {
		if status, body, left := b.post(v, r); status != 200 || left != "0" {
			t.Errorf("%d %s, %s left", status, body, left)
		}
	}
	if status, _, _ := b.post(v, b.request(0, 3)); status != 402 {
		t.Errorf("a third request: %d", status)
	}
}

func TestDamagedVoucherFile(t *testing.T) {
	b := newBench(t, month)
	for _, text := range []string{"", "\n", "lewes voucher 2 1 1 1\n", "lewes voucher 1 x\n", "lewes voucher 1 0 1 1\n" + strings.Repeat("a", entrySize-1) + "\n", "lewes voucher 1 9 1 1\n" + strings.Repeat("a", entrySize)} {
		v := b.voucher(month, 1)
		if err := os.WriteFile(b.issuer.vouchers.path(v), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if status, body, _ := b.post(v, b.request(0, 1)); status != 500 {
			t.Errorf("%q: %d %s", text, status, body)
		}
		if strings.Contains(b.log.String(), v.Text()) {
			t.Error("a voucher is in the log")
		}
	}
	if n := strings.Count(b.log.String(), `"request failed","error":"damaged voucher file"`); n != 6 {
		t.Errorf("%d lines in the log: %s", n, b.log)
	}
}

// TestStorageFails covers a voucher file that cannot be opened, and a directory that cannot be published: the
// client gets an error that charges nothing, and the log names it.
func TestStorageFails(t *testing.T) {
	b := newBench(t, month)
	v, request := b.voucher(month, 1), b.request(0, 1)
	path := b.issuer.vouchers.path(v)
	if err := errors.Join(os.Rename(path, path+".away"), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
	if status, body, _ := b.post(v, request); status != 500 || bytes.Contains(body, []byte(b.dir)) {
		t.Errorf("%d %s", status, body)
	}
	if err := errors.Join(os.Remove(path), os.Rename(path+".away", path)); err != nil {
		t.Fatal(err)
	}

	start := b.now
	file := b.issuer.directoryFile()
	if err := errors.Join(os.Remove(file), os.Mkdir(file, 0o700), os.WriteFile(filepath.Join(file, "x"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	b.now = start.Add(tickets.DefaultEpoch)
	if r := b.do("GET", tickets.DirectoryPath, "", "", nil); r.StatusCode != 500 {
		t.Errorf("keys that are not durable were published: %v", r.Status)
	}
	if err := os.RemoveAll(file); err != nil {
		t.Fatal(err)
	}
	if status, body, left := b.post(v, b.request(0, 1)); status != 200 || left != "0" {
		t.Errorf("after the failures: %d %s", status, body)
	}
	if n := strings.Count(b.log.String(), `"request failed"`); n != 2 {
		t.Errorf("%d lines in the log: %s", n, b.log)
	}
}

// TestEpochs runs the clock over the midnight at which epochs change, with the client's clock up to five
// minutes off, and the gateway's as the issuer's or the client's: a ticket can be had and spent at any time.
//
// Shows R9.27, R9.39.
func TestEpochs(t *testing.T) {
	b := newBench(t, month)
	start := tickets.EpochStart(2901, tickets.DefaultEpoch)
	gateway := identity.FromSeed(&[32]byte{1}).Public()
	challenge := tickets.Challenge("issuer.example", gateway)
	v := tickets.NewVerifier(gateway)
	before := b.directory()
	if err := v.SetIssuers([]*tickets.Directory{before}); err != nil { // fetched once, an epoch earlier
		t.Fatal(err)
	}
	const most = tickets.ClockTolerance - time.Second
	voucher := b.voucher(month, 100)
	seed := [32]byte{}
	for _, at := range []time.Duration{-most, -time.Second, 0, time.Second, most, tickets.DefaultEpoch - time.Second} {
		b.now = start.Add(at)
		d := b.directory()
		if err := d.Extends(before); err != nil {
			t.Fatal(err)
		}
		for _, skew := range []time.Duration{-most, 0, most} {
			keys := d.Current(b.now.Add(skew))
			if len(keys) != 1 {
				t.Fatalf("at %v, a client off by %v has %d keys", at, skew, len(keys))
			}
			seed[0]++
			request, err := tickets.Blind(&seed, keys[0].Public, challenge)
			if err != nil {
				t.Fatal(err)
			}
			status, body, _ := b.post(voucher, request)
			if status != 200 {
				t.Errorf("at %v, a client off by %v: %d %s", at, skew, status, body)
				continue
			}
			response, err := tickets.ParseResponse(body)
			if err != nil {
				t.Fatal(err)
			}
			token, err := tickets.Finalize(&seed, keys[0].Public, challenge, response)
			if err != nil {
				t.Fatal(err)
			}
			if at > tickets.ClockTolerance && skew > 0 {
				continue // of the epoch after the next, which this gateway's list does not have
			}
			for _, spent := range []time.Time{b.now, b.now.Add(skew), b.now.Add(tickets.DefaultEpoch - time.Second)} {
				if ticket, err := v.Check(token.Append(nil), spent); err != nil || ticket.Verify() != nil {
					t.Errorf("ticket of %v by a client off by %v, spent at %v: %v", at, skew, spent, err)
				}
			}
		}
	}
	if d := b.directory(); len(d.Keys) != 3 || d.Keys[0].Epoch != 2901 || d.Keys[1].Epoch != 2902 || d.Keys[2].Epoch != 2900 {
		t.Errorf("keys of epochs %v", d.Keys)
	}
}

// TestClockJump covers a clock that is fast for a while: the keys of each epoch stay the same.
func TestClockJump(t *testing.T) {
	b := newBench(t, month)
	before, now := b.directory(), b.now
	b.now = now.AddDate(1, 0, 0)
	b.directory()
	b.now = now
	b.reopen()
	if err := b.directory().Extends(before); err != nil {
		t.Error(err)
	}
}

func TestLostKeyIsNotReplaced(t *testing.T) {
	b := newBench(t, month)
	path := b.issuer.keyFile(month.Denomination, 2900)
	b.issuer.Close()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	try := func(what, want string, change func(*Config)) {
		t.Helper()
		c := b.config()
		change(&c)
		if i, err := Open(c); err == nil {
			i.Close()
			t.Errorf("%s: opened", what)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	try("lost key", "is missing, and clients know it", func(*Config) {})
	other, err := os.ReadFile(b.issuer.keyFile(month.Denomination, 2901))
	if err != nil {
		t.Fatal(err)
	}
	for want, content := range map[string][]byte{"is damaged": []byte("x"), "RSA-2048": []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), "is not the one that clients know": other} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		try("another key", want, func(*Config) {})
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	try("another name", "is issuer.example, not other.example", func(c *Config) { c.Name = "other.example" })
	try("other epochs", "has epochs of", func(c *Config) { c.Epoch *= 2 })
	try("short epochs", "are not 1h0m0s", func(c *Config) { c.Epoch = time.Minute })
	if runtime.GOOS != "windows" {
		if err := os.Chmod(path, 0o640); err != nil {
			t.Fatal(err)
		}
		try("a key that others read", "run: chmod 600", func(*Config) {})
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.open()
}

func TestOneIssuerForADirectory(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no lock")
	}
	b := newBench(t, month)
	if i, err := Open(b.config()); err == nil {
		i.Close()
		t.Error("a second issuer opened the directory")
	} else if !strings.Contains(err.Error(), "another issuer uses") {
		t.Error(err)
	}
}

// TestSecretsOnDisk covers the modes of all files, and that no voucher is stored or logged.
func TestSecretsOnDisk(t *testing.T) {
	b := newBench(t, month)
	v := b.voucher(month, 1)
	b.post(v, b.request(0, 1))
	err := filepath.WalkDir(b.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm() != 0o600 && runtime.GOOS != "windows" {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		text, err := os.ReadFile(path)
		for _, secret := range []string{v.Text(), string(v[:])} {
			if bytes.Contains(text, []byte(secret)) || strings.Contains(path, secret) {
				t.Errorf("%s contains the voucher", path)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.log.String(), v.Text()) {
		t.Error("the voucher is in the log")
	}
}

func TestParsePlan(t *testing.T) {
	for text, want := range map[string]string{"month=10GiB/30d": "", "a-1=5000/90m": "a-1=5000/1h30m0s", "day=1MiB/24h": "day=1MiB/1d"} {
		if want == "" {
			want = text
		}
		if p, err := ParsePlan(text); err != nil || p.String() != want {
			t.Errorf("%s: %v, %v", text, p, err)
		}
	}
	for _, s := range []string{"", "month", "month=10GiB", "=1/1d", "Month=1/1d", "a b=1/1d", "m=0/1d", "m=1/0d", "m=1/-1h", "m=1/1", "m=x/1d", "m=1/100ms", "m=1/60000d"} {
		if _, err := ParsePlan(s); err == nil {
			t.Errorf("%q was accepted", s)
		}
	}
	for _, plans := range [][]Plan{nil, {month, month}, {month, {"other", month.Denomination}}, make([]Plan, MaxPlans+1)} {
		if err := writePlans(t.TempDir(), plans); err == nil {
			t.Errorf("%v was accepted", plans)
		}
	}
	if _, err := NewVoucher(t.TempDir(), month, MaxCount+1); err == nil {
		t.Error("a voucher for too many tickets")
	}
}
