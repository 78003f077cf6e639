package tickets

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"lewes/crypto/identity"
)

var (
	testKeys  [3]*PrivateKey // with truncated ids that differ
	testKeyMu sync.Mutex
)

// testKey returns one of a few keys that all tests share.
func testKey(t testing.TB, n int) *PrivateKey {
	t.Helper()
	testKeyMu.Lock()
	defer testKeyMu.Unlock()
	for testKeys[n] == nil {
		k, err := GenerateKey()
		if err != nil {
			t.Fatal(err)
		}
		testKeys[n] = k
		for i, other := range testKeys {
			if i != n && other != nil && other.public.id.Truncated() == k.public.id.Truncated() {
				testKeys[n] = nil
			}
		}
	}
	return testKeys[n]
}

func testIdentity(b byte) *identity.PrivateKey { return identity.FromSeed(&[32]byte{b}) }

// issue returns a ticket that was signed with key.
func issue(t testing.TB, key *PrivateKey, seed byte, issuer string, gateway identity.PublicKey) Token {
	t.Helper()
	s, challenge := [SeedSize]byte{seed}, Challenge(issuer, gateway)
	request, err := Blind(&s, key.Public(), challenge)
	if err != nil {
		t.Fatal(err)
	}
	response, err := key.Sign(request)
	if err != nil {
		t.Fatal(err)
	}
	token, err := Finalize(&s, key.Public(), challenge, response)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestSameSeedGivesSameRequest(t *testing.T) {
	key, gateway := testKey(t, 0), testIdentity(1).Public()
	challenge := Challenge("issuer.example", gateway)
	requests := make(map[Request]bool)
	for range 2 { // nothing but the seed, the key and the challenge decide
		for seed := range byte(3) {
			r, err := Blind(&[SeedSize]byte{seed}, key.Public(), challenge)
			if err != nil {
				t.Fatal(err)
			}
			requests[r] = true
			first, err := key.Sign(r)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := key.Sign(r); err != nil || again != first {
				t.Errorf("a repeated request got another answer: %v", err)
			}
		}
	}
	if len(requests) != 3 {
		t.Errorf("3 seeds made %d requests", len(requests))
	}
	a, b := issue(t, key, 7, "issuer.example", gateway), issue(t, testKey(t, 1), 7, "issuer.example", gateway)
	if a.Nonce == b.Nonce {
		t.Error("tickets of two keys have one nonce")
	}
}

// TestDerivation fixes what follows from a seed: a wallet with stored seeds must get the requests again
// that it made with an earlier version. The key is that of RFC 9578.
func TestDerivation(t *testing.T) {
	key := rfcKey(t)
	gateway := testIdentity(1).Public()
	request, err := Blind(&[SeedSize]byte{1, 2, 3}, key.Public(), Challenge("issuer.example", gateway))
	if err != nil {
		t.Fatal(err)
	}
	token := issue(t, key, 1, "issuer.example", gateway)
	for _, c := range []struct{ what, got, want string }{
		{"gateway", gateway.String(), "EvFUfisEScFuZSqDXagC17m3bpP32B74dseMHtzQ5TNb"},
		{"request", fmt.Sprintf("%x", sha256.Sum256(request.Append(nil))), "fdb3200749ec2bbb51cda56696d4c6bb11aa7263fbac6f200cb318ad0c7c0ecb"},
		{"spent", fmt.Sprintf("%x", token.Spent()), "12c95769f636d7bc866319f186c195ce32b27f3cdaa03dc733296b2bf757142e"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %s, want %s", c.what, c.got, c.want)
		}
	}
}

func TestFinalizeRefusesOtherSignatures(t *testing.T) {
	key, gateway := testKey(t, 0), testIdentity(1).Public()
	challenge := Challenge("issuer.example", gateway)
	seed, other := [SeedSize]byte{1}, [SeedSize]byte{2}
	request, err := Blind(&seed, key.Public(), challenge)
	if err != nil {
		t.Fatal(err)
	}
	response, err := key.Sign(request)
	if err != nil {
		t.Fatal(err)
	}
	damaged := response
	damaged[100] ^= 1
	for what, try := range map[string]func() (Token, error){
		"another seed": func() (Token, error) { return Finalize(&other, key.Public(), challenge, response) },
		"another key":  func() (Token, error) { return Finalize(&seed, testKey(t, 1).Public(), challenge, response) },
		"another gateway": func() (Token, error) {
			return Finalize(&seed, key.Public(), Challenge("issuer.example", identity.PublicKey{}), response)
		},
		"a changed answer": func() (Token, error) { return Finalize(&seed, key.Public(), challenge, damaged) },
		"zeros":            func() (Token, error) { return Finalize(&seed, key.Public(), challenge, Response{}) },
	} {
		if _, err := try(); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestSignRefusals(t *testing.T) {
	key := testKey(t, 0)
	large := Request{Truncated: key.Public().ID().Truncated(), Blinded: [SignatureSize]byte(bytes.Repeat([]byte{0xff}, SignatureSize))}
	foreign := Request{Truncated: key.Public().ID().Truncated() + 1}
	for _, r := range []Request{large, foreign} {
		if _, err := key.Sign(r); !errors.Is(err, ErrMessage) {
			t.Errorf("%x: %v", r.Truncated, err)
		}
	}
}

// TestSecondFormOfSignature covers what the key of the spent list must not depend on.
//
// Shows R9.28.
func TestSecondFormOfSignature(t *testing.T) {
	key, gateway := testKey(t, 0), testIdentity(1).Public()
	token := issue(t, key, 1, "issuer.example", gateway)
	encoded := token.Append(nil)
	changed := token
	changed.Signature[0] ^= 1
	if changed.Spent() != token.Spent() {
		t.Error("the signature takes part in the key of the spent list")
	}
	if err := changed.Verify(key.Public()); !errors.Is(err, ErrSignature) {
		t.Errorf("a changed signature: %v", err)
	}
	for i := range inputSize {
		b := bytes.Clone(encoded)
		b[i] ^= 1
		if other, err := ParseToken(b); err == nil && (other.Spent() == token.Spent() || other.Verify(key.Public()) == nil) {
			t.Errorf("byte %d takes no part", i)
		}
	}
	for _, b := range [][]byte{nil, encoded[1:], append(bytes.Clone(encoded), 0)} {
		if _, err := ParseToken(b); !errors.Is(err, ErrMessage) {
			t.Errorf("%d bytes: %v", len(b), err)
		}
	}
}

func TestPrivateKeyIsNotPrinted(t *testing.T) {
	key := testKey(t, 0)
	d := fmt.Sprint(key.signer().D)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x"} {
		if text := fmt.Sprintf(verb, key); strings.Contains(text, d) || strings.Contains(text, fmt.Sprintf("%x", key.signer().D)) {
			t.Errorf("%s prints the key", verb)
		}
	}
	encoded, err := key.Encoded()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ParsePrivateKey(encoded); err != nil || again.Public().ID() != key.Public().ID() {
		t.Errorf("the encoded key parses as another one: %v", err)
	}
}

// directory returns a directory with the test keys for two denominations in epoch 100 and one in 101.
func directory(t testing.TB) *Directory {
	small, large := Denomination{1 << 30, 86400}, Denomination{10 << 30, 30 * 86400}
	return &Directory{
		Issuer: "issuer.example", Epoch: DefaultEpoch, RequestURI: "/token-request",
		Keys: []Key{
			{small, 100, testKey(t, 0).Public()},
			{large, 100, testKey(t, 1).Public()},
			{small, 101, testKey(t, 2).Public()},
		},
	}
}

func TestDirectoryRoundTrip(t *testing.T) {
	pin := testIdentity(9)
	text, err := directory(t).Sign(pin)
	if err != nil {
		t.Fatal(err)
	}
	d, err := ParseDirectory(text, pin.Public())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := d.list(), directory(t).list(); got != want || d.RequestURI != "/token-request" {
		t.Errorf("got %s %s", d.RequestURI, got)
	}
	start := EpochStart(100, DefaultEpoch)
	if keys := d.Current(start); len(keys) != 2 || keys[0].Epoch != 100 {
		t.Errorf("current keys: %v", keys)
	}
	if keys := d.Current(start.Add(DefaultEpoch)); len(keys) != 1 || keys[0].Epoch != 101 {
		t.Errorf("current keys a week later: %v", keys)
	}
}

func TestDirectoryRefusals(t *testing.T) {
	pin := testIdentity(9)
	signed := func(change func(*Directory)) string {
		d := directory(t)
		change(d)
		text, err := d.Sign(pin)
		if err != nil {
			return err.Error()
		}
		return string(text)
	}
	good := signed(func(*Directory) {})
	for _, c := range []struct {
		what, text string
		want       error
	}{
		{"nothing", "", ErrDirectory},
		{"a directory of another program", `{"issuer-request-uri": "/", "token-keys": []}`, ErrDirectory},
		{"another size", strings.Replace(good, "key 1073741824", "key 1073741825", 1), ErrPin},
		{"another host", strings.Replace(good, "issuer issuer.example", "issuer issuer.exampl0", 1), ErrPin},
		{"no keys", strings.Replace(good, `"token-key"`, `"token-kez"`, -1), ErrDirectory},
		{"too long", strings.Repeat(" ", MaxDirectorySize+1), ErrDirectory},
	} {
		if _, err := ParseDirectory([]byte(c.text), pin.Public()); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
	}
	if _, err := ParseDirectory([]byte(good), testIdentity(8).Public()); !errors.Is(err, ErrPin) {
		t.Errorf("another pin: %v", err)
	}
	for what, change := range map[string]func(*Directory){
		"a second key for a pair": func(d *Directory) { d.Keys[2].Epoch = 100 },
		"one key twice":           func(d *Directory) { d.Keys[2].Public = d.Keys[0].Public },
		"a ticket for nothing":    func(d *Directory) { d.Keys[0].Bytes = 0 },
		"short epochs":            func(d *Directory) { d.Epoch = time.Minute },
		"a host in capitals":      func(d *Directory) { d.Issuer = "Issuer.example" },
		"a host of two lines":     func(d *Directory) { d.Issuer = "a\nepoch 1" },
	} {
		d := directory(t)
		change(d)
		if _, err := d.Sign(pin); err == nil {
			t.Errorf("%s was signed", what)
		}
	}
}

// TestSecondKeyIsRefused covers an issuer that gives one client a key of its own.
func TestSecondKeyIsRefused(t *testing.T) {
	first, second := directory(t), directory(t)
	if err := second.Extends(first); err != nil {
		t.Fatal(err)
	}
	second.Keys[0].Public = testKey(t, 2).Public()
	second.Keys = second.Keys[:2]
	if err := second.Extends(first); !errors.Is(err, ErrSecondKey) {
		t.Errorf("a second key: %v", err)
	}
	v := NewVerifier(testIdentity(1).Public())
	if err := v.SetIssuers([]*Directory{first, second}); !errors.Is(err, ErrSecondKey) {
		t.Errorf("two directories: %v", err)
	}
	second = directory(t)
	second.Epoch *= 2
	if err := second.Extends(first); !errors.Is(err, ErrDirectory) {
		t.Errorf("other epochs: %v", err)
	}
}

// TestIssuerCannotShutOutAnother: an issuer that lists the key of another one has no effect on that one's tickets.
func TestIssuerCannotShutOutAnother(t *testing.T) {
	gateway, good, bad := testIdentity(1).Public(), directory(t), directory(t)
	bad.Issuer = "other.example"
	bad.Keys[0].Bytes = 1 << 40
	v := NewVerifier(gateway)
	if err := v.SetIssuers([]*Directory{bad, good}); err != nil {
		t.Fatal(err)
	}
	token := issue(t, testKey(t, 0), 1, "issuer.example", gateway)
	got, err := v.Check(token.Append(nil), EpochStart(100, DefaultEpoch))
	if err != nil || got.Bytes != 1<<30 || got.Issuer != "issuer.example" {
		t.Errorf("%+v (%v)", got, err)
	}
	bad.Issuer = "issuer.example"
	if err := v.SetIssuers([]*Directory{bad, good}); !errors.Is(err, ErrDirectory) {
		t.Errorf("one key for two purposes: %v", err)
	}
}

// TestDenominationIsBounded: what a ticket grants fits in an account.
func TestDenominationIsBounded(t *testing.T) {
	for d, want := range map[Denomination]bool{
		{1, 1}: true, {MaxBytes, MaxSeconds}: true, {0, 1}: false, {1, 0}: false, {MaxBytes + 1, 1}: false, {1, MaxSeconds + 1}: false,
	} {
		one := directory(t)
		one.Keys = one.Keys[:1]
		one.Keys[0].Denomination = d
		if _, err := one.Sign(testIdentity(9)); (err == nil) != want {
			t.Errorf("%+v: %v", d, err)
		}
	}
}

// TestEpochBoundaries spends a ticket around every boundary, midnight of a Thursday, with the
// gateway's clock up to five minutes off.
//
// Shows R9.27.
func TestEpochBoundaries(t *testing.T) {
	gateway := testIdentity(1).Public()
	v := NewVerifier(gateway)
	if err := v.SetIssuers([]*Directory{directory(t)}); err != nil {
		t.Fatal(err)
	}
	token := issue(t, testKey(t, 0), 1, "issuer.example", gateway) // of epoch 100
	start := EpochStart(100, DefaultEpoch)
	if start.Truncate(24*time.Hour) != start {
		t.Fatalf("an epoch begins at %v, which is no midnight", start)
	}
	end := start.Add(2 * DefaultEpoch)
	for _, c := range []struct {
		now  time.Time
		want error
	}{
		{start.Add(-ClockTolerance - 1), ErrEarly},
		{start.Add(-ClockTolerance), nil},
		{start.Add(-1), nil},
		{start, nil},
		{start.Add(DefaultEpoch - 1), nil},
		{start.Add(DefaultEpoch), nil}, // the midnight between its epoch and the next
		{end.Add(-1), nil},
		{end, nil},
		{end.Add(ClockTolerance - 1), nil},
		{end.Add(ClockTolerance), ErrExpired},
		{time.Unix(0, 0), ErrEarly},
		{end.AddDate(100, 0, 0), ErrExpired},
	} {
		ticket, err := v.Check(token.Append(nil), c.now)
		if !errors.Is(err, c.want) {
			t.Errorf("at %v: %v, want %v", c.now, err, c.want)
		}
		if err == nil && (ticket.Bytes != 1<<30 || ticket.Seconds != 86400 || ticket.Spent != token.Spent() || ticket.Epoch != 100 || ticket.Verify() != nil) {
			t.Errorf("at %v: %+v", c.now, ticket)
		}
	}
	for epoch := range uint32(1000) { // no instant lies in two epochs or in none
		at := EpochStart(epoch, DefaultEpoch)
		if EpochAt(at, DefaultEpoch) != epoch || EpochAt(at.Add(DefaultEpoch-1), DefaultEpoch) != epoch {
			t.Errorf("epoch %d has other bounds", epoch)
		}
	}
}

// Shows R9.26.
func TestCheckRefusals(t *testing.T) {
	gateway, other := testIdentity(1).Public(), testIdentity(2).Public()
	v := NewVerifier(gateway)
	now := EpochStart(100, DefaultEpoch)
	token := issue(t, testKey(t, 0), 1, "issuer.example", gateway)
	if _, err := v.Check(token.Append(nil), now); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("without issuers: %v", err)
	}
	if err := v.SetIssuers([]*Directory{directory(t)}); err != nil {
		t.Fatal(err)
	}
	elsewhere := issue(t, testKey(t, 0), 1, "issuer.example", other)
	foreign := issue(t, testKey(t, 0), 1, "other.example", gateway)
	for _, token := range []Token{elsewhere, foreign} {
		if _, err := v.Check(token.Append(nil), now); !errors.Is(err, ErrGateway) {
			t.Errorf("for another gateway or issuer: %v", err)
		}
	}
	if _, err := v.Check(nil, now); !errors.Is(err, ErrMessage) {
		t.Errorf("empty: %v", err)
	}
	token.Signature[200] ^= 1
	if ticket, err := v.Check(token.Append(nil), now); err != nil || !errors.Is(ticket.Verify(), ErrSignature) {
		t.Errorf("a wrong signature: %v", err)
	}
}

// Shows R9.29.
func TestOffers(t *testing.T) {
	v := NewVerifier(testIdentity(1).Public())
	if err := v.SetIssuers([]*Directory{directory(t)}); err != nil {
		t.Fatal(err)
	}
	start := EpochStart(100, DefaultEpoch)
	ids := func(now time.Time) (s string) {
		for _, o := range v.Offers(now) {
			for i := range testKeys {
				if o.Key == testKey(t, i).Public().ID() {
					s += fmt.Sprintf("%d:%d ", i, o.Bytes>>30)
				}
			}
		}
		return s
	}
	for _, c := range []struct {
		now  time.Time
		want string
	}{
		{start.Add(-1), ""},
		{start, "0:1 1:10 "},
		{start.Add(DefaultEpoch - 1), "0:1 1:10 "},
		{start.Add(DefaultEpoch), "2:1 1:10 "},
		{start.Add(4 * DefaultEpoch), ""},
	} {
		if got := ids(c.now); got != c.want {
			t.Errorf("at %v: %q, want %q", c.now, got, c.want)
		}
	}
}

func TestVoucherText(t *testing.T) {
	v, err := NewVoucher(bytes.NewReader([]byte("sixteen bytes...")))
	if err != nil {
		t.Fatal(err)
	}
	text := v.Text()
	if len(text) != 39 {
		t.Errorf("%q has %d characters", text, len(text))
	}
	for _, s := range []string{text, strings.ToUpper(text), strings.ReplaceAll(text, "-", ""), " " + strings.ReplaceAll(text, "-", " - ")} {
		if got, err := ParseVoucher(s); err != nil || got != v {
			t.Errorf("%q: %v", s, err)
		}
	}
	for i := range text {
		other := []byte(text)
		if other[i] = 'q'; text[i] == 'q' {
			other[i] = 'z'
		}
		for _, s := range []string{string(other), text[:i]} {
			if _, err := ParseVoucher(s); !errors.Is(err, ErrVoucher) {
				t.Errorf("%q: %v", s, err)
			}
		}
	}
	if s := fmt.Sprintf("%v %x %+v %s", v, v, &v, []Voucher{v}); strings.Contains(s, fmt.Sprintf("%x", v[:])) || strings.Contains(s, text) {
		t.Errorf("a voucher was printed: %s", s)
	}
}
