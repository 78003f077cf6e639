package wire

import (
	"bytes"
	"encoding/binary"
	"math"
	"net/netip"
	"strconv"
	"strings"
)

// Mode is what a client registers for, section 9.
type Mode uint8

// The modes. ModeUnknown stands for every text that is not a mode; it is answered by CodeModeNotOffered.
const (
	ModeUnknown Mode = iota
	ModeRelay
	ModeDVPN
	ModeMixnet
	// ModeBalance asks what is left and changes nothing.
	ModeBalance
)

var modeNames = [...]string{"unknown", "relay", "dvpn", "mixnet", "balance"}

func (m Mode) String() string { return modeNames[min(int(m), len(modeNames)-1)] }

// ModeNamed returns the mode with that text, or ModeUnknown.
func ModeNamed[T string | []byte](text T) Mode {
	for i, name := range modeNames {
		if i > 0 && name == string(text) {
			return Mode(i)
		}
	}
	return ModeUnknown
}

// TicketType is the type of a credential or of a ticket that a gateway takes, section 9. A type of Privacy
// Pass has its number of RFC 9578.
type TicketType uint8

const (
	// TicketNone means that there is no credential.
	TicketNone TicketType = 0
	// TicketBlindRSA2048 is RFC 9578's publicly verifiable token.
	TicketBlindRSA2048 TicketType = 2
	// TicketUnknown stands for every text that is not a type.
	TicketUnknown TicketType = math.MaxUint8
)

const blindRSA2048 = "blind-rsa-2048"

func (t TicketType) String() string {
	switch t {
	case TicketNone:
		return "none"
	case TicketBlindRSA2048:
		return blindRSA2048
	}
	return "unknown"
}

func ticketTypeNamed(text []byte) TicketType {
	if string(text) == blindRSA2048 {
		return TicketBlindRSA2048
	}
	return TicketUnknown
}

// RegisterCode is the outcome in a RegisterResult, section 9. A code that is not listed here is a failure.
type RegisterCode uint8

// The codes of a RegisterResult.
const (
	CodeOK               RegisterCode = 0
	CodeBadRequest       RegisterCode = 1
	CodeModeNotOffered   RegisterCode = 2
	CodeNotAllowed       RegisterCode = 3
	CodeTicketNeeded     RegisterCode = 4
	CodeTicketInvalid    RegisterCode = 5
	CodeUnknownIssuerKey RegisterCode = 6
	CodeTicketExpired    RegisterCode = 7
	CodeAlreadySpent     RegisterCode = 8
	CodeNoAddressFree    RegisterCode = 9
	CodeDeviceFailed     RegisterCode = 10
	CodeBusy             RegisterCode = 11
	CodeStorageFailed    RegisterCode = 12
	CodeBandwidthUsedUp  RegisterCode = 13
	CodeClock            RegisterCode = 14
)

var registerCodes = names{
	CodeOK:               "ok",
	CodeBadRequest:       "bad request",
	CodeModeNotOffered:   "mode not offered",
	CodeNotAllowed:       "not allowed",
	CodeTicketNeeded:     "ticket needed",
	CodeTicketInvalid:    "ticket invalid",
	CodeUnknownIssuerKey: "unknown issuer key",
	CodeTicketExpired:    "ticket expired",
	CodeAlreadySpent:     "already spent",
	CodeNoAddressFree:    "no address free",
	CodeDeviceFailed:     "device failed",
	CodeBusy:             "busy",
	CodeStorageFailed:    "storage failed",
	CodeBandwidthUsedUp:  "bandwidth used up",
	CodeClock:            "clock",
}

func (c RegisterCode) String() string { return registerCodes.of("code", uint8(c)) }

// Sizes and bounds of the fields, section 9.
const (
	// WGProofSize is the size of a Register's proof of its WireGuard key.
	WGProofSize = 16
	// MaxCredential is the maximum size of a credential. A token of TicketBlindRSA2048 has 354 bytes.
	MaxCredential = 4096
	// MaxTickets is the maximum number of tickets that a RegisterResult lists.
	MaxTickets = 8
	// MaxIssuer is the maximum size of an issuer's name.
	MaxIssuer = 255
	// MaxEndpoint is the maximum size of a WireGuard endpoint: a host name, a colon and a port.
	MaxEndpoint = 261
	// Unlimited is a RegisterResult's Remaining where bandwidth has no limit.
	Unlimited uint64 = math.MaxUint64

	maxName = 64 // of a mode or ticket type
)

// Register requests a registration, section 9. Parsed slices alias the message.
//
//	request_id u32 · CBOR map
type Register struct {
	RequestID   uint32 // not 0; rises within a session
	Mode        Mode
	Timestamp   uint64     // the client's clock, Unix seconds
	TicketType  TicketType // TicketNone if and only if Credential is empty
	Credential  []byte     // at most MaxCredential; whoever has it can spend it
	WGPublicKey []byte     // 32 bytes or nil; ModeDVPN has it
	WGProof     []byte     // WGProofSize bytes or nil; ModeDVPN has it
	ClientID    []byte     // 32 bytes or nil; ModeMixnet has it
}

// Append appends the message to dst.
func (m *Register) Append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, m.RequestID)
	n := 2
	for _, present := range [...]bool{m.TicketType != TicketNone, m.TicketType != TicketNone, m.WGPublicKey != nil, m.WGProof != nil, m.ClientID != nil} {
		if present {
			n++
		}
	}
	dst = appendHead(dst, cborMap, uint64(n))
	dst = appendTextField(dst, "mode", m.Mode.String())
	if m.WGProof != nil {
		dst = appendBytesField(dst, "wg_proof", m.WGProof)
	}
	if m.ClientID != nil {
		dst = appendBytesField(dst, "client_id", m.ClientID)
	}
	dst = appendUintField(dst, "timestamp", m.Timestamp)
	if m.TicketType != TicketNone {
		dst = appendBytesField(dst, "credential", m.Credential)
		dst = appendTextField(dst, "ticket_type", m.TicketType.String())
	}
	if m.WGPublicKey != nil {
		dst = appendBytesField(dst, "wg_public_key", m.WGPublicKey)
	}
	return dst
}

// RegisterID returns the request id of a reassembled Register, under which also a malformed one is
// answered. Errors: ErrShort, ErrLong, ErrRequestID.
func RegisterID(message []byte) (uint32, error) {
	id, err := requestID(message)
	if err == nil && id == 0 {
		err = ErrRequestID
	}
	return id, err
}

func requestID(message []byte) (uint32, error) {
	if len(message) < 4 {
		return 0, ErrShort
	}
	if len(message) > MaxRegisterMessage {
		return 0, ErrLong
	}
	return binary.LittleEndian.Uint32(message), nil
}

// ParseRegister parses a reassembled Register. Errors: those of RegisterID; ErrShort, ErrTrailing, ErrCBOR,
// ErrCBORBound, ErrDuplicateKey for CBOR that section 9 forbids; ErrRegisterField for a field that is
// missing or of another type or size, and for a credential without its type or in ModeBalance.
func ParseRegister(message []byte) (Register, error) {
	id, err := RegisterID(message)
	if err == nil {
		err = checkCBOR(message[4:])
	}
	if err != nil {
		return Register{}, err
	}
	m := Register{RequestID: id}
	var hasMode, hasTime bool
	n, items := cborItem(message[4:]).open()
	for range n {
		var key, v cborItem
		key, items = items.next()
		v, items = items.next()
		var text []byte
		switch string(key.content()) {
		case "mode":
			err = v.string(cborText, &text, maxName)
			m.Mode, hasMode = ModeNamed(text), true
		case "timestamp":
			err = v.uint(&m.Timestamp, math.MaxInt64)
			hasTime = true
		case "ticket_type":
			err = v.string(cborText, &text, maxName)
			m.TicketType = ticketTypeNamed(text)
		case "credential":
			err = v.string(cborBytes, &m.Credential, MaxCredential)
		case "wg_public_key":
			err = v.fixed(&m.WGPublicKey, 32)
		case "wg_proof":
			err = v.fixed(&m.WGProof, WGProofSize)
		case "client_id":
			err = v.fixed(&m.ClientID, 32)
		}
		if err != nil {
			return Register{}, err
		}
	}
	dvpn, mixnet := m.Mode == ModeDVPN, m.Mode == ModeMixnet
	paid := m.TicketType != TicketNone
	if !hasMode || !hasTime || paid != (len(m.Credential) > 0) || paid && m.Mode == ModeBalance ||
		dvpn && (m.WGPublicKey == nil || m.WGProof == nil) || mixnet && m.ClientID == nil {
		return Register{}, ErrRegisterField
	}
	return m, nil
}

// RegisterResult answers a Register, section 9. A parsed one aliases nothing.
//
//	request_id u32 · CBOR map
type RegisterResult struct {
	RequestID uint32 // 0: unasked, the account changed
	Code      RegisterCode
	Error     Detail         // for people; Append truncates it to MaxDetail bytes
	Remaining uint64         // bytes left in the account, below 2^63, or Unlimited
	ExpiresAt uint64         // Unix seconds, when the last grant expires; 0: never
	Tickets   []TicketOffer  // at most MaxTickets: what the gateway takes, with CodeTicketNeeded
	Peer      *WireGuardPeer // ModeDVPN
}

// TicketOffer describes a ticket that a gateway takes: who issues it under which key, and what it grants.
type TicketOffer struct {
	Type       TicketType
	Issuer     string // issuer_name of its tokens: a host with or without a port, at most MaxIssuer bytes
	TokenKeyID [32]byte
	Bytes      uint64
	Seconds    uint64
}

// WireGuardPeer is the gateway's half of a WireGuard configuration, a RegisterResult's gateway_data.
type WireGuardPeer struct {
	PublicKey [32]byte
	IPv4      netip.Addr // the client's address in the tunnel; zero: none
	IPv6      netip.Addr
	Endpoint  string // host:port, at most MaxEndpoint bytes
}

// OK reports whether the registration stands.
func (m *RegisterResult) OK() bool { return m.Code == CodeOK }

// Append appends the message to dst.
func (m *RegisterResult) Append(dst []byte) []byte {
	return m.AppendCBOR(binary.LittleEndian.AppendUint32(dst, m.RequestID))
}

// AppendCBOR appends the message without its request id to dst.
func (m *RegisterResult) AppendCBOR(dst []byte) []byte {
	n := 2
	for _, present := range [...]bool{len(m.Error) > 0, len(m.Tickets) > 0, m.ExpiresAt != 0, m.Peer != nil, m.Remaining != Unlimited} {
		if present {
			n++
		}
	}
	dst = appendHead(dst, cborMap, uint64(n))
	dst = appendUintField(dst, "code", uint64(m.Code))
	if len(m.Error) > 0 {
		var text [MaxDetail]byte
		dst = appendTextField(dst, "error", string(m.Error.append(text[:0])))
	}
	dst = appendText(dst, "success")
	if m.OK() {
		dst = append(dst, cborTrue)
	} else {
		dst = append(dst, cborFalse)
	}
	if len(m.Tickets) > 0 {
		dst = appendHead(appendText(dst, "tickets"), cborArray, uint64(len(m.Tickets)))
		for i := range m.Tickets {
			dst = m.Tickets[i].append(dst)
		}
	}
	if m.ExpiresAt != 0 {
		dst = appendUintField(dst, "expires_at", m.ExpiresAt)
	}
	if m.Peer != nil {
		dst = m.Peer.append(appendText(dst, "gateway_data"))
	}
	if m.Remaining != Unlimited {
		dst = appendUintField(dst, "remaining_bandwidth", min(m.Remaining, math.MaxInt64))
	}
	return dst
}

func (o *TicketOffer) append(dst []byte) []byte {
	dst = appendHead(dst, cborMap, 5)
	dst = appendUintField(dst, "bytes", o.Bytes)
	dst = appendTextField(dst, "issuer", o.Issuer)
	dst = appendUintField(dst, "seconds", o.Seconds)
	dst = appendTextField(dst, "ticket_type", o.Type.String())
	return appendBytesField(dst, "token_key_id", o.TokenKeyID[:])
}

func (p *WireGuardPeer) append(dst []byte) []byte {
	n := 2
	for _, a := range [...]netip.Addr{p.IPv4, p.IPv6} {
		if a.IsValid() {
			n++
		}
	}
	dst = appendHead(dst, cborMap, uint64(n))
	dst = appendTextField(dst, "endpoint", p.Endpoint)
	dst = appendBytesField(dst, "public_key", p.PublicKey[:])
	if p.IPv4.IsValid() {
		dst = appendTextField(dst, "private_ipv4", p.IPv4.String())
	}
	if p.IPv6.IsValid() {
		dst = appendTextField(dst, "private_ipv6", p.IPv6.String())
	}
	return dst
}

// ParseRegisterResult parses a reassembled RegisterResult. It allocates only after the CBOR is checked,
// and at most MaxTickets offers. Errors: those of ParseRegister but ErrRequestID.
func ParseRegisterResult(message []byte) (RegisterResult, error) {
	id, err := requestID(message)
	if err == nil {
		err = checkCBOR(message[4:])
	}
	if err != nil {
		return RegisterResult{}, err
	}
	m := RegisterResult{RequestID: id, Remaining: Unlimited}
	var hasCode, hasSuccess, success bool
	n, items := cborItem(message[4:]).open()
	for range n {
		var key, v cborItem
		key, items = items.next()
		v, items = items.next()
		switch string(key.content()) {
		case "success":
			success, hasSuccess = v[0] == cborTrue, v[0] == cborTrue || v[0] == cborFalse
		case "code":
			var code uint64
			err = v.uint(&code, math.MaxUint8)
			m.Code, hasCode = RegisterCode(code), true
		case "error":
			var text []byte
			err = v.string(cborText, &text, MaxDetail)
			m.Error = bytes.Clone(text)
		case "remaining_bandwidth":
			err = v.uint(&m.Remaining, math.MaxInt64)
		case "expires_at":
			err = v.uint(&m.ExpiresAt, math.MaxInt64)
		case "tickets":
			m.Tickets, err = parseTickets(v)
		case "gateway_data":
			m.Peer, err = parseWireGuardPeer(v)
		}
		if err != nil {
			return RegisterResult{}, err
		}
	}
	if !hasCode || !hasSuccess || success != m.OK() {
		return RegisterResult{}, ErrRegisterField
	}
	return m, nil
}

func parseTickets(v cborItem) ([]TicketOffer, error) {
	n, items := v.open()
	if !v.is(cborArray) || n > MaxTickets {
		return nil, ErrRegisterField
	}
	if n == 0 {
		return nil, nil
	}
	offers := make([]TicketOffer, n)
	for i := range offers {
		var item cborItem
		item, items = items.next()
		if err := offers[i].parse(item); err != nil {
			return nil, err
		}
	}
	return offers, nil
}

func (o *TicketOffer) parse(v cborItem) error {
	if !v.is(cborMap) {
		return ErrRegisterField
	}
	n, items := v.open()
	found := 0
	for range n {
		var key cborItem
		key, items = items.next()
		v, items = items.next()
		var b []byte
		var err error
		found++
		switch string(key.content()) {
		case "ticket_type":
			err = v.string(cborText, &b, maxName)
			o.Type = ticketTypeNamed(b)
		case "issuer":
			err = v.string(cborText, &b, MaxIssuer)
			if o.Issuer = string(b); !isHost(o.Issuer) {
				err = ErrRegisterField
			}
		case "token_key_id":
			err = v.fixed(&b, 32)
			copy(o.TokenKeyID[:], b)
		case "bytes":
			err = v.uint(&o.Bytes, math.MaxInt64)
		case "seconds":
			err = v.uint(&o.Seconds, math.MaxInt64)
		default:
			found--
		}
		if err != nil {
			return err
		}
	}
	if found != 5 {
		return ErrRegisterField
	}
	return nil
}

func parseWireGuardPeer(v cborItem) (*WireGuardPeer, error) {
	if !v.is(cborMap) {
		return nil, ErrRegisterField
	}
	n, items := v.open()
	p := new(WireGuardPeer)
	found := 0
	for range n {
		var key cborItem
		key, items = items.next()
		v, items = items.next()
		var b []byte
		var err error
		switch string(key.content()) {
		case "public_key":
			err = v.fixed(&b, 32)
			copy(p.PublicKey[:], b)
			found++
		case "endpoint":
			err = v.string(cborText, &b, MaxEndpoint)
			p.Endpoint = string(b)
			if host, _, found := cutPort(p.Endpoint); !found || !isHost(host) {
				err = ErrRegisterField // it goes into a file of another program
			}
			found++
		case "private_ipv4":
			err = v.addr(&p.IPv4, netip.Addr.Is4)
		case "private_ipv6":
			err = v.addr(&p.IPv6, netip.Addr.Is6)
		}
		if err != nil {
			return nil, err
		}
	}
	if found != 2 {
		return nil, ErrRegisterField
	}
	return p, nil
}

// isHost reports whether s is a host name or an IP address, IPv6 in brackets, with or without a port.
func isHost(s string) bool {
	if host, _, found := cutPort(s); found {
		s = host
	}
	if in, found := strings.CutPrefix(s, "["); found {
		in, found = strings.CutSuffix(in, "]")
		a, err := netip.ParseAddr(in)
		return found && err == nil && a.Is6() && a.Zone() == ""
	}
	a, err := netip.ParseAddr(s)
	return err == nil && a.Is4() || err != nil && IsHostName([]byte(s))
}

// cutPort cuts a decimal port, 1 to 65535, off the end of s.
func cutPort(s string) (host string, port uint16, found bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return s, 0, false
	}
	n, err := strconv.ParseUint(s[i+1:], 10, 16)
	return s[:i], uint16(n), err == nil && n > 0
}

// addr sets to to an address in text, without zone, of the family that is reports.
func (v cborItem) addr(to *netip.Addr, is func(netip.Addr) bool) error {
	var b []byte
	if err := v.string(cborText, &b, 45); err != nil {
		return err
	}
	a, err := netip.ParseAddr(string(b))
	if err != nil || !is(a) || a.Is4In6() || a.Zone() != "" {
		return ErrRegisterField
	}
	*to = a
	return nil
}
