package gatewayd

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"time"

	"go.uber.org/zap"

	"lewes/cmd/lewes/internal/control"
	"lewes/crypto/identity"
	"lewes/router"
	"lewes/state/path"
	"lewes/state/wire"
)

// TraceRequest selects the session of a trace, whose answer is a JSON text sequence (RFC 7464).
type TraceRequest struct {
	Who       string `json:"who"`                 // the name or identity of a client with one session, or a handle
	Addresses bool   `json:"addresses,omitempty"` // whole addresses and names of targets
}

// traceHeader is the first record, as in qlog's streaming format.
type traceHeader struct {
	Schema string `json:"file_schema"`
	Format string `json:"serialization_format"`
	Title  string `json:"title"`
	Trace  struct {
		Common struct {
			Group      string `json:"group_id"` // the session's handle
			TimeFormat string `json:"time_format"`
			Reference  struct {
				Clock string `json:"clock_type"`
				Epoch string `json:"epoch"`
			} `json:"reference_time"`
		} `json:"common_fields"`
		Vantage struct {
			Type string `json:"type"`
		} `json:"vantage_point"`
		Schemas []string `json:"event_schemas"`
	} `json:"trace"`
}

func newTraceHeader(handle string) *traceHeader {
	h := &traceHeader{Schema: "urn:ietf:params:qlog:file:sequential", Format: "application/qlog+json-seq", Title: "lewes trace"}
	c := &h.Trace.Common
	c.Group, c.TimeFormat = handle, "relative_to_epoch"
	c.Reference.Clock, c.Reference.Epoch = "system", "1970-01-01T00:00:00.000Z"
	h.Trace.Vantage.Type, h.Trace.Schemas = "server", []string{"urn:lewes:session"}
	return h
}

// traceRecord is an event.
type traceRecord struct {
	Time float64   `json:"time"` // in ms
	Name string    `json:"name"`
	Data traceData `json:"data"`
}

type traceData struct {
	Identity  identity.PublicKey `json:"identity,omitzero"`
	Started   time.Time          `json:"started,omitzero"` // the session
	Transport string             `json:"transport,omitempty"`
	Address   string             `json:"address,omitempty"` // of the client; masked, unless asked for
	KeySet    uint32             `json:"key_set,omitempty"`
	Flow      *uint16            `json:"flow,omitempty"`
	Target    string             `json:"target,omitempty"`
	Gateway   identity.PublicKey `json:"gateway,omitzero"`
	Reason    string             `json:"reason,omitempty"`
	Rule      string             `json:"rule,omitempty"`
	Detail    string             `json:"detail,omitempty"`
	Lost      int                `json:"events_lost,omitempty"` // before this one: the reader was too slow
}

func recordAt(at time.Time, name string, data traceData) *traceRecord {
	return &traceRecord{float64(at.UnixMicro()) / 1000, "lewes:" + name, data}
}

// traceAddress prints the address of a client.
func traceAddress(p path.Path, full bool) string {
	if full {
		return p.Peer.String()
	}
	return path.MaskAddrPort(p.Peer)
}

// traceTarget prints the target of a flow; without full, it hides a name, and the host of an address.
func traceTarget(t *wire.Target, full bool) string {
	switch {
	case t.Kind() == 0:
		return ""
	case full:
		return t.String()
	case t.Kind() == wire.TargetName:
		hidden := wire.Target{Name: []byte("name"), Port: t.Port}
		return hidden.String()
	}
	return path.MaskAddrPort(t.AddrPort())
}

// newTraceRecord returns the record of an event.
func newTraceRecord(e *router.TraceEvent, full bool) *traceRecord {
	d := traceData{Lost: e.Lost, Target: traceTarget(&e.Target, full), Gateway: e.Gateway, Rule: e.Rule, Detail: e.Detail}
	switch e.Kind {
	case router.TraceMoved, router.TraceTransportChanged:
		d.Transport, d.Address = e.Path.Transport.String(), traceAddress(e.Path, full)
	case router.TraceRekeyed:
		d.KeySet = e.KeySet
	case router.TraceFlowOpened, router.TraceFlowRefused:
		d.Flow = &e.Flow
	case router.TraceFlowClosed:
		d.Flow, d.Reason = &e.Flow, "closed by the client"
	}
	if e.Reason != 0 {
		d.Reason = e.Reason.String()
	}
	return recordAt(e.At, string(e.Kind), d)
}

// handleTrace streams the events of a session until it ends, the client leaves, or a successor takes over.
func (p *Process) handleTrace(w http.ResponseWriter, r *http.Request, s *control.Server, g *router.Gateway) {
	var request TraceRequest
	if !control.Decode(w, r, &request) {
		return
	}
	match, err := p.access.match(request.Who)
	if err != nil {
		control.Answer(w, nil, err)
		return
	}
	t, err := g.Trace(r.Context(), match)
	if err != nil {
		control.Answer(w, nil, err)
		return
	}
	defer t.Close()
	handle := hex.EncodeToString(t.Session.Handle[:])
	p.log.Info("trace started", zap.String("session", handle))
	w.Header().Set("Content-Type", "application/qlog+json-seq")
	flusher := http.NewResponseController(w)
	write := func(record any) bool {
		var b bytes.Buffer
		b.WriteByte(0x1e)
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if e.Encode(record) != nil {
			return false
		}
		control.Extend(w, 0)
		if _, err := w.Write(b.Bytes()); err != nil {
			return false
		}
		return flusher.Flush() == nil
	}
	i := &t.Session
	established := recordAt(t.At, "session_established", traceData{
		Identity: i.Identity, Started: i.Started, Transport: i.Path.Transport.String(), Address: traceAddress(i.Path, request.Addresses),
	})
	ok := write(newTraceHeader(handle)) && write(established)
	for ok {
		select {
		case e, more := <-t.Events:
			ok = more && write(newTraceRecord(&e, request.Addresses))
		case <-s.Closing():
			write(recordAt(time.Now(), "trace_ended", traceData{Detail: "a successor has taken over: start the trace again"}))
			return
		case <-r.Context().Done():
			return
		}
	}
}
