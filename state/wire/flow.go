package wire

import "encoding/binary"

// FlowHeaderSize is the size of flow_id and flags at the start of every packet of a flow.
const FlowHeaderSize = 3

// FlowFlags are the flags of EncryptedData and ForwardPacket, section 8.
type FlowFlags uint8

// The flags of a flow's packets.
const (
	// FlagTarget: an EncryptedData contains a target.
	FlagTarget FlowFlags = 1 << 0
	// FlagEndpointIndependent: one public port, many targets. With FlagTarget only.
	FlagEndpointIndependent FlowFlags = 1 << 1
	// FlagReverse: the target is the port to listen on. With FlagTarget only, not
	// with FlagEndpointIndependent.
	FlagReverse FlowFlags = 1 << 2
	// FlagIdentity: a ForwardPacket contains the next gateway's identity.
	FlagIdentity FlowFlags = 1 << 0
)

// valid reports whether an EncryptedData may have the flags f.
func (f FlowFlags) valid() bool {
	switch f {
	case 0, FlagTarget, FlagTarget | FlagEndpointIndependent, FlagTarget | FlagReverse:
		return true
	}
	return false
}

// EncryptedData is a datagram of a flow, section 8.
//
//	flow_id u16 · flags u8 · [target if FlagTarget] · payload
type EncryptedData struct {
	FlowID  uint16
	Flags   FlowFlags
	Target  Target // with FlagTarget
	Payload []byte // may be empty
}

// Append appends the content to dst.
func (m *EncryptedData) Append(dst []byte) []byte {
	dst = append(dst, byte(m.FlowID), byte(m.FlowID>>8), byte(m.Flags))
	if m.Flags&FlagTarget != 0 {
		dst = m.Target.Append(dst)
	}
	return append(dst, m.Payload...)
}

// ParseEncryptedData parses the content of an EncryptedData; Payload and the
// target's name alias it. Errors: ErrShort, ErrFlags, and those of CutTarget.
func ParseEncryptedData(content []byte) (EncryptedData, error) {
	if len(content) < FlowHeaderSize {
		return EncryptedData{}, ErrShort
	}
	m := EncryptedData{
		FlowID:  binary.LittleEndian.Uint16(content),
		Flags:   FlowFlags(content[2]),
		Payload: content[FlowHeaderSize:len(content):len(content)],
	}
	if m.Flags == 0 {
		return m, nil
	}
	if !m.Flags.valid() {
		return EncryptedData{}, ErrFlags
	}
	var err error
	if m.Target, m.Payload, err = CutTarget(m.Payload); err != nil {
		return EncryptedData{}, err
	}
	return m, nil
}

// ForwardPacket carries a packet of a session with another gateway, section 8.
//
//	flow_id u16 · flags u8 · [32-byte gateway identity if FlagIdentity] · inner LP packet
type ForwardPacket struct {
	FlowID   uint16
	Flags    FlowFlags // 0 or FlagIdentity
	Identity [32]byte  // the next gateway's Ed25519 public key, with FlagIdentity
	Inner    []byte    // at least MinPacket bytes
}

// Append appends the content to dst.
func (m *ForwardPacket) Append(dst []byte) []byte {
	dst = append(dst, byte(m.FlowID), byte(m.FlowID>>8), byte(m.Flags))
	if m.Flags&FlagIdentity != 0 {
		dst = append(dst, m.Identity[:]...)
	}
	return append(dst, m.Inner...)
}

// ParseForwardPacket parses the content of a ForwardPacket; Inner aliases it.
// Errors: ErrFlags; ErrShort, also for an inner packet shorter than MinPacket.
func ParseForwardPacket(content []byte) (ForwardPacket, error) {
	if len(content) < FlowHeaderSize {
		return ForwardPacket{}, ErrShort
	}
	m := ForwardPacket{
		FlowID: binary.LittleEndian.Uint16(content),
		Flags:  FlowFlags(content[2]),
		Inner:  content[FlowHeaderSize:len(content):len(content)],
	}
	switch m.Flags {
	case 0:
	case FlagIdentity:
		if len(m.Inner) < len(m.Identity) {
			return ForwardPacket{}, ErrShort
		}
		m.Identity = [32]byte(m.Inner)
		m.Inner = m.Inner[len(m.Identity):]
	default:
		return ForwardPacket{}, ErrFlags
	}
	if len(m.Inner) < MinPacket {
		return ForwardPacket{}, ErrShort
	}
	return m, nil
}

// FlowReason is the reason why a flow is closed, section 2.
type FlowReason uint8

// The reasons of a FlowClosed. Receivers keep unknown reasons.
const (
	FlowPolicy         FlowReason = 1
	FlowUnreachable    FlowReason = 2
	FlowIdle           FlowReason = 3 // idle or unknown
	FlowBound          FlowReason = 4
	FlowOtherTarget    FlowReason = 5
	FlowIndexCollision FlowReason = 6
	FlowNotRegistered  FlowReason = 7
	FlowBandwidth      FlowReason = 8
	FlowSessionClosing FlowReason = 9
	FlowNameNotFound   FlowReason = 10
)

// DetailResolverTimeout is the Detail of a FlowNameNotFound because of a resolver
// timeout, as opposed to a name that does not exist.
const DetailResolverTimeout = "the gateway's resolver did not answer"

var flowReasons = names{
	FlowPolicy:         "not allowed by the gateway's policy",
	FlowUnreachable:    "unreachable",
	FlowIdle:           "idle, or not known",
	FlowBound:          "too many flows",
	FlowOtherTarget:    "the flow id already has another target",
	FlowIndexCollision: "the receiver index is taken",
	FlowNotRegistered:  "not registered",
	FlowBandwidth:      "bandwidth used up",
	FlowSessionClosing: "the session is closing",
	FlowNameNotFound:   "name not found",
}

func (r FlowReason) String() string { return flowReasons.of("reason", uint8(r)) }

// FlowClosed ends a flow, section 8.
//
//	flow_id u16 · reason u8 · detail
type FlowClosed struct {
	FlowID uint16
	Reason FlowReason
	Detail Detail // at most MaxDetail bytes; Append truncates it
}

// Append appends the content to dst.
func (m *FlowClosed) Append(dst []byte) []byte {
	dst = append(dst, byte(m.FlowID), byte(m.FlowID>>8), byte(m.Reason))
	return m.Detail.append(dst)
}

// ParseFlowClosed parses the content of a FlowClosed; Detail aliases it. Errors:
// ErrShort, ErrDetailLong, ErrDetailText.
func ParseFlowClosed(content []byte) (FlowClosed, error) {
	detail, err := parseDetail(content, 3)
	if err != nil {
		return FlowClosed{}, err
	}
	return FlowClosed{binary.LittleEndian.Uint16(content), FlowReason(content[2]), detail}, nil
}
