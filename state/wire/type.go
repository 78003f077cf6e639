package wire

import (
	"errors"
	"fmt"
	"strconv"
)

// Type is a message's type, section 2.
type Type uint16

// The message types of section 2.
const (
	TypeBusy              Type = 0x0000
	TypeHandshake         Type = 0x0001
	TypeEncryptedData     Type = 0x0002
	TypeClientHello       Type = 0x0003
	TypeKKTRequest        Type = 0x0004
	TypeKKTResponse       Type = 0x0005
	TypeForwardPacket     Type = 0x0006
	TypeHeld              Type = 0x0007
	TypeAck               Type = 0x0008
	TypeSubsessionRequest Type = 0x0009
	TypeSubsessionKK1     Type = 0x000A
	TypeSubsessionKK2     Type = 0x000B
	TypeSubsessionReady   Type = 0x000C
	TypeSubsessionAbort   Type = 0x000D
	TypeFlowClosed        Type = 0x0010
	TypeRegister          Type = 0x0011
	TypeRegisterResult    Type = 0x0012
	TypePing              Type = 0x0013
	TypePong              Type = 0x0014
	TypeClose             Type = 0x0015
	TypeReject            Type = 0x0017
	TypePoll              Type = 0x0018
)

// Direction is the direction of a packet between the two ends of a session.
type Direction uint8

// The two directions.
const (
	ToGateway Direction = 0 // client to gateway, C→G
	ToClient  Direction = 1 // gateway to client, G→C
)

func (d Direction) String() string {
	if d == ToGateway {
		return "to gateway"
	}
	return "to client"
}

// Bits for each level and direction in which a type is allowed.
const (
	transportToGateway = 1 << (uint8(LevelTransport)*2 + uint8(ToGateway))
	transportToClient  = 1 << (uint8(LevelTransport)*2 + uint8(ToClient))
	handshakeToGateway = 1 << (uint8(LevelHandshake)*2 + uint8(ToGateway))
	handshakeToClient  = 1 << (uint8(LevelHandshake)*2 + uint8(ToClient))
	clearToGateway     = 1 << (uint8(LevelClear)*2 + uint8(ToGateway))
	clearToClient      = 1 << (uint8(LevelClear)*2 + uint8(ToClient))

	transportBoth = transportToGateway | transportToClient
)

// types is the table of section 2. Unknown types have no name.
var types = [...]struct {
	name    string
	allowed uint8
	parts   int // maximum size of a reassembled message; 0: no parts
}{
	TypeBusy: {"Busy", clearToClient, 0},
	// Handshake 1 is clear, 2 and 3 are sealed (section 5).
	TypeHandshake:         {"Handshake", clearToGateway | handshakeToGateway | handshakeToClient, MaxHandshakeMessage},
	TypeEncryptedData:     {"EncryptedData", transportBoth, 0},
	TypeClientHello:       {"ClientHello", clearToGateway, 0},
	TypeKKTRequest:        {"KKTRequest", clearToGateway, 0},
	TypeKKTResponse:       {"KKTResponse", clearToClient, MaxHandshakeMessage},
	TypeForwardPacket:     {"ForwardPacket", transportBoth, 0},
	TypeHeld:              {"Held", clearToClient, 0},
	TypeAck:               {"Ack", clearToClient | transportToClient, 0},
	TypeSubsessionRequest: {"SubsessionRequest", transportToClient, 0},
	TypeSubsessionKK1:     {"SubsessionKK1", transportToGateway, MaxHandshakeMessage},
	TypeSubsessionKK2:     {"SubsessionKK2", transportToClient, MaxHandshakeMessage},
	TypeSubsessionReady:   {"SubsessionReady", transportToGateway, 0},
	TypeSubsessionAbort:   {"SubsessionAbort", transportBoth, 0},
	TypeFlowClosed:        {"FlowClosed", transportBoth, 0},
	TypeRegister:          {"Register", transportToGateway, MaxRegisterMessage},
	TypeRegisterResult:    {"RegisterResult", transportToClient, MaxRegisterMessage},
	TypePing:              {"Ping", transportBoth, 0},
	TypePong:              {"Pong", transportBoth, 0},
	TypeClose:             {"Close", transportBoth, 0},
	TypeReject:            {"Reject", clearToClient, 0},
	TypePoll:              {"Poll", transportToGateway, 0},
}

// String returns the type's name in section 2, or its number.
func (t Type) String() string {
	if t.Known() {
		return types[t].name
	}
	return fmt.Sprintf("type 0x%04X", uint16(t))
}

// Known reports whether section 2 defines the type.
func (t Type) Known() bool {
	return int(t) < len(types) && types[t].name != ""
}

// Allowed reports whether a message of type t is allowed at level l in direction d, by the table of
// section 2 and, for the handshake messages, section 5. It is false for an unknown type.
// Header.Allows also checks the index; the caller checks that a Poll is received over TCP.
func (t Type) Allowed(l Level, d Direction) bool {
	if int(t) >= len(types) || l > LevelClear || d > ToClient {
		return false
	}
	return types[t].allowed>>(uint8(l)*2+uint8(d))&1 != 0
}

// MaxMessage returns the maximum size of a reassembled message of type t, and 0 for
// a type without a part header (those not marked ◇ in section 2).
func (t Type) MaxMessage() int {
	if int(t) >= len(types) {
		return 0
	}
	return types[t].parts
}

// Errors of the parsers. They are returned unwrapped. The caller counts the packet and drops it.
var (
	ErrShort        = errors.New("wire: too short for its type")
	ErrLong         = errors.New("wire: longer than the protocol allows")
	ErrTrailing     = errors.New("wire: bytes after the end of the message")
	ErrPadding      = errors.New("wire: padding is not zero")
	ErrReserved     = errors.New("wire: reserved field is not zero")
	ErrLevel        = errors.New("wire: reserved protection level")
	ErrSequence     = errors.New("wire: handshake packet with a sequence other than zero")
	ErrVersion      = errors.New("wire: not protocol version 2")
	ErrIndex        = errors.New("wire: receiver index is zero")
	ErrBootstrap    = errors.New("wire: receiver index zero, but no clear ClientHello")
	ErrCookieLength = errors.New("wire: cookie is neither 0 nor 16 bytes long")
	ErrPart         = errors.New("wire: part index or count out of range")
	ErrFlags        = errors.New("wire: unknown or contradicting flow flags")
	ErrTargetKind   = errors.New("wire: unknown kind of target")
	ErrMapped       = errors.New("wire: IPv4-mapped IPv6 address as a target")
	ErrName         = errors.New("wire: target name is not a host name")
	ErrPort         = errors.New("wire: target port is zero")
	ErrRequestID    = errors.New("wire: request id is zero")
	ErrDetailLong   = errors.New("wire: detail is longer than 120 bytes")
	ErrDetailText   = errors.New("wire: detail is not UTF-8")
	// The errors of a Register and of its result. The caller answers a Register with a request id.
	ErrCBOR          = errors.New("wire: not CBOR as section 9 allows it")
	ErrCBORBound     = errors.New("wire: CBOR with too many keys or too deep")
	ErrDuplicateKey  = errors.New("wire: duplicate key in a CBOR map")
	ErrRegisterField = errors.New("wire: registration field is missing or invalid")
)

// names maps small numbers to texts.
type names []string

// of returns the text of n, or kind and n if there is none.
func (list names) of(kind string, n uint8) string {
	if int(n) < len(list) && list[n] != "" {
		return list[n]
	}
	return kind + " " + strconv.Itoa(int(n))
}
