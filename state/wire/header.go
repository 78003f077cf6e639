package wire

import "encoding/binary"

// Version is the protocol version at the start of every body.
const Version = 2

// Sizes in bytes, sections 1 and 4.
const (
	HeaderSize  = 12 // receiver_idx, counter
	PrefixSize  = 6  // version, reserved, type
	TrailerSize = 16 // AEAD tag or MAC1

	// Overhead is the size of a packet without its content.
	Overhead = HeaderSize + PrefixSize + TrailerSize
	// MinPacket is the size of a packet with empty content.
	MinPacket = Overhead
	// MaxUDPPacket and MaxTCPPacket are the largest packets of each transport.
	MaxUDPPacket = 1500
	MaxTCPPacket = 65535
	// MaxHandshakeDatagram is the maximum size of their datagrams.
	MaxHandshakeDatagram = 1080
	// MinHelloDatagram is the padded size of ClientHello and KKTRequest over UDP; a
	// gateway drops shorter ones.
	MinHelloDatagram = 1000
)

// Level is the protection level in the two high bits of a packet's counter.
type Level uint8

// The protection levels of section 1. Level 3 is reserved.
const (
	LevelTransport Level = 0 // sealed with a transport key
	LevelHandshake Level = 1 // sealed with a handshake key
	LevelClear     Level = 2 // unencrypted, the trailer is MAC1
)

var levels = names{
	LevelTransport: "transport",
	LevelHandshake: "handshake",
	LevelClear:     "clear",
}

func (l Level) String() string { return levels.of("level", uint8(l)) }

const sequenceBits = 62

// MaxSequence is the largest sequence number of a counter. A session ends long
// before it (section 6).
const MaxSequence = 1<<sequenceBits - 1

// Counter combines a level and a sequence number of at most MaxSequence into the header's counter.
func Counter(l Level, seq uint64) uint64 {
	return uint64(l)<<sequenceBits | seq&MaxSequence
}

// Header is a packet's outer header.
//
//	receiver_idx u32 · counter u64 (level in bits 63..62, sequence below)
type Header struct {
	ReceiverIdx uint32 // 0 in a ClientHello only
	Level       Level
	Sequence    uint64 // to be ignored at LevelClear
}

// ParseHeader parses the outer header of packet p. It rejects a packet shorter than
// MinPacket (ErrShort), longer than MaxTCPPacket (ErrLong), of the reserved level
// (ErrLevel), or of LevelHandshake with a sequence (ErrSequence).
func ParseHeader(p []byte) (Header, error) {
	if len(p) < MinPacket {
		return Header{}, ErrShort
	}
	if len(p) > MaxTCPPacket {
		return Header{}, ErrLong
	}
	counter := binary.LittleEndian.Uint64(p[4:12])
	if counter>>sequenceBits > uint64(LevelClear) {
		return Header{}, ErrLevel
	}
	h := Header{
		ReceiverIdx: binary.LittleEndian.Uint32(p),
		Level:       Level(counter >> sequenceBits),
		Sequence:    counter & MaxSequence,
	}
	if h.Level == LevelHandshake && h.Sequence != 0 {
		return Header{}, ErrSequence
	}
	return h, nil
}

// Allows reports whether a packet with header h may contain a message of type t in
// direction d: Type.Allowed, and index 0 exactly with a ClientHello.
func (h Header) Allows(t Type, d Direction) bool {
	return t.Allowed(h.Level, d) && (h.ReceiverIdx == 0) == (t == TypeClientHello)
}

// helloIdxOffset is the offset of a ClientHello's attempt index, the first field of its content.
const helloIdxOffset = HeaderSize + PrefixSize

// ReceiverIdx returns the index that packet p is routed by: that of the header, or if it is 0 (a
// ClientHello) the attempt index in the hello. It reads nothing else, so that it always agrees with
// a steering program in the kernel. It returns false for a packet shorter than MinPacket.
func ReceiverIdx(p []byte) (uint32, bool) {
	if len(p) < MinPacket {
		return 0, false
	}
	idx := binary.LittleEndian.Uint32(p)
	if idx == 0 {
		idx = binary.LittleEndian.Uint32(p[helloIdxOffset:])
	}
	return idx, true
}

// Begin appends a packet's header and its body's prefix, 18 bytes, to dst. The content follows,
// then Finish. seq is at most MaxSequence, and 0 at LevelHandshake and LevelClear.
func Begin(dst []byte, idx uint32, l Level, seq uint64, t Type) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, idx)
	dst = binary.LittleEndian.AppendUint64(dst, Counter(l, seq))
	return append(dst, Version, 0, 0, 0, byte(t), byte(t>>8))
}

// Pad appends zeros until the packet that begins at dst[start] will have at least
// size bytes after Finish.
func Pad(dst []byte, start, size int) []byte {
	n := start + size - TrailerSize - len(dst)
	if n <= 0 {
		return dst
	}
	return append(dst, make([]byte, n)...)
}

// Finish appends 16 zero bytes for the trailer, the AEAD tag or MAC1.
func Finish(dst []byte) []byte {
	var trailer [TrailerSize]byte
	return append(dst, trailer[:]...)
}

// Body returns the body between header and trailer of packet p, or nil for a packet
// shorter than MinPacket. It aliases p.
func Body(p []byte) []byte {
	if len(p) < MinPacket {
		return nil
	}
	end := len(p) - TrailerSize
	return p[HeaderSize:end:end]
}

// ParseBody parses the prefix of a clear or opened body. The content aliases body.
//
// It rejects a body shorter than its prefix (ErrShort), another version
// (ErrVersion) and non-zero reserved bytes (ErrReserved). With ErrVersion it still
// returns type and content, because a ClientHello of another version is answered.
func ParseBody(body []byte) (t Type, content []byte, err error) {
	if len(body) < PrefixSize {
		return 0, nil, ErrShort
	}
	t = Type(binary.LittleEndian.Uint16(body[4:]))
	content = body[PrefixSize:len(body):len(body)]
	if body[0] != Version {
		return t, content, ErrVersion
	}
	if body[1]|body[2]|body[3] != 0 {
		return 0, nil, ErrReserved
	}
	return t, content, nil
}

// zero reports whether all of b is zero.
func zero(b []byte) bool {
	var or uint64
	for len(b) >= 8 {
		or |= binary.LittleEndian.Uint64(b)
		b = b[8:]
	}
	for _, x := range b {
		or |= uint64(x)
	}
	return or == 0
}

// fixed rejects content that does not have exactly size bytes.
func fixed(content []byte, size int) error {
	if len(content) < size {
		return ErrShort
	}
	if len(content) > size {
		return ErrTrailing
	}
	return nil
}

// rest returns b after its first n bytes, with its capacity cut to its length, and
// nil if it is empty.
func rest(b []byte, n int) []byte {
	if len(b) <= n {
		return nil
	}
	return b[n:len(b):len(b)]
}

// Limits of parts, section 1.
const (
	// PartHeaderSize is the size of a part's header.
	PartHeaderSize = 5
	// MaxParts is the largest number of parts of a message.
	MaxParts = 4
	// MaxHandshakeMessage is the maximum size of a handshake or subsession message.
	MaxHandshakeMessage = 4 << 10
	// MaxRegisterMessage is the maximum size of a Register or RegisterResult.
	MaxRegisterMessage = 8 << 10
)

// Part is a part of a message of a type marked ◇, section 1. A message that fits one
// packet is part 0 of 1.
//
//	part u8 (index in the high four bits, count in the low) · message_id 4 · data
//
// Handshake 2 and 3 always have one part, since their level has only sequence 0.
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

// ParsePart parses a part; Data aliases content. Reassembly checks lengths and hash
// of a message's parts. Errors: ErrShort, also for a part without data, ErrPart, and
// ErrLong for a part longer than any message.
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

// ParseInner parses the fields of the packet inside a ForwardPacket that an entry gateway checks,
// section 8. It returns the packet's index and whether it is a ClientHello. A sealed packet shows
// only its header; a ClientHello its type and index, which every version has at the same offset.
//
// Errors: those of ParseHeader; ErrShort for a ClientHello that ends before its
// index; ErrBootstrap for a packet with index 0 that is not a clear ClientHello;
// ErrIndex for a ClientHello that requests index 0.
func ParseInner(p []byte) (idx uint32, hello bool, err error) {
	h, err := ParseHeader(p)
	if err != nil {
		return 0, false, err
	}
	if h.ReceiverIdx != 0 {
		return h.ReceiverIdx, false, nil
	}
	t, content, err := ParseBody(Body(p))
	if err != nil && err != ErrVersion || h.Level != LevelClear || t != TypeClientHello {
		return 0, false, ErrBootstrap
	}
	if len(content) < 4 {
		return 0, false, ErrShort
	}
	if idx = binary.LittleEndian.Uint32(content); idx == 0 {
		return 0, false, ErrIndex
	}
	return idx, true, nil
}
