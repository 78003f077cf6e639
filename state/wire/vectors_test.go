package wire

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/zeebo/blake3"
)

// vectors is testdata/vectors.json, which documents its fields.
type vectors struct {
	Vectors []struct {
		Message, Name string
		Level         Level
		Direction     string
		ReceiverIdx   uint32 `json:"receiver_idx"`
		Sequence      uint64
		Fields        map[string]any
		Content       hexBytes
		Packet        hexBytes
	}
	Negative []struct {
		Message, Name, Error string
		Content              hexBytes
	}
	NegativePackets []struct {
		Name, Error string
		Packet      hexBytes
	} `json:"negative_packets"`
}

type hexBytes []byte

func (h *hexBytes) UnmarshalText(b []byte) (err error) {
	*h, err = hex.DecodeString(string(b))
	return err
}

func loadVectors(tb testing.TB) *vectors {
	tb.Helper()
	b, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		tb.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	v := new(vectors)
	if err := d.Decode(v); err != nil {
		tb.Fatal(err)
	}
	return v
}

// seeds adds the vectors of one message, good and bad, to a fuzz target.
func seeds(f *testing.F, message string) {
	v := loadVectors(f)
	n := 0
	for _, r := range v.Vectors {
		if r.Message == message {
			f.Add([]byte(r.Content))
			n++
		}
	}
	for _, r := range v.Negative {
		if r.Message == message {
			f.Add([]byte(r.Content))
		}
	}
	if n == 0 {
		f.Fatalf("no vector for %s", message)
	}
}

// fields is a message with the field names of the vectors.
type fields map[string]any

// codec is a message's parser and appender without types.
type codec struct {
	typ Type
	// parse returns the message as fields, and as bytes again.
	parse func(content []byte) (fields, []byte, error)
	// copy parses content and appends it to dst: nothing else, so that its
	// allocations can be counted.
	copy func(dst, content []byte) ([]byte, error)
	// padded: zeros may follow the content.
	padded bool
	// lax: a receiver accepts more encodings than a sender may use.
	lax bool
	// copies: a parsed message owns its fields.
	copies bool
}

func message[M any](t Type, parse func([]byte) (M, error), appendTo func(*M, []byte) []byte, show func(*M) fields) codec {
	scratch := new(M) // calls through function values make what they get escape
	return codec{
		typ: t,
		parse: func(content []byte) (fields, []byte, error) {
			m, err := parse(content)
			if err != nil {
				if !reflect.ValueOf(&m).Elem().IsZero() {
					return nil, nil, fmt.Errorf("a rejected message is not zero: %+v (%w)", m, err)
				}
				return nil, nil, err
			}
			return show(&m), appendTo(&m, nil), nil
		},
		copy: func(dst, content []byte) ([]byte, error) {
			var err error
			if *scratch, err = parse(content); err != nil {
				return dst, err
			}
			return appendTo(scratch, dst), nil
		},
	}
}

func padded(c codec) codec {
	c.padded = true
	return c
}

func lax(c codec) codec {
	c.lax = true
	return c
}

func copies(c codec) codec {
	c.copies = true
	return c
}

func opaque(content []byte) ([]byte, error) { return content, nil }

func appendBytes(b *[]byte, dst []byte) []byte { return append(dst, *b...) }

func cookieOf(has bool, cookie *[CookieSize]byte) []byte {
	if !has {
		return nil
	}
	return cookie[:]
}

// codecs maps the names in the vectors to messages.
var codecs = map[string]codec{
	"ClientHello": padded(message(TypeClientHello, ParseClientHello, (*ClientHello).Append, func(m *ClientHello) fields {
		return fields{"attempt": m.Attempt, "salt": m.Salt[:], "seconds": m.Seconds(), "commitment": m.Salt[8:],
			"aead_offer": m.AEADOffer, "kem": m.KEM, "kem_key_id": m.KEMKeyID, "doubted": m.Doubted, "cookie": cookieOf(m.HasCookie, &m.Cookie)}
	})),
	"KKTRequest":  padded(message(TypeKKTRequest, KKTFrame, appendBytes, func(m *[]byte) fields { return fields{"frame": *m} })),
	"KKTResponse": message(TypeKKTResponse, opaque, appendBytes, func(m *[]byte) fields { return fields{"message": *m} }),
	"Handshake":   message(TypeHandshake, opaque, appendBytes, func(m *[]byte) fields { return fields{"message": *m} }),
	"Ack": message(TypeAck, ParseAck, (*Ack).Append, func(m *Ack) fields {
		return fields{"aead": m.AEAD, "kem": m.KEM, "nonce": m.Nonce[:], "receiver_idx": m.ReceiverIdx}
	}),
	"FinalAck": message(TypeAck, ParseFinalAck, (*FinalAck).Append, func(m *FinalAck) fields {
		return fields{"idle_ttl_s": m.IdleTTLSeconds, "rekey_after_s": m.RekeyAfterSeconds, "max_datagram": m.MaxDatagram, "flags": m.Flags}
	}),
	"Busy": message(TypeBusy, ParseBusy, (*Busy).Append, func(m *Busy) fields {
		return fields{"retry_after_ms": m.RetryAfterMillis, "cookie": cookieOf(m.HasCookie, &m.Cookie)}
	}),
	"Held": message(TypeHeld, ParseEmpty, (*Empty).Append, func(*Empty) fields { return fields{} }),
	"Reject": message(TypeReject, ParseReject, (*Reject).Append, func(m *Reject) fields {
		return fields{"code": m.Code, "gateway_unix_seconds": m.GatewaySeconds, "detail": string(m.Detail)}
	}),
	"Part": message(TypeHandshake, ParsePart, (*Part).Append, func(m *Part) fields {
		return fields{"index": m.Index, "count": m.Count, "message_id": m.MessageID[:], "data": m.Data}
	}),
	"SubsessionRequest": message(TypeSubsessionRequest, ParseEmpty, (*Empty).Append, func(*Empty) fields { return fields{} }),
	"SubsessionKK1": message(TypeSubsessionKK1, ParseSubsessionKK1, (*SubsessionKK1).Append, func(m *SubsessionKK1) fields {
		return fields{"generation": m.Generation, "noise": m.Noise}
	}),
	"SubsessionKK2": message(TypeSubsessionKK2, ParseSubsessionKK2, (*SubsessionKK2).Append, func(m *SubsessionKK2) fields {
		return fields{"generation": m.Generation, "new_receiver_idx": m.NewReceiverIdx, "noise": m.Noise}
	}),
	"SubsessionReady": message(TypeSubsessionReady, ParseSubsessionReady, (*SubsessionReady).Append, func(m *SubsessionReady) fields {
		return fields{"generation": m.Generation}
	}),
	"SubsessionAbort": message(TypeSubsessionAbort, ParseSubsessionAbort, (*SubsessionAbort).Append, func(m *SubsessionAbort) fields {
		return fields{"generation": m.Generation, "reason": m.Reason, "new_receiver_idx": m.NewReceiverIdx}
	}),
	"EncryptedData": message(TypeEncryptedData, ParseEncryptedData, (*EncryptedData).Append, func(m *EncryptedData) fields {
		target := ""
		if m.Flags&FlagTarget != 0 {
			target = m.Target.String()
		}
		return fields{"flow_id": m.FlowID, "flags": m.Flags, "target": target, "payload": m.Payload}
	}),
	"ForwardPacket": message(TypeForwardPacket, ParseForwardPacket, (*ForwardPacket).Append, func(m *ForwardPacket) fields {
		return fields{"flow_id": m.FlowID, "flags": m.Flags, "identity": m.Identity[:], "inner": m.Inner}
	}),
	"FlowClosed": message(TypeFlowClosed, ParseFlowClosed, (*FlowClosed).Append, func(m *FlowClosed) fields {
		return fields{"flow_id": m.FlowID, "reason": m.Reason, "detail": string(m.Detail)}
	}),
	"Register": lax(message(TypeRegister, ParseRegister, (*Register).Append, func(m *Register) fields {
		return fields{"request_id": m.RequestID, "mode": m.Mode.String(), "timestamp": m.Timestamp, "ticket_type": m.TicketType.String(),
			"credential": m.Credential, "wg_public_key": m.WGPublicKey, "wg_proof": m.WGProof, "client_id": m.ClientID}
	})),
	"RegisterResult": copies(lax(message(TypeRegisterResult, ParseRegisterResult, (*RegisterResult).Append, func(m *RegisterResult) fields {
		var tickets, peer []string
		for _, o := range m.Tickets {
			tickets = append(tickets, fmt.Sprintf("%v %s %x %d %d", o.Type, o.Issuer, o.TokenKeyID, o.Bytes, o.Seconds))
		}
		if p := m.Peer; p != nil {
			peer = append(peer, fmt.Sprintf("%x %v %v %s", p.PublicKey, p.IPv4, p.IPv6, p.Endpoint))
		}
		return fields{"request_id": m.RequestID, "code": m.Code, "error": string(m.Error), "remaining_bandwidth": m.Remaining,
			"expires_at": m.ExpiresAt, "tickets": strings.Join(tickets, "; "), "gateway_data": strings.Join(peer, "")}
	}))),
	"Ping":  padded(message(TypePing, ParsePing, (*Ping).Append, func(m *Ping) fields { return fields{"data": m.Data[:]} })),
	"Pong":  message(TypePong, ParsePong, (*Pong).Append, func(m *Pong) fields { return fields{"data": m.Data[:]} }),
	"Close": message(TypeClose, ParseClose, (*Close).Append, func(m *Close) fields { return fields{"reason": m.Reason, "detail": string(m.Detail)} }),
	"Poll":  message(TypePoll, ParsePoll, (*Poll).Append, func(m *Poll) fields { return fields{"wait_ms": m.WaitMillis} }),
}

// text formats fields as in the vectors: byte strings in hex, integers plain.
func (f fields) text() map[string]string {
	out := make(map[string]string)
	for k, v := range f {
		switch r := reflect.ValueOf(v); {
		case r.Kind() == reflect.Slice:
			out[k] = hex.EncodeToString(r.Bytes())
		case r.CanUint():
			out[k] = fmt.Sprint(r.Uint())
		default:
			out[k] = fmt.Sprint(v)
		}
	}
	return out
}

// errorNames maps the names in the vectors to errors.
var errorNames = map[string]error{
	"ErrShort": ErrShort, "ErrLong": ErrLong, "ErrTrailing": ErrTrailing, "ErrPadding": ErrPadding, "ErrReserved": ErrReserved,
	"ErrLevel": ErrLevel, "ErrSequence": ErrSequence, "ErrBootstrap": ErrBootstrap, "ErrVersion": ErrVersion, "ErrIndex": ErrIndex, "ErrCookieLength": ErrCookieLength, "ErrPart": ErrPart,
	"ErrFlags": ErrFlags, "ErrTargetKind": ErrTargetKind, "ErrMapped": ErrMapped, "ErrName": ErrName, "ErrPort": ErrPort,
	"ErrRequestID": ErrRequestID, "ErrDetailLong": ErrDetailLong, "ErrDetailText": ErrDetailText,
	"ErrCBOR": ErrCBOR, "ErrCBORBound": ErrCBORBound, "ErrDuplicateKey": ErrDuplicateKey, "ErrRegisterField": ErrRegisterField,
}

func isNamed(err error) bool {
	for _, e := range errorNames {
		if err == e {
			return true
		}
	}
	return false
}

// Shows R1.1.
func TestVectors(t *testing.T) {
	seen := make(map[string]bool)
	for _, v := range loadVectors(t).Vectors {
		t.Run(v.Message+"/"+v.Name, func(t *testing.T) {
			c, ok := codecs[v.Message]
			if !ok {
				t.Fatal("no such message")
			}
			seen[v.Message] = true
			got, again, err := c.parse(v.Content)
			if err != nil {
				t.Fatalf("parse: %v", err)
			}
			if want := fields(v.Fields).text(); !reflect.DeepEqual(got.text(), want) {
				t.Errorf("parsed as\n%v, want\n%v", got.text(), want)
			}
			if !bytes.Equal(again, v.Content) {
				t.Errorf("appended as\n%x, want\n%x", again, v.Content)
			}
			if v.Message == "Part" {
				return
			}

			content := []byte(v.Content)
			if c.typ.MaxMessage() > 0 {
				id := blake3.Sum256(content)
				content = (&Part{0, 1, [4]byte(id[:]), content}).Append(nil)
			}
			earlier := []byte("an earlier packet")
			p := Begin(bytes.Clone(earlier), v.ReceiverIdx, v.Level, v.Sequence, c.typ)
			p = append(p, content...)
			if c.padded {
				p = Pad(p, len(earlier), len(v.Packet))
			}
			p = Finish(p)
			if !bytes.HasPrefix(p, earlier) || !bytes.Equal(p[len(earlier):], v.Packet) {
				t.Fatalf("packet\n%x, want\n%x", p[len(earlier):], v.Packet)
			}
			checkPacket(t, v.Packet, Header{v.ReceiverIdx, v.Level, v.Sequence}, c.typ, content)
			h, d := Header{v.ReceiverIdx, v.Level, v.Sequence}, directionNamed(t, v.Direction)
			if !h.Allows(c.typ, d) {
				t.Errorf("%v is not allowed %s with %+v", c.typ, d, h)
			}
			if h.ReceiverIdx = 1 - min(h.ReceiverIdx, 1); h.Allows(c.typ, d) {
				t.Errorf("%v is allowed %s with %+v", c.typ, d, h)
			}
		})
	}
	for name := range codecs {
		if !seen[name] {
			t.Errorf("%s has no vector", name)
		}
	}
	for typ := range Type(64) {
		if typ.Known() && !seen[typ.String()] {
			t.Errorf("%v has no vector", typ)
		}
	}
}

// checkPacket parses packet p.
func checkPacket(t *testing.T, p []byte, want Header, typ Type, content []byte) {
	t.Helper()
	h, err := ParseHeader(p)
	if err != nil || h != want {
		t.Errorf("header %+v, %v; want %+v", h, err, want)
	}
	gotType, got, err := ParseBody(Body(p))
	if err != nil || gotType != typ {
		t.Errorf("type %v, %v; want %v", gotType, err, typ)
	}
	if !bytes.HasPrefix(got, content) || !zero(got[len(content):]) {
		t.Errorf("content\n%x, want\n%x", got, content)
	}
}

func directionNamed(t *testing.T, name string) Direction {
	for _, d := range []Direction{ToGateway, ToClient} {
		if d.String() == name {
			return d
		}
	}
	t.Fatalf("no direction %q", name)
	return 0
}

// Shows R1.6, R1.14, R2.3, R2.4, R9.8, R9.9.
func TestRejectedVectors(t *testing.T) {
	v := loadVectors(t)
	seen := make(map[error]bool)
	for _, r := range v.Negative {
		_, _, err := codecs[r.Message].parse(r.Content)
		if want := errorNames[r.Error]; err == nil || err != want {
			t.Errorf("%s, %s: %v, want %s", r.Message, r.Name, err, r.Error)
		}
		seen[err] = true
	}
	for _, r := range v.NegativePackets {
		h, err := ParseHeader(r.Packet)
		if err == nil && h.ReceiverIdx == 0 {
			_, _, err = ParseInner(r.Packet)
		}
		if err == nil {
			_, _, err = ParseBody(Body(r.Packet))
		}
		if want := errorNames[r.Error]; err == nil || err != want {
			t.Errorf("packet, %s: %v, want %s", r.Name, err, r.Error)
		}
		seen[err] = true
	}
	for name, err := range errorNames {
		if !seen[err] {
			t.Errorf("no vector is rejected with %s", name)
		}
		if !strings.HasPrefix(err.Error(), "wire: ") {
			t.Errorf("%s does not name its package: %v", name, err)
		}
	}
}

// A truncated, extended or changed message is rejected with a named error or parses
// as another message.
func TestDamagedVectors(t *testing.T) {
	for _, v := range loadVectors(t).Vectors {
		c := codecs[v.Message]
		for n := range len(v.Content) {
			checkCanonical(t, c, v.Content[:n])
		}
		checkCanonical(t, c, append(bytes.Clone(v.Content), 0))
		checkCanonical(t, c, append(bytes.Clone(v.Content), 0xFF))
		for i := range v.Content {
			for bit := range 8 {
				damaged := bytes.Clone(v.Content)
				damaged[i] ^= 1 << bit
				checkCanonical(t, c, damaged)
			}
		}
	}
}

// checkCanonical parses arbitrary content. If it is valid, appending must restore
// it, up to padding, and parsing that must give the same fields.
func checkCanonical(t *testing.T, c codec, content []byte) {
	t.Helper()
	before := bytes.Clone(content)
	got, again, err := c.parse(content)
	if !bytes.Equal(content, before) {
		t.Fatalf("parsing changed %x to %x", before, content)
	}
	if err != nil {
		if !isNamed(err) {
			t.Fatalf("%x: the error has no name: %v", content, err)
		}
		return
	}
	same := bytes.Equal(again, content)
	if c.padded {
		same = bytes.HasPrefix(content, again) && zero(content[len(again):])
	}
	if !same && !c.lax {
		t.Fatalf("%x is appended as %x", content, again)
	}
	second, last, err := c.parse(again)
	if err != nil || !reflect.DeepEqual(second.text(), got.text()) {
		t.Fatalf("%x parses as %v, once more as %v, %v", content, got, second, err)
	}
	if !bytes.Equal(last, again) {
		t.Fatalf("%x is appended as %x, once more as %x", content, again, last)
	}
}

// fuzz is the body of every message's fuzz target.
func fuzz(f *testing.F, message string) {
	seeds(f, message)
	c := codecs[message]
	f.Fuzz(func(t *testing.T, content []byte) { checkCanonical(t, c, content) })
}

// Parsing and appending, errors included, do not allocate.
func TestCodecsDoNotAllocate(t *testing.T) {
	v := loadVectors(t)
	dst := make([]byte, 0, MaxTCPPacket)
	for _, r := range v.Vectors {
		c := codecs[r.Message]
		if c.copies {
			continue
		}
		if n := testing.AllocsPerRun(100, func() {
			if _, err := c.copy(dst, r.Content); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s, %s: %v allocations", r.Message, r.Name, n)
		}
	}
	for _, r := range v.Negative {
		c := codecs[r.Message]
		if c.copies && errorNames[r.Error] == ErrRegisterField {
			continue
		}
		if n := testing.AllocsPerRun(100, func() {
			if _, err := c.copy(dst, r.Content); !errors.Is(err, errorNames[r.Error]) {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("rejected: %s, %s: %v allocations", r.Message, r.Name, n)
		}
	}
}

// Appending to a slice of a parsed message must not overwrite the packet.
func TestParsedSlicesHaveNoSpareCapacity(t *testing.T) {
	for _, v := range loadVectors(t).Vectors {
		p := append(bytes.Clone(v.Content), "the trailer"...)
		got, _, err := codecs[v.Message].parse(p[:len(v.Content)])
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range got {
			if b, ok := f.([]byte); ok && len(b) > 0 && v.Message != "Handshake" && v.Message != "KKTResponse" {
				_ = append(b, "overwritten"...)
			}
		}
		if !bytes.HasSuffix(p, []byte("the trailer")) {
			t.Errorf("%s, %s: appending to a field wrote behind the message", v.Message, v.Name)
		}
	}
}
