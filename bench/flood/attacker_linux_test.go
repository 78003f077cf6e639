package flood

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"lewes/bench/measure"
	"lewes/bench/worker"
	"lewes/crypto/cookie"
	"lewes/crypto/identity"
	"lewes/crypto/kdf"
	"lewes/crypto/kem"
	"lewes/crypto/seal"
	"lewes/router/costs"
	"lewes/state/parts"
	"lewes/state/wire"
)

// attackerParams are the addresses and the identity of the gateway.
type attackerParams struct {
	Four, Six netip.AddrPort
	Identity  identity.PublicKey
	Exit      identity.PublicKey // in the gateway's directory
	Target    netip.Addr         // where the gateway sends to; the attacker has it
	// Own are addresses that the attacker has and gets answers at.
	Own []netip.Addr
}

// attack describes one flood.
type attack struct {
	Kind string        `json:"kind"`
	Rate float64       `json:"rate"` // datagrams, connections or handshakes a second
	For  time.Duration `json:"for"`
	Size int           `json:"size"` // of garbage
	// Spoiled replaces each packet by garbage, which costs the attacker as much and the
	// gateway as little as possible.
	Spoiled bool `json:"spoiled"`
}

// capture bounds a capture: number of datagrams, bytes kept of each, and time.
type capture struct {
	Datagrams int
	Segment   int
	For       time.Duration
}

// attacker floods a gateway. Its calls are "attack", "capture", and "prepare"
// before an attack with packets of a kind.
type attacker struct {
	attackerParams
	raw    *rawSocket
	mac    *cookie.MAC1Key
	random *rand.Rand
	seen   []*sniffed
	known  []sniffed // data of sessions
	index  uint32
	ready  *prepared
}

var attackerRole = worker.Start(func(_ context.Context, p attackerParams) (*worker.Service, error) {
	raw, err := openRaw()
	if err != nil {
		return nil, err
	}
	a := &attacker{attackerParams: p, raw: raw, mac: cookie.NewMAC1Key(p.Identity), random: rand.New(rand.NewPCG(1, 2))}
	return &worker.Service{Result: worker.None{}, Close: raw.close, Calls: map[string]worker.Handler{
		"attack":  worker.Method(a.attack),
		"capture": worker.Method(a.capture),
		"prepare": worker.Method(a.prepare),
	}}, nil
})

// capture records datagrams to the gateway.
func (a *attacker) capture(ctx context.Context, c capture) (int, error) {
	s, err := openSniffer(a.Four.Port())
	if err != nil {
		return 0, err
	}
	defer s.close()
	for end := time.Now().Add(c.For); len(a.seen) < c.Datagrams && time.Now().Before(end) && ctx.Err() == nil; {
		p := s.next(c.Segment)
		if p == nil {
			continue
		}
		a.seen = append(a.seen, p)
		if h, err := wire.ParseHeader(p.payload); err == nil && h.Level == wire.LevelTransport {
			a.known = append(a.known, *p)
		}
	}
	return len(a.seen), nil
}

// attack runs a flood and returns the number of packets sent.
func (a *attacker) attack(ctx context.Context, p attack) (measure.Sent, error) {
	if costs.Find(p.Kind) != nil {
		return a.ready.send(ctx, p)
	}
	makers := map[string]func() (from netip.AddrPort, payload []byte){
		"garbage":          a.garbage(p.Size),
		"spoofed hellos":   a.spoofedHellos,
		"spoofed parts":    a.spoofedParts(),
		"hellos":           a.hellos,
		"garbage, known":   a.garbageForKnown(p.Size),
		"garbage, unknown": a.garbageForUnknown(p.Size),
		"replays":          a.replays,
	}
	if manner := manners[p.Kind]; manner != nil {
		return a.connect(ctx, p, manner)
	}
	next := makers[p.Kind]
	if next == nil {
		return measure.Sent{}, fmt.Errorf("no attack %q", p.Kind)
	}
	return measure.Pacer{Rate: p.Rate, For: p.For, Most: 32}.Run(ctx, func(n int) (int, error) {
		for i := range n {
			from, payload := next()
			if p.Spoiled {
				payload = a.spoil(payload)
			}
			to := a.Four
			if from.Addr().Is6() {
				to = a.Six
			}
			if err := a.raw.send(from, to, payload); err != nil {
				return i, err
			}
		}
		return n, nil
	})
}

// spoofed returns one of a million sources, each in its own /64.
func (a *attacker) spoofed() netip.AddrPort {
	b := [16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 1}
	binary.BigEndian.PutUint32(b[4:], 0xa000_0000|a.random.Uint32N(1<<20))
	return netip.AddrPortFrom(netip.AddrFrom16(b), uint16(1024+a.random.IntN(60_000)))
}

// foreign returns one of a hundred IPv4 addresses that are not the attacker's.
func (a *attacker) foreign(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(128 + n)}), uint16(1024+a.random.IntN(60_000)))
}

// garbage returns packets of an undefined level, which the gateway drops first.
func (a *attacker) garbage(size int) func() (netip.AddrPort, []byte) {
	p := make([]byte, size)
	_, _ = crand.Read(p) // never fails
	p[11] = 0xff
	return func() (netip.AddrPort, []byte) { return a.spoofed(), p }
}

// spoil returns a copy of a packet with an undefined level.
func (a *attacker) spoil(payload []byte) []byte {
	p := bytes.Clone(payload)
	p[11] = 0xff
	return p
}

// hello makes a hello with a fresh index.
func (a *attacker) hello() []byte {
	a.index++
	commitment := kdf.Hash(binary.LittleEndian.AppendUint32(nil, a.index))
	return a.helloPacket(&wire.ClientHello{
		Attempt:   a.index,
		Salt:      wire.NewSalt(uint64(time.Now().Unix()), &commitment),
		AEADOffer: uint8(seal.ChaCha20Poly1305),
		KEM:       uint8(kem.MLKEM768),
	})
}

func (a *attacker) helloPacket(h *wire.ClientHello) []byte {
	p := h.Append(wire.Begin(nil, 0, wire.LevelClear, 0, wire.TypeClientHello))
	p = wire.Finish(wire.Pad(p, 0, wire.MinHelloDatagram))
	a.mac.Sum(p)
	return p
}

func (a *attacker) spoofedHellos() (netip.AddrPort, []byte) { return a.spoofed(), a.hello() }

// spoofedParts returns handshakes of one source after the other: a hello, and parts of Handshake 1 that
// join to nothing, as many as a gateway keeps.
func (a *attacker) spoofedParts() func() (netip.AddrPort, []byte) {
	var from netip.AddrPort
	n := 0
	return func() (netip.AddrPort, []byte) {
		if n++; n%5 == 1 {
			from = a.spoofed()
			return from, a.hello()
		}
		part := wire.Part{Index: uint8(n % 2), Count: 2, MessageID: [4]byte{9}, Data: make([]byte, parts.MaxData)}
		binary.LittleEndian.PutUint64(part.Data, uint64(n))
		p := wire.Finish(part.Append(wire.Begin(nil, a.index, wire.LevelClear, 0, wire.TypeHandshake)))
		a.mac.Sum(p)
		return from, p
	}
}

func (a *attacker) hellos() (netip.AddrPort, []byte) {
	return a.foreign(0), a.hello()
}

// garbageForKnown returns forgeries of the next data packets of existing sessions.
func (a *attacker) garbageForKnown(size int) func() (netip.AddrPort, []byte) {
	p := make([]byte, size)
	_, _ = crand.Read(p)
	return func() (netip.AddrPort, []byte) {
		of := a.known[a.random.IntN(len(a.known))]
		copy(p[:4], of.payload)
		seq := binary.LittleEndian.Uint64(of.payload[4:]) + 1<<24 + a.random.Uint64N(1<<30) // in no window yet
		binary.LittleEndian.PutUint64(p[4:], seq)
		return of.from, p
	}
}

func (a *attacker) garbageForUnknown(size int) func() (netip.AddrPort, []byte) {
	p := make([]byte, size)
	_, _ = crand.Read(p)
	return func() (netip.AddrPort, []byte) {
		binary.LittleEndian.PutUint32(p, a.random.Uint32())
		binary.LittleEndian.PutUint64(p[4:], a.random.Uint64N(1<<30))
		return a.foreign(a.random.IntN(100)), p
	}
}

// replays returns captured packets, from their source or from another one.
func (a *attacker) replays() (netip.AddrPort, []byte) {
	s := a.seen[a.random.IntN(len(a.seen))]
	if a.random.IntN(2) == 0 {
		return a.foreign(a.random.IntN(100)), s.payload
	}
	return s.from, s.payload
}
