package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"lewes/cmd/config"
	"lewes/crypto/identity"
	"lewes/transport/client"
	"lewes/transport/uri"
)

// reach is how forward and probe reach a gateway, as their flags say.
type reach struct {
	via                   []string
	identity, viaIdentity string
	state                 string
	kem                   string
	transport             string
	timeout               time.Duration
}

func (r *reach) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVar(&r.via, "via", nil, "`URI` of an entry gateway on the way, which sees who you are and not where you send; again for more, the nearest first")
	flags.StringVar(&r.identity, "identity", "", "`FILE` with this client's identity (default client-identity in the state folder, made on first use)")
	flags.StringVar(&r.viaIdentity, "via-identity", "", "`FILE` with another identity for the gateways of --via, so that entry and exit cannot tell that they serve the same client")
	flags.StringVar(&r.state, "state", "", "the state `folder` (default as the system has it)")
	flags.StringVar(&r.kem, "kem", client.MLKEM768.String(), "post-quantum key exchange: ML-KEM-768 or X-Wing")
	flags.StringVar(&r.transport, "transport", client.Auto.String(), "what carries packets to the first gateway: udp, tcp, or auto, which is udp, and tcp where that does not pass")
	flags.DurationVar(&r.timeout, "timeout", client.DefaultTimeout, "how long a handshake may take")
}

// config returns what client.Dial needs for a gateway. The caller forgets it.
func (r *reach) config(gateway string, stderr io.Writer) (c client.Config, err error) {
	if c.Gateway, err = uri.Parse(gateway); err != nil {
		return c, &usageError{err}
	}
	for _, s := range r.via {
		entry, err := uri.Parse(s)
		if err != nil {
			return c, &usageError{fmt.Errorf("--via: %w", err)}
		}
		c.Via = append(c.Via, entry)
	}
	if c.KEM, err = client.ParseKEM(r.kem); err != nil {
		return c, &usageError{fmt.Errorf("--kem: %w", err)}
	}
	if err := c.Transport.UnmarshalText([]byte(r.transport)); err != nil {
		return c, &usageError{fmt.Errorf("--transport: %w", err)}
	}
	if r.timeout <= 0 {
		return c, usagef("--timeout %v is no time; leave it out for %v", r.timeout, client.DefaultTimeout)
	}
	c.Timeout = r.timeout
	if c.Identity, err = r.load(r.identity, stderr); err != nil {
		return c, err
	}
	if r.viaIdentity != "" {
		c.ViaIdentity, err = r.load(r.viaIdentity, stderr)
	}
	return c, err
}

// forget wipes the identities of a config that is not needed any more.
func forget(c *client.Config) {
	for _, key := range []*identity.PrivateKey{c.Identity, c.ViaIdentity} {
		if key != nil {
			key.Wipe()
		}
	}
}

// load reads the client's identity. One that was named has to be there; the one in
// the state folder is made.
func (r *reach) load(path string, stderr io.Writer) (*identity.PrivateKey, error) {
	if path != "" {
		return identity.Load(path)
	}
	dir := r.state
	if dir == "" {
		var err error
		if dir, err = config.StateDir(); err != nil {
			return nil, err
		}
	}
	path = filepath.Join(dir, "client-identity")
	key, made, err := loadOrMake(path)
	if made {
		fmt.Fprintf(stderr, "This client now has an identity, in %s. Whoever runs the gateway lists it there by typing:\n\n  %s\n\n", path, listLine(key.Public()))
	}
	return key, err
}

// listLine is what a gateway's operator types to list a client.
func listLine(id identity.PublicKey) string {
	return "lewes clients add " + id.String() + " " + machineName()
}

// machineName returns a name for this machine that a list of clients takes.
func machineName() string {
	host, _ := os.Hostname()
	host, _, _ = strings.Cut(host, ".")
	host = strings.Map(func(r rune) rune {
		if r > unicode.MaxASCII || r != '-' && r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			return -1
		}
		return r
	}, host)
	if host == "" || len(host) > 40 {
		return "NAME"
	}
	return host
}

// explain adds the remedy to the error of a Dial.
func explain(err error, c *client.Config) error {
	var dial *client.DialError
	if !errors.As(err, &dial) || !dial.Unlisted() {
		return err
	}
	id := c.Identity
	if dial.Gateway.Identity != c.Gateway.Identity && c.ViaIdentity != nil {
		id = c.ViaIdentity
	}
	return fmt.Errorf("%w\nif the gateway does not list this client, its operator types: %s", err, listLine(id.Public()))
}
