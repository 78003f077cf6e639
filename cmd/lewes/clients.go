package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"lewes/cmd/lewes/internal/config"
	"lewes/cmd/lewes/internal/gatewayd"
	"lewes/crypto/identity"
	"lewes/router/access"
	"lewes/transport/uri"
)

func newClients() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "clients",
		Short: "manage the clients of this machine's gateway",
		Long: `Clients edits the list of clients that may use this machine's gateway: a text file with one
client per line, as an identity, a name, limits and a comment. A running gateway reloads the
list when it changes: it admits added clients and closes the sessions of removed ones.

An invalid line admits no client. A gateway that starts uses the other lines; a running one
keeps its previous list until the line is mended. The commands name such lines and exit with
code 1, after they have done their work.

The list is the file "clients" in the state directory, unless --file or the configuration
given with --config names another.`,
		Example: `  lewes clients add 7pGfjAk2bQSxjYfZzR6qY3hNfR5jSgqEoMiYQzLBJ2Xd anna-phone --comment "since May"
  lewes clients list
  lewes clients remove anna-phone`,
	}
	list := new(clientList)
	flags := cmd.PersistentFlags()
	flags.StringVar(&list.file, "file", "", "`FILE` with the list")
	flags.StringVar(&list.config, "config", "", "configuration `FILE` of the gateway, to find its list")
	flags.StringVar(&list.state, "state", "", "state `directory` of the gateway")
	return group(cmd, newClientsAdd(list), newClientsRemove(list), newClientsList(list))
}

// clientList locates the list by the flags.
type clientList struct{ file, config, state string }

// path returns the list's file.
func (l *clientList) path() (string, error) {
	path, _, err := l.find()
	return path, err
}

// find returns the list's file, and the file with the identity of its gateway, which exists once the
// gateway has run; with --file that is a guess.
func (l *clientList) find() (path, identity string, err error) {
	if l.file != "" {
		return l.file, filepath.Join(filepath.Dir(l.file), "identity"), nil
	}
	c, err := config.LoadOrDefault(l.config, l.state)
	if err != nil {
		return "", "", err
	}
	return c.ClientsFile(), c.IdentityFile(), nil
}

// totals returns the clients' traffic; none if the gateway keeps none, or its state directory is not known.
func (l *clientList) totals() (map[identity.PublicKey]gatewayd.Total, error) {
	if l.file != "" {
		return nil, nil
	}
	c, err := config.LoadOrDefault(l.config, l.state)
	if err != nil || c.StateDir == "" {
		return nil, err
	}
	return gatewayd.ReadTotals(c.TotalsFile())
}

func newClientsAdd(list *clientList) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "add IDENTITY [NAME] [LIMIT]...",
		Short: "add a client",
		Long: `Add lets a client use the gateway. The client's user finds the identity with
lewes keygen --show; forward and probe print it when they create one.

Limits bound all sessions of the client together: sessions=N, flows=N, and rate=SIZE, the
payload bytes per second of both directions together, such as rate=10MiB. bytes=SIZE/PERIOD is
what the client may use in each period of days (d) or hours (h), such as bytes=10GiB/30d; it
needs [registration] in the gateway's configuration. expires=DATE is the last day, in UTC, on
which the client is admitted, such as expires=2027-01-31.`,
		Example: `  lewes clients add 7pGfjAk2bQSxjYfZzR6qY3hNfR5jSgqEoMiYQzLBJ2Xd anna-phone
  lewes clients add 7pGfjAk2bQSxjYfZzR6qY3hNfR5jSgqEoMiYQzLBJ2Xd anna-phone sessions=2 rate=10MiB
  lewes clients add 7pGfjAk2bQSxjYfZzR6qY3hNfR5jSgqEoMiYQzLBJ2Xd guest bytes=10GiB/30d expires=2027-01-31
  lewes clients add --file /srv/lewes/clients 7pGfjAk2bQSxjYfZzR6qY3hNfR5jSgqEoMiYQzLBJ2Xd`,
		Args: arguments(1, -1, "IDENTITY"),
	}
	comment := cmd.Flags().String("comment", "", "a `text` for readers of the list")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		entry, err := access.ParseEntry(strings.Join(args, " "))
		if err != nil {
			return &usageError{entryRemedy(err, args)}
		}
		if entry.Limits.Expired(time.Now()) {
			return usagef("the day of expires= is over since %s: give a later one", entry.Limits.Expires.UTC().Format("2006-01-02 15:04Z"))
		}
		if *comment != "" {
			entry.Comment = *comment
		}
		path, gateway, err := list.find()
		if err != nil {
			return err
		}
		_, missing := os.Stat(path)
		if _, err := os.Stat(gateway); errors.Is(err, fs.ErrNotExist) && (list.file == "" || missing != nil) {
			defer fmt.Fprintf(cmd.ErrOrStderr(), "warning: no gateway has run here: there is no %s\n"+
				"run this on the gateway's machine, as its user, with its --config or --state; its log contains the command\n", gateway)
		}
		if list.file == "" {
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				return fmt.Errorf("create the directory of the list of clients: %w", err)
			}
		}
		if err := access.Add(path, entry); err != nil {
			return err
		}
		if err := outputChange(cmd, *asJSON, "added", "to", path, entry); err != nil {
			return err
		}
		return invalidLines(path)
	}
	return cmd
}

// entryRemedy adds to the error of an entry what is in the place of its identity.
func entryRemedy(err error, args []string) error {
	if _, wrong := identity.ParsePublicKey(args[0]); wrong == nil {
		return err
	}
	for _, later := range args[1:] {
		if _, wrong := identity.ParsePublicKey(later); wrong == nil {
			return fmt.Errorf("%w\nthe identity comes first: lewes clients add %s %s", err, later, identity.Mask(args[0]))
		}
	}
	if gateway, wrong := uri.Parse(args[0]); wrong == nil {
		return fmt.Errorf("%q is the URI of a gateway\ngive the identity of the client, which lewes keygen --show prints on its machine", gateway)
	}
	return fmt.Errorf("%w\nthe identity of a client is what lewes keygen --show prints on its machine", err)
}

func newClientsRemove(list *clientList) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "remove IDENTITY|NAME",
		Short: "remove a client; a running gateway closes its sessions",
		Example: `  lewes clients remove anna-phone
  lewes clients remove 7pGfjAk2bQSxjYfZzR6qY3hNfR5jSgqEoMiYQzLBJ2Xd
  lewes clients remove --line 7                            # an invalid line`,
		Args: arguments(0, 1, ""),
	}
	line := cmd.Flags().Int("line", 0, "remove the invalid line with this `number` instead of a client")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		byLine := cmd.Flags().Changed("line")
		if len(args) == 0 && !byLine {
			return usagef("missing argument: IDENTITY or NAME")
		}
		if len(args) > 0 && byLine {
			return usagef("unexpected argument %q beside --line", args[0])
		}
		path, err := list.path()
		if err != nil {
			return err
		}
		if byLine {
			text, err := access.RemoveInvalid(path, *line)
			if err != nil {
				return err
			}
			err = output(cmd, *asJSON, struct {
				Done string `json:"done"`
				File string `json:"file"`
				Line int    `json:"line"`
				Text string `json:"text"`
			}{"removed", path, *line, identity.Mask(text)}, fmt.Sprintf("removed line %d from %s: %q", *line, path, identity.Mask(text)))
			if err != nil {
				return err
			}
			return invalidLines(path)
		}
		removed, err := access.Remove(path, args[0])
		if err != nil {
			return err
		}
		if err := outputChange(cmd, *asJSON, "removed", "from", path, removed); err != nil {
			return err
		}
		return invalidLines(path)
	}
	return cmd
}

// invalidLines returns an error with the invalid lines of a list, and how to mend the first.
func invalidLines(path string) error {
	list, err := access.Load(path)
	if err != nil {
		return err
	}
	if err := list.Err(); err != nil {
		return fmt.Errorf("%w\na running gateway keeps its previous list until this is mended; edit the file, or remove the line: %s",
			err, gatewayd.ClientsCommand("remove", path, fmt.Sprintf("--line %d", list.Invalid()[0].Line)))
	}
	return nil
}

// listedClient is a line of the list, as printed by --json.
type listedClient struct {
	Identity identity.PublicKey `json:"identity,omitzero"` // zero if an invalid line was removed that has none
	Name     string             `json:"name,omitempty"`
	Sessions int                `json:"sessions,omitempty"`
	Flows    int                `json:"flows,omitempty"`
	Rate     uint64             `json:"rate,omitempty"` // bytes per second
	Bytes    uint64             `json:"bytes,omitempty"`
	Period   int64              `json:"period_seconds,omitempty"` // in which Bytes may be used
	Expires  time.Time          `json:"expires,omitzero"`         // the client is not admitted from then on
	Comment  string             `json:"comment,omitempty"`
	Total    *gatewayd.Total    `json:"total,omitempty"` // as of the last write; nil: none
}

func listed(e access.Entry) listedClient {
	l := e.Limits
	return listedClient{
		Identity: e.Identity, Name: e.Name, Comment: e.Comment, Sessions: l.Sessions, Flows: l.Flows,
		Rate: l.Rate, Bytes: l.Bytes, Period: int64(l.Period / time.Second), Expires: l.Expires,
	}
}

func outputChange(cmd *cobra.Command, asJSON bool, done, preposition, path string, e access.Entry) error {
	client := e.Identity.String()
	if e.Identity == (identity.PublicKey{}) {
		client = fmt.Sprintf("line %d", e.Line)
	}
	if e.Name != "" {
		client += " (" + e.Name + ")"
	}
	return output(cmd, asJSON, struct {
		Done string `json:"done"`
		File string `json:"file"`
		listedClient
	}{done, path, listed(e)}, fmt.Sprintf("%s %s %s %s", done, client, preposition, path))
}

// listedError is an invalid line of the list, as printed by --json.
type listedError struct {
	Line  int    `json:"line"`
	Value string `json:"value"`
	Error string `json:"error"`
}

func newClientsList(list *clientList) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "print the clients, or with --live their sessions",
		Long: `List prints the list of clients, with their traffic if access.totals of the configuration
keeps it, as of its last write. With --live it asks the running gateway instead, on its control
socket, and prints its sessions: the client, the times since the start and the last packet, bytes
and datagrams in both directions, what is left to a registered client, the transport and how the
session came to it, the round trip and the path MTU where they were measured, the client's network
or the entry it comes through, and the flows. Below are the identities that were refused in the
last hour because they are not in the list. The gateway masks addresses, except with
--show-addresses, which is for root and the gateway's user and is logged.`,
		Example: `  lewes clients list
  lewes clients list --live
  lewes clients list --json | jq -r '.clients[].identity'`,
		Args: arguments(0, 0, ""),
	}
	live := cmd.Flags().Bool("live", false, "print the sessions of the running gateway")
	socket := cmd.Flags().String("socket", "", "control socket `FILE` of the gateway, for --live")
	addresses := cmd.Flags().Bool("show-addresses", false, "with --live, print whole addresses")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *live {
			return liveClients(cmd, &controlFlags{*socket, list.config, list.state}, *addresses, *asJSON)
		}
		if *addresses || *socket != "" {
			return usagef("--show-addresses and --socket need --live")
		}
		path, err := list.path()
		if err != nil {
			return err
		}
		loaded, err := access.Load(path)
		if err != nil {
			return err
		}
		totals, err := list.totals()
		if err != nil {
			return err
		}
		clients, invalid := []listedClient{}, []listedError(nil)
		var table strings.Builder
		w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
		for _, e := range loaded.Entries() {
			client, traffic := listed(e), ""
			if total, ok := totals[e.Identity]; ok {
				client.Total = &total
				traffic = fmt.Sprintf("up %s, down %s since %s\t", amount(total.Up), amount(total.Down), total.Since.Local().Format(time.DateOnly))
			} else if len(totals) > 0 {
				traffic = "\t"
			}
			clients = append(clients, client)
			fmt.Fprintf(w, "%s\t%s\t%s\t%s%s\n", e.Identity, e.Name, access.FormatLimits(e.Limits), traffic, e.Comment)
		}
		for _, l := range loaded.Invalid() {
			invalid = append(invalid, listedError{l.Line, l.Value, l.Err.Error()})
		}
		if len(clients) == 0 && len(invalid) == 0 && !*asJSON {
			_, err := fmt.Fprintf(cmd.ErrOrStderr(), "%s is empty; add a client with: %s\n", path, gatewayd.AddClientCommand(path))
			return err
		}
		_ = w.Flush() // to memory
		if len(clients) > 0 || *asJSON {
			err = output(cmd, *asJSON, struct {
				File    string         `json:"file"`
				Clients []listedClient `json:"clients"`
				Invalid []listedError  `json:"invalid,omitempty"`
			}{path, clients, invalid}, strings.TrimSuffix(table.String(), "\n"))
			if err != nil {
				return err
			}
		}
		return invalidLines(path)
	}
	return cmd
}
