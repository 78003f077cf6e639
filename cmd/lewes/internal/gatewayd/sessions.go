package gatewayd

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"lewes/cmd/lewes/internal/control"
	"lewes/crypto/identity"
	"lewes/router"
	"lewes/router/unlisted"
	"lewes/state/path"
	"lewes/state/wire"
)

// Session describes a session of a client, as the control socket lists it.
type Session struct {
	Name     string             `json:"name,omitempty"`
	Identity identity.PublicKey `json:"identity"`
	Handle   string             `json:"handle"` // in the logs of both ends
	Since    time.Time          `json:"since"`
	Last     time.Time          `json:"last_packet"`
	Up       Traffic            `json:"up"`   // from the client
	Down     Traffic            `json:"down"` // to the client
	// Transport is udp or tcp, and Why how the session came to it.
	Transport string             `json:"transport"`
	Why       string             `json:"why"`
	RTT       float64            `json:"rtt_seconds,omitempty"` // 0: not measured
	PathMTU   int                `json:"path_mtu,omitempty"`    // bytes with IP and UDP headers; 0: not probed, or TCP
	Address   string             `json:"address"`               // masked, unless asked for
	Entry     identity.PublicKey `json:"entry,omitzero"`        // zero: the client's own address
	EntryName string             `json:"entry_name,omitempty"`
	Flows     int                `json:"flows"`
	Forwards  int                `json:"forwards"` // flows to other gateways
	// Registered is the mode that the session is registered for, and Remaining what its account has left, in bytes;
	// nil: without a limit.
	Registered string  `json:"registered,omitempty"`
	Remaining  *uint64 `json:"remaining_bytes,omitempty"`
	Total      *Total  `json:"total,omitempty"` // of the client; nil: none is kept
}

// Traffic counts datagrams and the bytes of their payload.
type Traffic struct {
	Datagrams uint64 `json:"datagrams"`
	Bytes     uint64 `json:"bytes"`
}

// ClientList is the answer of ClientsEndpoint.
type ClientList struct {
	Sessions []Session        `json:"sessions"`
	Unlisted []UnlistedClient `json:"unlisted"` // refused in the last hour
}

// sessionSource lists sessions: a *router.Gateway.
type sessionSource interface {
	MeasureRTT(context.Context) int
	Sessions(context.Context, func([]router.SessionInfo) error) error
	Unlisted() []unlisted.Entry
}

// pongWait is the time for the answers of clients whose round trip was not measured before.
const pongWait = 300 * time.Millisecond

// writeClients streams a ClientList, one session per line.
func (p *Process) writeClients(ctx context.Context, w http.ResponseWriter, g sessionSource, full bool, throttle *control.Throttle) {
	if g.MeasureRTT(ctx) > 0 {
		select { // for most of the Pongs
		case <-time.After(pongWait):
		case <-ctx.Done():
		}
	}
	pause := func(used time.Duration) {
		if pause := throttle.Spend(time.Now(), used); pause > 0 {
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
		}
	}
	totals, err := p.totals.all(ctx, g, func(used time.Duration) {
		control.Extend(w, 0)
		pause(used)
	})
	if err != nil {
		panic(http.ErrAbortHandler) // ctx is done
	}
	w.Header().Set("Content-Type", "application/json")
	b := append(make([]byte, 0, 96<<10), "{\"sessions\":["...)
	separator, began := "\n", time.Now()
	names := *p.gatewayNames.Load()
	rule := p.access.rule.Load()
	err = g.Sessions(ctx, func(some []router.SessionInfo) error {
		for i := range some {
			name := ""
			if rule.list != nil {
				name = rule.list.Name(some[i].Identity)
			}
			b = append(b, separator...)
			b = appendSession(b, &some[i], name, names[some[i].Entry], full)
			if total, ok := totals[some[i].Identity]; ok {
				text, _ := json.Marshal(total) // plain values
				b = append(append(append(b[:len(b)-1], `,"total":`...), text...), '}')
			}
			separator = ",\n"
		}
		used := time.Since(began)
		control.Extend(w, 0)
		_, err := w.Write(b)
		b = b[:0]
		pause(used)
		began = time.Now()
		return err
	})
	if err != nil {
		panic(http.ErrAbortHandler) // the client notices that the answer is not whole
	}
	refused := []UnlistedClient{}
	for _, e := range g.Unlisted() {
		if !p.access.listed(e.Identity) { // it has been added since
			refused = append(refused, unlistedClient(e))
		}
	}
	text, _ := json.Marshal(refused) // plain values
	b = append(b, "\n],\"unlisted\":"...)
	_, _ = w.Write(append(append(b, text...), "}\n"...)) // the client may have gone
}

// Bytes of the headers below a packet.
const (
	ipv4Headers = 20 + 8
	ipv6Headers = 40 + 8
)

// appendSession appends a Session as JSON, at a fraction of the cost of package json.
func appendSession(b []byte, i *router.SessionInfo, name, entryName string, full bool) []byte {
	text := func(key, value string) {
		if value != "" {
			b = append(append(append(b, key...), value...), `",`...)
		}
	}
	quoted := func(key, value string) {
		if value != "" {
			q, _ := json.Marshal(value) // a string
			b = append(append(append(b, key...), q...), ',')
		}
	}
	number := func(key string, n uint64) { b = append(strconv.AppendUint(append(b, key...), n, 10), ',') }
	at := func(key string, t time.Time) {
		b = append(t.UTC().AppendFormat(append(b, key...), time.RFC3339Nano), `",`...)
	}
	traffic := func(key string, t router.Traffic) {
		b = append(b, key...)
		number(`{"datagrams":`, t.Packets)
		number(`"bytes":`, t.Bytes)
		b = append(b[:len(b)-1], "},"...)
	}
	b = append(b, '{')
	quoted(`"name":`, name)
	text(`"identity":"`, i.Identity.String())
	b = append(append(hex.AppendEncode(append(b, `"handle":"`...), i.Handle[:]), `"`...), ',')
	at(`"since":"`, i.Started)
	at(`"last_packet":"`, i.Last)
	traffic(`"up":`, i.Up)
	traffic(`"down":`, i.Down)
	text(`"transport":"`, i.Path.Transport.String())
	text(`"why":"`, transportReason(i))
	if i.RTT > 0 {
		b = append(strconv.AppendFloat(append(b, `"rtt_seconds":`...), i.RTT.Seconds(), 'f', 6, 64), ',')
	}
	if i.MaxPacket > 0 {
		headers := ipv6Headers
		if i.Path.Peer.Addr().Is4() {
			headers = ipv4Headers
		}
		number(`"path_mtu":`, uint64(i.MaxPacket+headers))
	}
	if i.Mode != 0 {
		text(`"registered":"`, i.Mode.String())
		if i.Left != wire.Unlimited {
			number(`"remaining_bytes":`, i.Left)
		}
	}
	if full {
		text(`"address":"`, i.Path.Peer.String())
	} else {
		text(`"address":"`, path.MaskAddr(i.Path.Peer.Addr()))
	}
	if (i.Entry != identity.PublicKey{}) {
		text(`"entry":"`, i.Entry.String())
		quoted(`"entry_name":`, entryName)
	}
	number(`"flows":`, uint64(i.Flows))
	number(`"forwards":`, uint64(i.Forwards))
	return append(b[:len(b)-1], '}')
}

// transportReason returns how a session came to its transport. The client has chosen it.
func transportReason(i *router.SessionInfo) string {
	switch {
	case i.Path.Transport != i.First:
		return "moved here from " + i.First.String()
	case !i.Moved.IsZero():
		return "since the start, address has changed"
	case i.Path.Transport == path.TCP:
		return "since the start, UDP unanswered or not tried"
	}
	return "since the start"
}
