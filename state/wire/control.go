package wire

import (
	"encoding/binary"
	"strconv"
)

const (
	// PingDataSize is the size of the opaque bytes in Ping and Pong.
	PingDataSize = 8
	// MinPingPacket is the size of the smallest packet with a Ping: it is longer
	// than the Pong, and long enough to be answered by a Reset.
	MinPingPacket = 64

	minPingContent = MinPingPacket - Overhead
)

// Ping asks for a Pong: keepalive, round trip, path validation (section 6) and,
// padded to the size in question, the path's MTU.
//
//	8 opaque bytes · zero padding, at least up to MinPingPacket
type Ping struct {
	Data [PingDataSize]byte
}

// Append appends the content to dst, with the padding that every Ping has. Pad
// makes it longer.
func (m *Ping) Append(dst []byte) []byte {
	dst = append(dst, m.Data[:]...)
	return append(dst, make([]byte, minPingContent-PingDataSize)...)
}

// ParsePing reads the content of a Ping. Errors: ErrShort, ErrPadding.
func ParsePing(content []byte) (Ping, error) {
	if len(content) < minPingContent {
		return Ping{}, ErrShort
	}
	if !zero(content[PingDataSize:]) {
		return Ping{}, ErrPadding
	}
	return Ping{[PingDataSize]byte(content)}, nil
}

// Pong brings a Ping's bytes back.
//
//	8 opaque bytes
type Pong struct {
	Data [PingDataSize]byte
}

// Append appends the content to dst.
func (m *Pong) Append(dst []byte) []byte { return append(dst, m.Data[:]...) }

// ParsePong reads the content of a Pong. Errors: ErrShort, ErrTrailing.
func ParsePong(content []byte) (Pong, error) {
	if err := fixed(content, PingDataSize); err != nil {
		return Pong{}, err
	}
	return Pong{[PingDataSize]byte(content)}, nil
}

// CloseReason says why a session ends, section 2.
type CloseReason uint8

// The reasons of a Close. A reason that the receiver does not know closes as
// well.
const (
	CloseDone          CloseReason = 0
	CloseShuttingDown  CloseReason = 1
	CloseBound         CloseReason = 2
	CloseInternalError CloseReason = 3
)

func (r CloseReason) String() string {
	switch r {
	case CloseDone:
		return "done"
	case CloseShuttingDown:
		return "shutting down"
	case CloseBound:
		return "a bound was reached"
	case CloseInternalError:
		return "internal error"
	}
	return "reason " + strconv.Itoa(int(r))
}

// Close ends a session for both ends at once, section 11.
//
//	reason u8 · detail
type Close struct {
	Reason CloseReason
	Detail Detail // at most MaxDetail bytes; Append cuts more
}

// Append appends the content to dst.
func (m *Close) Append(dst []byte) []byte {
	return m.Detail.append(append(dst, byte(m.Reason)))
}

// ParseClose reads the content of a Close; Detail aliases it. Errors: ErrShort,
// ErrDetailLong, ErrDetailText.
func ParseClose(content []byte) (Close, error) {
	if len(content) < 1 {
		return Close{}, ErrShort
	}
	detail, err := parseDetail(rest(content, 1))
	if err != nil {
		return Close{}, err
	}
	return Close{CloseReason(content[0]), detail}, nil
}

// Poll asks, over TCP, for what waits for the session, section 10.
//
//	wait_ms u16
type Poll struct {
	WaitMillis uint16
}

// Append appends the content to dst.
func (m *Poll) Append(dst []byte) []byte {
	return binary.LittleEndian.AppendUint16(dst, m.WaitMillis)
}

// ParsePoll reads the content of a Poll. Errors: ErrShort, ErrTrailing.
func ParsePoll(content []byte) (Poll, error) {
	if err := fixed(content, 2); err != nil {
		return Poll{}, err
	}
	return Poll{binary.LittleEndian.Uint16(content)}, nil
}
