package load

import (
	"net/netip"
	"sync/atomic"

	"lewes/crypto/identity"
	"lewes/crypto/seal"
	"lewes/state"
	"lewes/state/wire"
)

// Overhead is what a payload's packet has more than the payload, in bytes.
const Overhead = wire.Overhead + wire.FlowHeaderSize

// content is where a flow's payload begins in its packet.
const content = wire.HeaderSize + wire.PrefixSize + wire.FlowHeaderSize

// Lane turns payloads into packets. One goroutine uses it.
type Lane interface {
	// Overhead is what the packet has more than the payload.
	Overhead() int
	// Build writes the packet of payload into packet, which is as long as it has
	// to be.
	Build(packet, payload []byte) error
	// Opening returns a packet that opens the lane's flow to a target and carries
	// payload.
	Opening(target netip.AddrPort, payload []byte) ([]byte, error)
}

// Plain sends payloads as they are.
type Plain struct{}

// Overhead is 0.
func (Plain) Overhead() int { return 0 }

// Build copies.
func (Plain) Build(packet, payload []byte) error {
	copy(packet, payload)
	return nil
}

// Opening is the payload: there is nothing to open.
func (Plain) Opening(_ netip.AddrPort, payload []byte) ([]byte, error) { return payload, nil }

// Sealed makes the packets of a session that nobody made: its key is agreed before.
type Sealed struct {
	key *seal.Key
	seq atomic.Uint64
}

// NewSealed returns a lane with a key.
func NewSealed(s seal.Suite, key *[seal.KeySize]byte) *Sealed {
	return &Sealed{key: seal.NewKey(s, key)}
}

// Overhead is that of a session's packets.
func (*Sealed) Overhead() int { return Overhead }

// sealedIndex is the receiver index of packets that belong to no session.
const sealedIndex = 0x5ea1ed

// Build lays the packet out as a session does, and seals it.
func (l *Sealed) Build(packet, payload []byte) error {
	SealPayload(l.key, packet, l.seq.Add(1), payload)
	return nil
}

// Opening is a packet like every other.
func (l *Sealed) Opening(_ netip.AddrPort, payload []byte) ([]byte, error) {
	packet := make([]byte, len(payload)+Overhead)
	return packet, l.Build(packet, payload)
}

// flowLane is a flow of a session.
type flowLane struct {
	session *state.Session
	flow    uint16
}

func (l flowLane) Overhead() int { return Overhead }

func (l flowLane) Build(packet, payload []byte) error {
	b := wire.Begin(packet[:0], 0, wire.LevelTransport, 0, wire.TypeEncryptedData)
	copy(append(b, byte(l.flow), byte(l.flow>>8), 0)[content:len(packet)], payload)
	return l.session.Sender().Seal(packet)
}

func (l flowLane) Opening(target netip.AddrPort, payload []byte) ([]byte, error) {
	m := wire.EncryptedData{FlowID: l.flow, Flags: wire.FlagTarget, Target: wire.AddrTarget(target), Payload: payload}
	packet := wire.Finish(m.Append(wire.Begin(nil, 0, wire.LevelTransport, 0, wire.TypeEncryptedData)))
	return packet, l.session.Sender().Seal(packet)
}

// forwardLane is a flow of a session with an exit, which goes through a session with an
// entry.
type forwardLane struct {
	entry *state.Session
	exit  identity.PublicKey
	inner flowLane
}

// forwardFlow is the flow id of an entry's session that leads to the exit.
const forwardFlow = 1

func (l forwardLane) Overhead() int { return 2 * Overhead }

func (l forwardLane) Build(packet, payload []byte) error {
	b := wire.Begin(packet[:0], 0, wire.LevelTransport, 0, wire.TypeForwardPacket)
	b = append(b, forwardFlow, 0, 0)
	if err := l.inner.Build(packet[len(b):len(packet)-wire.TrailerSize], payload); err != nil {
		return err
	}
	return l.entry.Sender().Seal(packet)
}

func (l forwardLane) Opening(target netip.AddrPort, payload []byte) ([]byte, error) {
	inner, err := l.inner.Opening(target, payload)
	if err != nil {
		return nil, err
	}
	return forward(l.entry, l.exit, inner)
}

// forward returns the packet that carries an inner one through an entry; it names the exit,
// and so may be the first.
func forward(entry *state.Session, exit identity.PublicKey, inner []byte) ([]byte, error) {
	m := wire.ForwardPacket{FlowID: forwardFlow, Flags: wire.FlagIdentity, Identity: exit, Inner: inner}
	packet := wire.Finish(m.Append(wire.Begin(nil, 0, wire.LevelTransport, 0, wire.TypeForwardPacket)))
	return packet, entry.Sender().Seal(packet)
}

// PayloadIn returns the payload in the body of an opened packet, as Sealed lays it
// out.
func PayloadIn(body []byte) []byte {
	if len(body) < wire.PrefixSize+wire.FlowHeaderSize {
		return nil
	}
	return body[wire.PrefixSize+wire.FlowHeaderSize:]
}

// SealPayload writes a sealed lane's packet of payload to the front of room, which has
// space for it, and returns it.
func SealPayload(key *seal.Key, room []byte, seq uint64, payload []byte) []byte {
	packet := room[:len(payload)+Overhead]
	b := wire.Begin(packet[:0], sealedIndex, wire.LevelTransport, seq, wire.TypeEncryptedData)
	copy(append(b, 0, 0, 0)[content:len(packet)], payload)
	key.Seal(packet) // a packet of that length and a key that nobody wipes: it cannot fail
	return packet
}
