package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lewes/cmd/lewes/internal/config"
	"lewes/cmd/lewes/internal/control"
	"lewes/cmd/lewes/internal/doctor"
	"lewes/cmd/lewes/internal/gatewayd"
	"lewes/cmd/lewes/internal/version"
)

// bundledSessions bounds the sessions in a bundle.
const bundledSessions = 1000

func newBundle() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bundle",
		Short: "write an archive for a bug report about the running gateway",
		Long: `Bundle collects what a bug report needs into one archive that only you can read: version, status,
sessions, metrics, the findings of lewes doctor, and the configuration. It lists the contents
before it writes.

It leaves out everything that is not known to be harmless: keys, names, comments, host names and
logs. Identities and handles are replaced by codes that differ in each bundle, so that no two
bundles can be linked; addresses of clients are cut to /24 or /48. Of the configuration it has
the values of numbers and switches, and of all other keys only whether they are set.`,
		Example: `  lewes bundle
  lewes bundle --dry-run                                   # only list the contents
  lewes bundle -o report.tar.gz --config /etc/lewes/gateway.toml`,
		Args: arguments(0, 0, ""),
	}
	var flags controlFlags
	flags.register(cmd)
	file := cmd.Flags().StringP("output", "o", "", "`FILE` to write, which must not exist (default lewes-bundle-TIME.tar.gz)")
	dry := cmd.Flags().Bool("dry-run", false, "list the contents and write nothing")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return flags.do(func(c control.Client) error {
			b, err := newBundleContents()
			if err == nil {
				err = b.collect(cmd.Context(), c, &flags)
			}
			if err != nil {
				return err
			}
			now := time.Now().UTC()
			if *file == "" {
				*file = "lewes-bundle-" + now.Format("20060102-150405") + ".tar.gz"
			}
			text := "contents:"
			for _, f := range b.files {
				text += fmt.Sprintf("\n  %-14s %6d bytes  %s", f.name, len(f.text), f.about)
			}
			if err := output(cmd, false, nil, text); err != nil || *dry {
				return err
			}
			if err := b.write(*file, now); err != nil {
				return err
			}
			return output(cmd, false, nil, "wrote "+*file)
		})
	}
	return cmd
}

// bundle is the contents of an archive. Only fields that its own types name get into it.
type bundle struct {
	key   [32]byte // of the codes for identities; forgotten afterwards
	files []bundleFile
}

type bundleFile struct {
	name, about string
	text        []byte
}

func newBundleContents() (*bundle, error) {
	b := new(bundle)
	_, err := rand.Read(b.key[:])
	return b, err
}

// code stands for an identity or a handle in this bundle only.
func (b *bundle) code(text string) string {
	h := hmac.New(sha256.New, b.key[:])
	h.Write([]byte(text))
	return hex.EncodeToString(h.Sum(nil)[:8])
}

func (b *bundle) add(name, about string, v any) error {
	var text bytes.Buffer
	err := writeJSON(&text, "  ", v)
	b.files = append(b.files, bundleFile{name, about, text.Bytes()})
	return err
}

// collect reads everything from the running gateway.
func (b *bundle) collect(ctx context.Context, c control.Client, flags *controlFlags) error {
	s, err := readStatus(ctx, c)
	if err != nil {
		return err
	}
	if err := b.add("status.json", "version, health, sockets, refusals", b.status(s)); err != nil {
		return err
	}
	clients, err := b.clients(ctx, c)
	if err != nil {
		return err
	}
	if err := b.add("clients.json", "sessions and refused clients, without names", clients); err != nil {
		return err
	}
	var report doctor.Report
	if err := c.Get(ctx, gatewayd.DoctorEndpoint, &report); err != nil {
		return err
	}
	if err := b.add("doctor.json", "the findings of lewes doctor, without addresses", bundledFindings(&report)); err != nil {
		return err
	}
	body, err := c.Stream(ctx, "GET", gatewayd.MetricsEndpoint, nil)
	if err != nil {
		return err
	}
	defer body.Close()
	metrics, err := bundledMetrics(body)
	if err != nil {
		return err
	}
	b.files = append(b.files, bundleFile{"metrics.txt", "the metrics", metrics})
	conf, err := config.LoadOrDefault(flags.config, "")
	if err != nil {
		return err
	}
	about := "the defaults: give --config for the gateway's configuration"
	if flags.config != "" {
		about = "values of numbers and switches; of other keys whether they are set"
	}
	return b.add("config.json", about, bundledConfig(conf))
}

// bundledStatus is the part of a status that is in a bundle.
type bundledStatus struct {
	Build     version.Info           `json:"build"`
	Uptime    float64                `json:"uptime_seconds"`
	Health    string                 `json:"health"`
	Ready     bool                   `json:"ready"`
	Draining  bool                   `json:"draining"`
	Access    string                 `json:"access"`
	Clients   int                    `json:"clients"`
	Problems  int                    `json:"problems"`
	Sessions  uint64                 `json:"sessions"`
	Flows     uint64                 `json:"flows"`
	Shards    []gatewayd.ShardStatus `json:"shards"`
	Sockets   []bundledSocket        `json:"sockets"`
	TCP       int                    `json:"tcp_listeners"`
	Directory []bundledGateway       `json:"directory"`
	Refusals  []bundledRefusal       `json:"refusals"`
	Metrics   bool                   `json:"metrics"`
	Reloaded  *bundledReload         `json:"reloaded,omitempty"`
	Upgraded  *bundledUpgrade        `json:"upgraded,omitempty"`
}

type bundledSocket struct {
	Shard         int                   `json:"shard"`
	GSO           bool                  `json:"gso"`
	GRO           bool                  `json:"gro"`
	ReceiveBuffer gatewayd.BufferStatus `json:"receive_buffer"`
	SendBuffer    gatewayd.BufferStatus `json:"send_buffer"`
}

type bundledGateway struct {
	Gateway  string `json:"gateway"` // a code
	Resolved bool   `json:"resolved"`
}

type bundledRefusal struct {
	What   string `json:"what"`
	Reason string `json:"reason"`
	Rule   bool   `json:"rule"` // by a rule of the egress policy
	Count  uint64 `json:"count"`
}

type bundledReload struct {
	At           time.Time `json:"at"`
	Failed       bool      `json:"failed"`
	Changed      []string  `json:"changed"`
	NeedsUpgrade []string  `json:"needs_upgrade"`
	NeedsRestart []string  `json:"needs_restart"`
}

type bundledUpgrade struct {
	At           time.Time `json:"at"`
	Failed       bool      `json:"failed"`
	Sessions     int       `json:"sessions"`
	Flows        int       `json:"flows"`
	PauseSeconds float64   `json:"pause_seconds"`
}

func (b *bundle) status(s *runningStatus) *bundledStatus {
	out := &bundledStatus{
		Build: s.Build, Uptime: s.Uptime, Health: s.Health, Ready: s.Ready, Draining: s.Draining, Access: s.Access, Clients: s.Clients,
		Problems: len(s.Problems), Sessions: s.Sessions, Flows: s.Flows, Shards: s.Shards, TCP: len(s.TCP), Metrics: s.Metrics != "",
	}
	for _, x := range s.Sockets {
		out.Sockets = append(out.Sockets, bundledSocket{x.Shard, x.GSO.On, x.GRO.On, x.ReceiveBuffer, x.SendBuffer})
	}
	for _, d := range s.Directory {
		out.Directory = append(out.Directory, bundledGateway{b.code(d.Identity.String()), d.Address != ""})
	}
	for _, r := range s.Refusals {
		out.Refusals = append(out.Refusals, bundledRefusal{r.What, r.Reason, r.Rule != "", r.Count})
	}
	if r := s.Reloaded; r != nil {
		out.Reloaded = &bundledReload{r.At, r.Error != "", r.Changed, r.NeedsUpgrade, r.NeedsRestart}
	}
	if u := s.Upgraded; u != nil {
		out.Upgraded = &bundledUpgrade{u.At, u.Error != "", u.Sessions, u.Flows, u.PauseSeconds}
	}
	return out
}

// bundledSession is the part of a session that is in a bundle.
type bundledSession struct {
	Client    string           `json:"client"` // a code
	Handle    string           `json:"handle"` // a code
	Since     time.Time        `json:"since"`
	Last      time.Time        `json:"last_packet"`
	Up        gatewayd.Traffic `json:"up"`
	Down      gatewayd.Traffic `json:"down"`
	Transport string           `json:"transport"`
	Why       string           `json:"why"`
	RTT       float64          `json:"rtt_seconds"`
	PathMTU   int              `json:"path_mtu"`
	Address   string           `json:"address"`         // masked by the gateway
	Entry     string           `json:"entry,omitempty"` // a code
	Flows     int              `json:"flows"`
	Forwards  int              `json:"forwards"`
}

type bundledUnlisted struct {
	Client string    `json:"client"` // a code
	From   string    `json:"from"`   // masked by the gateway
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
	Tries  uint64    `json:"tries"`
}

type bundledClients struct {
	Sessions []bundledSession  `json:"sessions"`
	More     int               `json:"more"` // sessions that are left out
	Unlisted []bundledUnlisted `json:"unlisted"`
}

func (b *bundle) clients(ctx context.Context, c control.Client) (*bundledClients, error) {
	body, err := c.Stream(ctx, "GET", gatewayd.ClientsEndpoint, nil)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	out, list := &bundledClients{Sessions: []bundledSession{}}, newClientReader(body)
	for {
		s, err := list.next()
		if err != nil {
			return nil, err
		}
		if s == nil {
			break
		}
		if len(out.Sessions) == bundledSessions {
			out.More++
			continue
		}
		entry := ""
		if !isZero(s.Entry) {
			entry = b.code(s.Entry.String())
		}
		out.Sessions = append(out.Sessions, bundledSession{
			b.code(s.Identity.String()), b.code(s.Handle), s.Since, s.Last, s.Up, s.Down, s.Transport, s.Why, s.RTT, s.PathMTU, s.Address, entry, s.Flows, s.Forwards,
		})
	}
	refused, err := list.unlisted()
	for _, u := range refused {
		out.Unlisted = append(out.Unlisted, bundledUnlisted{b.code(u.Identity.String()), u.From, u.First, u.Last, u.Tries})
	}
	return out, err
}

// harmlessChecks are the checks whose findings name no address, host, identity or file.
var harmlessChecks = []string{"kernel", "offloads", "aes", "clock", "conntrack", "buffers", "descriptors", "capabilities"}

func bundledFindings(r *doctor.Report) []doctor.Finding {
	out := []doctor.Finding{}
	for _, f := range r.Findings {
		if f.Mend = ""; !slices.Contains(harmlessChecks, f.Check) {
			f.Text = ""
		}
		out = append(out, f)
	}
	return out
}

// harmlessLabels are the labels of metrics whose values are the program's own words and numbers.
var harmlessLabels = []string{"shard", "reason", "kind", "le", "quantile", "direction", "family", "transport", "version", "revision", "modified", "go_version"}

var metricLabel = regexp.MustCompile(`(\w+)="`)

// bundledMetrics returns the metrics that have no other labels.
func bundledMetrics(r io.Reader) ([]byte, error) {
	var out bytes.Buffer
	for lines := bufio.NewScanner(r); ; {
		if !lines.Scan() {
			return out.Bytes(), lines.Err()
		}
		harmless := !strings.HasPrefix(lines.Text(), "#")
		for _, label := range metricLabel.FindAllStringSubmatch(lines.Text(), -1) {
			harmless = harmless && slices.Contains(harmlessLabels, label[1])
		}
		if harmless {
			out.WriteString(lines.Text() + "\n")
		}
	}
}

// harmlessKeys are the keys of the configuration, or their tables, that are in a bundle with their value.
var harmlessKeys = []string{
	"memory_limit", "listen.port", "listen.shards", "listen.pin", "listen.offload", "listen.gso", "listen.gro", "listen.receive_buffer",
	"listen.send_buffer", "tcp.enabled", "tcp.port", "tcp.max_connections", "tcp.max_per_source", "access.mode", "access.totals", "handshake.kems",
	"handshake.allow_x25519_kem", "handshake.max_records", "handshake.record_ttl", "handshake.rate", "handshake.burst",
	"handshake.tries_per_second", "session.max", "session.ttl", "session.rekey_after", "session.max_datagram", "flows.max_per_session",
	"flows.max", "flows.idle", "egress.default", "egress.ports", "forward.max_claims", "log.level", "log.format", "metrics.required",
}

// bundledConfig returns the keys of a configuration: harmless ones with their value, of others whether they are set.
func bundledConfig(c *config.Config) map[string]any {
	out := make(map[string]any)
	var walk func(prefix string, v reflect.Value)
	walk = func(prefix string, v reflect.Value) {
		for i := range v.NumField() {
			tag := v.Type().Field(i).Tag.Get("toml")
			key, field := prefix+tag, v.Field(i)
			switch {
			case tag == "":
			case slices.Contains(harmlessKeys, key):
				out[key] = field.Interface()
			case field.Kind() == reflect.Struct:
				walk(key+".", field)
			case field.Kind() == reflect.Slice:
				out[key] = fmt.Sprintf("(%d)", field.Len())
			case field.IsZero():
				out[key] = "(not set)"
			default:
				out[key] = "(set)"
			}
		}
	}
	walk("", reflect.ValueOf(c).Elem())
	return out
}

// write writes the archive to a new file that only its owner can access, and removes it if that fails.
func (b *bundle) write(file string, now time.Time) (err error) {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			_ = os.Remove(file)
		}
	}()
	z := gzip.NewWriter(f)
	t := tar.NewWriter(z)
	for _, x := range b.files {
		if err := t.WriteHeader(&tar.Header{Name: "lewes-bundle/" + x.name, Mode: 0o600, Size: int64(len(x.text)), ModTime: now}); err != nil {
			return err
		}
		if _, err := t.Write(x.text); err != nil {
			return err
		}
	}
	return errors.Join(t.Close(), z.Close())
}
