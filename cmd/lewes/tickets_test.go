//go:build unix

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/transport/client/wallet"
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
	has(t, fails(t, customer, exitFailed, order...), "the issuer cannot be reached", "nothing is lost: run the same command again later")
	if err := os.WriteFile(fetched.Wallet, []byte("scrambled"), 0o600); err != nil {
		t.Fatal(err)
	}
	has(t, fails(t, customer, exitFailed, "tickets", "show"), filepath.Base(fetched.Wallet)+" is damaged: not a wallet", "restore it from a backup")
}

// TestForwardTopsUp forwards more than one ticket is worth. The tickets are spent one by one, for one account; with the last
// one the forward goes on until a new one is fetched.
func TestForwardTopsUp(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := launch(t, environment(dir), "tickets", "issuer", "--listen", "127.0.0.1:0", "--plan", "tiny=100KiB/1d")
	issuer := p.awaitLine("http://")
	g := launchGateway(t, allowEcho+"[access]\nmode = \"open\"\n[registration]\naccess = \"tickets\"\nissuers = [\""+issuer+"\"]\n")
	g.awaitLog("using the keys of an issuer")
	has(t, g.uri, "access=tickets")
	voucher := strings.TrimSpace(mustLewes(t, environment(dir), "tickets", "voucher", "--plan", "tiny", "--count", "4"))
	env := environment(t.TempDir())
	fetch := func(count string) {
		t.Helper()
		mustLewes(t, env, "tickets", "fetch", "--gateway", g.uri, "--issuer", issuer, "--voucher", voucher, "--count", count)
	}
	fails(t, env, exitFailed, "forward", "--gateway", g.uri, "0=127.0.0.1:9")
	fetch("3")
	f, ready := launchForward(t, env, "--gateway", g.uri, "0="+echo(t))
	conn := localSocket(t, ready.Mappings[0].Local)
	payload := bytes.Repeat([]byte("x"), 1000)
	for range 110 { // 220 kB in both directions, beyond the second ticket
		ask(t, conn, payload)
	}
	var shown wallet.Contents
	parseJSON(t, mustLewes(t, env, "tickets", "show", "--json"), &shown)
	if len(shown.Accounts) != 1 || shown.Accounts[0].Ended {
		t.Errorf("after 220 kB the wallet has %+v", shown)
	}
	for end := time.Now().Add(patience); !strings.Contains(f.stderr(), "no ticket"); time.Sleep(time.Millisecond) {
		if _, err := conn.Write(payload); err != nil || time.Now().After(end) {
			t.Fatalf("the tickets do not end: %v", err)
		}
	}
	fetch("1")
	ask(t, conn, payload)
	if code := f.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}
