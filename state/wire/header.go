package wire

import (
	"encoding/binary"
	"strconv"
)

// Version is the protocol version that every body begins with.
const Version = 2

// Sizes in bytes, sections 1 and 4.
const (
	HeaderSize  = 12 // receiver_idx, counter
	PrefixSize  = 6  // version, reserved, type
	TrailerSize = 16 // AEAD tag or MAC1

	// Overhead is what a packet adds to its content.
	Overhead = HeaderSize + PrefixSize + TrailerSize
	// MinPacket is the size of a packet with empty content.
	MinPacket = Overhead
	// MaxUDPPacket and MaxTCPPacket are the largest packets of each transport.
	MaxUDPPacket = 1500
	MaxTCPPacket = 65535
	// MaxHandshakeDatagram bounds every datagram of a handshake or subsession.
	MaxHandshakeDatagram = 1080
	// MinHelloDatagram is what ClientHello and KKTRequest are padded to over
	// UDP; a gateway drops shorter ones.
	MinHelloDatagram = 1000
)

// Level is the protection level in the two high bits of a packet's counter.
type Level uint8

// The protection levels of section 1. Level 3 is reserved.
const (
	LevelTransport Level = 0 // sealed with a transport key
	LevelHandshake Level = 1 // sealed with a handshake key
	LevelClear     Level = 2 // in clear, the trailer is MAC1
)

func (l Level) String() string {
	switch l {
	case LevelTransport:
		return "transport"
	case LevelHandshake:
		return "handshake"
	case LevelClear:
		return "clear"
	}
	return "level " + strconv.Itoa(int(l))
}

const sequenceBits = 62

// MaxSequence is the largest sequence number that a counter can hold. A session
// ends long before it (section 6).
const MaxSequence = 1<<sequenceBits - 1

// Counter joins a level and a sequence number, which is at most MaxSequence,
// into the header's counter.
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

// ParseHeader reads the outer header of packet p. It refuses a packet that is
// shorter than MinPacket (ErrShort), longer than MaxTCPPacket (ErrLong), of the
// reserved level (ErrLevel), or of LevelHandshake with a sequence (ErrSequence).
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

// Allows reports whether a packet with header h may bear a message of type t in
// direction d: Type.Allowed, and index 0 with a ClientHello, another index with
// everything else.
func (h Header) Allows(t Type, d Direction) bool {
	return t.Allowed(h.Level, d) && (h.ReceiverIdx == 0) == (t == TypeClientHello)
}

// helloIdxOffset is where a ClientHello has its receiver_index: the first field
// of its content.
const helloIdxOffset = HeaderSize + PrefixSize

// ReceiverIdx returns the index that packet p is to be routed by: the header's,
// or where that is 0 (a ClientHello) the one that the hello asks for. It looks
// at nothing else, so that it always agrees with a steering program in the
// kernel. It reports false for a packet shorter than MinPacket.
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

// Begin appends a packet's header and its body's prefix, 18 bytes, to dst. The
// content comes next, then Finish. seq is at most MaxSequence, and 0 at
// LevelHandshake and LevelClear.
func Begin(dst []byte, idx uint32, l Level, seq uint64, t Type) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, idx)
	dst = binary.LittleEndian.AppendUint64(dst, Counter(l, seq))
	return append(dst, Version, 0, 0, 0, byte(t), byte(t>>8))
}

// Pad appends as many zeros as the packet that begins at dst[start] needs to be
// size bytes long once Finish has added its trailer. A packet that is already
// that long is left as it is.
func Pad(dst []byte, start, size int) []byte {
	n := start + size - TrailerSize - len(dst)
	if n <= 0 {
		return dst
	}
	return append(dst, make([]byte, n)...)
}

// Finish appends the room for a packet's trailer: 16 zero bytes, to be
// overwritten by the AEAD tag or MAC1.
func Finish(dst []byte) []byte {
	var trailer [TrailerSize]byte
	return append(dst, trailer[:]...)
}

// Body returns what lies between header and trailer of packet p, or nil for a
// packet shorter than MinPacket. It aliases p.
func Body(p []byte) []byte {
	if len(p) < MinPacket {
		return nil
	}
	end := len(p) - TrailerSize
	return p[HeaderSize:end:end]
}

// ParseBody reads the prefix of a body, without trailer, that was clear or has
// been opened. The content aliases body.
//
// It refuses a body shorter than its prefix (ErrShort), another version
// (ErrVersion) and reserved bytes that are not zero (ErrReserved). With
// ErrVersion the type and content are returned as they stand, because a
// ClientHello of another version gets an answer.
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

// empty is what the parsers of messages without content do.
func empty(content []byte) error {
	if len(content) != 0 {
		return ErrTrailing
	}
	return nil
}

// fixed refuses content that is not exactly size bytes long.
func fixed(content []byte, size int) error {
	if len(content) < size {
		return ErrShort
	}
	if len(content) > size {
		return ErrTrailing
	}
	return nil
}

// rest returns what follows the first n bytes of b, with its capacity cut to
// its length, and nil where nothing follows.
func rest(b []byte, n int) []byte {
	if len(b) <= n {
		return nil
	}
	return b[n:len(b):len(b)]
}
