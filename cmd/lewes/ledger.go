package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"lewes/cmd/lewes/internal/config"
	"lewes/cmd/lewes/internal/control"
	"lewes/cmd/lewes/internal/gatewayd"
	"lewes/state/ledger"
)

func newLedger() *cobra.Command {
	return group(&cobra.Command{
		Use:   "ledger",
		Short: "check and copy the accounts of this machine's gateway",
		Long: `The ledger is the file in which a gateway keeps the accounts of its clients: their bandwidth,
WireGuard peers and addresses, and the tickets that are spent. It must not be lost, and must not
be replaced by an older state without need: what was spent since can then be spent again.

A backup takes the place of the ledger while the gateway is stopped:
  systemctl stop lewes-gateway
  mv /var/lib/lewes/ledger /var/lib/lewes/ledger.damaged
  install -m 600 backup /var/lib/lewes/ledger
  chown --reference=/var/lib/lewes/. /var/lib/lewes/ledger
  systemctl start lewes-gateway                  # the log warns that it is a backup`,
		Example: `  lewes ledger check
  lewes ledger backup ledger-$(date +%F)
  lewes ledger backup --previous ledger-rescued            # without the last transaction`,
	}, newLedgerCheck(), newLedgerBackup())
}

// ledgerFile returns the gateway's ledger.
func (f *controlFlags) ledgerFile() (string, error) {
	c, err := config.LoadOrDefault(f.config, f.state)
	if err != nil {
		return "", err
	}
	return c.LedgerFile(), nil
}

func newLedgerCheck() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "read a whole ledger and list its faults",
		Long: `Check reads every page and every value of a ledger, counts its content and lists its faults. It
changes nothing. The exit code is 1 if there is a fault. No gateway may have the file open; of a
running gateway, lewes ledger backup makes a copy and checks that.

If pages of the last transaction are damaged, lewes ledger backup --previous goes back before it.`,
		Example: `  lewes ledger check
  lewes ledger check /var/backups/lewes/ledger-2026-11-29
  lewes ledger check --json | jq .accounts`,
		Args: arguments(0, 1, ""),
	}
	var flags controlFlags
	flags.register(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		file := ""
		if len(args) == 1 {
			file = args[0]
		} else if file, err = flags.ledgerFile(); err != nil {
			return err
		}
		r, err := ledger.Check(file)
		if err != nil {
			return err
		}
		if r.Err() != nil && !*asJSON {
			return r.Err()
		}
		if err := output(cmd, *asJSON, r, ledgerText(&r)); err != nil {
			return err
		}
		return r.Err()
	}
	return cmd
}

// ledgerText describes a ledger without faults.
func ledgerText(r *ledger.Report) string {
	return fmt.Sprintf("%s is in order\ngateway       %v\nlast change   %s\naccounts      %d, with %s and %s\naddresses     %d held or resting\nspent         %s of %s\nresults       %d\nsize          %d bytes",
		r.File, r.Gateway, r.Clock.Local().Format("2006-01-02 15:04:05"), r.Accounts, count(r.Grants, "grant"), count(r.Attachments, "attachment"),
		r.Addresses, count(r.Spent, "ticket"), count(r.Keys, "key"), r.Results, r.Size)
}

func newLedgerBackup() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup TO",
		Short: "copy the ledger to a new file",
		Long: `Backup copies the ledger of this machine's gateway to a new file, and checks the copy. From a
running gateway it gets the ledger on the control socket, as of the last transaction, while
registrations go on; that is for root and the gateway's user.

With --previous it copies the state before the last transaction, from a ledger that no gateway
has open. That is the way back if lewes ledger check finds damaged pages: a transaction writes
none of the pages of the one before. Registrations in the last transaction are lost, and their
tickets can be spent again. Do this before a gateway changes the ledger again.`,
		Example: `  lewes ledger backup /var/backups/lewes/ledger-$(date +%F)
  lewes ledger backup --file /srv/lewes/ledger copy        # of a stopped gateway
  lewes ledger backup --previous /var/lib/lewes/ledger-rescued`,
		Args: arguments(1, 1, "TO"),
	}
	var flags controlFlags
	flags.register(cmd)
	file := cmd.Flags().String("file", "", "`FILE` of a ledger that no gateway has open, instead of this machine's gateway's")
	previous := cmd.Flags().Bool("previous", false, "copy the state before the last transaction")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		from, live := *file, *file == ""
		if live {
			var err error
			if from, err = flags.ledgerFile(); err != nil {
				return err
			}
		}
		makeCopy := ledger.Backup
		if *previous {
			makeCopy = ledger.BackupPrevious
		}
		r, err := makeCopy(from, args[0])
		if errors.Is(err, ledger.ErrInUse) && live && !*previous {
			r, err = flags.receiveLedger(cmd.Context(), args[0])
		}
		if err != nil {
			return err
		}
		return output(cmd, *asJSON, r, ledgerText(&r))
	}
	return cmd
}

// receiveLedger copies the ledger of the running gateway.
func (f *controlFlags) receiveLedger(ctx context.Context, to string) (r ledger.Report, err error) {
	err = f.do(func(c control.Client) error {
		body, err := c.Stream(ctx, http.MethodGet, gatewayd.LedgerEndpoint, nil)
		if err != nil {
			return err
		}
		defer body.Close()
		r, err = ledger.Receive(to, body)
		return err
	})
	return r, err
}
