package wire

import "encoding/binary"

// FinalAckSize is the size of a FinalAck's content.
const FinalAckSize = 12

// AckFlags are the flags of a FinalAck. Receivers ignore bits that they do not
// know.
type AckFlags uint16

// AckRegistrationRequired: the gateway carries flows only after registration.
const AckRegistrationRequired AckFlags = 1 << 0

// FinalAck is the Ack that ends a handshake (section 5) or a subsession
// (section 7): type Ack, at LevelTransport.
//
//	idle_ttl_s u32 · rekey_after_s u32 · max_datagram u16 · flags u16
type FinalAck struct {
	IdleTTLSeconds    uint32
	RekeyAfterSeconds uint32
	MaxDatagram       uint16 // the largest packet that the gateway takes over UDP
	Flags             AckFlags
}

// Append appends the content to dst.
func (m *FinalAck) Append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, m.IdleTTLSeconds)
	dst = binary.LittleEndian.AppendUint32(dst, m.RekeyAfterSeconds)
	dst = binary.LittleEndian.AppendUint16(dst, m.MaxDatagram)
	return binary.LittleEndian.AppendUint16(dst, uint16(m.Flags))
}

// ParseFinalAck reads the content of an Ack that came at LevelTransport.
// Errors: ErrShort, ErrTrailing.
func ParseFinalAck(content []byte) (FinalAck, error) {
	if err := fixed(content, FinalAckSize); err != nil {
		return FinalAck{}, err
	}
	return FinalAck{
		IdleTTLSeconds:    binary.LittleEndian.Uint32(content),
		RekeyAfterSeconds: binary.LittleEndian.Uint32(content[4:]),
		MaxDatagram:       binary.LittleEndian.Uint16(content[8:]),
		Flags:             AckFlags(binary.LittleEndian.Uint16(content[10:])),
	}, nil
}
