package wire

import "errors"

// What a parser refuses, and why. All of them mean: count it, drop the packet,
// change nothing.
var (
	// ErrShort: fewer bytes than the layout needs.
	ErrShort = errors.New("wire: too short for its type")
	// ErrLong: more bytes than any packet or message of that kind may have.
	ErrLong = errors.New("wire: longer than the protocol allows")
	// ErrTrailing: bytes after the end of a message that has a fixed size.
	ErrTrailing = errors.New("wire: bytes after the end of the message")
	// ErrPadding: padding that is not all zeros.
	ErrPadding = errors.New("wire: padding is not zero")
	// ErrReserved: a reserved field that is not zero.
	ErrReserved = errors.New("wire: reserved field is not zero")
	// ErrLevel: protection level 3.
	ErrLevel = errors.New("wire: reserved protection level")
	// ErrSequence: a sequence other than 0 at LevelHandshake.
	ErrSequence = errors.New("wire: handshake packet with a sequence other than zero")
	// ErrVersion: a protocol version other than Version.
	ErrVersion = errors.New("wire: not protocol version 2")
	// ErrIndex: a receiver index 0 where a session's index belongs.
	ErrIndex = errors.New("wire: receiver index is zero")
	// ErrBootstrap: a packet with receiver index 0 that is no clear ClientHello.
	ErrBootstrap = errors.New("wire: receiver index zero, but no clear ClientHello")
	// ErrCookieLength: a cookie of neither 0 nor 16 bytes.
	ErrCookieLength = errors.New("wire: cookie is neither 0 nor 16 bytes long")
	// ErrPart: a part count outside 1 to 4, or a part's index not below it.
	ErrPart = errors.New("wire: part index or count out of range")
	// ErrFlags: flow flags that are unknown, or that contradict each other.
	ErrFlags = errors.New("wire: unknown or contradicting flow flags")
	// ErrTargetKind: a target kind other than 3, 4 and 6.
	ErrTargetKind = errors.New("wire: unknown kind of target")
	// ErrMapped: an IPv4 address written as an IPv6 one.
	ErrMapped = errors.New("wire: IPv4-mapped IPv6 address as a target")
	// ErrName: a target name that is no host name.
	ErrName = errors.New("wire: target name is not a host name")
	// ErrPort: port 0.
	ErrPort = errors.New("wire: target port is zero")
	// ErrRequestID: a Register with the request id that is kept for results
	// nobody asked for.
	ErrRequestID = errors.New("wire: request id is zero")
	// ErrDetailLong: a detail of more than MaxDetail bytes.
	ErrDetailLong = errors.New("wire: detail is longer than 120 bytes")
	// ErrDetailText: a detail that is not UTF-8.
	ErrDetailText = errors.New("wire: detail is not UTF-8")
)
