package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
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
		Short: "manage the clients of this machine's gateway",
		Long: `Clients edits the list of clients that may use this machine's gateway: a text file with one
client per line, as an identity, a name and a comment. A running gateway reloads the list
when it changes: it admits added clients and closes the sessions of removed ones.

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
	if l.file != "" {
		return l.file, nil
	}
	c, err := config.LoadOrDefault(l.config, l.state)
	if err != nil {
		return "", err
	}
	return c.ClientsFile(), nil
}

func newClientsAdd(list *clientList) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "add IDENTITY [NAME]",
		Short: "add a client",
		Long: `Add lets a client use the gateway. The client's user finds the identity with
lewes keygen --show; forward and probe print it when they create one.`,
		Example: `  lewes clients add 7pGfjAk2bQSxjYfZzR6qY3hNfR5jSgqEoMiYQzLBJ2Xd anna-phone
  lewes clients add --file /srv/lewes/clients 7pGfjAk2bQSxjYfZzR6qY3hNfR5jSgqEoMiYQzLBJ2Xd`,
		Args: arguments(1, 2, "IDENTITY"),
	}
	comment := cmd.Flags().String("comment", "", "a `text` for readers of the list")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		key, err := identity.ParsePublicKey(args[0])
		if err != nil {
			return &usageError{err}
		}
		entry := access.Entry{Identity: key, Comment: *comment}
		if len(args) > 1 {
			entry.Name = args[1]
		}
		path, err := list.path()
		if err != nil {
			return err
		}
		if list.file == "" {
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				return fmt.Errorf("create the directory of the list of clients: %w", err)
			}
		}
		if err := access.Add(path, entry); err != nil {
			return err
		}
		return outputChange(cmd, *asJSON, "added", "to", path, entry)
	}
	return cmd
}

func newClientsRemove(list *clientList) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "remove IDENTITY|NAME",
		Short: "remove a client; a running gateway closes its sessions",
		Example: `  lewes clients remove anna-phone
  lewes clients remove 7pGfjAk2bQSxjYfZzR6qY3hNfR5jSgqEoMiYQzLBJ2Xd`,
		Args: arguments(1, 1, "IDENTITY or NAME"),
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		path, err := list.path()
		if err != nil {
			return err
		}
		removed, err := access.Remove(path, args[0])
		if err != nil {
			return err
		}
		return outputChange(cmd, *asJSON, "removed", "from", path, removed)
	}
	return cmd
}

// listedClient is a line of the list, as printed by --json.
type listedClient struct {
	Identity identity.PublicKey `json:"identity"`
	Name     string             `json:"name,omitempty"`
	Comment  string             `json:"comment,omitempty"`
}

func outputChange(cmd *cobra.Command, asJSON bool, done, preposition, path string, e access.Entry) error {
	client := e.Identity.String()
	if e.Name != "" {
		client += " (" + e.Name + ")"
	}
	return output(cmd, asJSON, struct {
		Done string `json:"done"`
		File string `json:"file"`
		listedClient
	}{done, path, listedClient{e.Identity, e.Name, e.Comment}}, fmt.Sprintf("%s %s %s %s", done, client, preposition, path))
}

func newClientsList(list *clientList) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "print the clients",
		Example: `  lewes clients list
  lewes clients list --json | jq -r '.clients[].identity'`,
		Args: arguments(0, 0, ""),
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		path, err := list.path()
		if err != nil {
			return err
		}
		loaded, err := access.Load(path)
		if err != nil {
			return err
		}
		clients := []listedClient{}
		var table strings.Builder
		w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
		for _, e := range loaded.Entries() {
			clients = append(clients, listedClient{e.Identity, e.Name, e.Comment})
			fmt.Fprintf(w, "%s\t%s\t%s\n", e.Identity, e.Name, e.Comment)
		}
		if len(clients) == 0 && !*asJSON {
			_, err := fmt.Fprintf(cmd.ErrOrStderr(), "%s is empty; add a client with: %s\n", path, gatewayd.AddClientCommand(path))
			return err
		}
		_ = w.Flush() // to memory
		return output(cmd, *asJSON, struct {
			File    string         `json:"file"`
			Clients []listedClient `json:"clients"`
		}{path, clients}, strings.TrimSuffix(table.String(), "\n"))
	}
	return cmd
}
