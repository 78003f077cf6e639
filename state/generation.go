package state

import (
	"errors"
	"time"

	"lewes/crypto/seal"
	"lewes/state/path"
	"lewes/state/replay"
	"lewes/state/wire"
)

// Generation is one set of keys of a session with the receiver index that names
// it: generation 0 comes from the handshake, each later one from a subsession.
// Only the owner of the session uses it.
type KeySet struct {
	session *Session
	number  uint32
	index   uint32
	sender  *Sender
	receive *seal.Key
	binding [32]byte

	window     replay.Window
	failed     uint64    // packets that did not open
	started    time.Time // when it became the current one
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

// Foresee reads what the next packet of the generation needs first, so that it is in the
// processor's cache by then. What it returns says nothing.
func (g *KeySet) Prefetch() uint64 {
	n := g.failed + uint64(g.session.suite) + uint64(g.session.compactAt.Nanosecond())
	if g.receive.IsExpanded() {
		n++
	}
	return n
}

// Session returns the session that the generation belongs to.
func (g *KeySet) Session() *Session { return g.session }

// Number returns the generation's number, which counts from 0.
func (g *KeySet) Number() uint32 { return g.number }

// Index returns the receiver index that names the generation.
func (g *KeySet) Index() uint32 { return g.index }

// Open opens a packet of level 0 that bears the generation's index, in place: it
// checks the replay window, opens, marks, and then lets the session learn from
// it (where the peer is, that a child is proved). It returns the message's type
// and content, which aliases packet. The caller hands every message that is not
// of a flow or a registration on to Session.Control.
//
// Errors: those of state/replay, seal.ErrOpen, those of wire.ParseBody, ErrLevel,
// ErrMisplaced, ErrClosed. After an error before the tag held, nothing has
// changed but the count of failures.
func (g *KeySet) Open(now time.Time, packet []byte, from path.Path, out *Output) (wire.Type, []byte, error) {
	h, err := wire.ParseHeader(packet)
	if err != nil {
		return 0, nil, err
	}
	return g.OpenParsed(now, h, packet, from, out)
}

// OpenParsed is Open for a packet whose header the caller has parsed.
func (g *KeySet) OpenParsed(now time.Time, h wire.Header, packet []byte, from path.Path, out *Output) (wire.Type, []byte, error) {
	if h.Level != wire.LevelTransport || h.ReceiverIdx != g.index {
		return 0, nil, ErrWrongLevel
	}
	if err := g.window.Check(h.Sequence); err != nil {
		return 0, nil, err
	}
	body, err := g.receive.Open(packet)
	if err != nil {
		g.failed++
		g.session.watchKeys(now)
		return 0, nil, err
	}
	g.window.Mark(h.Sequence)
	s := g.session
	s.opened(now, g, h.Sequence, from, len(packet), out)
	t, content, err := wire.ParseBody(body)
	if err != nil {
		return 0, nil, err
	}
	if !t.Allowed(wire.LevelTransport, s.role.receives()) {
		return 0, nil, ErrUnexpectedMessage
	}
	return t, content, nil
}

// worn reports whether the keys have done so much that new ones are due.
func (g *KeySet) needsRekey(limit uint64) bool {
	return g.sender.Sealed() >= limit || g.failed >= limit
}

// spent reports whether the keys may not be used any more.
func (g *KeySet) exhausted() bool {
	return g.sender.Sealed() >= MaxPackets || g.failed >= MaxPackets
}

// rest gives back what only a session in use needs.
func (g *KeySet) compact() {
	g.window.Compact()
	g.sender.key.Compact()
	g.receive.Compact()
}

func (g *KeySet) wipe() {
	g.sender.key.Wipe()
	g.receive.Wipe()
	clear(g.binding[:])
}

// IsReplay reports whether err says that a packet was dropped by the replay
// window.
func IsReplay(err error) bool {
	return errors.Is(err, replay.ErrReplay) || errors.Is(err, replay.ErrTooOld)
}
