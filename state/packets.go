package state

import (
	"lewes/crypto/cookie"
	"lewes/crypto/kem"
	"lewes/crypto/kkt"
	"lewes/crypto/noise"
	"lewes/crypto/psq"
	"lewes/state/parts"
	"lewes/state/path"
	"lewes/state/wire"
)

// Packet is an LP packet to send and its path. The receiver of the Packet owns Data.
type Packet struct {
	Data []byte
	Path path.Path
}

// Output collects the packets and events of calls. A caller reuses one for all calls and
// resets it after processing its contents.
type Output struct {
	Packets []Packet
	Events  []Event
}

// Reset empties the output and keeps its memory.
func (o *Output) Reset() {
	clear(o.Packets)
	clear(o.Events)
	o.Packets, o.Events = o.Packets[:0], o.Events[:0]
}

func (o *Output) send(to path.Path, packet []byte) {
	o.Packets = append(o.Packets, Packet{Data: packet, Path: to})
}

func (o *Output) event(e Event) { o.Events = append(o.Events, e) }

// EventKind is the kind of a session's Event.
type EventKind uint8

const (
	// IndexAdded: packets for Event.Index now belong to Event.KeySet.
	IndexAdded EventKind = iota + 1
	// IndexRemoved: Event.Index no longer names the session.
	IndexRemoved
	// Confirmed: the other end has the session's first keys, and the terms are known.
	Confirmed
	// Rekeyed: the session has switched to Event.KeySet.
	Rekeyed
	// Moved: the session sends to another path.
	Moved
	// PeerUnresponsive: a Ping was not answered in time.
	PeerUnresponsive
	// Closed: the session has ended for Event.Reason.
	Closed
	// KeepaliveSent: an idle client has sent a keepalive.
	KeepaliveSent
	// Registered: Event.Result answers the client's Register, or has request id 0 and is unasked.
	Registered
)

// Event reports a change of a session to its owner.
type Event struct {
	Kind    EventKind
	Session *Session
	KeySet  *KeySet
	Index   uint32
	Reason  error
	Result  *wire.RegisterResult
}

// message is implemented by all messages of state/wire.
type message interface{ Append(dst []byte) []byte }

// unsealed builds a packet whose trailer is still zero.
func unsealed(index uint32, level wire.Level, t wire.Type, m message) []byte {
	p := wire.Begin(make([]byte, 0, 128), index, level, 0, t)
	return wire.Finish(m.Append(p))
}

// clearPacket builds a packet in clear with its MAC1.
func clearPacket(mac *cookie.MAC1Key, index uint32, t wire.Type, m message) []byte {
	p := unsealed(index, wire.LevelClear, t, m)
	mac.Sum(p)
	return p
}

// padded is a message whose packet is padded with zeros to size bytes.
type padded struct {
	message
	size int
}

func (p padded) Append(dst []byte) []byte {
	start := len(dst) - wire.HeaderSize - wire.PrefixSize
	return wire.Pad(p.message.Append(dst), start, p.size)
}

// raw is encoded content.
type raw []byte

func (r raw) Append(dst []byte) []byte { return append(dst, r...) }

// parsePart parses a part of a message that has count parts in datagrams, each at most as long as
// in the longest datagram of a handshake, and one part over a stream.
func parsePart(content []byte, count int, stream bool) (wire.Part, error) {
	part, err := wire.ParsePart(content)
	switch {
	case err != nil:
		return part, err
	case stream && part.Count != 1, !stream && int(part.Count) != count:
		return part, wire.ErrPart
	case !stream && len(part.Data) > parts.MaxData:
		return part, wire.ErrLong
	}
	return part, nil
}

// handshake1Parts returns the number of parts of a Handshake 1 with a KEM.
func handshake1Parts(id kem.ID) int {
	return parts.Count(noise.Message1Overhead + psq.InitiatorMsgSize(id))
}

// kktResponseParts returns the number of parts of a KKTResponse with a KEM's key.
func kktResponseParts(id kem.ID) int { return parts.Count(kkt.ResponseSize(id)) }

// splitFor splits a handshake or subsession message for its transport: into datagrams
// over UDP, into one part over a stream.
func splitFor(message []byte, stream bool) []wire.Part {
	size := parts.MaxData
	if stream {
		size = wire.MaxTCPPacket
	}
	return parts.Split(message, size)
}
