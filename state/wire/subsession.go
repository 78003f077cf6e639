package wire

import "encoding/binary"

// Sizes in bytes of the reassembled messages of a subsession, section 7. The Noise messages contain
// an ephemeral key, the payload (an ML-KEM-768 public key or ciphertext) and a tag.
const (
	SubsessionKK1Size = 4 + 32 + 1184 + 16
	SubsessionKK2Size = 8 + 32 + 1088 + 16
)

// SubsessionKK1 is the client's half of a subsession's key exchange, section 7. It is
// a reassembled message.
//
//	generation u32 · Noise message 1
type SubsessionKK1 struct {
	Generation uint32 // of the new keys
	Noise      []byte
}

// Append appends the message to dst.
func (m *SubsessionKK1) Append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, m.Generation)
	return append(dst, m.Noise...)
}

// ParseSubsessionKK1 parses a reassembled message; Noise aliases it. Errors: ErrShort, ErrTrailing.
func ParseSubsessionKK1(message []byte) (SubsessionKK1, error) {
	if err := fixed(message, SubsessionKK1Size); err != nil {
		return SubsessionKK1{}, err
	}
	return SubsessionKK1{binary.LittleEndian.Uint32(message), rest(message, 4)}, nil
}

// SubsessionKK2 is the gateway's half of a subsession's key exchange, section 7. It
// is a reassembled message.
//
//	generation u32 · new_receiver_idx u32 · Noise message 2
type SubsessionKK2 struct {
	Generation     uint32
	NewReceiverIdx uint32 // the child's index, never 0
	Noise          []byte
}

// Append appends the message to dst.
func (m *SubsessionKK2) Append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, m.Generation)
	dst = binary.LittleEndian.AppendUint32(dst, m.NewReceiverIdx)
	return append(dst, m.Noise...)
}

// ParseSubsessionKK2 parses a reassembled message; Noise aliases it. Errors: ErrShort,
// ErrTrailing, ErrIndex.
func ParseSubsessionKK2(message []byte) (SubsessionKK2, error) {
	if err := fixed(message, SubsessionKK2Size); err != nil {
		return SubsessionKK2{}, err
	}
	m := SubsessionKK2{
		Generation:     binary.LittleEndian.Uint32(message),
		NewReceiverIdx: binary.LittleEndian.Uint32(message[4:]),
		Noise:          rest(message, 8),
	}
	if m.NewReceiverIdx == 0 {
		return SubsessionKK2{}, ErrIndex
	}
	return m, nil
}

// SubsessionReady is the first packet on the new keys, section 7.
//
//	generation u32
type SubsessionReady struct {
	Generation uint32
}

// Append appends the content to dst.
func (m *SubsessionReady) Append(dst []byte) []byte {
	return binary.LittleEndian.AppendUint32(dst, m.Generation)
}

// ParseSubsessionReady parses the content of a SubsessionReady. Errors: ErrShort, ErrTrailing.
func ParseSubsessionReady(content []byte) (SubsessionReady, error) {
	if err := fixed(content, 4); err != nil {
		return SubsessionReady{}, err
	}
	return SubsessionReady{binary.LittleEndian.Uint32(content)}, nil
}

// AbortReason is the reason why a subsession is rejected, section 2.
type AbortReason uint8

// The reasons of a SubsessionAbort. Receivers keep unknown reasons.
const (
	AbortIndexCollision AbortReason = 1
	AbortNotNow         AbortReason = 2
)

var abortReasons = names{
	AbortIndexCollision: "the new receiver index is taken",
	AbortNotNow:         "not now",
}

func (r AbortReason) String() string { return abortReasons.of("reason", uint8(r)) }

// SubsessionAbort rejects a subsession or its proposed index, section 7.
//
//	generation u32 · reason u8 · new_receiver_idx u32
type SubsessionAbort struct {
	Generation     uint32
	Reason         AbortReason
	NewReceiverIdx uint32 // the rejected index; 0 if unknown, never with AbortIndexCollision
}

// Append appends the content to dst.
func (m *SubsessionAbort) Append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, m.Generation)
	dst = append(dst, byte(m.Reason))
	return binary.LittleEndian.AppendUint32(dst, m.NewReceiverIdx)
}

// ParseSubsessionAbort parses the content of a SubsessionAbort. Errors: ErrShort,
// ErrTrailing, ErrIndex.
func ParseSubsessionAbort(content []byte) (SubsessionAbort, error) {
	if err := fixed(content, 9); err != nil {
		return SubsessionAbort{}, err
	}
	m := SubsessionAbort{
		Generation:     binary.LittleEndian.Uint32(content),
		Reason:         AbortReason(content[4]),
		NewReceiverIdx: binary.LittleEndian.Uint32(content[5:]),
	}
	if m.Reason == AbortIndexCollision && m.NewReceiverIdx == 0 {
		return SubsessionAbort{}, ErrIndex
	}
	return m, nil
}
