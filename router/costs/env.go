package costs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"time"

	"lewes/crypto/cookie"
	"lewes/crypto/identity"
	"lewes/crypto/kdf"
	"lewes/crypto/kem"
	"lewes/crypto/noise"
	"lewes/crypto/seal"
	"lewes/router/registrar"
	"lewes/state"
	"lewes/state/parts"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
)

// Env is a gateway with what its senders know of it. It is not safe for concurrent use.
type Env struct {
	Gateway identity.PublicKey
	Exit    identity.PublicKey // a gateway in the gateway's directory
	Trusted netip.Addr         // that gateway's address
	Target  netip.AddrPort     // where data packets go
	Open    netip.AddrPort     // where flows are opened to
	Denied  netip.AddrPort     // a target that the policy denies
	Host    string             // a name that the gateway looks up

	// Clients is the number of clients or half-open handshakes whose packets alternate, so that
	// the bounds of one do not refuse the packets.
	Clients int
	Rand    io.Reader
	Now     func() time.Time
	// Source returns the path from another address; nil: from any.
	Source func() path.Path
	// Exchange passes packets to the gateway and returns its answers.
	Exchange func(...transport.Packet) []transport.Packet

	sources uint32
	mac     *cookie.MAC1Key
	kem     []byte // the gateway's KEM key
	clients map[path.Path]*client
}

// BusyRegistrar returns one whose workers take no Register, so that the shard answers at once.
func BusyRegistrar() *registrar.Registrar {
	r := registrar.New(registrar.Config{Access: registrar.Open, Sealing: new([32]byte)})
	r.Close()
	return r
}

// Deliver passes answers of the gateway to the clients that they are for. Those with a session react
// to them.
func (e *Env) Deliver(answers ...transport.Packet) {
	for _, a := range answers {
		c := e.clients[a.Path]
		if c == nil {
			continue
		}
		reacts := c.session != nil && !c.silent
		c.handle(bytes.Clone(a.Data))
		if reacts {
			c.run()
		}
	}
}

// exchange passes packets to the gateway and delivers its answers, which it returns.
func (e *Env) exchange(packets ...transport.Packet) []transport.Packet {
	answers := e.Exchange(packets...)
	e.Deliver(answers...)
	return answers
}

// Close closes the sessions of all clients.
func (e *Env) Close() {
	for _, c := range e.clients {
		if c.session != nil {
			c.session.Close(wire.CloseDone, "", &c.out)
			e.Exchange(c.take()...)
		}
	}
}

// source returns the path from another address.
func (e *Env) source() path.Path {
	if e.Source != nil {
		return e.Source()
	}
	e.sources++
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], 203<<24|e.sources)
	return path.Path{Peer: netip.AddrPortFrom(netip.AddrFrom4(a), 1024)}
}

func (e *Env) random(n int) []byte {
	b := make([]byte, n)
	if _, err := io.ReadFull(e.Rand, b); err != nil {
		panic("costs: no randomness: " + err.Error())
	}
	return b
}

// sum returns a packet in clear, padded to size, with its MAC1.
func (e *Env) sum(index uint32, t wire.Type, m interface{ Append([]byte) []byte }, size int) []byte {
	if e.mac == nil {
		e.mac = cookie.NewMAC1Key(e.Gateway)
	}
	p := wire.Finish(wire.Pad(m.Append(wire.Begin(nil, index, wire.LevelClear, 0, t)), 0, size))
	e.mac.Sum(p)
	return p
}

// answer returns the type and content of the first answer in clear to a source, 0xffff if there is
// none.
func answer(to path.Path, packets []transport.Packet) (wire.Type, []byte) {
	for _, p := range packets {
		if p.Path != to {
			continue
		}
		if h, err := wire.ParseHeader(p.Data); err == nil && h.Level == wire.LevelClear {
			if t, content, err := wire.ParseBody(wire.Body(p.Data)); err == nil {
				return t, content
			}
		}
	}
	return 0xffff, nil
}

// attempt is a handshake of a stranger, from its hello on.
type attempt struct {
	e         *Env
	at        path.Path
	hello     wire.ClientHello
	ephemeral noise.KeyPair
}

// attempt returns one whose hello was not sent. It does not exchange the KEM key.
func (e *Env) attempt(at path.Path) *attempt {
	ephemeral, err := noise.GenerateKeyPair(e.Rand)
	if err != nil {
		panic("costs: no randomness: " + err.Error())
	}
	commitment := kdf.Hash(ephemeral.Public[:])
	return &attempt{e: e, at: at, ephemeral: ephemeral, hello: wire.ClientHello{
		Attempt:   binary.LittleEndian.Uint32(e.random(4)) | 1,
		Salt:      wire.NewSalt(uint64(e.Now().Unix()), &commitment),
		AEADOffer: uint8(seal.ChaCha20Poly1305),
		KEM:       uint8(kem.MLKEM768),
		KEMKeyID:  kem.KeyID(e.kemKey()),
	}}
}

// kemKey returns the gateway's KEM key, which a handshake reveals.
func (e *Env) kemKey() []byte {
	if e.kem == nil {
		c := e.client()
		if c == nil {
			panic("costs: the gateway refuses all handshakes")
		}
		e.kem, _ = c.handshake.KEMKey()
	}
	return e.kem
}

func (a *attempt) packet() transport.Packet {
	return transport.Packet{Data: a.e.sum(0, wire.TypeClientHello, &a.hello, wire.MinHelloDatagram), Path: a.at}
}

// begin sends the hello, with a cookie if the gateway requires one. It reports whether the gateway
// has a record of it then.
func (a *attempt) begin() bool {
	for range 2 {
		t, content := answer(a.at, a.e.exchange(a.packet()))
		if t == wire.TypeAck {
			return true
		}
		busy, err := wire.ParseBusy(content)
		if t != wire.TypeBusy || err != nil || !busy.HasCookie {
			return false
		}
		a.hello.HasCookie, a.hello.Cookie = true, busy.Cookie
	}
	return false
}

// part returns a packet with a part of Handshake 1.
func (a *attempt) part(p wire.Part) transport.Packet {
	return transport.Packet{Data: a.e.sum(a.hello.Attempt, wire.TypeHandshake, &p, 0), Path: a.at}
}

// forge returns the parts of a Handshake 1 whose KEM ciphertext is random. Its Noise message opens
// at the gateway unless it is for another key.
func (a *attempt) forge(opens bool) []transport.Packet {
	static, err := a.e.Gateway.X25519()
	if err != nil {
		panic("costs: the gateway's identity has no X25519 form: " + err.Error())
	}
	if !opens {
		static = a.ephemeral.Public
	}
	hello := a.hello.Hello()
	text := append([]byte("lewes/2 transcript"), a.e.Gateway[:]...)
	text = append(append(text, hello[:]...), make([]byte, 8)...) // no KKT
	t := kdf.Hash(text)
	// A ciphertext in its TLS form, its confirmation, and a sealed credential.
	message := append([]byte{0x03, 0x44, 0x40}, a.e.random(1088+32+16)...)
	message = append(append(message, 0x40, 0x7c), make([]byte, 124)...)
	x := noise.NewXKInitiator(append([]byte("lewes/2"), t[:]...), noise.KeyPair{}, a.ephemeral, static)
	first, err := x.WriteMessage1(message)
	if err != nil {
		panic("costs: Noise message 1: " + err.Error())
	}
	return a.split(first)
}

func (a *attempt) split(message []byte) (packets []transport.Packet) {
	for _, p := range parts.Split(message, parts.MaxData) {
		packets = append(packets, a.part(p))
	}
	return packets
}

// client is a client that implements the whole protocol.
type client struct {
	e         *Env
	at        path.Path
	handshake *state.Client
	session   *state.Session
	sessions  *state.Sessions
	silent    bool      // does not react to answers
	asked     time.Time // for new keys, the last time
	out       state.Output
}

// dial returns a client that has not sent its first packets, which are in out.
func (e *Env) dial(at path.Path, known []byte) *client {
	c := &client{e: e, at: at, sessions: state.NewSessions()}
	seed := [32]byte(e.random(32))
	var err error
	c.handshake, err = state.NewClient(e.Now(), state.ClientConfig{
		Gateway: e.Gateway, Identity: identity.FromSeed(&seed), KEM: kem.MLKEM768, KnownKEM: known, Suites: seal.Offer(),
		Rand: e.Rand, Path: path.Path{Peer: netip.MustParseAddrPort("192.0.2.254:1")},
	}, &c.out)
	if err != nil {
		panic("costs: start a handshake: " + err.Error())
	}
	if e.clients == nil {
		e.clients = make(map[path.Path]*client)
	}
	e.clients[at] = c
	return c
}

// client returns one with a session, or nil if the gateway refuses it again and again.
func (e *Env) client() *client {
	for range 8 {
		c := e.dial(e.source(), e.kem)
		if c.run(); c.session != nil {
			return c
		}
	}
	return nil
}

// take returns the client's packets.
func (c *client) take() (packets []transport.Packet) {
	for _, p := range c.out.Packets {
		packets = append(packets, transport.Packet{Data: p.Data, Path: c.at})
	}
	c.out.Packets = nil
	return packets
}

// step sends the client's packets, whose answers it handles.
func (c *client) step() { c.e.exchange(c.take()...) }

// run exchanges packets until the client has none.
func (c *client) run() {
	for range 16 { // a refused handshake repeats its hello
		if len(c.out.Packets) > 0 {
			c.step()
		}
	}
}

// handle handles an answer.
func (c *client) handle(packet []byte) {
	if c.session == nil {
		_ = c.handshake.Handle(c.e.Now(), packet, &c.out)
		if c.session = c.handshake.Session(); c.session != nil {
			c.sessions.Add(c.session)
		}
		c.settle()
		return
	}
	index, _ := wire.ReceiverIdx(packet)
	keys := c.sessions.Find(index)
	if keys == nil {
		return
	}
	t, content, err := keys.Open(c.e.Now(), packet, path.Path{}, &c.out)
	if err == nil && t != wire.TypeEncryptedData && t != wire.TypeForwardPacket && t != wire.TypeFlowClosed {
		_ = c.session.Control(c.e.Now(), keys, t, content, path.Path{}, &c.out)
	}
	c.settle()
}

func (c *client) settle() {
	for _, e := range c.out.Events {
		c.sessions.Apply(e)
	}
	c.out.Events = nil
}

// seal returns a packet of the session with one message.
func (c *client) seal(t wire.Type, m interface{ Append([]byte) []byte }) transport.Packet {
	if err := c.session.Send(t, m, &c.out); err != nil {
		panic(fmt.Sprintf("costs: seal %v: %v", t, err))
	}
	all := c.take()
	return all[len(all)-1]
}

// data returns a packet with a datagram; to opens the flow.
func (c *client) data(flow uint16, to *wire.Target, size int) transport.Packet {
	m := &wire.EncryptedData{FlowID: flow, Payload: make([]byte, size)}
	if to != nil {
		m.Flags, m.Target = wire.FlagTarget, *to
	}
	return c.seal(wire.TypeEncryptedData, m)
}
