package main

import (
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"lewes/cmd/lewes/internal/config"
	"lewes/cmd/lewes/internal/gatewayd"
	"lewes/crypto/identity"
	"lewes/router/access"
)

func newClients() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "clients",
		Short: "say who may use this machine's gateway",
		Long: `Clients edits the list of those who may use this machine's gateway: a text file with
one client a line, its identity, a name and a comment. A running gateway reads it
again when it changes: who was added may come, who was removed is put out.

The list is the file "clients" in the state folder, unless --file, or the
configuration that --config names, says otherwise.`,
		Example: `  lewes clients add 7pGfjAk2bQSxjYfZzR6qY3hNfR5jSgqEoMiYQzLBJ2Xd anna-phone --comment "since May"
  lewes clients list
  lewes clients remove anna-phone`,
	}
	group(cmd)
	place := new(clientsPlace)
	flags := cmd.PersistentFlags()
	flags.StringVar(&place.file, "file", "", "the list to edit")
	flags.StringVar(&place.config, "config", "", "configuration `FILE` of the gateway, for where its list is")
	flags.StringVar(&place.state, "state", "", "state `folder` of the gateway")
	cmd.AddCommand(newClientsAdd(place), newClientsRemove(place), newClientsList(place))
	return cmd
}

// clientsPlace is where a command line says that the list is.
type clientsPlace struct{ file, config, state string }

// path returns the list's file.
func (p *clientsPlace) path() (string, error) {
	if p.file != "" {
		return p.file, nil
	}
	c, err := config.LoadOrDefault(p.config, p.state)
	if err != nil {
		return "", err
	}
	return c.ClientsFile(), nil
}

func newClientsAdd(place *clientsPlace) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "add IDENTITY [NAME]",
		Short: "let a client use the gateway",
		Long: `Add lets the client with an identity use the gateway. The client's user knows the
identity: forward and probe print it when they make one, and keygen --show does.`,
		Example: `  lewes clients add 7pGfjAk2bQSxjYfZzR6qY3hNfR5jSgqEoMiYQzLBJ2Xd anna-phone
  lewes clients add --file /srv/lewes/clients 7pGfjAk2bQSxjYfZzR6qY3hNfR5jSgqEoMiYQzLBJ2Xd`,
		Args: arguments(1, 2, "the client's identity, and perhaps a name for it"),
	}
	comment := cmd.Flags().String("comment", "", "a `text` for whoever reads the list")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		key, err := identity.ParsePublicKey(args[0])
		if err != nil {
			return usagef("%w", err)
		}
		entry := access.Entry{Identity: key, Comment: *comment}
		if len(args) > 1 {
			entry.Name = args[1]
		}
		path, err := place.path()
		if err != nil {
			return err
		}
		if place.file == "" {
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				return fmt.Errorf("the folder for the list of clients cannot be made: %w", err)
			}
		}
		if err := access.Add(path, entry); err != nil {
			return err
		}
		return sayClient(cmd, *asJSON, "added", path, entry)
	}
	return cmd
}

func newClientsRemove(place *clientsPlace) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "remove IDENTITY|NAME",
		Short: "take a client off the list; a running gateway ends its sessions",
		Example: `  lewes clients remove anna-phone
  lewes clients remove 7pGfjAk2bQSxjYfZzR6qY3hNfR5jSgqEoMiYQzLBJ2Xd`,
		Args: arguments(1, 1, "the client, by its identity or its name"),
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		path, err := place.path()
		if err != nil {
			return err
		}
		gone, err := access.Remove(path, args[0])
		if err != nil {
			return err
		}
		return sayClient(cmd, *asJSON, "removed", path, gone)
	}
	return cmd
}

// listedClient is a line of the list, as --json prints it.
type listedClient struct {
	Identity identity.PublicKey `json:"identity"`
	Name     string             `json:"name,omitempty"`
	Comment  string             `json:"comment,omitempty"`
}

func listed(e access.Entry) listedClient { return listedClient{e.Identity, e.Name, e.Comment} }

func sayClient(cmd *cobra.Command, asJSON bool, done, path string, e access.Entry) error {
	if asJSON {
		return writeJSON(cmd.OutOrStdout(), struct {
			Done string `json:"done"`
			File string `json:"file"`
			listedClient
		}{done, path, listed(e)})
	}
	who := e.Identity.String()
	if e.Name != "" {
		who += " (" + e.Name + ")"
	}
	preposition := "to"
	if done == "removed" {
		preposition = "from"
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %s %s %s\n", done, who, preposition, path)
	return err
}

func newClientsList(place *clientsPlace) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "print who may use the gateway",
		Example: `  lewes clients list
  lewes clients list --json | jq -r '.clients[].identity'`,
		Args: arguments(0, 0, ""),
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		path, err := place.path()
		if err != nil {
			return err
		}
		list, err := access.Load(path)
		if err != nil {
			return err
		}
		entries := list.Entries()
		if *asJSON {
			clients := make([]listedClient, 0, len(entries))
			for _, e := range entries {
				clients = append(clients, listed(e))
			}
			return writeJSON(cmd.OutOrStdout(), struct {
				File    string         `json:"file"`
				Clients []listedClient `json:"clients"`
			}{path, clients})
		}
		if len(entries) == 0 {
			_, err := fmt.Fprintf(cmd.ErrOrStderr(), "%s lists nobody; add a client with: %s\n", path, gatewayd.AddClientCommand(path))
			return err
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		for _, e := range entries {
			fmt.Fprintf(w, "%s\t%s\t%s\n", e.Identity, e.Name, e.Comment)
		}
		return w.Flush()
	}
	return cmd
}
