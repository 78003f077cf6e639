package wire

// Bounds of parts, section 1.
const (
	// PartHeaderSize is the size of a part's header.
	PartHeaderSize = 5
	// MaxParts is the largest number of parts of a message.
	MaxParts = 4
	// MaxHandshakeMessage bounds a whole handshake or subsession message.
	MaxHandshakeMessage = 4 << 10
	// MaxRegisterMessage bounds a whole Register or RegisterResult.
	MaxRegisterMessage = 8 << 10
)

// Part is one part of a message of a type marked ◇, section 1. A message that
// fits its packet is one part, index 0 of 1.
//
//	part u8 (index in the high four bits, count in the low) · message_id 4 · data
//
// Handshake 2 and 3 are always one part, since sequence 0 is all that their
// level has.
type Part struct {
	Index     uint8   // below Count
	Count     uint8   // 1 to MaxParts
	MessageID [4]byte // the first bytes of the whole message's BLAKE3
	Data      []byte  // not empty
}

// Append appends the part's header and data to dst.
func (m *Part) Append(dst []byte) []byte {
	dst = append(dst, m.Index<<4|m.Count&0x0F)
	dst = append(dst, m.MessageID[:]...)
	return append(dst, m.Data...)
}

// ParsePart reads one part; Data aliases content. That the parts of a message
// are equally long but for the last, and that their hash is right, is for
// whoever joins them to check. Errors: ErrShort (a part without data, too),
// ErrPart, and ErrLong for a part longer than any message.
func ParsePart(content []byte) (Part, error) {
	if len(content) <= PartHeaderSize {
		return Part{}, ErrShort
	}
	if len(content) > PartHeaderSize+MaxRegisterMessage {
		return Part{}, ErrLong
	}
	index, count := content[0]>>4, content[0]&0x0F
	if count < 1 || count > MaxParts || index >= count {
		return Part{}, ErrPart
	}
	return Part{index, count, [4]byte(content[1:]), rest(content, PartHeaderSize)}, nil
}
