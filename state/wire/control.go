package wire

import (
	"encoding/binary"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// PingDataSize is the size of the opaque data in Ping and Pong.
	PingDataSize = 8
	// MinPingPacket is the minimum size of a packet with a Ping: longer than the Pong.
	MinPingPacket = 64

	minPingContent = MinPingPacket - Overhead
)

// Ping requests a Pong, for keepalives, RTT samples, path validation (section 6)
// and, padded, PMTU probes.
//
//	8 opaque bytes · zero padding, at least up to MinPingPacket
type Ping struct {
	Data [PingDataSize]byte
}

// Append appends the content to dst, with the minimum padding. Pad extends it.
func (m *Ping) Append(dst []byte) []byte {
	dst = append(dst, m.Data[:]...)
	return append(dst, make([]byte, minPingContent-PingDataSize)...)
}

// ParsePing parses the content of a Ping. Errors: ErrShort, ErrPadding.
func ParsePing(content []byte) (Ping, error) {
	if len(content) < minPingContent {
		return Ping{}, ErrShort
	}
	if !zero(content[PingDataSize:]) {
		return Ping{}, ErrPadding
	}
	return Ping{[PingDataSize]byte(content)}, nil
}

// Pong returns the data of a Ping.
//
//	8 opaque bytes
type Pong struct {
	Data [PingDataSize]byte
}

// Append appends the content to dst.
func (m *Pong) Append(dst []byte) []byte { return append(dst, m.Data[:]...) }

// ParsePong parses the content of a Pong. Errors: ErrShort, ErrTrailing.
func ParsePong(content []byte) (Pong, error) {
	if err := fixed(content, PingDataSize); err != nil {
		return Pong{}, err
	}
	return Pong{[PingDataSize]byte(content)}, nil
}

// CloseReason is the reason why a session ends, section 2.
type CloseReason uint8

// The reasons of a Close. An unknown reason closes as well.
const (
	CloseDone          CloseReason = 0
	CloseShuttingDown  CloseReason = 1
	CloseBound         CloseReason = 2
	CloseInternalError CloseReason = 3
)

var closeReasons = names{
	CloseDone:          "done",
	CloseShuttingDown:  "shutting down",
	CloseBound:         "a bound was reached",
	CloseInternalError: "internal error",
}

func (r CloseReason) String() string { return closeReasons.of("reason", uint8(r)) }

// Close ends a session for both ends, section 11.
//
//	reason u8 · detail
type Close struct {
	Reason CloseReason
	Detail Detail // at most MaxDetail bytes; Append truncates it
}

// Append appends the content to dst.
func (m *Close) Append(dst []byte) []byte {
	return m.Detail.append(append(dst, byte(m.Reason)))
}

// ParseClose parses the content of a Close; Detail aliases it. Errors: ErrShort,
// ErrDetailLong, ErrDetailText.
func ParseClose(content []byte) (Close, error) {
	detail, err := parseDetail(content, 1)
	if err != nil {
		return Close{}, err
	}
	return Close{CloseReason(content[0]), detail}, nil
}

// Poll requests, over TCP, the packets queued for the session, section 10.
//
//	wait_ms u16
type Poll struct {
	WaitMillis uint16
}

// Append appends the content to dst.
func (m *Poll) Append(dst []byte) []byte {
	return binary.LittleEndian.AppendUint16(dst, m.WaitMillis)
}

// ParsePoll parses the content of a Poll. Errors: ErrShort, ErrTrailing.
func ParsePoll(content []byte) (Poll, error) {
	if err := fixed(content, 2); err != nil {
		return Poll{}, err
	}
	return Poll{binary.LittleEndian.Uint16(content)}, nil
}

// FinalAckSize is the size of a FinalAck's content.
const FinalAckSize = 12

// AckFlags are the flags of a FinalAck. Receivers ignore unknown bits.
type AckFlags uint16

const (
	// AckRegistrationRequired means that flows need a registration first.
	AckRegistrationRequired AckFlags = 1 << 0
	// AckRegisters means that the gateway answers a Register. A client sends none without it.
	AckRegisters AckFlags = 1 << 1
)

// FinalAck is the Ack that ends a handshake (section 5) or a subsession
// (section 7): type Ack, at LevelTransport.
//
//	idle_ttl_s u32 · rekey_after_s u32 · max_datagram u16 · flags u16
type FinalAck struct {
	IdleTTLSeconds    uint32
	RekeyAfterSeconds uint32
	MaxDatagram       uint16 // the largest packet that the gateway accepts over UDP
	Flags             AckFlags
}

// Append appends the content to dst.
func (m *FinalAck) Append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, m.IdleTTLSeconds)
	dst = binary.LittleEndian.AppendUint32(dst, m.RekeyAfterSeconds)
	dst = binary.LittleEndian.AppendUint16(dst, m.MaxDatagram)
	return binary.LittleEndian.AppendUint16(dst, uint16(m.Flags))
}

// ParseFinalAck parses the content of an Ack at LevelTransport. Errors: ErrShort, ErrTrailing.
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

// MaxDetail is the maximum size of a Detail in bytes (section 2).
const MaxDetail = 120

// Detail is the human-readable UTF-8 text at the end of a Reject, FlowClosed or
// Close. The peer, or the forger of a Reject, controls it: print it with String.
type Detail []byte

// String returns the text with unprintable characters, such as terminal escapes and
// direction overrides, replaced by U+FFFD.
func (d Detail) String() string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return utf8.RuneError
	}, string(d))
}

// append appends d to dst, with invalid UTF-8 replaced by U+FFFD, and truncated at a
// character to MaxDetail bytes.
func (d Detail) append(dst []byte) []byte {
	end := len(dst) + MaxDetail
	for len(d) > 0 {
		r, n := utf8.DecodeRune(d)
		if len(dst)+utf8.RuneLen(r) > end {
			break
		}
		dst = utf8.AppendRune(dst, r)
		d = d[n:]
	}
	return dst
}

// parseDetail parses the detail behind the first n bytes of content.
func parseDetail(content []byte, n int) (Detail, error) {
	if len(content) < n {
		return nil, ErrShort
	}
	b := rest(content, n)
	if len(b) > MaxDetail {
		return nil, ErrDetailLong
	}
	if !utf8.Valid(b) {
		return nil, ErrDetailText
	}
	return b, nil
}
