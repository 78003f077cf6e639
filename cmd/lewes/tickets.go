package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"lewes/cmd/lewes/internal/config"
	"lewes/crypto/tickets"
	"lewes/transport/client/wallet"
	"lewes/transport/uri"
)

func newTickets() *cobra.Command {
	return group(&cobra.Command{
		Use:   "tickets",
		Short: "issue, buy and show tickets, which pay for a gateway's bandwidth",
		Long: `A ticket pays for bandwidth at one gateway. An issuer signs it without seeing it, so neither the
issuer nor the gateway can tell who bought it. Tickets lie in the wallet, a file in the state directory;
forward and probe spend them when a gateway asks. They are Privacy Pass tokens (RFC 9578).`,
		Example: `  lewes tickets issuer --plan month=10GiB/30d                              # prints its URL#PIN
  lewes tickets voucher --plan month --count 50                            # prints a CODE for a customer
  lewes tickets fetch --gateway 'lewes://9qA…@gw.example.com?access=tickets' --issuer https://issuer.example#4mZ… --voucher CODE
  lewes tickets show`,
	}, newTicketsFetch(), newTicketsIssuer(), newTicketsShow(), newTicketsVoucher())
}

// openWallet returns the wallet in the state directory, by default the system's.
func openWallet(dir string) (*wallet.Wallet, error) {
	if dir == "" {
		var err error
		if dir, err = config.StateDir(); err != nil {
			return nil, err
		}
	}
	return wallet.Open(filepath.Join(dir, "wallet"))
}

// stdin is the value of --voucher that reads it from standard input.
const stdin = "-"

func newTicketsFetch() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fetch [--gateway URI --issuer URL#PIN --voucher CODE]",
		Short: "exchange a voucher for tickets",
		Long: `Fetch exchanges a voucher for tickets and stores them in the wallet. They are good for one gateway
only. Fetch builds the requests itself and never asks because a gateway wants it.

Nothing is lost if fetch fails: it stores its requests first, and the issuer answers the same request
again without charge. Run the same command again, or fetch without flags, which goes on with everything
that is unfinished.`,
		Example: `  lewes tickets fetch --gateway 'lewes://9qA…@gw.example.com?access=tickets' --issuer https://issuer.example#4mZ… --voucher CODE
  lewes tickets fetch --gateway lewes://… --issuer https://…#… --voucher - --count 5 < voucher   # keeps it out of the process list
  lewes tickets fetch                                                      # go on after a failure`,
		Args: arguments(0, 0, ""),
	}
	flags := cmd.Flags()
	gateway := flags.String("gateway", "", "`URI` of the gateway that the tickets are for")
	issuer := flags.String("issuer", "", "`URL#PIN` of the issuer, from where you got the voucher")
	voucher := flags.String("voucher", "", "`CODE` to exchange, or - to read it from standard input")
	number := flags.Int("count", 0, "`number` of tickets (default all that the voucher is good for)")
	state := flags.String("state", "", "state `directory` with the wallet (default: lewes in the user's state directory, /var/lib/lewes for root)")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var order wallet.Order
		resume := *gateway == "" && *issuer == "" && *voucher == "" && !flags.Changed("count")
		if !resume {
			var err error
			if order, err = parseOrder(cmd.InOrStdin(), *gateway, *issuer, *voucher, *number, flags.Changed("count")); err != nil {
				return &usageError{err}
			}
		}
		w, err := openWallet(*state)
		if err != nil {
			return err
		}
		ctx, stop := untilSignal(cmd.Context(), cmd.ErrOrStderr(), hangup()...)
		defer stop()
		got, total := 0, 0
		progress := func(n, of int) { got, total = n, of }
		if resume {
			got, err = w.Resume(ctx, progress)
		} else {
			got, err = w.Fetch(ctx, order, progress)
		}
		result := struct {
			Tickets int    `json:"tickets"`
			Missing int    `json:"missing"`
			Wallet  string `json:"wallet"`
		}{got, max(total-got, 0), w.Path()}
		text := fmt.Sprintf("%s in %s", count(got, "new ticket"), w.Path())
		if resume && total == 0 {
			text = "nothing is unfinished in " + w.Path()
		}
		if err != nil {
			if got > 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), text)
			}
			return fetchRemedy(err)
		}
		return output(cmd, *asJSON, result, text)
	}
	return cmd
}

// fetchRemedy adds what to do next to an error of a fetch.
func fetchRemedy(err error) error {
	switch {
	case errors.Is(err, wallet.ErrVoucherUnknown):
		return fmt.Errorf("%w\ncheck that the voucher is of this issuer and was not revoked", err)
	case errors.Is(err, wallet.ErrUsedUp):
		return fmt.Errorf("%w\nlewes tickets show prints the tickets of this machine's wallet; anyone who had the code could use it", err)
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted\nnothing is lost: run the same command again later")
	case errors.Is(err, wallet.ErrUnreachable):
		return fmt.Errorf("%w\nnothing is lost: run the same command again later", err)
	}
	return err
}

// parseOrder parses the flags of fetch.
func parseOrder(in io.Reader, gateway, issuer, voucher string, number int, counted bool) (o wallet.Order, err error) {
	for _, flag := range []struct{ name, value, what string }{
		{"gateway", gateway, "the URI of the gateway that the tickets are for"},
		{"issuer", issuer, "URL#PIN, from where you got the voucher"},
		{"voucher", voucher, "the code to exchange"},
	} {
		if flag.value == "" {
			return o, fmt.Errorf("missing --%s: %s", flag.name, flag.what)
		}
	}
	if counted && (number < 1 || number > wallet.MaxFetch) {
		return o, fmt.Errorf("--count %d is not from 1 to %d", number, wallet.MaxFetch)
	}
	o.Count = number
	g, err := uri.Parse(gateway)
	if err != nil {
		return o, err
	}
	o.Gateway = g.Identity
	if o.Issuer, err = tickets.ParseIssuer(issuer); err != nil {
		return o, fmt.Errorf("--issuer: %w", err)
	}
	if voucher == stdin {
		line, err := io.ReadAll(io.LimitReader(in, 1024))
		if err != nil {
			return o, fmt.Errorf("--voucher: %w", err)
		}
		voucher = strings.TrimSpace(string(line))
	}
	if o.Voucher, err = tickets.ParseVoucher(voucher); err != nil {
		return o, fmt.Errorf("--voucher: %w; check it for a typing error", err)
	}
	return o, nil
}

func newTicketsShow() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show",
		Short: "print the tickets and accounts in the wallet",
		Long: `Show prints the tickets of each gateway, what each is good for and until when it can be spent, the
accounts that tickets have paid for, as the gateway last reported them, and fetches that are
unfinished. It prints no secrets and asks nobody; lewes register --mode balance asks the gateway.`,
		Example: `  lewes tickets show
  lewes tickets show --json | jq '[.tickets[] | select(.state == "ready") | .count] | add'`,
		Args: arguments(0, 0, ""),
	}
	state := cmd.Flags().String("state", "", "state `directory` with the wallet (default: lewes in the user's state directory, /var/lib/lewes for root)")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		w, err := openWallet(*state)
		if err != nil {
			return err
		}
		c, err := w.Contents()
		if err != nil {
			return err
		}
		if len(c.Tickets)+len(c.Accounts)+len(c.Fetches) == 0 && !*asJSON {
			_, err := fmt.Fprintf(cmd.ErrOrStderr(), "%s is empty; get tickets with: lewes tickets fetch --gateway URI --issuer URL#PIN --voucher CODE\n", w.Path())
			return err
		}
		return output(cmd, *asJSON, struct {
			Wallet string `json:"wallet"`
			wallet.Contents
		}{w.Path(), c}, walletText(c))
	}
	return cmd
}

// walletText returns the tables of show.
func walletText(c wallet.Contents) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	day := func(t time.Time) string { return t.Format("2006-01-02 15:04Z") }
	if len(c.Tickets) > 0 {
		fmt.Fprintln(w, "tickets\tbytes\tfor\tspend until\tstate\tissuer\tgateway")
		for _, t := range c.Tickets {
			state := string(t.State)
			if t.Reason != "" {
				state += " (" + t.Reason + ")"
			}
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", t.Count, bytesText(t.Bytes), ageText(t.Seconds), day(t.Until), state, t.Issuer, t.Gateway)
		}
	}
	for i, a := range c.Accounts {
		if i == 0 {
			fmt.Fprintln(w, "account\tleft\texpires\treported\tstate\t\tgateway")
		}
		left, expires, reported, state := bytesText(a.Remaining), "never", "never", "in use"
		if a.Reported.IsZero() {
			left, expires = "unknown", "unknown"
		} else {
			reported = day(a.Reported)
			if !a.Expires.IsZero() {
				expires = day(a.Expires)
			}
		}
		if a.Ended {
			state = "ended"
		}
		fmt.Fprintf(w, "%.8s…\t%s\t%s\t%s\t%s\t\t%s\n", a.Identity, left, expires, reported, state, a.Gateway)
	}
	_ = w.Flush() // to memory
	for _, f := range c.Fetches {
		fmt.Fprintf(&b, "%s of %s did not arrive yet; go on with: lewes tickets fetch\n", count(f.Missing, "ticket"), f.Issuer)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// ageText prints a number of seconds in its largest unit.
func ageText(seconds uint64) string {
	for _, unit := range []struct {
		seconds uint64
		name    string
	}{{86400, "d"}, {3600, "h"}, {60, "min"}} {
		if seconds >= unit.seconds && seconds%unit.seconds == 0 {
			return fmt.Sprintf("%d %s", seconds/unit.seconds, unit.name)
		}
	}
	return fmt.Sprintf("%d s", seconds)
}
