//go:build linux

package load

import (
	"net/netip"
	"sync/atomic"

	"lewes/crypto/identity"
	"lewes/crypto/seal"
	"lewes/state"
	"lewes/state/wire"
)

// Overhead is the length of a packet minus that of its payload, in bytes.
const Overhead = wire.Overhead + wire.FlowHeaderSize

// content is the offset of the payload in a packet.
const content = wire.HeaderSize + wire.PrefixSize + wire.FlowHeaderSize

// Flow turns payloads into packets. It is not safe for concurrent use.
type Flow interface {
	// Overhead is the length of a packet minus that of its payload.
	Overhead() int
	// Build writes the packet of payload into packet, which has the right length.
	Build(packet, payload []byte) error
	// Opening returns the packet that opens the flow to a target and carries payload.
	Opening(target netip.AddrPort, payload []byte) ([]byte, error)
}

// Plain sends payloads without packets.
type Plain struct{}

// Overhead is 0.
func (Plain) Overhead() int { return 0 }

// Build copies the payload.
func (Plain) Build(packet, payload []byte) error {
	copy(packet, payload)
	return nil
}

// Opening returns the payload.
func (Plain) Opening(_ netip.AddrPort, payload []byte) ([]byte, error) { return payload, nil }

// Sealed makes packets like those of a session, with a key that both ends were given.
type Sealed struct {
	key *seal.Key
	seq atomic.Uint64
}

// NewSealed returns a flow with a key.
func NewSealed(s seal.Suite, key *[seal.KeySize]byte) *Sealed {
	return &Sealed{key: seal.NewKey(s, key)}
}

// Overhead is that of a session's packets.
func (*Sealed) Overhead() int { return Overhead }

// sealedIndex is the receiver index of Sealed packets.
const sealedIndex = 0x5ea1ed

// Build writes and seals the packet.
func (f *Sealed) Build(packet, payload []byte) error {
	SealPayload(f.key, packet, f.seq.Add(1), payload)
	return nil
}

// Opening returns a packet like every other.
func (f *Sealed) Opening(_ netip.AddrPort, payload []byte) ([]byte, error) {
	packet := make([]byte, len(payload)+Overhead)
	return packet, f.Build(packet, payload)
}

// sessionFlow is a flow of a session.
type sessionFlow struct {
	session *state.Session
	id      uint16
}

func (f sessionFlow) Overhead() int { return Overhead }

func (f sessionFlow) Build(packet, payload []byte) error {
	b := wire.Begin(packet[:0], 0, wire.LevelTransport, 0, wire.TypeEncryptedData)
	copy(append(b, byte(f.id), byte(f.id>>8), 0)[content:len(packet)], payload)
	return f.session.Sender().Seal(packet)
}

func (f sessionFlow) Opening(target netip.AddrPort, payload []byte) ([]byte, error) {
	m := wire.EncryptedData{FlowID: f.id, Flags: wire.FlagTarget, Target: wire.AddrTarget(target), Payload: payload}
	packet := wire.Finish(m.Append(wire.Begin(nil, 0, wire.LevelTransport, 0, wire.TypeEncryptedData)))
	return packet, f.session.Sender().Seal(packet)
}

// chainedFlow is a flow of a session with an exit through a session with an entry.
type chainedFlow struct {
	entry *state.Session
	exit  identity.PublicKey
	inner sessionFlow
}

// forwardFlow is the flow id for the exit in a session with the entry.
const forwardFlow = 1

func (f chainedFlow) Overhead() int { return 2 * Overhead }

func (f chainedFlow) Build(packet, payload []byte) error {
	b := wire.Begin(packet[:0], 0, wire.LevelTransport, 0, wire.TypeForwardPacket)
	b = append(b, forwardFlow, 0, 0)
	if err := f.inner.Build(packet[len(b):len(packet)-wire.TrailerSize], payload); err != nil {
		return err
	}
	return f.entry.Sender().Seal(packet)
}

func (f chainedFlow) Opening(target netip.AddrPort, payload []byte) ([]byte, error) {
	inner, err := f.inner.Opening(target, payload)
	if err != nil {
		return nil, err
	}
	return forward(f.entry, f.exit, inner)
}

// forward returns the packet that carries an inner one through an entry. It names the exit, so it
// may be the first.
func forward(entry *state.Session, exit identity.PublicKey, inner []byte) ([]byte, error) {
	m := wire.ForwardPacket{FlowID: forwardFlow, Flags: wire.FlagIdentity, Identity: exit, Inner: inner}
	packet := wire.Finish(m.Append(wire.Begin(nil, 0, wire.LevelTransport, 0, wire.TypeForwardPacket)))
	return packet, entry.Sender().Seal(packet)
}

// PayloadIn returns the payload in the body of an opened packet of Sealed.
func PayloadIn(body []byte) []byte {
	if len(body) < wire.PrefixSize+wire.FlowHeaderSize {
		return nil
	}
	return body[wire.PrefixSize+wire.FlowHeaderSize:]
}

// SealPayload writes the packet of payload to the beginning of buffer and returns it.
func SealPayload(key *seal.Key, buffer []byte, seq uint64, payload []byte) []byte {
	packet := buffer[:len(payload)+Overhead]
	b := wire.Begin(packet[:0], sealedIndex, wire.LevelTransport, seq, wire.TypeEncryptedData)
	copy(append(b, 0, 0, 0)[content:len(packet)], payload)
	key.Seal(packet) // cannot fail with this length and a key that is never erased
	return packet
}
