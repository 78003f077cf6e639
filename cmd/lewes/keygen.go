package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"lewes/cmd/lewes/internal/config"
	"lewes/crypto/identity"
)

func newKeygen() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keygen FILE",
		Short: "make an identity and print its public half",
		Long: `Keygen makes an identity, an Ed25519 key, and writes it to FILE, which nobody but
you can read (mode 0600). A file that is there already is never overwritten. It prints
the public half in base58: what a gateway's operator lists, or what stands in a URI.

Neither gateway nor forward needs it: both make an identity of their own when they
start for the first time. The file is PKCS#8 in PEM, as openssl writes it.`,
		Example: `  lewes keygen gateway.key
  lewes keygen --show gateway.key                          # print the public half again
  lewes clients add "$(lewes keygen laptop.key)" laptop`,
		Args: arguments(1, 1, "the file to write"),
	}
	asJSON := jsonFlag(cmd)
	show := cmd.Flags().Bool("show", false, "print the public half of the key that is in FILE, and write nothing")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		path := args[0]
		var key *identity.PrivateKey
		var err error
		if *show {
			key, err = identity.Load(path)
		} else {
			key, err = config.CreateIdentity(path)
		}
		if err != nil {
			return err
		}
		defer key.Wipe()
		if *asJSON {
			return writeJSON(cmd.OutOrStdout(), struct {
				Identity identity.PublicKey `json:"identity"`
				File     string             `json:"file"`
			}{key.Public(), path})
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), key.Public())
		return err
	}
	return cmd
}
