package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lewes/cmd/lewes/internal/wgquick"
	"lewes/transport/client"
	"lewes/transport/client/wallet"
)

func newRegister() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "register --gateway URI --mode relay|dvpn|balance",
		Short: "register with a gateway, or show what is left of the bandwidth there",
		Long: `Register asks a gateway for a registration and prints it: what is left of this client's bandwidth
and until when. With --mode relay it registers this client for sending datagrams; forward and probe
do that by themselves. With --mode balance it changes nothing.

With --mode dvpn the gateway makes a WireGuard peer for this client, and register writes its
configuration for wg-quick to the file of --wg-conf, once the gateway has agreed. If the file exists,
register keeps its key and all else in it, and renews address, endpoint and keys of the gateway;
without it there is a new key. A client has one peer: a new key takes the place of the old one.

If the gateway needs a ticket, register spends one of the wallet (lewes tickets fetch), except with
--mode balance. If there is none, it prints the tickets that the gateway takes, and the exit code is 1.`,
		Example: `  lewes register --mode balance --gateway lewes://9qA…@gw.example.com
  lewes register --mode balance --gateway lewes://9qA…@gw.example.com --json | jq .remaining_bytes
  lewes register --mode dvpn --gateway lewes://9qA…@gw.example.com --wg-conf lewes.conf && wg-quick up ./lewes.conf
  lewes register --mode relay --gateway lewes://9qA…@gw.example.com --via lewes://4mZ…@entry.example`,
		Args: arguments(0, 0, ""),
	}
	var flags gatewayFlags
	flags.register(cmd)
	gateway := cmd.Flags().String("gateway", "", "`URI` of the gateway (required)")
	mode := cmd.Flags().String("mode", "", "what to register for: relay or dvpn, or balance to ask only (required)")
	conf := cmd.Flags().String("wg-conf", "", "`FILE` for wg-quick to write or renew, with --mode dvpn")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *gateway == "" {
			return usagef("missing --gateway: the URI printed by the gateway, lewes://IDENTITY@host:port")
		}
		request := client.RegisterRequest{}
		switch *mode {
		case client.ModeRelay.String():
			request.Mode = client.ModeRelay
		case client.ModeBalance.String():
			request.Mode = client.ModeBalance
		case client.ModeDVPN.String():
			request.Mode = client.ModeDVPN
		case "":
			return usagef("missing --mode: relay or dvpn, or balance to ask what is left")
		default:
			return usagef("--mode %q is none of relay, dvpn and balance", *mode)
		}
		var tunnel *wgquick.File
		switch {
		case (*conf == "") == (request.Mode == client.ModeDVPN):
			return usagef("--wg-conf FILE and --mode dvpn go together")
		case *conf != "":
			var err error
			if tunnel, err = wgquick.Open(*conf, rand.Reader); err != nil {
				return err
			}
			key := tunnel.PrivateKey()
			defer clear(key[:])
			request.WireGuardKey = &key
		}
		return flags.run(cmd, *gateway, func(ctx context.Context, config client.Config) error {
			config.NoRegister = true
			session, err := client.Dial(ctx, config)
			if err != nil {
				return withRemedy(err, &config)
			}
			defer session.Close()
			result, err := session.Register(ctx, request)
			if errors.Is(err, wallet.ErrNoTicket) && result.Code == client.RegisterBandwidthUsedUp && len(result.Tickets) == 0 {
				err = nil // the gateway may take none: its refusal is the reason
			}
			if err != nil && (!errors.Is(err, wallet.ErrNoTicket) || result.Code != client.RegisterTicketNeeded) {
				return registerRemedy(err, request.Mode, config.Gateway.String())
			}
			defer clear(result.PresharedKey[:])
			if result.OK() && tunnel != nil {
				p := result.Peer
				tunnel.Set(&wgquick.Peer{PublicKey: p.PublicKey, PSK: result.PresharedKey, Endpoint: p.Endpoint, IPv4: p.IPv4, IPv6: p.IPv6})
				if err := tunnel.Save(); err != nil {
					return err
				}
			}
			r := newRegistration(config.Gateway.String(), request.Mode, &result)
			if err := output(cmd, *asJSON, r, r.text()); err != nil {
				return err
			}
			return cmp.Or(err, registerRemedy(result.Err(), request.Mode, config.Gateway.String()))
		})
	}
	return cmd
}

// registration is the output of register.
type registration struct {
	Gateway    string     `json:"gateway"`
	Mode       string     `json:"mode"`
	Registered bool       `json:"registered"` // with mode balance: it would be
	Code       string     `json:"code"`
	Detail     string     `json:"detail,omitempty"`          // the gateway's explanation
	Remaining  *uint64    `json:"remaining_bytes,omitempty"` // absent: no limit, or not registered
	Expires    *time.Time `json:"expires,omitempty"`         // absent: never
	Tickets    []offer    `json:"tickets,omitempty"`         // that the gateway takes
	Peer       *peer      `json:"gateway_data,omitempty"`    // with mode dvpn
}

// peer is the gateway's half of a WireGuard tunnel, and the client's addresses in it.
type peer struct {
	PublicKey string     `json:"public_key"`
	Endpoint  string     `json:"endpoint"`
	IPv4      netip.Addr `json:"private_ipv4,omitzero"`
	IPv6      netip.Addr `json:"private_ipv6,omitzero"`
}

// offer is a ticket that a gateway takes.
type offer struct {
	Type    string `json:"ticket_type"`
	Issuer  string `json:"issuer"`
	KeyID   string `json:"token_key_id"`
	Bytes   uint64 `json:"bytes"`
	Seconds uint64 `json:"seconds"`
}

func newRegistration(gateway string, mode client.Mode, result *client.RegisterResult) *registration {
	r := &registration{Gateway: gateway, Mode: mode.String(), Registered: result.OK(), Code: result.Code.String(), Detail: result.Detail}
	if result.Remaining != client.Unlimited {
		r.Remaining = &result.Remaining
	}
	if !result.Expires.IsZero() {
		r.Expires = new(result.Expires.UTC())
	}
	if p := result.Peer; p != nil {
		r.Peer = &peer{base64.StdEncoding.EncodeToString(p.PublicKey[:]), p.Endpoint, p.IPv4, p.IPv6}
	}
	for _, o := range result.Tickets {
		r.Tickets = append(r.Tickets, offer{o.Type.String(), o.Issuer, hex.EncodeToString(o.TokenKeyID[:]), o.Bytes, o.Seconds})
	}
	return r
}

func (r *registration) text() string {
	var b strings.Builder
	switch {
	case r.Remaining != nil:
		fmt.Fprintf(&b, "%s left", bytesText(*r.Remaining))
	case r.Registered:
		b.WriteString("no limit")
	default:
		b.WriteString("not registered")
	}
	if r.Expires != nil {
		b.WriteString(", until " + r.Expires.Format("2006-01-02 15:04Z"))
	}
	if r.Registered && r.Mode != client.ModeBalance.String() {
		fmt.Fprintf(&b, "; registered for %s", r.Mode)
	}
	if p := r.Peer; p != nil {
		b.WriteString("; peer of " + p.Endpoint + " with the address")
		for _, a := range []netip.Addr{p.IPv4, p.IPv6} {
			if a.IsValid() {
				b.WriteString(" " + a.String())
			}
		}
	}
	for _, o := range r.Tickets {
		fmt.Fprintf(&b, "\nit takes tickets of %s: %s for %s", o.Issuer, bytesText(o.Bytes), ageText(o.Seconds))
	}
	return b.String()
}

// registerRemedy adds what to do next to a refusal or another error of a registration.
func registerRemedy(err error, mode client.Mode, gateway string) error {
	var refused *client.RegisterError
	switch {
	case errors.Is(err, client.ErrNoRegistration) && mode == client.ModeDVPN:
		return fmt.Errorf("%w\nit has no WireGuard peers for clients: choose another gateway, or lewes forward, which works without", err)
	case errors.Is(err, client.ErrNoRegistration):
		return fmt.Errorf("%w\nit needs none: lewes forward works without", err)
	case !errors.As(err, &refused):
		return err
	}
	remedies := map[client.RegisterCode]string{
		client.RegisterTicketNeeded:    "get tickets with: lewes tickets fetch --gateway '" + gateway + "' --issuer URL#PIN --voucher CODE",
		client.RegisterModeNotOffered:  "choose another --mode, or another gateway",
		client.RegisterNotAllowed:      "ask the gateway's operator to allow this client",
		client.RegisterBandwidthUsedUp: "get more tickets, or wait for the next period",
		client.RegisterNoAddressFree:   "try again later; the gateway's operator finds the pool in its configuration",
		client.RegisterDeviceFailed:    "try again later; the gateway's operator finds the reason with lewes doctor",
		client.RegisterBusy:            "try again in a minute",
		client.RegisterStorageFailed:   "try again later; the gateway's operator finds the reason in its log",
		client.RegisterClock:           "set this machine's clock",
	}
	if remedy, found := remedies[refused.Code]; found {
		if errors.Is(err, context.DeadlineExceeded) { // of the repeats
			err = refused
		}
		return fmt.Errorf("%w\n%s", err, remedy)
	}
	return err
}
