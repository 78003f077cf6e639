package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"lewes/cmd/lewes/internal/config"
	"lewes/crypto/identity"
	"lewes/transport/client"
	"lewes/transport/uri"
)

// gatewayFlags are the flags of forward and probe that select a gateway and how to reach it.
type gatewayFlags struct {
	via                   []string
	identity, viaIdentity string
	state                 string
	kem                   string
	transport             string
	timeout               time.Duration

	introduced bool // the commands that add this client were printed
}

func (f *gatewayFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVar(&f.via, "via", nil, "`URI` of an entry gateway, which sees your address but not your targets; repeat for more, the nearest first")
	flags.StringVar(&f.identity, "identity", "", "`FILE` with this client's identity, or ephemeral: one of this process, stored nowhere (default client-identity in the state directory, created on first use; ephemeral for gateways with access=open, one of the wallet for each account with access=tickets)")
	flags.StringVar(&f.viaIdentity, "via-identity", "", "`FILE` with the identity for the gateways of --via, or same: that of --identity (default one for each, derived from that of --identity, so that they cannot link this client)")
	flags.StringVar(&f.state, "state", "", "state `directory` (default: lewes in the user's state directory, /var/lib/lewes for root)")
	flags.StringVar(&f.kem, "kem", client.MLKEM768.String(), "post-quantum key exchange: ML-KEM-768 or X-Wing")
	flags.StringVar(&f.transport, "transport", client.Auto.String(), "transport to the first gateway: udp, tcp, or auto (udp, and tcp where udp is blocked)")
	flags.DurationVar(&f.timeout, "timeout", client.DefaultTimeout, "limit for a handshake")
}

// run calls fn with the configuration for client.Dial and a context that a signal cancels, and wipes the
// configuration's keys.
func (f *gatewayFlags) run(cmd *cobra.Command, gateway string, fn func(context.Context, client.Config) error) error {
	c, err := f.config(gateway)
	defer func() { // twice for the same key does no harm
		for _, key := range []*identity.PrivateKey{c.Identity, c.ViaIdentity} {
			if key != nil {
				key.Wipe()
			}
		}
	}()
	if err != nil {
		return &usageError{err}
	}
	if err := f.loadIdentities(&c, cmd.ErrOrStderr()); err != nil {
		return err
	}
	ctx, stop := untilSignal(cmd.Context(), cmd.ErrOrStderr(), hangup()...)
	defer stop()
	return fn(ctx, c)
}

// config returns the configuration without the identities.
func (f *gatewayFlags) config(gateway string) (c client.Config, err error) {
	if c.Gateway, err = uri.Parse(gateway); err != nil {
		return c, err
	}
	for _, s := range f.via {
		entry, err := uri.Parse(s)
		if err != nil {
			return c, fmt.Errorf("--via: %w", err)
		}
		if entry.Identity == c.Gateway.Identity || slices.ContainsFunc(c.Via, func(g client.Gateway) bool { return g.Identity == entry.Identity }) {
			return c, fmt.Errorf("--via: gateway %s is in the chain twice; entries and the last gateway have to differ", entry.Identity)
		}
		c.Via = append(c.Via, entry)
	}
	if c.KEM, err = client.ParseKEM(f.kem); err != nil {
		return c, fmt.Errorf("--kem: %w", err)
	}
	if err := c.Transport.UnmarshalText([]byte(f.transport)); err != nil {
		return c, fmt.Errorf("--transport: %w", err)
	}
	if f.timeout <= 0 {
		return c, fmt.Errorf("--timeout %v is not positive; the default is %v", f.timeout, client.DefaultTimeout)
	}
	c.Timeout = f.timeout
	return c, nil
}

// Values of --identity and --via-identity that are not files.
const (
	ephemeral = "ephemeral"
	same      = "same"
)

// loadIdentities sets the configuration's identities.
func (f *gatewayFlags) loadIdentities(c *client.Config, stderr io.Writer) (err error) {
	created := ""
	if err := f.openWallet(c); err != nil {
		return err
	}
	switch closed := func(g client.Gateway) bool { return !g.Open && !g.Tickets }; {
	case f.identity == ephemeral && payable(c):
		c.Identity, err = client.GenerateKey() // not the wallet's, which lasts
	case f.identity == ephemeral:
		c.Ephemeral = true
	case f.identity != "":
		c.Identity, err = identity.Load(f.identity)
	default:
		c.Ephemeral = true // towards open gateways
		if closed(c.Gateway) || slices.ContainsFunc(c.Via, closed) {
			c.Identity, created, err = loadClientIdentity(f.state)
		}
	}
	switch {
	case err != nil:
	case f.viaIdentity == same && c.Identity == nil:
		c.Identity, err = client.GenerateKey()
		c.ViaIdentity, c.Ephemeral = c.Identity, false
	case f.viaIdentity == same:
		c.ViaIdentity = c.Identity
	case f.viaIdentity != "":
		c.ViaIdentity, err = identity.Load(f.viaIdentity)
	}
	if err != nil || created == "" {
		return err
	}
	commands, err := addCommands(c)
	if err != nil {
		return err
	}
	fmt.Fprintf(stderr, "Created this client's identity in %s. %s\n", created, commands)
	if commands != "" {
		fmt.Fprintln(stderr)
	}
	f.introduced = true
	return nil
}

// openWallet sets the configuration's wallet. Where no gateway is known to take tickets, one that cannot be
// opened is no error.
func (f *gatewayFlags) openWallet(c *client.Config) error {
	w, err := openWallet(f.state)
	if err == nil {
		c.Tickets = w
	} else if !payable(c) {
		err = nil
	}
	return err
}

// payable reports whether a gateway is known to take tickets.
func payable(c *client.Config) bool {
	return c.Gateway.Tickets || slices.ContainsFunc(c.Via, func(g client.Gateway) bool { return g.Tickets })
}

// loadClientIdentity reads the client's identity in the state directory, by default the system's, and
// creates it on first use; then it returns the path as well.
func loadClientIdentity(dir string) (key *identity.PrivateKey, createdAt string, err error) {
	path, err := clientIdentityFile(dir)
	if err != nil {
		return nil, "", err
	}
	key, created, err := config.LoadOrCreateIdentity(path)
	if !created {
		path = ""
	}
	return key, path, err
}

// clientIdentityFile returns the file of the client's identity in the state directory, by default the
// system's.
func clientIdentityFile(dir string) (string, error) {
	if dir == "" {
		var err error
		if dir, err = config.StateDir(); err != nil {
			return "", err
		}
	}
	return filepath.Join(dir, "client-identity"), nil
}

// addCommands returns the commands that add this client to the lists of the gateways, with an
// introduction. Gateways that serve every client, or those who pay with tickets, need none.
func addCommands(c *client.Config) (string, error) {
	ids, err := c.Identities()
	if err != nil {
		return "", err
	}
	var lines []string
	for i, g := range append(slices.Clip(c.Via), c.Gateway) {
		if g.Open || g.Tickets {
			continue
		}
		line := "\n  lewes clients add " + ids[i].String() + " " + machineName()
		switch {
		case i < len(c.Via):
			line += "   # at the entry " + g.Address()
		case len(c.Via) > 0:
			line += "   # at the exit " + g.Address()
		}
		lines = append(lines, line)
	}
	if len(lines) == 0 {
		return "", nil
	}
	who := "The gateway's operator adds it with:\n"
	if len(lines) > 1 {
		who = "Each gateway sees another identity; their operators add them with:\n"
		if ids[0] == ids[len(ids)-1] {
			who = "The gateways' operators add it with:\n"
		}
	}
	return who + strings.Join(lines, ""), nil
}

// machineName returns this machine's name, reduced to the characters of a client's name.
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

// withRemedy adds the remedy to an error of the client library, on a line of its own, if there is one.
func withRemedy(err error, c *client.Config) error {
	var dial *client.DialError
	if errors.As(err, &dial) && dial.Unlisted() && !dial.Gateway.Open && !dial.Gateway.Tickets {
		commands, cerr := addCommands(c)
		if cerr != nil {
			return err
		}
		return fmt.Errorf("%w\nLikely cause: a list does not name this client. %s", err, commands)
	}
	var flow *client.FlowError
	switch {
	case dial != nil || !errors.As(err, &flow):
		return err
	case flow.Reason == client.ReasonNotRegistered || flow.Reason == client.ReasonBandwidth:
		return fmt.Errorf("%w\nsee what is left with: lewes register --mode balance --gateway %s", err, c.Gateway)
	case flow.Reason == client.ReasonUnreachable || flow.Reason == client.ReasonNameNotFound:
		return fmt.Errorf("%w; check the target's name or address, and its port, or choose another target", err)
	case flow.Reason == client.ReasonLimit:
		return fmt.Errorf("%w; close other flows, or try again later", err)
	}
	return fmt.Errorf("%w; ask the gateway's operator to allow it, or choose another target", err)
}

// offloadFlags are the flags of gateway that override the configuration's offload keys.
type offloadFlags struct {
	cmd      *cobra.Command
	offload  *string
	gso, gro *bool
}

func newOffloadFlags(cmd *cobra.Command) *offloadFlags {
	flags := cmd.Flags()
	return &offloadFlags{
		cmd:     cmd,
		offload: flags.String("offload", "", "use UDP offloads: `auto`, on or off (overrides the configuration)"),
		gso:     flags.Bool("gso", true, "use UDP_SEGMENT for sending (overrides the configuration)"),
		gro:     flags.Bool("gro", true, "use UDP_GRO for receiving (overrides the configuration)"),
	}
}

// apply applies the flags that were given.
func (f *offloadFlags) apply(l *config.Listen) error {
	if f.cmd.Flags().Changed("offload") {
		switch o := config.Offload(*f.offload); o {
		case config.OffloadAuto, config.OffloadOn, config.OffloadOff:
			l.Offload = o
		default:
			return usagef("--offload %q is not one of %q, %q, %q", *f.offload, config.OffloadAuto, config.OffloadOn, config.OffloadOff)
		}
	}
	if f.cmd.Flags().Changed("gso") {
		l.GSO = *f.gso
	}
	if f.cmd.Flags().Changed("gro") {
		l.GRO = *f.gro
	}
	return nil
}
