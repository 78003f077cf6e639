package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"

	"github.com/spf13/cobra"
	"go.uber.org/zap/zapcore"

	"lewes/cmd/lewes/internal/config"
	"lewes/cmd/lewes/internal/gatewayd"
	"lewes/cmd/lewes/internal/issuer"
	"lewes/crypto/identity"
	"lewes/crypto/tickets"
)

// issuerAddress is where an issuer listens by default.
const issuerAddress = "127.0.0.1:8264"

func newTicketsIssuer() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "issuer",
		Short: "run an issuer of tickets",
		Long: `Issuer signs tickets for vouchers over HTTP until SIGINT or SIGTERM. It prints its URL#PIN, which
clients and gateways need, and then logs. On the first start it creates its keys in the state
directory: keep a backup of it, since vouchers and tickets are lost with it.

A plan is what a ticket grants: bytes, and the time in which they can be used. The plans of
--plan replace those of the last start.

Each plan has a key per epoch. A ticket can be spent in the epoch it was issued in and in the
next one, at gateways that list the issuer in registration.issuers of their configuration.

Without --cert it listens on a loopback address only. Behind a proxy that speaks HTTPS for it,
give the URL that clients use with --url.`,
		Example: `  lewes tickets issuer --plan month=10GiB/30d
  lewes tickets issuer --plan day=1GiB/1d --plan month=10GiB/30d --url https://issuer.example
  lewes tickets issuer --listen :443 --cert cert.pem --key key.pem --url https://issuer.example`,
		Args: arguments(0, 0, ""),
	}
	flags := cmd.Flags()
	listen := flags.String("listen", issuerAddress, "`address` to listen on")
	base := flags.String("url", "", "`URL` that clients use, without a path (default: that of --listen)")
	cert := flags.String("cert", "", "`FILE` with the TLS certificate chain, in PEM; read again when it changes")
	key := flags.String("key", "", "`FILE` with the key of --cert")
	plans := flags.StringArray("plan", nil, "what tickets grant, `NAME=SIZE/TIME`; repeat for more (default: as on the last start)")
	epoch := flags.Duration("epoch", tickets.DefaultEpoch, "lifetime of a key; it cannot be changed later")
	state := flags.String("state", "", "state `directory` of the issuer (default: lewes/issuer in the user's state directory, /var/lib/lewes/issuer for root)")
	asJSON := cmd.Flags().Bool("json", false, "print the URL and the pin as one line of JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c := issuer.Config{Epoch: *epoch, Log: gatewayd.NewLogger(cmd.ErrOrStderr(), zapcore.InfoLevel, false)}
		for _, s := range *plans {
			p, err := issuer.ParsePlan(s)
			if err != nil {
				return usagef("--plan: %w", err)
			}
			c.Plans = append(c.Plans, p)
		}
		if (*cert == "") != (*key == "") {
			return usagef("--cert and --key belong together")
		}
		if *cert == "" && !loopbackAddress(*listen) {
			return usagef("--listen %s: without --cert only a loopback address can be used, such as %s", *listen, issuerAddress)
		}
		if *cert != "" && *base == "" {
			return usagef("--cert needs --url, the URL that clients use")
		}
		var err error
		if c.Dir, err = issuerState(*state); err != nil {
			return err
		}
		var secure *tls.Config
		if *cert != "" {
			if secure, err = issuer.TLS(*cert, *key); err != nil {
				return err
			}
		}
		ctx, stop := untilSignal(cmd.Context(), cmd.ErrOrStderr())
		defer stop()
		l, err := net.Listen("tcp", *listen)
		if err != nil {
			return fmt.Errorf("the issuer cannot listen: %w\nanother program may have that port; choose one with --listen", err)
		}
		defer l.Close()
		if *base == "" {
			*base = "http://" + l.Addr().String()
		}
		u, err := url.Parse(*base)
		if err != nil {
			return usagef("--url: %w", err)
		}
		// The checks are those of a client, for which a pin is needed; the real one is not read yet.
		named, err := tickets.ParseIssuer(tickets.Issuer{URL: u, Pin: identity.FromSeed(new([32]byte)).Public()}.String())
		if err != nil {
			return usagef("--url: %w", err)
		}
		c.Name = named.Name()
		i, err := issuer.Open(c)
		if err != nil {
			return err
		}
		defer i.Close()
		named.Pin = i.Pin()
		if err := outputLine(cmd, *asJSON, struct {
			Issuer string `json:"issuer"`
			State  string `json:"state"`
		}{named.String(), c.Dir}, named.String()); err != nil {
			return err
		}
		if secure != nil {
			l = tls.NewListener(l, secure)
		}
		c.Log.Info("ready")
		return i.Serve(ctx, l)
	}
	return cmd
}

// loopbackAddress reports whether an address to listen on is reachable from this machine only.
func loopbackAddress(s string) bool {
	addr, err := netip.ParseAddrPort(s)
	return err == nil && addr.Addr().IsLoopback()
}

// issuerState returns the state directory of an issuer, which it does not create.
func issuerState(dir string) (string, error) {
	if dir != "" {
		return dir, nil
	}
	base, err := config.StateDir()
	return filepath.Join(base, "issuer"), err
}

func newTicketsVoucher() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "voucher",
		Short: "make a voucher for tickets",
		Long: `Voucher makes a voucher for tickets of a plan and prints its code, with which its bearer gets
them. Run it on the issuer's machine, as its user or root; the issuer may be running. The code
is stored nowhere: the issuer keeps its hash only.

Whoever knows the code can use it: sell it over a channel that you trust. A used voucher and
the client that spends the tickets cannot be linked by what the issuer knows.`,
		Example: `  lewes tickets voucher --plan month
  lewes tickets voucher --plan month --count 50
  lewes tickets voucher --plan month --json | jq -r .voucher`,
		Args: arguments(0, 0, ""),
	}
	flags := cmd.Flags()
	name := flags.String("plan", "", "`NAME` of the plan (default: the issuer's, if it has one only)")
	count := flags.Int("count", 1, "`number` of tickets")
	state := flags.String("state", "", "state `directory` of the issuer (default: lewes/issuer in the user's state directory, /var/lib/lewes/issuer for root)")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *count < 1 || *count > issuer.MaxCount {
			return usagef("--count %d is not from 1 to %d", *count, issuer.MaxCount)
		}
		dir, err := issuerState(*state)
		if err != nil {
			return err
		}
		plans, err := issuer.ReadPlans(dir)
		if err != nil {
			return err
		}
		plan, err := choosePlan(plans, *name)
		if err != nil {
			return err
		}
		v, err := issuer.NewVoucher(dir, plan, *count)
		if err != nil {
			return err
		}
		return output(cmd, *asJSON, struct {
			Voucher string `json:"voucher"`
			Plan    string `json:"plan"`
			Count   int    `json:"count"`
			Bytes   uint64 `json:"bytes"`
			Seconds uint32 `json:"seconds"`
		}{v.Text(), plan.Name, *count, plan.Bytes, plan.Seconds}, v.Text())
	}
	return cmd
}

func choosePlan(plans []issuer.Plan, name string) (issuer.Plan, error) {
	if name == "" && len(plans) == 1 {
		return plans[0], nil
	}
	for _, p := range plans {
		if p.Name == name {
			return p, nil
		}
	}
	known := ""
	for _, p := range plans {
		known += "\n  --plan " + p.Name + "  (" + p.String() + ")"
	}
	return issuer.Plan{}, usagef("--plan %q is not a plan of the issuer; use one of%s", name, known)
}
