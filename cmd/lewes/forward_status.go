package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"go.uber.org/zap"

	"lewes/cmd/lewes/internal/control"
	"lewes/cmd/lewes/internal/gatewayd"
	"lewes/cmd/lewes/internal/version"
	"lewes/transport/client"
	"lewes/transport/client/portforward"
)

// clientStatus describes a running forward command.
type clientStatus struct {
	Build     version.Info     `json:"build"`
	PID       int              `json:"pid"`
	Started   time.Time        `json:"started"`
	Gateway   string           `json:"gateway"`
	Via       []string         `json:"via,omitempty"` // the nearest first
	Connected bool             `json:"connected"`
	Why       string           `json:"why,omitempty"` // it is not connected
	Handle    string           `json:"handle,omitempty"`
	Transport string           `json:"transport,omitempty"`
	Reason    string           `json:"transport_reason,omitempty"` // why not the preferred one
	RTT       float64          `json:"rtt_seconds,omitempty"`
	MaxPacket int              `json:"max_packet"`
	Up        gatewayd.Traffic `json:"up"`
	Down      gatewayd.Traffic `json:"down"`
	Lost      uint64           `json:"lost"` // datagrams dropped here
	Flows     int              `json:"flows"`
	Rekeys    uint64           `json:"rekeys"`
	Again     uint64           `json:"reconnects"`
	Mappings  []forwardedPort  `json:"mappings"`
}

// runningForward is a forward command, from before its first connection.
type runningForward struct {
	started  time.Time
	config   *client.Config // immutable
	mappings []portforward.Mapping
	session  atomic.Pointer[client.Session] // nil before the first connection
	why      atomic.Pointer[string]         // there is none
}

func (f *runningForward) status() *clientStatus {
	c := &clientStatus{Build: version.Read(), PID: os.Getpid(), Started: f.started, Gateway: f.config.Gateway.String(), Via: texts(f.config.Via)}
	for _, m := range f.mappings {
		c.Mappings = append(c.Mappings, forwardedPort{m.Local.String(), m.Target})
	}
	if s := f.session.Load(); s != nil {
		c.describe(s)
	} else {
		c.Why = *f.why.Load()
	}
	return c
}

// describe adds the state of the session.
func (c *clientStatus) describe(s *client.Session) {
	info, stats := s.Info(), s.Stats()
	if c.Connected = info.Down == nil; !c.Connected {
		c.Why = info.Down.Error()
	}
	c.Handle, c.Transport, c.Reason = fmt.Sprintf("%x", info.Handle), info.Transport.String(), info.TransportReason
	c.RTT, c.MaxPacket = info.RTT.Seconds(), info.MaxPacket
	c.Up, c.Down = gatewayd.Traffic{Datagrams: stats.Sent, Bytes: stats.SentBytes}, gatewayd.Traffic{Datagrams: stats.Received, Bytes: stats.ReceivedBytes}
	c.Lost, c.Flows = stats.Unsent+stats.Expired+stats.Overflowed, stats.Flows
	c.Rekeys, c.Again = stats.Rekeys, stats.Reconnects
}

func (c *clientStatus) String() string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	row := func(key, format string, args ...any) { fmt.Fprintf(w, key+"\t"+format+"\n", args...) }
	row("forward", "lewes %s, process %d, up %s", c.Build.Short(), c.PID, ago(time.Now(), c.Started))
	row("gateway", "%s", c.Gateway)
	for _, via := range c.Via {
		row("via", "%s", via)
	}
	if c.Connected {
		row("connected", "handle %s", c.Handle)
	} else {
		row("not connected", "%s", strings.ReplaceAll(c.Why, "\n", "; "))
	}
	if c.Transport == "" { // there was no session yet
		c.portRows(row)
		_ = w.Flush() // to memory
		return strings.TrimSuffix(text.String(), "\n")
	}
	reason := ""
	if c.Reason != "" {
		reason = ": " + c.Reason
	}
	row("transport", "%s%s", c.Transport, reason)
	row("path", "round trip %v, packets of up to %d bytes", seconds(c.RTT), c.MaxPacket)
	row("traffic", "up %s, down %s; %d datagrams dropped here", amount(c.Up), amount(c.Down), c.Lost)
	row("flows", "%d; %s, %s", c.Flows, count(int(c.Rekeys), "rekey"), count(int(c.Again), "reconnect"))
	c.portRows(row)
	_ = w.Flush() // to memory
	return strings.TrimSuffix(text.String(), "\n")
}

func (c *clientStatus) portRows(row func(key, format string, args ...any)) {
	for _, m := range c.Mappings {
		row("port", "%s to %s", m.Local, m.Target)
	}
}

// serveClientStatus serves a client's control socket until stop is called. A client without one goes on.
func serveClientStatus(log func(msg string, args ...any), status func() *clientStatus) (stop func()) {
	dir := clientSocketDir()
	if dir == "" {
		return func() {}
	}
	path := filepath.Join(dir, fmt.Sprintf("%d.sock", os.Getpid()))
	listener, err := control.ListenPrivate(path)
	if err != nil {
		log("no control socket", "error", err)
		return func() {}
	}
	s := control.NewServer(zap.NewNop(), zap.NewNop())
	s.Read("GET "+gatewayd.StatusEndpoint, func(w http.ResponseWriter, _ *http.Request) { control.Answer(w, status(), nil) })
	go func() { _ = s.Serve(listener) }()
	return func() {
		_ = os.Remove(path)
		s.Close()
	}
}
