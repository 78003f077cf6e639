package main

import (
	"bytes"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/tickets"
)

// TestIssuer gets a ticket from the real program, with a voucher that is made while it runs.
func TestIssuer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	env := environment(dir)
	has(t, fails(t, env, exitFailed, "tickets", "voucher", "--plan", "month"), "no plans in "+filepath.Join(dir, "lewes", "issuer"), "--plan month=10GiB/30d")

	p := launch(t, env, "tickets", "issuer", "--listen", "127.0.0.1:0", "--plan", "month=10GiB/30d", "--plan", "day=1GiB/1d")
	line := p.awaitLine("http://")
	issuer, err := tickets.ParseIssuer(line)
	if err != nil {
		t.Fatal(err)
	}
	has(t, fails(t, env, exitUsage, "tickets", "voucher"), `--plan ""`, "--plan month", "--plan day")
	var made struct {
		Voucher, Plan string
		Count         int
	}
	parseJSON(t, mustLewes(t, env, "tickets", "voucher", "--plan", "month", "--count", "2", "--json"), &made)
	if made.Plan != "month" || made.Count != 2 {
		t.Errorf("JSON contains %+v", made)
	}

	client := &http.Client{Timeout: patience}
	defer client.CloseIdleConnections()
	r, err := client.Get(issuer.DirectoryURL())
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(r.Body)
	r.Body.Close()
	d, err := tickets.ParseDirectory(text, issuer.Pin)
	if err != nil {
		t.Fatal(err)
	}
	if d.Issuer != issuer.Name() {
		t.Errorf("the issuer is named %s at %s", d.Issuer, line)
	}
	gateway := identity.FromSeed(&[32]byte{1}).Public()
	key, challenge, seed := d.Current(time.Now())[0], tickets.Challenge(d.Issuer, gateway), [32]byte{1}
	if key.Bytes != 10<<30 {
		t.Errorf("the first key is for %d bytes, not for those of the first plan", key.Bytes)
	}
	request, err := tickets.Blind(&seed, key.Public, challenge)
	if err != nil {
		t.Fatal(err)
	}
	target, err := issuer.RequestURL(d)
	if err != nil {
		t.Fatal(err)
	}
	post, err := http.NewRequest("POST", target, bytes.NewReader(request.Append(nil)))
	if err != nil {
		t.Fatal(err)
	}
	post.Header.Set("Authorization", "Bearer "+made.Voucher)
	post.Header.Set("Content-Type", tickets.RequestMediaType)
	if r, err = client.Do(post); err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(r.Body)
	r.Body.Close()
	response, err := tickets.ParseResponse(body)
	if err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("%v %s", r.Status, body)
	}
	token, err := tickets.Finalize(&seed, key.Public, challenge, response)
	if err != nil {
		t.Fatal(err)
	}
	verifier := tickets.NewVerifier(gateway)
	if err := verifier.SetIssuers([]*tickets.Directory{d}); err != nil {
		t.Fatal(err)
	}
	if ticket, err := verifier.Check(token.Append(nil), time.Now()); err != nil || ticket.Verify() != nil {
		t.Errorf("the ticket is not good: %v", err)
	}

	if code := p.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	for _, secret := range []string{made.Voucher, "127.0.0.1"} {
		if strings.Contains(p.stderr(), secret) {
			t.Errorf("the log contains %s:\n%s", secret, p.stderr())
		}
	}
}

func TestIssuerUsage(t *testing.T) {
	env := environment(t.TempDir())
	for _, row := range []struct{ args, why string }{
		{"issuer x", `unexpected argument "x"`},
		{"issuer --plan month", `--plan: plan "month" is not NAME=SIZE/TIME`},
		{"issuer --listen 0.0.0.0:80", "without --cert only a loopback address"},
		{"issuer --cert a", "--cert and --key belong together"},
		{"issuer --cert a --key b", "--cert needs --url"},
		{"issuer --listen 127.0.0.1:0 --url http://issuer.example", "only loopback addresses may use http"},
		{"voucher --count 0", "--count 0 is not from 1"},
	} {
		has(t, fails(t, env, exitUsage, append([]string{"tickets"}, strings.Fields(row.args)...)...), row.why)
	}
}
