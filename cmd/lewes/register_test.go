package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lewes/cmd/lewes/internal/gatewayd"
	"lewes/crypto/identity"
	"lewes/router"
	"lewes/router/account"
	"lewes/router/gatewaytest"
	"lewes/router/registrar"
	"lewes/state/wire"
	"lewes/transport/client"
)

// TestRegisterCommand registers with gateways that answer, refuse and have no registration.
func TestRegisterCommand(t *testing.T) {
	t.Parallel()
	start := func(modes ...wire.Mode) string {
		g := gatewaytest.Start(t, gatewaytest.Options{TCP: true, Config: func(c *router.Config) {
			r := registrar.New(registrar.Config{
				Access: registrar.Open, Modes: modes, Sealing: new([32]byte),
				Standing: func(identity.PublicKey) account.Standing { return account.Standing{Admitted: true} },
			})
			t.Cleanup(r.Close)
			c.Registration.Registrar = r
		}})
		return g.URI.String()
	}
	env := environment(t.TempDir())
	open := start(wire.ModeRelay)
	has(t, mustLewes(t, env, "register", "--gateway", open, "--mode", "relay"), "no limit; registered for relay")
	has(t, mustLewes(t, env, "register", "--gateway", open, "--mode", "balance", "--transport", "tcp"), "no limit\n")
	var got registration
	parseJSON(t, mustLewes(t, env, "register", "--gateway", open, "--mode", "balance", "--json"), &got)
	if got.Gateway != open || got.Mode != "balance" || !got.Registered || got.Code != "ok" || got.Remaining != nil || got.Expires != nil {
		t.Errorf("%+v", got)
	}

	other := start()
	stdout, stderr, code := lewes(t, env, "register", "--gateway", other, "--mode", "relay", "--json")
	if code != exitFailed || json.Unmarshal([]byte(stdout), &got) != nil || got.Registered || got.Code != "mode not offered" {
		t.Errorf("exit code %d: %s", code, stdout)
	}
	has(t, stderr, "gateway refused the registration: mode not offered", "choose another --mode")
	none := gatewaytest.Start(t, gatewaytest.Options{}).URI.String()
	has(t, fails(t, env, exitFailed, "register", "--gateway", none, "--mode", "relay"), "the gateway does not answer registrations", "it needs none")
	has(t, fails(t, env, exitFailed, "register", "--gateway", none, "--mode", "dvpn", "--wg-conf", filepath.Join(t.TempDir(), "lewes.conf")), "no WireGuard peers")
	for _, args := range [][]string{{}, {"--gateway", open}, {"--mode", "relay"}, {"--gateway", open, "--mode", "all"}, {"--gateway", "lewes://", "--mode", "relay"},
		{"--gateway", open, "--mode", "dvpn"}, {"--gateway", open, "--mode", "relay", "--wg-conf", "lewes.conf"}} {
		fails(t, env, exitUsage, append([]string{"register"}, args...)...)
	}
}

// TestRegisterWireGuard: a gateway without a device refuses, and no file is left; another file is not overwritten.
func TestRegisterWireGuard(t *testing.T) {
	t.Parallel()
	g := gatewaytest.Start(t, gatewaytest.Options{Config: func(c *router.Config) {
		r := registrar.New(registrar.Config{
			Access: registrar.Open, Modes: []wire.Mode{wire.ModeRelay}, Sealing: new([32]byte),
			Standing: func(identity.PublicKey) account.Standing { return account.Standing{Admitted: true} },
		})
		t.Cleanup(r.Close)
		c.Registration.Registrar = r
	}})
	dir := t.TempDir()
	env, conf := environment(dir), filepath.Join(dir, "lewes.conf")
	has(t, fails(t, env, exitFailed, "register", "--gateway", g.URI.String(), "--mode", "dvpn", "--wg-conf", conf), "mode not offered", "another gateway")
	if _, err := os.Stat(conf); err == nil {
		t.Error("a refused registration left a configuration")
	}
	if err := os.WriteFile(conf, []byte("mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	has(t, fails(t, env, exitFailed, "register", "--gateway", g.URI.String(), "--mode", "dvpn", "--wg-conf", conf), conf, "name another file")
	if text, _ := os.ReadFile(conf); string(text) != "mine\n" {
		t.Errorf("overwrote a file by %q", text)
	}
}

func TestRegistrationText(t *testing.T) {
	expires := time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)
	for want, result := range map[string]client.RegisterResult{
		"no limit; registered for relay":                             {Remaining: client.Unlimited},
		"10 GiB left, until 2027-01-02 03:04Z; registered for relay": {Remaining: 10 << 30, Expires: expires},
		"not registered": {Code: client.RegisterNotAllowed, Remaining: client.Unlimited},
		"0 B left":       {Code: client.RegisterBandwidthUsedUp},
		"0 B left\nit takes tickets of a.example: 1 GiB for 1 d": {Code: client.RegisterTicketNeeded, Tickets: []client.TicketOffer{{Issuer: "a.example", Bytes: 1 << 30, Seconds: 86400}}},
	} {
		if got := newRegistration("", client.ModeRelay, &result).text(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	late := errors.Join(&client.RegisterError{Code: client.RegisterDeviceFailed}, context.DeadlineExceeded)
	if text := registerRemedy(late, client.ModeDVPN, "URI").Error(); strings.Contains(text, "context") {
		t.Error(text)
	}
	for code := client.RegisterOK + 1; code <= client.RegisterClock; code++ {
		has(t, registerRemedy(&client.RegisterError{Code: code}, client.ModeRelay, "URI").Error(), "gateway refused the registration: "+code.String())
	}
}

func TestStatusShowsWireGuard(t *testing.T) {
	for want, is := range map[string]gatewayd.WireGuardStatus{
		"wireguard  wg0, 1 peer":                     {Device: "wg0", Peers: 1},
		"wireguard  device wg0: file does not exist": {Device: "wg0", Error: "device wg0: file does not exist"},
	} {
		s := runningStatus{gatewayd.Status{WireGuard: &is}}
		has(t, s.String(), want)
	}
}
