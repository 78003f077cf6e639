package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"lewes/cmd/lewes/internal/control"
	"lewes/cmd/lewes/internal/gatewayd"
	"lewes/crypto/identity"
)

func newStatus() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "print the state of the running gateway, or of this user's clients",
		Long: `Status asks the gateway on this machine, on its control socket, and prints its version,
health, sockets, directory, the last upgrade and reload, and what it refused since its start
and why. With --clients it asks the forward commands of this user instead, as it does where
no gateway runs. Whoever may connect to the socket may read: root, the gateway's user, and
the socket's group.

The exit code is 0 if a process answered, whatever its health. With --ready, it is 0 only if the
gateway accepts new clients, and nothing is printed then: the health check of a container.`,
		Example: `  lewes status
  lewes status --json | jq .health
  lewes status --ready || echo "no new clients"
  lewes status --clients`,
		Args: arguments(0, 0, ""),
	}
	var flags controlFlags
	flags.register(cmd)
	clients := cmd.Flags().Bool("clients", false, "ask the forward commands of this user")
	ready := cmd.Flags().Bool("ready", false, "print nothing; fail unless the gateway accepts new clients")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *clients && *ready {
			return usagef("--ready is about a gateway, --clients about forward commands: use one of them")
		}
		if *clients {
			return clientStatuses(cmd, *asJSON)
		}
		err := flags.do(func(c control.Client) error {
			s, err := readStatus(cmd.Context(), c)
			if err != nil {
				return err
			}
			switch {
			case *ready && !s.Ready:
				return fmt.Errorf("not ready: %s", strings.Join(s.Problems, "; "))
			case *ready:
				return nil
			}
			return output(cmd, *asJSON, s, s.String())
		})
		if *ready || flags != (controlFlags{}) || !errors.Is(err, errNoGateway) {
			return err
		}
		clients, _ := readClientStatuses(cmd.Context())
		switch {
		case len(clients) == 0:
			return err
		case *asJSON: // whose form is another
			return fmt.Errorf("%w\nthis user's forward commands are running: lewes status --clients --json", err)
		}
		return output(cmd, false, nil, "no gateway is running here; this user's forward commands:\n\n"+clientTexts(clients))
	}
	return cmd
}

// runningStatus is a gateway's status, which it prints.
type runningStatus struct{ gatewayd.Status }

func readStatus(ctx context.Context, c control.Client) (*runningStatus, error) {
	s := new(runningStatus)
	return s, c.Get(ctx, gatewayd.StatusEndpoint, s)
}

// version returns the version of the running program in a few words.
func (s *runningStatus) version() string { return s.Build.Short() }

func (s *runningStatus) String() string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	row := func(key, format string, args ...any) { fmt.Fprintf(w, key+"\t"+format+"\n", args...) }
	now := time.Now()
	row("gateway", "lewes %s, process %d, up %s", s.version(), s.PID, ago(now, s.Started))
	row("health", "%s", s.Health)
	for _, p := range s.Problems {
		row("", "%s", p)
	}
	if s.ConfigFile != nil && *s.ConfigFile != "" {
		row("config", "%s", *s.ConfigFile)
	}
	for i, u := range s.URIs {
		row([]string{"uri", ""}[min(i, 1)], "%s", u)
	}
	listed := s.Access
	if s.Access == "listed" {
		listed = count(s.Clients, "client") + " in the list"
	}
	row("clients", "%s, %s; %s", count(int(s.Sessions), "session"), count(int(s.Flows), "flow"), listed)
	longest := 0.0
	for _, shard := range s.Shards {
		longest = max(longest, shard.LongestBatchSeconds)
	}
	row("shards", "%d; longest batch %v", len(s.Shards), seconds(longest))
	for i, text := range s.socketLines() {
		row([]string{"udp", ""}[min(i, 1)], "%s", text)
	}
	for i, addr := range s.TCP {
		row([]string{"tcp", ""}[min(i, 1)], "%s", addr)
	}
	if g := s.WireGuard; g != nil {
		row("wireguard", "%s", cmp.Or(g.Error, g.Device+", "+count(int(g.Peers), "peer")))
	}
	if text := cmp.Or(s.Metrics, s.MetricsError); text != "" {
		row("metrics", "%s", text)
	}
	for i, d := range s.Directory {
		name := d.Name
		if name == "" {
			name = d.Identity.String()
		}
		if d.Address == "" {
			d.Address = "does not resolve"
		}
		row([]string{"directory", ""}[min(i, 1)], "%s  %s  %s", name, d.Host, d.Address)
	}
	if u := s.Upgraded; u != nil && u.Error != "" {
		row("upgrade", "%s ago: failed: %s", ago(now, u.At), u.Error)
	} else if u != nil {
		row("upgrade", "%s ago: process %d to %d with %s and %s", ago(now, u.At), u.From, u.To, count(u.Sessions, "session"), count(u.Flows, "flow"))
	}
	if r := s.Reloaded; r != nil && r.Error != "" {
		row("reload", "%s ago: failed: %s", ago(now, r.At), r.Error)
	} else if r != nil {
		row("reload", "%s ago: %s", ago(now, r.At), strings.ReplaceAll(reloadedText(r), "\n", "; "))
	}
	_ = w.Flush() // to memory
	if len(s.Refusals) > 0 {
		fmt.Fprintln(w, "\nrefused since the start")
		for _, r := range s.Refusals {
			reason := r.Reason
			if r.Rule != "" {
				reason += " (" + r.Rule + ")"
			}
			fmt.Fprintf(w, "%d\t%s\t%s\n", r.Count, r.What, reason)
		}
		_ = w.Flush()
	}
	return strings.TrimSuffix(text.String(), "\n")
}

// socketLines describes the sockets, those that are alike together.
func (s *runningStatus) socketLines() (lines []string) {
	on := func(o gatewayd.OffloadStatus) string {
		switch {
		case o.On:
			return "on"
		case o.Why != "":
			return "off (" + o.Why + ")"
		}
		return "off"
	}
	buffer := func(b gatewayd.BufferStatus) string {
		text := bytesText(uint64(b.Granted))
		if b.Granted < b.Requested {
			text += " of " + bytesText(uint64(b.Requested)) + " asked for"
		}
		return text
	}
	for _, x := range s.Sockets {
		line := fmt.Sprintf("%s  GSO %s, GRO %s, receive buffer %s, send buffer %s", x.Listen, on(x.GSO), on(x.GRO), buffer(x.ReceiveBuffer), buffer(x.SendBuffer))
		if !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return lines
}

// ago prints the time since a moment with one or two units.
func ago(now, at time.Time) string {
	d := max(0, now.Sub(at))
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}

// seconds converts and rounds for people.
func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(10 * time.Microsecond)
}

func amount(t gatewayd.Traffic) string {
	return fmt.Sprintf("%s (%d)", bytesText(t.Bytes), t.Datagrams)
}

// bytesText prints a number of bytes with three digits.
func bytesText(n uint64) string {
	f, unit := float64(n), 0
	for f >= 1000 && unit < 5 {
		f, unit = f/1024, unit+1
	}
	if unit == 0 || f >= 100 || f == float64(int(f)) {
		return fmt.Sprintf("%.0f %s", f, byteUnits[unit])
	}
	return fmt.Sprintf("%.1f %s", f, byteUnits[unit])
}

var byteUnits = [...]string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}

func isZero(id identity.PublicKey) bool { return id == identity.PublicKey{} }

// clientReader reads a gatewayd.ClientList as it comes.
type clientReader struct {
	d     *json.Decoder
	began bool
}

func newClientReader(r io.Reader) *clientReader {
	return &clientReader{d: json.NewDecoder(bufio.NewReaderSize(r, 64<<10))}
}

var errClientList = errors.New("the answer of the gateway ends too early or is not a list of sessions")

// next returns the next session, or nil at the end.
func (r *clientReader) next() (*gatewayd.Session, error) {
	for !r.began { // {"sessions":[
		t, err := r.d.Token()
		if err != nil {
			return nil, errClientList
		}
		r.began = t == json.Delim('[')
	}
	if !r.d.More() {
		if _, err := r.d.Token(); err != nil { // ]
			return nil, errClientList
		}
		return nil, nil
	}
	s := new(gatewayd.Session)
	if err := r.d.Decode(s); err != nil {
		return nil, errClientList
	}
	return s, nil
}

// unlisted returns the refused clients, after the last session.
func (r *clientReader) unlisted() (all []gatewayd.UnlistedClient, err error) {
	if _, err = r.d.Token(); err == nil { // "unlisted"
		err = r.d.Decode(&all)
	}
	if err != nil {
		return nil, errClientList
	}
	return all, nil
}

// clientSocketDir returns the directory of the control sockets of this user's clients; empty if the
// system has none. It is in $XDG_RUNTIME_DIR, or where systemd has that directory, since su and sudo do not set
// the variable. Root of a machine without systemd has one of its own.
func clientSocketDir() string {
	dir, user := os.Getenv("XDG_RUNTIME_DIR"), os.Geteuid()
	if !filepath.IsAbs(dir) {
		dir = fmt.Sprintf("/run/user/%d", user)
		if !isDirectory(dir) && user == 0 && isDirectory("/run") {
			return "/run/lewes-clients"
		}
		if !isDirectory(dir) {
			return ""
		}
	}
	return filepath.Join(dir, "lewes")
}

func isDirectory(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// clientStatuses prints the state of this user's clients.
func clientStatuses(cmd *cobra.Command, asJSON bool) error {
	all, err := readClientStatuses(cmd.Context())
	if err != nil {
		return err
	}
	return output(cmd, asJSON, all, cmp.Or(clientTexts(all), "no client of this user is running"))
}

func clientTexts(all []*clientStatus) string {
	var texts []string
	for _, s := range all {
		texts = append(texts, s.String())
	}
	return strings.Join(texts, "\n\n")
}

func readClientStatuses(ctx context.Context) ([]*clientStatus, error) {
	dir := clientSocketDir()
	if dir == "" {
		return nil, errors.New("clients have no control sockets here: XDG_RUNTIME_DIR is not set, and the system has no directory in its place\nset it to a directory of yours alone, and start the clients again")
	}
	paths, err := filepath.Glob(filepath.Join(dir, "*.sock"))
	if err != nil {
		return nil, err
	}
	all := []*clientStatus{}
	for _, path := range paths {
		s := new(clientStatus)
		switch err := (control.Client{Path: path}).Get(ctx, gatewayd.StatusEndpoint, s); {
		case errors.Is(err, control.ErrNotRunning):
			_ = os.Remove(path) // of a process that was killed
		case err != nil:
			return nil, fmt.Errorf("%s: %w", path, err)
		default:
			all = append(all, s)
		}
	}
	return all, nil
}
