package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"lewes/cmd/lewes/internal/config"
	"lewes/cmd/lewes/internal/control"
	"lewes/cmd/lewes/internal/gatewayd"
	"lewes/cmd/lewes/internal/version"
)

// controlFlags locate the control socket of a running gateway.
type controlFlags struct{ socket, config, state string }

func (f *controlFlags) register(cmd *cobra.Command) {
	f.registerFiles(cmd)
	cmd.Flags().StringVar(&f.state, "state", "", "state `directory` of the gateway, to find its control socket")
}

// registerFiles registers the flags but --state.
func (f *controlFlags) registerFiles(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.socket, "socket", "", "control socket `FILE` of the gateway")
	flags.StringVar(&f.config, "config", "", "configuration `FILE` of the gateway, to find its control socket")
}

// errNoGateway is wrapped by the error of do if no gateway runs.
var errNoGateway = errors.New("no gateway is running here")

// do calls fn with a client of the running gateway's control socket.
func (f *controlFlags) do(fn func(control.Client) error) error {
	paths := []string{f.socket}
	if f.socket == "" {
		c, err := config.LoadOrDefault(f.config, f.state)
		if err != nil {
			return err
		}
		paths = c.ControlSockets()
	}
	for _, path := range paths {
		if err := fn(control.Client{Path: path}); !errors.Is(err, control.ErrNotRunning) {
			return err
		}
	}
	return fmt.Errorf("%w: nothing serves %s\nstart one, or say where it is: --state, --config or --socket", errNoGateway, strings.Join(paths, " or "))
}

// status returns the status of the running gateway, or an error if it does not read the file of --config.
func (f *controlFlags) status(ctx context.Context, c control.Client) (*runningStatus, error) {
	s, err := readStatus(ctx, c)
	if err != nil || f.config == "" || f.socket != "" || s.ConfigFile == nil {
		return s, err
	}
	given, err := os.Stat(f.config)
	if err != nil {
		return nil, err
	}
	reads := *s.ConfigFile
	if running, err := os.Stat(reads); err == nil && os.SameFile(given, running) {
		return s, nil
	}
	if reads == "" {
		reads = "no configuration"
	}
	return nil, fmt.Errorf("nothing has changed: process %d was started with %s, not with %s\nstop it, and start it with: lewes gateway --config %[3]s", s.PID, reads, f.config)
}

func newReload() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "apply the configuration to the running gateway",
		Long: `Reload makes the running gateway read its configuration, as SIGHUP does, and prints the keys
that it has applied, and those that need an upgrade or a restart. An invalid configuration
changes nothing, and the exit code is 1. It is for root and the gateway's user.`,
		Example: `  lewes reload
  lewes reload --json | jq .needs_upgrade`,
		Args: arguments(0, 0, ""),
	}
	var flags controlFlags
	flags.register(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return flags.do(func(c control.Client) error {
			if _, err := flags.status(cmd.Context(), c); err != nil {
				return err
			}
			var r gatewayd.Reloaded
			if err := c.Post(cmd.Context(), gatewayd.ReloadEndpoint, nil, &r); err != nil {
				return err
			}
			return output(cmd, *asJSON, r, reloadedText(&r))
		})
	}
	return cmd
}

func reloadedText(r *gatewayd.Reloaded) string {
	keys := func(list []string) string {
		if len(list) == 0 {
			return "nothing"
		}
		return strings.Join(list, ", ")
	}
	text := "applied: " + keys(r.Changed)
	if r.SessionsClosed > 0 || r.FlowsClosed > 0 {
		text += fmt.Sprintf("; closed %s and %s", count(r.SessionsClosed, "session"), count(r.FlowsClosed, "flow"))
	}
	if len(r.NeedsUpgrade) > 0 {
		text += "\nneeds an upgrade: " + keys(r.NeedsUpgrade) + " (lewes upgrade)"
	}
	if len(r.NeedsRestart) > 0 {
		text += "\nneeds a restart: " + keys(r.NeedsRestart)
	}
	return text
}

// count prints a number of things.
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func newUpgrade() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "upgrade",
		Short: "replace the running gateway by the installed program",
		Long: `Upgrade makes the running gateway start the program's file as its successor, as SIGUSR2 does,
and waits until that has taken over all sockets, sessions and flows. It prints what was
handed over, and for how long nothing was served. If the successor cannot take over, the
running gateway goes on, and the exit code is 1. It is for root and the gateway's user.`,
		Example: `  lewes upgrade
  lewes upgrade --json | jq .pause_seconds`,
		Args: arguments(0, 0, ""),
	}
	var flags controlFlags
	flags.register(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return flags.do(func(c control.Client) error {
			before, err := flags.status(cmd.Context(), c)
			if err != nil {
				return err
			}
			var u gatewayd.Upgraded
			if err := c.Post(cmd.Context(), gatewayd.UpgradeEndpoint, nil, &u); err != nil {
				return fmt.Errorf("the upgrade failed, and process %d goes on: %w", before.PID, err)
			}
			after, err := awaitProcess(cmd.Context(), c, u.To)
			if err != nil {
				return err
			}
			text := fmt.Sprintf("upgraded: process %d to %d, %s to %s\nhanded over %s and %s; nothing was served for %v",
				u.From, u.To, before.version(), after.version(), count(u.Sessions, "session"), count(u.Flows, "flow"), seconds(u.PauseSeconds))
			return output(cmd, *asJSON, struct {
				gatewayd.Upgraded
				Before version.Info `json:"before"`
				After  version.Info `json:"after"`
			}{u, before.Build, after.Build}, text)
		})
	}
	return cmd
}

// awaitProcess waits until a process answers on the control socket: its predecessor may still do.
func awaitProcess(ctx context.Context, c control.Client, pid int) (*runningStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		s, err := readStatus(ctx, c)
		if err == nil && s.PID == pid {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("process %d has taken over, but does not answer on the control socket: %w", pid, errors.Join(err, ctx.Err()))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func newDrain() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drain",
		Short: "make the running gateway refuse new clients",
		Long: `Drain makes the running gateway refuse new sessions as one that shuts down, so that clients
with several gateways go elsewhere. Present sessions go on. With --wait it returns when no
session is left; lewes drain --off admits clients again. An upgrade goes on draining, a restart
does not. It is for root and the gateway's user.`,
		Example: `  lewes drain --wait && systemctl stop lewes-gateway
  lewes drain --off`,
		Args: arguments(0, 0, ""),
	}
	var flags controlFlags
	flags.register(cmd)
	off := cmd.Flags().Bool("off", false, "admit new clients again")
	wait := cmd.Flags().Bool("wait", false, "wait until no session is left")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *off && *wait {
			return usagef("--wait makes no sense with --off")
		}
		ctx, stop := untilSignal(cmd.Context(), cmd.ErrOrStderr())
		defer stop()
		return flags.do(func(c control.Client) error {
			var d gatewayd.Drained
			err := c.Post(ctx, gatewayd.DrainEndpoint, map[string]bool{"on": !*off}, &d)
			for *wait && err == nil && d.Sessions > 0 {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(time.Second):
				}
				var s *runningStatus
				if s, err = readStatus(ctx, c); err == nil {
					d = gatewayd.Drained{Draining: s.Draining, Sessions: s.Sessions}
				}
			}
			if err != nil {
				return err
			}
			text := "admits new clients"
			if d.Draining {
				text = "refuses new clients"
			}
			return output(cmd, *asJSON, d, fmt.Sprintf("%s; %s left", text, count(int(d.Sessions), "session")))
		})
	}
	return cmd
}

func newSessions() *cobra.Command {
	return group(&cobra.Command{
		Use:     "sessions",
		Short:   "close sessions of the running gateway",
		Example: `  lewes sessions close anna-phone`,
	}, newSessionsClose())
}

func newSessionsClose() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "close NAME|IDENTITY|HANDLE",
		Short: "close the sessions of a client, or one session",
		Long: `Close ends all sessions of a client, or the one with a handle, and notifies the client. A
client that is still listed may connect again: lewes clients remove keeps it out. It is for
root and the gateway's user.`,
		Example: `  lewes sessions close anna-phone
  lewes sessions close 2f0c8bc59e1f4a5d9a7b6c5d4e3f2a1b                   # from clients list --live`,
		Args: arguments(1, 1, "NAME, IDENTITY or HANDLE"),
	}
	var flags controlFlags
	flags.register(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return flags.do(func(c control.Client) error {
			var closed gatewayd.ClosedSessions
			if err := c.Post(cmd.Context(), gatewayd.CloseEndpoint, gatewayd.CloseRequest{Who: args[0]}, &closed); err != nil {
				return err
			}
			return output(cmd, *asJSON, closed, "closed "+count(closed.Closed, "session"))
		})
	}
	return cmd
}

// liveClients prints the sessions of the running gateway. JSON is passed on as it comes.
func liveClients(cmd *cobra.Command, flags *controlFlags, addresses, asJSON bool) error {
	target := gatewayd.ClientsEndpoint
	if addresses {
		target += "?addresses=full"
	}
	return flags.do(func(c control.Client) error {
		body, err := c.Stream(cmd.Context(), http.MethodGet, target, nil)
		if err != nil {
			return err
		}
		defer body.Close()
		if asJSON {
			_, err := io.Copy(cmd.OutOrStdout(), body)
			return err
		}
		return printClients(cmd.OutOrStdout(), body)
	})
}

// tableRows is the number of rows that share the widths of columns: a long list is printed as it comes.
const tableRows = 1000

func printClients(out io.Writer, body io.Reader) error {
	list := newClientReader(body)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	now := time.Now()
	rows := 0
	s, err := list.next()
	totals := s != nil && s.Total != nil
	registrations := s != nil && s.Registered != ""
	only := func(when bool, text string) string {
		if when {
			return text + "\t"
		}
		return ""
	}
	fmt.Fprintln(w, "CLIENT\tSINCE\tLAST\tUP\tDOWN\t"+only(totals, "TOTAL UP\tTOTAL DOWN")+only(registrations, "LEFT")+"TRANSPORT\tRTT\tMTU\tFROM\tFLOWS\tHANDLE")
	for ; s != nil && err == nil; s, err = list.next() {
		client := s.Name
		if client == "" {
			client = s.Identity.String()
		}
		transport, rtt, mtu, from := s.Transport, "-", "-", s.Address
		if s.Why != "since the start" {
			transport += " (" + s.Why + ")"
		}
		if s.RTT > 0 {
			rtt = seconds(s.RTT).String()
		}
		if s.PathMTU > 0 {
			mtu = fmt.Sprint(s.PathMTU)
		}
		if s.EntryName != "" {
			from = "entry " + s.EntryName
		} else if !isZero(s.Entry) {
			from = "entry " + s.Entry.String()
		}
		sum := "\t"
		if s.Total != nil {
			sum = amount(s.Total.Up) + "\t" + amount(s.Total.Down)
		}
		left := "-"
		if s.Remaining != nil {
			left = bytesText(*s.Remaining)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s%s%s\t%s\t%s\t%s\t%d\t%s\n", client, ago(now, s.Since), ago(now, s.Last),
			amount(s.Up), amount(s.Down), only(totals, sum), only(registrations, left), transport, rtt, mtu, from, s.Flows+s.Forwards, s.Handle)
		if rows++; rows%tableRows == 0 {
			if err := w.Flush(); err != nil {
				return err
			}
		}
	}
	if err != nil {
		return err
	}
	if rows == 0 {
		w = tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "no client is connected")
	}
	refused, err := list.unlisted()
	if err != nil {
		return err
	}
	if len(refused) > 0 {
		fmt.Fprintln(w, "\nrefused in the last hour, not in the list of clients; only if you know the identity: lewes clients add IDENTITY NAME")
		for _, u := range refused {
			fmt.Fprintf(w, "%s\tfrom %s\t%s\tlast %s\n", u.Identity, u.From, count(int(u.Tries), "time"), ago(now, u.Last))
		}
	}
	return w.Flush()
}
