package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lewes/crypto/identity"
)

// TestTicketsFetch exchanges a voucher of the real issuer, and shows the wallet.
func TestTicketsFetch(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	env := environment(dir)
	p := launch(t, env, "tickets", "issuer", "--listen", "127.0.0.1:0", "--plan", "month=10GiB/30d")
	issuer := p.awaitLine("http://")
	voucher := strings.TrimSpace(mustLewes(t, env, "tickets", "voucher", "--plan", "month", "--count", "3"))
	gateway := "lewes://" + identity.FromSeed(&[32]byte{1}).Public().String() + "@127.0.0.1?access=tickets"

	customer := environment(t.TempDir())
	if out := mustLewes(t, customer, "tickets", "show"); out != "" {
		t.Errorf("an empty wallet is shown as %q", out)
	}
	var fetched struct {
		Tickets, Missing int
		Wallet           string
	}
	order := []string{"tickets", "fetch", "--gateway", gateway, "--issuer", issuer, "--voucher", voucher}
	parseJSON(t, mustLewes(t, customer, append(order, "--count", "2", "--json")...), &fetched)
	if fetched.Tickets != 2 || fetched.Missing != 0 {
		t.Errorf("fetched %+v", fetched)
	}
	has(t, mustLewes(t, customer, order...), "1 new ticket in "+fetched.Wallet)
	has(t, fails(t, customer, exitFailed, order...), "the voucher is used up", "lewes tickets show")
	has(t, mustLewes(t, customer, "tickets", "fetch"), "nothing is unfinished")
	has(t, mustLewes(t, customer, "tickets", "show"), "3", "10 GiB", "30 d", "ready", strings.TrimPrefix(strings.Split(issuer, "#")[0], "http://"))
	var shown struct {
		Tickets []struct {
			State string
			Count int
			Bytes uint64
		}
	}
	text := mustLewes(t, customer, "tickets", "show", "--json")
	parseJSON(t, text, &shown)
	if len(shown.Tickets) != 1 || shown.Tickets[0].Count != 3 || shown.Tickets[0].State != "ready" || shown.Tickets[0].Bytes != 10<<30 {
		t.Errorf("shown %s", text)
	}

	if code := p.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	has(t, fails(t, customer, exitFailed, order...), "the issuer cannot be reached", "nothing is lost; go on later with: lewes tickets fetch")
	if err := os.WriteFile(fetched.Wallet, []byte("scrambled"), 0o600); err != nil {
		t.Fatal(err)
	}
	has(t, fails(t, customer, exitFailed, "tickets", "show"), filepath.Base(fetched.Wallet)+" is damaged: not a wallet", "restore it from a backup")
}
