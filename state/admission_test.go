package state

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"lewes/crypto/kdf"
	"lewes/crypto/kem"
	"lewes/crypto/kkt"
	"lewes/crypto/seal"
	"lewes/state/path"
	"lewes/state/wire"
)

// What a gateway does with a ClientHello (section 4): each test sends hellos of
// its own making and reads the answers.

// answer is a clear packet from the gateway.
type answer struct {
	kind    wire.Type
	index   uint32
	content []byte
	to      path.Path
	size    int
}

func (a answer) reject(t *testing.T) wire.Reject {
	t.Helper()
	r, err := wire.ParseReject(a.content)
	if a.kind != wire.TypeReject || err != nil {
		t.Fatalf("the answer is %v, not a Reject (%v)", a.kind, err)
	}
	return r
}

func (a answer) busy(t *testing.T) wire.Busy {
	t.Helper()
	b, err := wire.ParseBusy(a.content)
	if a.kind != wire.TypeBusy || err != nil {
		t.Fatalf("the answer is %v, not Busy (%v)", a.kind, err)
	}
	return b
}

// ask passes a packet to the gateway and returns its clear answers.
func (g *gatewayEnd) ask(now time.Time, packet []byte, from path.Path) (out []answer) {
	g.t.Helper()
	g.handle(now, packet, from)
	for _, p := range g.take() {
		h, err := wire.ParseHeader(p.Data)
		if err != nil || h.Level != wire.LevelClear || !g.responders.MAC1().Verify(p.Data) {
			g.t.Fatalf("the gateway answers by %x (%v)", p.Data, err)
		}
		kind, content, err := wire.ParseBody(wire.Body(p.Data))
		if err != nil {
			g.t.Fatal(err)
		}
		out = append(out, answer{kind, h.ReceiverIdx, content, p.Path, len(p.Data)})
	}
	return out
}

// askOne is ask for a packet that gets one answer.
func (g *gatewayEnd) askOne(now time.Time, packet []byte, from path.Path) answer {
	g.t.Helper()
	got := g.ask(now, packet, from)
	if len(got) != 1 {
		g.t.Fatalf("%d answers, want 1; drops %v", len(got), g.drops)
	}
	return got[0]
}

// goodHello is a valid hello of time now.
func goodHello(now time.Time, index uint32) wire.ClientHello {
	commitment := kdf.Hash([]byte{byte(index), byte(index >> 8), byte(index >> 16), byte(index >> 24)})
	return wire.ClientHello{
		Attempt:   index,
		Salt:      wire.NewSalt(uint64(now.Unix()), &commitment),
		AEADOffer: uint8(seal.ChaCha20Poly1305 | seal.AES256GCM),
		KEM:       uint8(kem.MLKEM768),
	}
}

// helloPacket is the packet of a hello over UDP.
func (g *gatewayEnd) helloPacket(m wire.ClientHello) []byte {
	return clearPacket(g.responders.MAC1(), 0, wire.TypeClientHello, padded{&m, wire.MinHelloDatagram})
}

// kktPacket is the KKT request to a hello.
func (g *gatewayEnd) kktPacket(m wire.ClientHello) []byte {
	hello := m.Hello()
	sum := kdf.Hash(hello[:])
	request := kkt.AppendRequest(nil, kem.ID(m.KEM), kkt.SessionID(sum[:16]))
	return clearPacket(g.responders.MAC1(), m.Attempt, wire.TypeKKTRequest, padded{raw(request), wire.MinHelloDatagram})
}

// changed is a packet whose bytes were changed and MAC1 made right again.
func (g *gatewayEnd) changed(packet []byte, change func(p []byte)) []byte {
	p := bytes.Clone(packet)
	change(p)
	g.responders.MAC1().Sum(p)
	return p
}

// Shows R2.2, R3.8, R4.6, R4.7, R4.9, R4.10, R4.11, R4.13, R4.15.
func TestFirstFailedHelloCheckAnswers(t *testing.T) {
	const held = 0x1111_1111
	// Reasons in the order of section 4.
	reasons := []struct {
		name  string
		apply func(m *wire.ClientHello)
		want  wire.RejectCode // 0: another answer
		kind  wire.Type
	}{
		{"version", nil, wire.RejectVersion, wire.TypeReject},
		{"clock", func(m *wire.ClientHello) { m.Salt[0] += 60 }, wire.RejectClock, wire.TypeReject},
		{"held", func(m *wire.ClientHello) { m.Doubted = held }, 0, wire.TypeHeld},
		{"KEM", func(m *wire.ClientHello) { m.KEM = 2 }, wire.RejectKEM, wire.TypeReject},
		{"AEAD", func(m *wire.ClientHello) { m.AEADOffer = uint8(seal.AES256GCM) }, wire.RejectAEAD, wire.TypeReject},
		{"key id", func(m *wire.ClientHello) { m.KEMKeyID = 12345 }, wire.RejectStaleKey, wire.TypeReject},
		{"budget", nil, 0, wire.TypeBusy},
	}
	for set := range 1 << len(reasons) {
		config := gatewayConfig(t, 1)
		config.Burst = 1
		g := newGatewayEnd(t, config)
		config.Holds = func(index uint32) bool { return index == held }
		m := goodHello(epoch, 0x2222_2222)
		wantKind, wantCode := wire.TypeAck, wire.RejectCode(0)
		for n := len(reasons) - 1; n >= 0; n-- {
			r := reasons[n]
			if set&(1<<n) == 0 {
				continue
			}
			if r.apply != nil {
				r.apply(&m)
			}
			wantKind, wantCode = r.kind, r.want
		}
		from := clientAt
		if set&(1<<6) != 0 { // budget
			g.askOne(epoch, g.helloPacket(goodHello(epoch, 0x3333_3333)), from)
		}
		before := shootGateway(g)
		packet := g.helloPacket(m)
		if set&1 != 0 {
			packet = g.changed(packet, func(p []byte) { p[wire.HeaderSize] = 3 })
		}
		got := g.askOne(epoch, packet, from)
		if got.kind != wantKind || got.index != m.Attempt || got.to != from {
			t.Fatalf("reasons %07b: %v for index %#x to %v, want %v for %#x", set, got.kind, got.index, got.to, wantKind, m.Attempt)
		}
		if got.kind == wire.TypeReject {
			if r := got.reject(t); r.Code != wantCode || r.GatewaySeconds != uint64(epoch.Unix()) {
				t.Fatalf("reasons %07b: %+v, want code %v and time %d", set, r, wantCode, epoch.Unix())
			}
		}
		if after := shootGateway(g); set != 0 && after.responders != before.responders {
			t.Fatalf("reasons %07b: the gateway keeps something of it", set)
		}
	}
}

// Shows R4.12, R4.13.
func TestShutdownRejectsHellos(t *testing.T) {
	g := newGatewayEnd(t, gatewayConfig(t, 1))
	packet := g.helloPacket(goodHello(epoch, 7))
	g.rejectShutdown(packet)
	sent := g.take()
	if len(sent) != 1 {
		t.Fatalf("%d answers", len(sent))
	}
	_, content, _ := wire.ParseBody(wire.Body(sent[0].Data))
	if r, err := wire.ParseReject(content); err != nil || r.Code != wire.RejectShuttingDown {
		t.Errorf("answer %+v, %v", r, err)
	}
	damaged := bytes.Clone(packet)
	damaged[500] ^= 1
	for _, p := range [][]byte{damaged, packet[:900], g.kktPacket(goodHello(epoch, 7)), nil} {
		g.rejectShutdown(p)
	}
	if n := len(g.take()); n != 0 || g.responders.Len() != 0 {
		t.Errorf("%d answers to malformed hellos, %d responders", n, g.responders.Len())
	}
}

// Shows R1.5, R4.2, R4.4, R4.15.
func TestMalformedHellosAreDropped(t *testing.T) {
	g := newGatewayEnd(t, gatewayConfig(t, 1))
	good := g.helloPacket(goodHello(epoch, 7))
	const content = wire.HeaderSize + wire.PrefixSize
	short := goodHello(epoch, 7)
	for name, packet := range map[string][]byte{
		"index 0":                 g.changed(good, func(p []byte) { clear(p[content : content+4]) }),
		"a cookie of 5 bytes":     g.changed(good, func(p []byte) { p[content+46] = 5 }),
		"a cookie of 255 bytes":   g.changed(good, func(p []byte) { p[content+46] = 255 }),
		"padding":                 g.changed(good, func(p []byte) { p[700] = 1 }),
		"padding at the end":      g.changed(good, func(p []byte) { p[len(p)-17] = 1 }),
		"reserved bytes":          g.changed(good, func(p []byte) { p[wire.HeaderSize+1] = 1 }),
		"another type":            g.changed(good, func(p []byte) { p[wire.HeaderSize+4] = byte(wire.TypeKKTRequest) }),
		"a type of the gateway's": g.changed(good, func(p []byte) { p[wire.HeaderSize+4] = byte(wire.TypeAck) }),
		"a receiver_idx":          g.changed(good, func(p []byte) { p[0] = 7 }),
		"level 3":                 g.changed(good, func(p []byte) { p[11] |= 0xC0 }),
		"999 bytes":               clearPacket(g.responders.MAC1(), 0, wire.TypeClientHello, padded{&short, wire.MinHelloDatagram - 1}),
		"no padding":              clearPacket(g.responders.MAC1(), 0, wire.TypeClientHello, &short),
	} {
		if got := g.ask(epoch, packet, clientAt); len(got) != 0 || g.responders.Len() != 0 {
			t.Errorf("a hello with %s: %d answers, %d responders", name, len(got), g.responders.Len())
		}
	}
	if a := g.askOne(epoch, good, clientAt); a.kind != wire.TypeAck {
		t.Errorf("the good hello got %v", a.kind)
	}
	// No packet but a ClientHello bears index 0, whatever stands where a hello
	// has its index.
	kktRequest := g.changed(g.kktPacket(goodHello(epoch, 7)), func(p []byte) { clear(p[:4]) })
	copy(kktRequest[content:], []byte{7, 0, 0, 0})
	g.responders.MAC1().Sum(kktRequest)
	r := g.responders.attempts[keyOf(7, clientAt)]
	before := r.bytesIn
	if got := g.ask(epoch, kktRequest, clientAt); len(got) != 0 || r.bytesIn != before {
		t.Errorf("a KKT request of index 0: %d answers, %d bytes counted", len(got), r.bytesIn-before)
	}
	// Over TCP no padding is needed.
	short.Attempt = 8
	tcp := path.NewTCP(clientAt.Peer, netip.Addr{}, 1)
	if a := g.askOne(epoch, clearPacket(g.responders.MAC1(), 0, wire.TypeClientHello, &short), tcp); a.kind != wire.TypeAck {
		t.Errorf("a short hello over TCP got %v", a.kind)
	}
}

// Shows R4.7.
func TestClockTolerance(t *testing.T) {
	for off := -40; off <= 40; off++ {
		g := newGatewayEnd(t, gatewayConfig(t, 1))
		now := epoch.Add(300 * time.Millisecond)
		a := g.askOne(now, g.helloPacket(goodHello(epoch.Add(time.Duration(off)*time.Second), 7)), clientAt)
		if want := off < -30 || off > 30; want != (a.kind == wire.TypeReject) {
			t.Errorf("a clock %d s off got %v", off, a.kind)
		}
	}
	for _, seconds := range []uint64{0, 1, 1 << 62, 1 << 63, ^uint64(0)} {
		g := newGatewayEnd(t, gatewayConfig(t, 1))
		m := goodHello(epoch, 7)
		m.Salt = wire.NewSalt(seconds, &[32]byte{})
		if r := g.askOne(epoch, g.helloPacket(m), clientAt).reject(t); r.Code != wire.RejectClock || r.GatewaySeconds != uint64(epoch.Unix()) {
			t.Errorf("a clock of %d: %+v", seconds, r)
		}
	}
	config := gatewayConfig(t, 1)
	config.Tolerance = 5 * time.Second
	g := newGatewayEnd(t, config)
	if a := g.askOne(epoch, g.helloPacket(goodHello(epoch.Add(6*time.Second), 7)), clientAt); a.kind != wire.TypeReject {
		t.Errorf("a clock 6 s off got %v under a tolerance of 5 s", a.kind)
	}
}

// Shows R4.8, R4.14.
func TestRepeatedHelloGetsStoredAck(t *testing.T) {
	config := gatewayConfig(t, 1)
	config.Burst = 2
	g := newGatewayEnd(t, config)
	hello := g.helloPacket(goodHello(epoch, 7))
	first := g.askOne(epoch, hello, clientAt)
	// Repetitions cost no budget, and their answer is the same, also when the
	// clock has gone on and the KEM key was renewed.
	for n := range 20 {
		if again := g.askOne(epoch.Add(time.Duration(n)*time.Second), hello, clientAt); again.kind != wire.TypeAck || !bytes.Equal(again.content, first.content) {
			t.Fatalf("repetition %d got %v %x, the first %x", n, again.kind, again.content, first.content)
		}
	}
	other := g.askOne(epoch, g.helloPacket(goodHello(epoch, 8)), clientAt)
	a, _ := wire.ParseAck(first.content)
	b, err := wire.ParseAck(other.content)
	if err != nil || a.Nonce == b.Nonce || a.Nonce == [16]byte{} {
		t.Errorf("nonces of two responders: %x, %x, %v", a.Nonce, b.Nonce, err)
	}
	if a := g.askOne(epoch, g.helloPacket(goodHello(epoch, 9)), clientAt); a.kind != wire.TypeBusy {
		t.Errorf("the third new hello of a source with a burst of two got %v", a.kind)
	}
}

// Shows R4.9, R4.15, R11.2.
func TestHeldAnswersDoubt(t *testing.T) {
	c, g := established(t)
	index := c.session.keys.current.index
	before := shootGateway(g)
	for n := range uint32(200) { // no budget
		m := goodHello(epoch, 100+n)
		m.Doubted = index
		packet := g.helloPacket(m)
		if a := g.askOne(epoch, packet, stranger); a.kind != wire.TypeHeld || a.index != m.Attempt || a.to != stranger || a.size >= len(packet)/20 {
			t.Fatalf("a hello that doubts a session got %v, %d bytes", a.kind, a.size)
		}
	}
	if after := shootGateway(g); after != before {
		t.Errorf("hellos that doubt a session changed %s", difference(before, after))
	}
	m := goodHello(epoch, 7)
	m.Doubted = index + 1
	if a := g.askOne(epoch, g.helloPacket(m), clientAt); a.kind != wire.TypeAck {
		t.Errorf("a hello that doubts an unknown session got %v", a.kind)
	}
}

// Shows R4.9, R4.34.
func TestSourcesOfAnAttemptAreApart(t *testing.T) {
	config := gatewayConfig(t, 1)
	config.Burst = 10_000
	g := newGatewayEnd(t, config)
	m := goodHello(epoch, 7)
	g.askOne(epoch, g.helloPacket(m), clientAt)
	first := g.responders.find(&m, clientAt)
	held := shootResponder(first)
	for n := range 200 { // each of a prefix of its own
		from := path.Path{Peer: netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(n)}), 1)}
		if a := g.askOne(epoch, g.helloPacket(m), from); a.kind != wire.TypeAck {
			t.Fatalf("copy %d of the hello got %v", n, a.kind)
		}
	}
	if a := g.askOne(epoch, g.helloPacket(m), path.NewTCP(clientAt.Peer, netip.Addr{}, 1)); a.kind != wire.TypeAck {
		t.Errorf("a copy over TCP got %v", a.kind)
	}
	salted := func(n byte) wire.ClientHello {
		other := m
		other.Salt[20] ^= n
		return other
	}
	for n := byte(1); n < 10; n++ {
		want := wire.TypeAck
		if n >= maxSalts {
			want = wire.TypeBusy
		}
		if a := g.askOne(epoch, g.helloPacket(salted(n)), clientAt); a.kind != want {
			t.Errorf("salt %d of the source got %v, want %v", n, a.kind, want)
		}
	}
	if now := shootResponder(g.responders.find(&m, clientAt)); now != held {
		t.Errorf("the first holder changed: %s", difference(held, now))
	}
	// One with a cookie takes the place of the oldest without.
	proved := salted(20)
	made, err := g.responders.jar.Make(epoch, clientAt.Peer, proved.Attempt, &proved.Salt)
	if err != nil {
		t.Fatal(err)
	}
	proved.HasCookie, proved.Cookie = true, made
	if a := g.askOne(epoch, g.helloPacket(proved), clientAt); a.kind != wire.TypeAck {
		t.Errorf("a hello with a cookie got %v", a.kind)
	}
	if g.responders.find(&m, clientAt) != nil {
		t.Error("the oldest hello without a cookie still has its record")
	}
}

// Shows R4.34.
func TestCrowdNeedsCookies(t *testing.T) {
	config := gatewayConfig(t, 1)
	config.Burst = 10_000
	g := newGatewayEnd(t, config)
	for n := range uint32(maxCrowd + 4) {
		want := wire.TypeAck
		if n >= maxCrowd {
			want = wire.TypeBusy
		}
		from := path.Path{Peer: netip.AddrPortFrom(netip.MustParseAddr("2001:db8::").Next(), uint16(1000+n))}
		if a := g.askOne(epoch, g.helloPacket(goodHello(epoch, 100+n)), from); a.kind != want {
			t.Errorf("hello %d of a prefix got %v, want %v", n, a.kind, want)
		}
	}
	if a := g.askOne(epoch, g.helloPacket(goodHello(epoch, 1)), clientAt); a.kind != wire.TypeAck {
		t.Errorf("a hello from elsewhere got %v", a.kind)
	}
	for now := epoch; g.responders.Len() > 0; now = now.Add(time.Minute) {
		g.tick(now)
	}
	if len(g.responders.crowds) != 0 {
		t.Errorf("%d prefixes are counted without a record", len(g.responders.crowds))
	}
}

// TestAnswersAreNotAmplified sends what a spoofed source may: hellos, KKT requests and
// junk of one responder, again and again and in any order. Whatever it is, not more
// goes to the source than came from there.
//
// Shows R4.16.
func TestAnswersAreNotAmplified(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		config := gatewayConfig(t, 1)
		config.Burst = 3
		g := newGatewayEnd(t, config)
		m := goodHello(epoch, 7)
		if seed%2 == 1 {
			m.KEM = uint8(kem.XWing)
		}
		in, out := 0, 0
		kinds := ""
		for range 40 {
			var p []byte
			switch kind := rng.IntN(6); kind {
			case 0:
				p = g.helloPacket(m)
			case 1:
				p = g.helloPacket(goodHello(epoch, 100+rng.Uint32N(5)))
			case 2:
				p = clearPacket(g.responders.MAC1(), 7, wire.TypeHeld, &wire.Empty{}) // 34 bytes
			case 3:
				part := wire.Part{Index: 0, Count: 2, Data: []byte{1}}
				p = clearPacket(g.responders.MAC1(), 7, wire.TypeHandshake, &part)
			default:
				p = g.kktPacket(m)
			}
			in += len(p)
			for _, a := range g.ask(epoch, p, clientAt) {
				out += a.size
				kinds += fmt.Sprintf(" %v", a.kind)
			}
			if out > in {
				t.Fatalf("seed %d: %d bytes came and %d went:%s", seed, in, out, kinds)
			}
		}
		if out == 0 {
			t.Fatalf("seed %d: nothing was answered", seed)
		}
	}
	// A client that keeps to the rules never meets the limit.
	g := newGatewayEnd(t, gatewayConfig(t, 1))
	m := goodHello(epoch, 7)
	for range 5 {
		if n := len(g.ask(epoch, g.helloPacket(m), clientAt)) + len(g.ask(epoch, g.kktPacket(m), clientAt)); n != 3 {
			t.Fatalf("%d packets in answer to a flight, want 3; drops %v", n, g.drops)
		}
	}
}

// Shows R4.17, R4.18, R4.20, R4.22.
func TestCookiesAreRequiredUnderLoad(t *testing.T) {
	for name, crowd := range map[string]func(*GatewayConfig, *gatewayEnd){
		"store above half its bound": func(_ *GatewayConfig, g *gatewayEnd) {
			for n := range uint32(6) {
				g.askOne(epoch, g.helloPacket(goodHello(epoch, 1000+n)), addr(fmt.Sprintf("203.0.113.%d:1", n)))
			}
		},
		"many tries of Handshake 1": func(_ *GatewayConfig, g *gatewayEnd) {
			g.responders.budgets.tries.add(epoch, 501)
		},
		"many queued packets of such sources": func(_ *GatewayConfig, g *gatewayEnd) {
			g.responders.config.Crowded = func() bool { return true }
		},
		"source above its budget": func(_ *GatewayConfig, g *gatewayEnd) {
			for n := range uint32(2) {
				g.askOne(epoch, g.helloPacket(goodHello(epoch, 1000+n)), addr(fmt.Sprintf("192.0.2.1:%d", n+1)))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			config := gatewayConfig(t, 1)
			config.MaxHandshakes, config.Burst = 10, 2
			g := newGatewayEnd(t, config)
			crowd(config, g)
			kept := g.responders.Len()
			m := goodHello(epoch, 7)
			busy := g.askOne(epoch, g.helloPacket(m), clientAt).busy(t)
			if !busy.HasCookie || g.responders.Len() != kept {
				t.Fatalf("%+v, %d responders more", busy, g.responders.Len()-kept)
			}
			// The cookie is for this address, port, index and salt.
			m.HasCookie, m.Cookie = true, busy.Cookie
			otherIndex, otherSalt, damaged := m, m, m
			otherIndex.Attempt = 8
			otherSalt.Salt[9] ^= 1
			damaged.Cookie[3] ^= 1
			for what, try := range map[string]struct {
				m    wire.ClientHello
				from path.Path
			}{
				"another port":  {m, addr("192.0.2.1:1112")},
				"another salt":  {otherSalt, clientAt},
				"another index": {otherIndex, clientAt},
				"other bytes":   {damaged, clientAt},
			} {
				if b := g.askOne(epoch, g.helloPacket(try.m), try.from).busy(t); !b.HasCookie {
					t.Errorf("%s: %+v", what, b)
				}
			}
			if a := g.askOne(epoch, g.helloPacket(m), clientAt); a.kind != wire.TypeAck {
				t.Errorf("with the cookie: %v", a.kind)
			}
			// Above the budget of those with a cookie, another would not help.
			for n := range uint32(3) {
				m := goodHello(epoch, 20+n)
				m.HasCookie, m.Cookie = true, g.askOne(epoch, g.helloPacket(m), clientAt).busy(t).Cookie
				a := g.askOne(epoch, g.helloPacket(m), clientAt)
				if n == 0 && a.kind != wire.TypeAck {
					t.Errorf("the second hello with a cookie got %v", a.kind)
				}
				if n > 0 && a.busy(t).HasCookie {
					t.Error("a hello with a valid cookie got another one")
				}
			}
		})
	}
}

// Shows R4.19.
func TestCookieOfPreviousSecretIsValid(t *testing.T) {
	config := gatewayConfig(t, 1)
	config.Burst = 1
	g := newGatewayEnd(t, config)
	m := goodHello(epoch, 7)
	cookieAt := func(at time.Duration) [16]byte {
		cookie, err := g.responders.jar.Make(epoch.Add(at), clientAt.Peer, 7, &m.Salt)
		if err != nil {
			t.Fatal(err)
		}
		return cookie
	}
	first := cookieAt(0)
	for _, c := range []struct {
		at    time.Duration
		valid bool
	}{{119 * time.Second, true}, {121 * time.Second, true}, {239 * time.Second, true}, {241 * time.Second, false}} {
		if cookieAt(c.at); g.responders.jar.Valid(epoch.Add(c.at), clientAt.Peer, 7, &m.Salt, first[:]) != c.valid {
			t.Errorf("after %v the first cookie is valid: %v", c.at, !c.valid)
		}
	}
}

// TestCookieHasSeparateBudget lets hellos without cookies, as anybody may spoof them,
// use up their source's budget: a hello with a cookie is taken all the same.
//
// Shows R4.21, R12.2.
func TestCookieHasSeparateBudget(t *testing.T) {
	g := newGatewayEnd(t, gatewayConfig(t, 1))
	var m wire.ClientHello
	acks, busy := 0, 0
	for n := range uint32(1000) {
		m = goodHello(epoch, 100+n)
		switch a := g.askOne(epoch, g.helloPacket(m), addr(fmt.Sprintf("192.0.2.1:%d", 1+n))); a.kind {
		case wire.TypeAck:
			acks++
		case wire.TypeBusy:
			busy++
			b := a.busy(t)
			m.HasCookie, m.Cookie = b.HasCookie, b.Cookie
		}
	}
	if acks != 40 || busy != 960 {
		t.Errorf("of 1000 hellos at once %d were taken and %d told to come back, want 40 and 960", acks, busy)
	}
	if a := g.askOne(epoch, g.helloPacket(m), addr("192.0.2.1:1000")); a.kind != wire.TypeAck {
		t.Errorf("a hello with a cookie got %v", a.kind)
	}
	// Another source has a budget of its own.
	if a := g.askOne(epoch, g.helloPacket(goodHello(epoch, 5)), addr("192.0.2.2:1")); a.kind != wire.TypeAck {
		t.Errorf("another address got %v", a.kind)
	}
}

// Shows R4.22, R12.3.
func TestBusyWithoutCookie(t *testing.T) {
	full := false
	config := gatewayConfig(t, 1)
	config.Full = func() bool { return full }
	config.Burst = 1
	g := newGatewayEnd(t, config)
	tcp := path.NewTCP(clientAt.Peer, netip.Addr{}, 1)
	if a := g.askOne(epoch, g.helloPacket(goodHello(epoch, 7)), tcp); a.kind != wire.TypeAck {
		t.Fatalf("the first hello over TCP got %v", a.kind)
	}
	if b := g.askOne(epoch, g.helloPacket(goodHello(epoch, 8)), tcp).busy(t); b.HasCookie || b.RetryAfterMillis == 0 {
		t.Errorf("over TCP, above the budget: %+v", b)
	}
	c, g := established(t)
	g.responders.config.Full = func() bool { return true }
	before := shootGateway(g)
	if b := g.askOne(epoch, g.helloPacket(goodHello(epoch, 9)), clientAt).busy(t); b.HasCookie {
		t.Errorf("at the bound of sessions: %+v", b)
	}
	if after := shootGateway(g); after != before {
		t.Errorf("at the bound of sessions: %s", difference(before, after))
	}
	checkExchange(t, epoch, c, g)
}

// TestBusyCarriesRetryTime: before the time that a Busy names the same hello is refused
// again, from then on it is taken.
//
// Shows R4.32.
func TestBusyCarriesRetryTime(t *testing.T) {
	delay := time.Duration(0)
	config := gatewayConfig(t, 1)
	config.Rate, config.Burst = 0.7, 2
	config.QueueDelay = func() time.Duration { return delay }
	g := newGatewayEnd(t, config)
	for n := range uint32(2) {
		if a := g.askOne(epoch, g.helloPacket(goodHello(epoch, 10+n)), clientAt); a.kind != wire.TypeAck {
			t.Fatalf("hello %d got %v", n, a.kind)
		}
	}
	m := goodHello(epoch, 20)
	b := g.askOne(epoch, g.helloPacket(m), clientAt).busy(t)
	if !b.HasCookie || b.RetryAfterMillis != 0 {
		t.Errorf("with the cookie it may come at once, and is told %+v", b)
	}
	for n := range uint32(3) { // the third finds the budget for cookies used up
		m = goodHello(epoch, 20+n)
		b = g.askOne(epoch, g.helloPacket(m), clientAt).busy(t)
		m.HasCookie, m.Cookie = true, b.Cookie
		if n < 2 && g.askOne(epoch, g.helloPacket(m), clientAt).kind != wire.TypeAck {
			t.Fatalf("hello %d with a cookie was refused", n)
		}
	}
	wait := time.Duration(b.RetryAfterMillis) * time.Millisecond
	if wait < 1428*time.Millisecond || wait > 1429*time.Millisecond { // 1 / 0.7 s
		t.Errorf("the offer of a cookie asks to come back after %v", wait)
	}
	early := epoch.Add(wait - 2*time.Millisecond)
	if b := g.askOne(early, g.helloPacket(m), clientAt).busy(t); b.HasCookie || b.RetryAfterMillis < 1 || b.RetryAfterMillis > 2 {
		t.Errorf("2 ms early it is told %+v", b)
	}
	delay = 700 * time.Millisecond
	if b := g.askOne(early, g.helloPacket(m), clientAt).busy(t); b.RetryAfterMillis != 700 {
		t.Errorf("with a backlog of %v it is told %+v", delay, b)
	}
	if a := g.askOne(epoch.Add(wait), g.helloPacket(m), clientAt); a.kind != wire.TypeAck {
		t.Errorf("in time it got %v", a.kind)
	}
}

// Shows R8.24.
func TestDirectoryGatewaysHaveSeparateBudget(t *testing.T) {
	config := gatewayConfig(t, 1)
	config.Trusted = func(a netip.Addr) bool { return a == stranger.Peer.Addr() }
	g := newGatewayEnd(t, config)
	acks := 0
	for n := range uint32(1500) {
		if a := g.askOne(epoch, g.helloPacket(goodHello(epoch, 100+n)), stranger); a.kind == wire.TypeAck {
			acks++
		} else if !a.busy(t).HasCookie {
			t.Fatal("a gateway of the directory got no cookie")
		}
	}
	if acks != 1000 {
		t.Errorf("%d of 1500 hellos at once were taken, want 1000", acks)
	}
	if a := g.askOne(epoch, g.helloPacket(goodHello(epoch, 5)), clientAt); a.kind != wire.TypeAck {
		t.Errorf("a client beside them got %v", a.kind)
	}
}

// Shows R4.23, R4.24, R4.26.
func TestKKTRequests(t *testing.T) {
	g := newGatewayEnd(t, gatewayConfig(t, 1))
	m := goodHello(epoch, 7)
	g.askOne(epoch, g.helloPacket(m), clientAt)
	other := m
	other.Salt[31] ^= 1
	otherKEM := m
	otherKEM.KEM = uint8(kem.XWing)
	good := g.kktPacket(m)
	const content = wire.HeaderSize + wire.PrefixSize
	for name, p := range map[string][]byte{
		"another session id": g.kktPacket(other),
		"another KEM":        g.changed(good, func(p []byte) { p[content+2] = byte(kem.XWing) }),
		"another version":    g.changed(good, func(p []byte) { p[content] = 0x20 }),
		"a role with a name": g.changed(good, func(p []byte) { p[content+1] = 0 }),
		"padding":            g.changed(good, func(p []byte) { p[content+40] = 1 }),
		"999 bytes":          g.changed(good[:999], func([]byte) {}),
	} {
		if got := g.ask(epoch, p, clientAt); len(got) != 0 {
			t.Errorf("a KKT request with %s got %d answers", name, len(got))
		}
	}
	if got := g.ask(epoch, good, stranger); len(got) != 0 {
		t.Errorf("a KKT request from elsewhere got %d answers", len(got))
	}
	first := g.ask(epoch, good, clientAt)
	made := &g.responders.attempts[keyOf(7, clientAt)].kktPackets[0][0]
	g.ask(epoch, g.helloPacket(m), clientAt)
	again := g.ask(epoch, good, clientAt)
	if &g.responders.attempts[keyOf(7, clientAt)].kktPackets[0][0] != made {
		t.Error("the response was made twice")
	}
	if len(first) != 2 || len(again) != 2 || !bytes.Equal(first[0].content, again[0].content) || !bytes.Equal(first[1].content, again[1].content) {
		t.Errorf("%d and %d parts, or other ones", len(first), len(again))
	}
	// A hello that names a key runs no KKT.
	m = goodHello(epoch, 8)
	m.KEMKeyID = g.responders.config.KEMs.Find(kem.MLKEM768, 0).KeyID()
	if a := g.askOne(epoch, g.helloPacket(m), clientAt); a.kind != wire.TypeAck {
		t.Fatalf("a hello with a key id got %v", a.kind)
	}
	if got := g.ask(epoch, g.kktPacket(m), clientAt); len(got) != 0 {
		t.Errorf("a KKT request to a hello with a key id got %d answers", len(got))
	}
}

// Shows R3.8.
func TestUnofferedKEMIsRejected(t *testing.T) {
	for _, id := range []uint8{2, 3, 77, 254, 255} {
		g := newGatewayEnd(t, gatewayConfig(t, 1))
		m := goodHello(epoch, 7)
		m.KEM = id
		if r := g.askOne(epoch, g.helloPacket(m), clientAt).reject(t); r.Code != wire.RejectKEM {
			t.Errorf("KEM %d: %v", id, r.Code)
		}
	}
	config := gatewayConfig(t, 1)
	var err error
	if config.KEMs, err = NewKEMKeys(epoch, []kem.ID{kem.X25519}, seeded(1)); err != nil {
		t.Fatal(err)
	}
	g := newGatewayEnd(t, config)
	m := goodHello(epoch, 7)
	m.KEM = 255
	if a := g.askOne(epoch, g.helloPacket(m), clientAt); a.kind != wire.TypeAck {
		t.Errorf("KEM 255 where the configuration allows it: %v", a.kind)
	}
}

// Shows R3.10, R3.11.
func TestAEADChoice(t *testing.T) {
	const chacha, aes = seal.ChaCha20Poly1305, seal.AES256GCM
	for _, c := range []struct{ client, gateway, want seal.Suite }{
		{chacha, chacha, chacha},
		{chacha, chacha | aes, chacha},
		{chacha | aes, chacha, chacha},
		{chacha | aes, chacha | aes, aes},
	} {
		config := gatewayConfig(t, 1)
		config.Suites = c.gateway
		g := newGatewayEnd(t, config)
		client := clientConfig(2)
		client.Suites = c.client
		e := newClientEnd(t, epoch, client)
		converse(epoch, e, g)
		if e.session == nil || e.session.Suite() != c.want || g.only().Suite() != c.want {
			t.Fatalf("client %v, gateway %v: %+v", c.client, c.gateway, e.drops)
		}
		checkExchange(t, epoch, e, g)
	}
	// Unknown bits change nothing.
	g := newGatewayEnd(t, gatewayConfig(t, 1))
	m := goodHello(epoch, 7)
	m.AEADOffer |= 0xFC
	a, err := wire.ParseAck(g.askOne(epoch, g.helloPacket(m), clientAt).content)
	if err != nil || seal.Suite(a.AEAD) != aes {
		t.Errorf("an offer of unknown AEADs got %d, %v", a.AEAD, err)
	}
}
