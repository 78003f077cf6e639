package router

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
)

// sealed returns a packet of size bytes with a datagram for target.
func (p *peer) sealed(size int) []byte {
	p.r.t.Helper()
	m := &wire.EncryptedData{FlowID: 1, Flags: wire.FlagTarget, Target: wire.AddrTarget(target)}
	m.Payload = make([]byte, size-wire.Overhead-len(m.Append(nil)))
	if err := p.session.Send(wire.TypeEncryptedData, m, &p.out); err != nil {
		p.r.t.Fatal(err)
	}
	packet := p.out.Packets[0].Data
	p.out.Reset()
	if len(packet) != size {
		p.r.t.Fatalf("made a packet of %d bytes, want %d", len(packet), size)
	}
	return packet
}

// receive passes one packet to the shard and returns the answers.
func (r *rig) receive(packet []byte, from path.Path) []transport.Packet {
	r.shard.Receive(r.now(), []transport.Packet{{Data: packet, Path: from}}, nil)
	return r.socket.take()
}

// Shows R1.2.
func TestPacketSizes(t *testing.T) {
	r := newRig(t, nil)
	p := r.connect(2, clientAt)
	r.receive(p.sealed(wire.MaxUDPPacket), clientAt)
	if got := r.egress.at(target).take(); len(got) != 1 {
		t.Fatalf("of a packet of 1500 bytes %d datagrams passed", len(got))
	}
	dropped := uint64(0)
	drop := func(name string, packet []byte) {
		t.Helper()
		answers := r.receive(packet, clientAt)
		dropped++
		if s := r.shard.Stats(); s.Malformed != dropped || len(answers) != 0 {
			t.Errorf("%s: %d of %d counted, %d answers", name, s.Malformed, dropped, len(answers))
		}
	}
	drop("1501 bytes", p.sealed(wire.MaxUDPPacket+1))
	whole := p.sealed(100)
	first := hello(t, 5, r.now())
	for n := range wire.MinPacket {
		drop("the beginning of a sealed packet", whole[:n])
		drop("the beginning of a hello", first[:n])
	}
	if got := r.egress.at(target).take(); len(got) != 0 {
		t.Errorf("%d datagrams passed", len(got))
	}
	r.receive(p.sealed(64), clientAt)
	if got := r.egress.at(target).take(); len(got) != 1 {
		t.Error("the session does not go on")
	}
}

// TestMisplacedTypes lets a client seal messages of every type that it must not send, and of
// unknown types.
//
// Shows R2.1.
func TestMisplacedTypes(t *testing.T) {
	r := newRig(t, nil)
	p := r.connect(2, clientAt)
	misplaced := uint64(0)
	for _, n := range append(rangeOf(0x40), 0x00EE, 0x8002, 0xFFFF) {
		kind := wire.Type(n)
		if kind.Allowed(wire.LevelTransport, wire.ToGateway) {
			continue
		}
		p.send(kind, rawContent(make([]byte, 40)))
		misplaced++
		if got := r.shard.Stats().Misplaced; got != misplaced || len(p.got) != 0 {
			t.Errorf("%v: %d of %d counted, %d answers", kind, got, misplaced, len(p.got))
		}
	}
	if int(misplaced) < 0x40-len(allowedUp) {
		t.Errorf("only %d types were tried", misplaced)
	}
	// The same in clear: types that go the other way, or are sealed.
	index := p.session.Current().Index()
	for _, kind := range []wire.Type{wire.TypeAck, wire.TypeBusy, wire.TypeReject, wire.TypeHeld, wire.TypeKKTResponse, wire.TypeClose, wire.TypeEncryptedData, 0x00EE} {
		packet := wire.Finish(append(wire.Begin(nil, index, wire.LevelClear, 0, kind), make([]byte, 40)...))
		r.shard.st.handshakes.MAC1().Sum(packet)
		misplaced++
		if answers := r.receive(packet, clientAt); len(answers) != 0 || r.shard.Stats().Misplaced != misplaced {
			t.Errorf("%v in clear: %d of %d counted, %d answers", kind, r.shard.Stats().Misplaced, misplaced, len(answers))
		}
	}
	p.data(1, target, "the session stays")
	if got := sentTo(r.egress.at(target)); len(got) != 1 || r.shard.Stats().Sessions != 1 {
		t.Errorf("the target got %q, %d sessions", got, r.shard.Stats().Sessions)
	}
}

// allowedUp are the types that a client may seal.
var allowedUp = []wire.Type{
	wire.TypeEncryptedData, wire.TypeForwardPacket, wire.TypeSubsessionKK1, wire.TypeSubsessionReady, wire.TypeSubsessionAbort,
	wire.TypeFlowClosed, wire.TypeRegister, wire.TypePing, wire.TypePong, wire.TypeClose, wire.TypePoll,
}

func rangeOf(n int) (all []int) {
	for i := range n {
		all = append(all, i)
	}
	return all
}

// TestDatagramsStayWhole sends EncryptedData as section 8 lays it out, byte by byte, and
// compares each datagram at the target and at the client.
//
// Shows R8.1.
func TestDatagramsStayWhole(t *testing.T) {
	payload := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(n + i*7)
		}
		return b
	}
	const port = 53
	name := "dns.example"
	v6 := netip.MustParseAddrPort("[2001:db8:1::7]:53")
	for _, c := range []struct {
		what   string
		kind   []byte // kind and address
		around int    // bytes of a packet beside the payload
	}{
		{"no target", nil, 37},
		{"IPv4", append([]byte{4}, target.Addr().AsSlice()...), 44},
		{"IPv6", append([]byte{6}, v6.Addr().AsSlice()...), 56},
		{"name", append([]byte{3, byte(len(name))}, name...), 37 + 1 + 1 + len(name) + 2},
	} {
		content := []byte{0x34, 0x12, 0}
		want := wire.EncryptedData{FlowID: 0x1234}
		if c.kind != nil {
			content[2] = 1
			content = binary.LittleEndian.AppendUint16(append(content, c.kind...), port)
			want.Flags = wire.FlagTarget
			switch c.what {
			case "name":
				want.Target, _ = wire.NameTarget(name, port)
			case "IPv6":
				want.Target = wire.AddrTarget(v6)
			default:
				want.Target = wire.AddrTarget(target)
			}
		}
		if got := want.Append(nil); !bytes.Equal(got, content) || len(got)+wire.Overhead != c.around {
			t.Errorf("%s: laid out as %x, want %x", c.what, got, content)
		}
	}

	r := newRig(t, nil)
	p := r.connect(2, clientAt)
	opening := append([]byte{0x34, 0x12, 1, 4}, target.Addr().AsSlice()...)
	opening = binary.LittleEndian.AppendUint16(opening, port)
	p.send(wire.TypeEncryptedData, rawContent(opening)) // with no payload: an empty datagram
	conn := r.egress.at(target)
	sizes := []int{0, 1, 2, 100, 1000, 999, 1400, 1463}
	for _, n := range sizes { // by themselves, and in one batch
		p.send(wire.TypeEncryptedData, rawContent(append([]byte{0x34, 0x12, 0}, payload(n)...)))
	}
	var batch []transport.Packet
	for _, n := range sizes {
		if err := p.session.Send(wire.TypeEncryptedData, rawContent(append([]byte{0x34, 0x12, 0}, payload(n)...)), &p.out); err != nil {
			t.Fatal(err)
		}
	}
	for _, x := range p.out.Packets {
		batch = append(batch, transport.Packet{Data: x.Data, Path: clientAt})
	}
	p.out.Reset()
	r.shard.Receive(r.now(), batch, nil)
	got := conn.take()
	want := append(append([]int{0}, sizes...), sizes...)
	if len(got) != len(want) {
		t.Fatalf("%d datagrams left, want %d", len(got), len(want))
	}
	for i, n := range want {
		if !bytes.Equal(got[i].Data, payload(n)) && n > 0 || len(got[i].Data) != n || got[i].Segment != 0 {
			t.Errorf("datagram %d left with %d bytes, want %d", i, len(got[i].Data), n)
		}
	}

	// Back: each datagram alone, and neighbours of one read.
	p.got = nil
	sizes = sizes[:6]
	var back []transport.Packet
	for _, n := range sizes {
		back = append(back, transport.Packet{Data: payload(n)})
	}
	conn.fed <- back
	p.receive(len(sizes))
	for i, n := range sizes {
		if want := append([]byte{0x34, 0x12, 0}, payload(n)...); p.got[i].t != wire.TypeEncryptedData || !bytes.Equal(p.got[i].content, want) {
			t.Errorf("answer %d: %v of %d bytes, want %d", i, p.got[i].t, len(p.got[i].content), len(want))
		}
	}
}

// TestNobodyIsAnsweredWithoutTheKey sends what a scanner without the gateway's identity can make, and
// what has an index that the gateway does not know: nothing comes back.
//
// Shows R11.20.
func TestNobodyIsAnsweredWithoutTheKey(t *testing.T) {
	r := newRig(t, nil)
	p := r.connect(2, clientAt)
	record := handshakeUnderWay(t, r)
	packet := func(index uint32, level wire.Level, size int) []byte {
		return wire.Finish(append(wire.Begin(nil, index, level, 0, wire.TypePing), make([]byte, size-wire.Overhead)...))
	}
	unmarked := hello(t, 98, r.now())
	unmarked[len(unmarked)-1] ^= 1
	version3 := append([]byte(nil), unmarked...)
	version3[wire.HeaderSize] = 3
	for name, bad := range map[string][]byte{
		"HTTP":                   []byte("GET / HTTP/1.1\r\nHost: gateway.example\r\nUser-Agent: a scanner, 64 bytes or more\r\n\r\n"),
		"zeros":                  make([]byte, 1200),
		"one byte":               {1},
		"in clear":               packet(0xABCD, wire.LevelClear, 100),
		"a hello without MAC1":   unmarked,
		"a hello of version 3":   version3,
		"unknown, 64 bytes":      packet(0xABCD, wire.LevelTransport, 64),
		"unknown, Handshake 3":   packet(0xABCE, wire.LevelHandshake, 103),
		"unknown, large":         packet(0xABCF, wire.LevelTransport, 1500),
		"index 0":                packet(0, wire.LevelTransport, 100),
		"a session's index":      packet(p.session.Current().Index(), wire.LevelTransport, 100),
		"a session's, Handshake": packet(p.session.Current().Index(), wire.LevelHandshake, 103),
		"a record's index":       packet(record, wire.LevelTransport, 100),
		"Handshake 3, forged":    packet(record, wire.LevelHandshake, 103),
	} {
		for _, at := range []path.Path{secondAt, path.NewTCP(secondAt.Peer, netip.Addr{}, 1)} {
			if got := r.receive(bytes.Clone(bad), at); len(got) != 0 {
				t.Errorf("%s over %v: %d answers", name, at.Transport, len(got))
			}
		}
	}
	if s := r.shard.Stats(); s.Unknown < 4 {
		t.Errorf("%d packets of unknown sessions were counted", s.Unknown)
	}
}

// handshakeUnderWay starts a handshake and returns the receiver index that its Ack promises.
func handshakeUnderWay(t *testing.T, r *rig) uint32 {
	t.Helper()
	packet := hello(t, 99, r.now())
	got := r.receive(packet, secondAt)
	if len(got) != 1 {
		t.Fatalf("%d answers to a hello", len(got))
	}
	_, content, err := wire.ParseBody(wire.Body(got[0].Data))
	if err != nil {
		t.Fatal(err)
	}
	ack, err := wire.ParseAck(content)
	if err != nil {
		t.Fatal(err)
	}
	index := ack.ReceiverIdx
	if !r.shard.st.handshakes.Has(index) {
		t.Fatal("no record")
	}
	return index
}

// Shows R5.14.
func TestDefaultTerms(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Terms = state.Terms{} })
	p := r.connect(2, clientAt)
	want := state.Terms{IdleTTL: 86_400 * time.Second, RekeyAfter: 900 * time.Second, MaxDatagram: wire.MaxUDPPacket}
	if got := p.session.Terms(); got != want {
		t.Errorf("the client received %+v, want %+v", got, want)
	}
}

// TestOversizedInnerAnswersAreDropped returns inner packets that fill the outer session's
// largest packet, and one byte more.
//
// Shows R8.25.
func TestOversizedInnerAnswersAreDropped(t *testing.T) {
	r := newRig(t, withDirectory(t))
	p := r.connect(2, clientAt)
	p.forward(5, &exitID, inner(100, false))
	answer := func(size int) []byte {
		return wire.Finish(append(wire.Begin(nil, 100, wire.LevelTransport, 1, wire.TypePing), make([]byte, size-wire.Overhead)...))
	}
	p.got = nil
	const largest = wire.MaxUDPPacket - 37
	r.egress.at(exitAddr).fed <- []transport.Packet{{Data: answer(largest + 1)}, {Data: answer(largest)}}
	p.receive(1)
	m, err := wire.ParseForwardPacket(p.got[0].content)
	if err != nil || len(p.got) != 1 || len(m.Inner) != largest {
		t.Errorf("%d packets, the first with %d bytes inside: %v", len(p.got), len(m.Inner), err)
	}
	if n := r.shard.Stats().TooLarge; n != 1 {
		t.Errorf("%d counted as too large, want 1", n)
	}
}
