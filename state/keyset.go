package state

import (
	"encoding/binary"
	"errors"
	"sync/atomic"
	"time"

	"lewes/crypto/seal"
	"lewes/state/path"
	"lewes/state/replay"
	"lewes/state/snapshot"
	"lewes/state/wire"
)

const (
	// MaxPackets is the number of packets that one key may seal (section 6). A
	// client rekeys long before.
	MaxPackets = 1 << 34
	// maxDemoted bounds the demoted key sets of a session.
	maxDemoted = 4
	// maxDemotedAge is the longest life of a demoted key set, in demoted TTLs: whoever has stolen
	// its keys must not prolong it without end.
	maxDemotedAge = 3
)

// KeySet holds the keys of one generation of a session and its receiver index: generation 0 comes
// from the handshake, each later one from a rekey. Only the session's owner uses it.
type KeySet struct {
	session *Session
	number  uint32
	index   uint32
	sender  *Sender
	receive *seal.Key
	binding [32]byte

	window     replay.Window
	failed     uint64    // packets that failed to open
	since      time.Time // when it became current or, demoted, when its child was proved
	lastOpened time.Time
	readOnly   bool // demoted: opens, does not seal
}

func newKeySet(s *Session, number, index uint32, keys *transportKeys) *KeySet {
	send, receive := &keys.c2g, &keys.g2c
	if s.role == RoleGateway {
		send, receive = receive, send
	}
	return &KeySet{
		session: s,
		number:  number,
		index:   index,
		sender:  &Sender{index: index, key: seal.NewKey(s.suite, send)},
		receive: seal.NewKey(s.suite, receive),
		binding: keys.binding,
	}
}

// Prefetch touches the fields that Open reads first, to pull them into cache. Ignore the result.
func (k *KeySet) Prefetch() uint64 {
	n := k.failed + uint64(k.session.suite) + uint64(k.session.compactAt.Nanosecond())
	if k.receive.IsExpanded() {
		n++
	}
	return n
}

// Session returns the session that the key set belongs to.
func (k *KeySet) Session() *Session { return k.session }

// Number returns the generation, counted from 0.
func (k *KeySet) Number() uint32 { return k.number }

// Index returns the receiver index that names the key set.
func (k *KeySet) Index() uint32 { return k.index }

// Open opens a level-0 packet for the key set's index in place. It checks the replay window,
// decrypts, marks the sequence number, and updates the session (peer path, proof of a child). It
// returns the message's type and its content, which aliases packet. The caller passes all messages
// but those of flows and registrations to Session.Control.
//
// Errors are those of state/replay, seal.ErrOpen, those of wire.ParseBody, ErrWrongLevel and
// ErrUnexpectedMessage. A packet that fails authentication changes nothing but the failure count.
func (k *KeySet) Open(now time.Time, packet []byte, from path.Path, out *Output) (wire.Type, []byte, error) {
	h, err := wire.ParseHeader(packet)
	if err != nil {
		return 0, nil, err
	}
	return k.OpenParsed(now, h, packet, from, out)
}

// OpenParsed is Open for a packet whose header the caller has parsed.
func (k *KeySet) OpenParsed(now time.Time, h wire.Header, packet []byte, from path.Path, out *Output) (wire.Type, []byte, error) {
	if h.Level != wire.LevelTransport || h.ReceiverIdx != k.index {
		return 0, nil, ErrWrongLevel
	}
	if err := k.window.Check(h.Sequence); err != nil {
		return 0, nil, err
	}
	body, err := k.receive.Open(packet)
	if err != nil {
		k.failed++
		k.session.watchKeys(now)
		return 0, nil, err
	}
	k.window.Mark(h.Sequence)
	k.session.opened(now, k, h.Sequence, from, len(packet), out)
	t, content, err := wire.ParseBody(body)
	if err != nil {
		return 0, nil, err
	}
	if !t.Allowed(wire.LevelTransport, k.session.role.receives()) {
		return 0, nil, ErrUnexpectedMessage
	}
	return t, content, nil
}

// Demoted reports whether a child has replaced the keys. Packets that they open must not open or end
// anything of the session (section 7).
func (k *KeySet) Demoted() bool { return k.readOnly }

// removeAt returns when a demoted key set is removed.
func (k *KeySet) removeAt() time.Time {
	ttl := k.session.config.demotedTTL()
	return earliest(k.lastOpened.Add(ttl), k.since.Add(maxDemotedAge*ttl))
}

// needsRekey reports whether the keys have processed limit packets.
func (k *KeySet) needsRekey(limit uint64) bool {
	return k.sender.Sealed() >= limit || k.failed >= limit
}

// exhausted reports whether the keys must not be used any more.
func (k *KeySet) exhausted() bool {
	return k.sender.Sealed() >= MaxPackets || k.failed >= MaxPackets
}

// compact frees the memory that only a session in use needs.
func (k *KeySet) compact() {
	k.window.Compact()
	k.sender.key.Compact()
	k.receive.Compact()
}

func (k *KeySet) wipe() {
	k.sender.key.Wipe()
	k.receive.Wipe()
	clear(k.binding[:])
}

// keySetMinSize is a lower bound of an encoded key set.
const keySetMinSize = 100

// snapshot writes or reads a gateway's key set. Decoding advances the sequence by skipAhead.
func (k *KeySet) snapshot(c *snapshot.Codec, s *Session) {
	var keys transportKeys
	var next uint64
	defer keys.wipe()
	if !c.Decoding() {
		next = k.sender.stopped()
		k.sender.key.Secret(&keys.g2c)
		k.receive.Secret(&keys.c2g)
		keys.binding = k.binding
	}
	c.Uint32(&k.number)
	c.Uint32(&k.index)
	c.Uint64(&next)
	c.Check(k.index != 0 && next <= 2*MaxPackets, "key set of index %d that sealed %d packets", k.index, next)
	c.Fixed(keys.g2c[:])
	c.Fixed(keys.c2g[:])
	c.Fixed(keys.binding[:])
	if c.Decoding() {
		*k = *newKeySet(s, k.number, k.index, &keys)
		k.sender.next.Store(next + skipAhead)
	}
	k.window.Snapshot(c)
	c.Uint64(&k.failed)
	c.Time(&k.since)
	c.Time(&k.lastOpened)
	c.Bool(&k.readOnly)
}

// IsReplay reports whether err comes from the replay window.
func IsReplay(err error) bool {
	return errors.Is(err, replay.ErrReplay) || errors.Is(err, replay.ErrTooOld)
}

// keyRing holds the key sets of a session.
type keyRing struct {
	current *KeySet
	demoted []*KeySet              // oldest first
	sender  atomic.Pointer[Sender] // of current; read by any goroutine
}

// use makes k the current key set.
func (r *keyRing) use(k *KeySet) {
	r.current = k
	r.sender.Store(k.sender)
}

// promote makes child the current key set and demotes the last one. It returns the
// oldest demoted key set if there are too many.
func (r *keyRing) promote(now time.Time, child *KeySet) (evicted *KeySet) {
	parent := r.current
	parent.readOnly, parent.since, parent.lastOpened = true, now, now
	r.demoted = append(r.demoted, parent)
	if len(r.demoted) > maxDemoted {
		evicted = r.demoted[0]
		r.demoted = append(r.demoted[:0], r.demoted[1:]...)
	}
	child.since = now
	r.use(child)
	return evicted
}

// Sender is the sealing half of a key set. It is safe for concurrent use: its only
// mutable state is an atomic sequence number.
type Sender struct {
	index uint32
	key   *seal.Key
	next  atomic.Uint64
}

// Index returns the receiver index in the Sender's packets.
func (s *Sender) Index() uint32 { return s.index }

// Sealed returns the number of packets sealed so far.
func (s *Sender) Sealed() uint64 { return s.next.Load() }

// Seal writes the header of packet, which has room for header, body and trailer,
// and seals it in place with the next sequence number. It fails with ErrExhausted
// when the key has sealed MaxPackets, and with ErrClosed when the key is wiped.
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

// freeze makes every Seal fail until thaw, including those in progress in other
// goroutines. A Seal that took its number before freeze uses that number; later ones
// advance next without sealing, so stopped never returns a number that was used.
func (s *Sender) freeze() { s.next.Or(frozenBit) }

// thaw undoes freeze.
func (s *Sender) thaw() { s.next.And(^uint64(frozenBit)) }

func (s *Sender) frozen() bool { return s.next.Load()&frozenBit != 0 }

// stopped returns the next sequence number of a frozen Sender.
func (s *Sender) stopped() uint64 { return s.next.Load() &^ frozenBit }
