package gatewayd

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"lewes/cmd/lewes/internal/config"
	"lewes/cmd/lewes/internal/control"
	"lewes/cmd/lewes/internal/doctor"
	"lewes/router"
	"lewes/transport/client"
	"lewes/transport/uri"
)

const (
	// examinedFor is how long a report is the answer: whoever can connect may ask, and the checks send packets.
	examinedFor = 5 * time.Second
	// portTimeout bounds the wait for the gateway's own ports.
	portTimeout = 2 * time.Second
)

// examination answers with the report of the gateway's checks.
type examination struct {
	checks doctor.Checks
	mu     sync.Mutex // guards the rest, and makes the checks run once at a time
	report *doctor.Report
	at     time.Time
}

func (e *examination) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	control.Extend(w, 30*time.Second)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.report == nil || time.Since(e.at) > examinedFor {
		report := e.checks.Run(r.Context())
		if r.Context().Err() != nil {
			return // incomplete
		}
		e.report, e.at = report, time.Now()
	}
	control.Answer(w, e.report, nil)
}

// examine returns the checks of the machine and of the gateway.
func (p *Process) examine(g *router.Gateway) *examination {
	e, c := new(examination), *p.config
	doctor.System(&e.checks, "/")
	e.checks.Register("health", func(_ context.Context, r *doctor.Results) { checkHealth(r, p.status(g).problems) })
	e.checks.Register("buffers", func(_ context.Context, r *doctor.Results) { checkBuffers(r, p.status(g).Sockets) })
	e.checks.Register("descriptors", func(_ context.Context, r *doctor.Results) { checkDescriptors(r, &c, openFiles()) })
	e.checks.Register("capabilities", func(_ context.Context, r *doctor.Results) { checkCapabilities(r, &c, "/proc/self/status") })
	if p.wireGuard != nil {
		e.checks.Register("wireguard", func(_ context.Context, r *doctor.Results) { checkWireGuard(r, p.wireGuard, &c.WireGuard) })
	}
	e.checks.Register("ports", func(ctx context.Context, r *doctor.Results) { checkPorts(ctx, r, p.advertised.Load()) })
	return e
}

// remedies are the commands for the problems of a status, by code.
var remedies = map[string]string{
	"draining":   "lewes drain --off",
	"memory":     "systemctl edit lewes-gateway   # or memory_limit in the configuration",
	"tcp":        "ss -ltnp   # which program has the port?",
	"no_clients": "lewes clients add IDENTITY NAME",
	"clients":    "lewes clients list   # names the line",
	"directory":  "resolvectl query HOST",
	"reload":     "lewes reload",
	"upgrade":    "lewes upgrade",
	"log":        "df -h; systemctl status systemd-journald",
	"totals":     "df -h   # and the file totals in the state directory",
	"ledger":     "df -h; lewes ledger check FILE   # FILE is registration.ledger, or ledger in the state directory",
	"bandwidth":  "df -h; journalctl -u lewes-gateway   # the reason; registration.on_failure = \"serve\" serves on",
	"wireguard":  "lewes doctor   # and the finding wireguard",
	"issuer":     "lewes status; journalctl -u lewes-gateway   # the reason; registration.issuers names its URL and pin",
	"metrics":    "ss -ltnp   # which program has the port?",
}

func checkHealth(r *doctor.Results, problems []problem) {
	healthy := true
	for _, x := range problems {
		if x.Code == "buffers" {
			continue // see checkBuffers
		}
		healthy = false
		if x.Refuses {
			r.Fault(remedies[x.Code], "%s", x)
		} else {
			r.Warn(remedies[x.Code], "%s", x)
		}
	}
	if healthy {
		r.OK("accepts new clients; no problems")
	}
}

func checkBuffers(r *doctor.Results, sockets []SocketStatus) {
	var short [2]int // the sizes asked for, if the system grants less
	granted := 0
	for _, s := range sockets {
		for i, b := range []BufferStatus{s.ReceiveBuffer, s.SendBuffer} {
			if b.Granted < b.Requested {
				short[i] = max(short[i], b.Requested)
			}
			if granted == 0 || b.Granted < granted {
				granted = b.Granted
			}
		}
	}
	var set []string
	for i, key := range []string{"rmem_max", "wmem_max"} {
		if short[i] > 0 {
			set = append(set, fmt.Sprintf("net.core.%s=%d", key, short[i]))
		}
	}
	if len(set) == 0 {
		r.OK("%d KiB or more for each socket", granted>>10)
		return
	}
	r.Warn("sysctl -w "+strings.Join(set, " ")+" && lewes upgrade   # for good: deploy/90-lewes.conf",
		"%d KiB instead of %d: bursts of datagrams are dropped", granted>>10, max(short[0], short[1])>>10)
}

// checkDescriptors compares the limit on open files with what the bounds of a configuration take.
func checkDescriptors(r *doctor.Results, c *config.Config, files int) {
	need := bounds{flows: limitsOf(c).MaxFlows, lookups: router.DefaultLookups}
	if c.TCP.Enabled {
		need.connections = c.TCP.MaxConnections
	}
	want := need.files() + reservedFiles(c)
	if files < want {
		r.Warn(fmt.Sprintf("systemctl edit lewes-gateway   # [Service] LimitNOFILE=%d; without systemd: ulimit -n", want),
			"at most %d open files: the bounds on flows and connections need %d and are reduced", files, want)
		return
	}
	r.OK("at most %d open files; the bounds need %d", files, want)
}

// netAdmin is CAP_NET_ADMIN, which a WireGuard device of the kernel needs.
const netAdmin = 1 << 12

// checkCapabilities reads a file as /proc/self/status.
func checkCapabilities(r *doctor.Results, c *config.Config, file string) {
	b, err := os.ReadFile(file)
	_, rest, found := strings.Cut(string(b), "\nCapEff:")
	if err != nil || !found {
		r.OK("this system has none")
		return
	}
	held, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
	set, _ := strconv.ParseUint(held, 16, 64)
	switch {
	case set == 0 && c.WireGuard.Device == "":
		r.OK("none, and none is needed")
		return
	case set&^netAdmin == 0 && c.WireGuard.Device != "":
		r.OK("none, or CAP_NET_ADMIN for the WireGuard device")
		return
	}
	r.Warn("systemctl enable --now lewes-gateway   # deploy/lewes-gateway.service: as a user of its own",
		"the gateway has privileges that it does not need: capabilities %s", held)
}

// checkPorts asks the gateway for its key, over UDP and TCP, at each address that it advertises.
func checkPorts(ctx context.Context, r *doctor.Results, a *Advertisement) {
	type port struct {
		transport client.Transport
		address   string
		err       error
	}
	var (
		ports   []*port
		pending sync.WaitGroup
	)
	for _, text := range a.URIs {
		g, err := uri.Parse(text)
		if err != nil {
			continue // it prints what it parses
		}
		all := []*port{{transport: client.UDP, address: g.Address()}}
		if len(a.ListenTCP) > 0 {
			all = append(all, &port{transport: client.TCP, address: g.TCPAddress()})
		}
		for _, x := range all {
			pending.Go(func() { x.err = answers(ctx, g, x.transport) })
		}
		ports = append(ports, all...)
	}
	pending.Wait()
	for _, x := range ports {
		if x.err == nil {
			r.OK("%s %s answers on this machine; lewes doctor URI elsewhere shows whether a firewall lets clients through", x.transport, x.address)
			continue
		}
		flag := map[client.Transport]string{client.UDP: "u", client.TCP: "t"}[x.transport]
		r.Warn("ss -l"+flag+"np; nft list ruleset; lewes doctor URI   # the last on another machine",
			"%s %s does not answer on this machine: a firewall, or a NAT that does not return to itself", x.transport, x.address)
	}
	if a.loopbackOnly {
		r.Warn(`lewes upgrade   # after setting public = ["HOST"] in the configuration`, "no address is known at which clients elsewhere reach this gateway")
	}
}

// answers returns nil if a gateway answers. It sends no identity: it asks for a key that the gateway does not have.
func answers(ctx context.Context, g uri.Gateway, over client.Transport) error {
	s, err := client.Dial(ctx, client.Config{
		Gateway: g, Ephemeral: true, PinnedKEM: new([32]byte), Keys: new(client.KeyCache), Transport: over, Timeout: portTimeout, NoReconnect: true,
	})
	if err == nil {
		return s.Close()
	}
	if dial := (*client.DialError)(nil); errors.As(err, &dial) && dial.Step() > client.StepHello {
		return nil
	}
	return err
}
