package state

import (
	"encoding/binary"
	"sync/atomic"

	"lewes/crypto/seal"
	"lewes/state/wire"
)

// MaxPackets is the number of packets that one key may seal (section 6). Long
// before it the client starts a subsession.
const MaxPackets = 1 << 34

// Sender is the sealing half of one generation's keys. It is safe for any number
// of goroutines: what changes is an atomic sequence.
type Sender struct {
	index uint32
	key   *seal.Key
	next  atomic.Uint64
}

// Index returns the receiver index that the Sender's packets bear.
func (s *Sender) Index() uint32 { return s.index }

// Sealed returns the number of packets sealed so far.
func (s *Sender) Sealed() uint64 { return s.next.Load() }

// Seal writes the header of packet, which has room for it, for the body and for
// the trailer, and seals it in place with the next sequence number. It fails
// with ErrExhausted when the key has sealed MaxPackets, and with ErrClosed when
// the key was wiped.
func (s *Sender) Seal(packet []byte) error {
	seq := s.next.Add(1) - 1
	if seq >= MaxPackets {
		return ErrExhausted
	}
	binary.LittleEndian.PutUint32(packet, s.index)
	binary.LittleEndian.PutUint64(packet[4:], wire.Counter(wire.LevelTransport, seq))
	if !s.key.Seal(packet) {
		return ErrClosed
	}
	return nil
}

// frozenBit in next, far above MaxPackets, makes every Seal fail.
const frozenBit = 1 << 62

// freeze makes every Seal fail until thaw, also those that other goroutines are
// about to do. None that counted before it is sealed after it, and those that come
// after it count without sealing: stopped is never a number that was sealed with.
func (s *Sender) freeze() { s.next.Or(frozenBit) }

// thaw undoes freeze.
func (s *Sender) thaw() { s.next.And(^uint64(frozenBit)) }

func (s *Sender) frozen() bool { return s.next.Load()&frozenBit != 0 }

// stopped returns the next sequence number of a frozen Sender.
func (s *Sender) stopped() uint64 { return s.next.Load() &^ frozenBit }
