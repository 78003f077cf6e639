package wire

import (
	"encoding/binary"
	"strconv"
)

// Sizes in bytes of the whole messages that make a subsession's keys, section 7:
// the Noise messages have an ephemeral key, the payload (an ML-KEM-768 public
// key, a ciphertext) and a tag.
const (
	SubsessionKK1Size = 4 + 32 + 1184 + 16
	SubsessionKK2Size = 8 + 32 + 1088 + 16
)

// SubsessionRequest asks the client to start a subsession, section 7. It has no
// content.
type SubsessionRequest struct{}

// Append appends the content, which is empty, to dst.
func (*SubsessionRequest) Append(dst []byte) []byte { return dst }

// ParseSubsessionRequest refuses content (ErrTrailing).
func ParseSubsessionRequest(content []byte) (SubsessionRequest, error) {
	return SubsessionRequest{}, empty(content)
}

// SubsessionKK1 is the client's half of a subsession's key exchange, section 7:
// a whole message, its parts joined.
//
//	generation u32 · Noise message 1
type SubsessionKK1 struct {
	Generation uint32 // of the keys that are being made
	Noise      []byte
}

// Append appends the message to dst.
func (m *SubsessionKK1) Append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, m.Generation)
	return append(dst, m.Noise...)
}

// ParseSubsessionKK1 reads a whole message; Noise aliases it. Errors: ErrShort,
// ErrTrailing.
func ParseSubsessionKK1(message []byte) (SubsessionKK1, error) {
	if err := fixed(message, SubsessionKK1Size); err != nil {
		return SubsessionKK1{}, err
	}
	return SubsessionKK1{binary.LittleEndian.Uint32(message), rest(message, 4)}, nil
}

// SubsessionKK2 is the gateway's half of a subsession's key exchange, section 7:
// a whole message, its parts joined.
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

// ParseSubsessionKK2 reads a whole message; Noise aliases it. Errors: ErrShort,
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

// ParseSubsessionReady reads the content of a SubsessionReady. Errors: ErrShort,
// ErrTrailing.
func ParseSubsessionReady(content []byte) (SubsessionReady, error) {
	if err := fixed(content, 4); err != nil {
		return SubsessionReady{}, err
	}
	return SubsessionReady{binary.LittleEndian.Uint32(content)}, nil
}

// AbortReason says why a subsession is not made as it was proposed, section 2.
type AbortReason uint8

// The reasons of a SubsessionAbort. Receivers keep a reason that they do not
// know.
const (
	AbortIndexCollision AbortReason = 1
	AbortNotNow         AbortReason = 2
)

func (r AbortReason) String() string {
	switch r {
	case AbortIndexCollision:
		return "the new receiver index is taken"
	case AbortNotNow:
		return "not now"
	}
	return "reason " + strconv.Itoa(int(r))
}

// SubsessionAbort refuses a subsession or the index proposed for it, section 7.
//
//	generation u32 · reason u8 · new_receiver_idx u32
type SubsessionAbort struct {
	Generation     uint32
	Reason         AbortReason
	NewReceiverIdx uint32 // the refused index; 0 where none is known, and never with AbortIndexCollision
}

// Append appends the content to dst.
func (m *SubsessionAbort) Append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, m.Generation)
	dst = append(dst, byte(m.Reason))
	return binary.LittleEndian.AppendUint32(dst, m.NewReceiverIdx)
}

// ParseSubsessionAbort reads the content of a SubsessionAbort. Errors: ErrShort,
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
