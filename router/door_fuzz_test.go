package router

import (
	"bytes"
	"fmt"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"lewes/crypto/kem"
	"lewes/crypto/seal"
	"lewes/router/account"
	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
)

// The fuzz target's bytes are a small program. Each instruction is one byte, which
// says what to do, and the bytes that it takes; what is missing is zero.
const (
	doPass   = iota // time: 2^n ms
	doBegin         // a handshake of a client
	doStep          // all that a client wants to send arrives, and so do the answers
	doLose          // all that a client wants to send is lost
	doSend          // data on a flow of a client
	doRekey         // a client's time to make new keys comes
	doMove          // a client has another address from now on
	doClose         // a client closes its session
	doReplay        // a packet from before comes again, from anywhere
	doFlip          // a packet from before comes with one bit turned, from anywhere
	doCut           // the beginning of a packet from before comes, from anywhere
	doNoise         // bytes of the program come, from anywhere
	doSplice        // the header of one packet comes with the rest of another
	instructions
)

const (
	doorClients = 3
	doorSteps   = 120              // a program
	doorTime    = 10 * time.Minute // so that no session ends by itself
	doorRekey   = time.Minute
)

// door is a gateway's shard, its clients, and the packets that it received.
type door struct {
	*rig
	t       *testing.T
	program []byte
	passed  time.Duration
	clients [doorClients]*caller
	made    int
	history []transport.Packet // as they came; the most recent of them
	data    uint64             // datagrams that clients have sealed
	in, out map[path.Path]int  // bytes from and to a source
	last    Stats
}

// caller is a client that implements the whole protocol.
type caller struct {
	number   int
	at       path.Path
	client   *state.Client
	session  *state.Session
	sessions *state.Sessions
	out      state.Output
	closed   bool
}

// FuzzDoor passes honest conversations to a shard: truncated, lost, repeated, moved, damaged and
// mixed with noise. After each packet it checks that the shard's tables agree, that no counter
// decreased, that no source was sent more than its share, and that an unauthentic packet changed
// nothing; at the end, that every session still carries data.
func FuzzDoor(f *testing.F) {
	whole := []byte{doBegin, 0, doStep, 0, doStep, 0, doStep, 0}
	data := []byte{doSend, 0, 1, doStep, 0}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	f.Add(whole)
	f.Add(join(whole, data, []byte{doReplay, 0, 0, doReplay, 1, 1, doReplay, 4, 2, doFlip, 3, 17, 0, 0}))
	f.Add(join(whole, []byte{doBegin, 1, doStep, 1, doStep, 1, doStep, 1}, data, []byte{doMove, 0, doSend, 0, 1, doStep, 0, doPass, 12, doStep, 0}))
	f.Add(join(whole, []byte{doRekey, 0, doStep, 0, doStep, 0, doSend, 0, 1, doStep, 0, doReplay, 0, 9, doPass, 16, doStep, 0}))
	f.Add(join([]byte{doBegin, 0, doLose, 0, doPass, 9, doStep, 0, doFlip, 0, 200, 1, 0, doStep, 0, doLose, 0, doPass, 10, doStep, 0}))
	f.Add(join(whole, []byte{doClose, 0, doStep, 0, doSend, 0, 1, doStep, 0, doNoise, 40, 1, 2, 3, 4, 5, 6, 7, 8, 9}))
	f.Add(join(whole, data, []byte{doCut, 2, 33, 1, doCut, 2, 34, 1, doSplice, 0, 5, 0, doSplice, 3, 1, 2}))
	f.Fuzz(func(t *testing.T, program []byte) {
		d := &door{rig: newRig(t, func(c *Config) { c.Terms.RekeyAfter = doorRekey }), t: t, program: program, in: map[path.Path]int{}, out: map[path.Path]int{}}
		d.freeze()
		for step := 0; step < doorSteps && len(d.program) > 0; step++ {
			d.instruction()
			d.check()
		}
		d.finish()
	})
}

// freeze stops the shard's timer, which runs by the real clock.
func (d *door) freeze() {
	d.shard.mu.Lock()
	defer d.shard.mu.Unlock()
	d.shard.st.timer.timer.Stop()
	d.shard.st.timer.at = epoch.Add(-time.Hour)
}

// take returns the next byte of the program.
func (d *door) take() byte {
	if len(d.program) == 0 {
		return 0
	}
	b := d.program[0]
	d.program = d.program[1:]
	return b
}

func (d *door) instruction() {
	switch op := d.take() % instructions; op {
	case doPass:
		by := min(time.Millisecond<<(d.take()%20), doorTime-d.passed)
		d.passed += by
		d.advance(by)
		d.freeze()
		for _, c := range d.clients {
			d.tick(c)
		}
	case doBegin:
		d.begin(int(d.take()) % doorClients)
	case doReplay:
		from := d.anywhere()
		if p := d.before(); p != nil {
			d.replay(transport.Packet{Data: p.Data, Path: from})
		}
	case doFlip:
		d.flip()
	case doCut:
		from := d.anywhere()
		if p := d.before(); p != nil {
			if n := int(d.take()) | int(d.take())<<8; n < len(p.Data) {
				d.forge(p.Data[:n], from)
			}
		}
	case doNoise:
		from := d.anywhere()
		noise := make([]byte, int(d.take())|int(d.take()&7)<<8)
		copy(noise, d.program)
		d.program = d.program[min(len(noise), len(d.program)):]
		d.forge(noise, from)
	case doSplice:
		from := d.anywhere()
		if a, b := d.before(), d.before(); a != nil && !bytes.Equal(a.Data[:wire.HeaderSize], b.Data[:wire.HeaderSize]) {
			d.forge(append(bytes.Clone(a.Data[:wire.HeaderSize]), b.Data[wire.HeaderSize:]...), from)
		}
	default:
		if c := d.clients[int(d.take())%doorClients]; c != nil {
			d.client(op, c)
		}
	}
}

// client does what a client does.
func (d *door) client(op byte, c *caller) {
	switch op {
	case doStep:
		d.step(c)
	case doLose:
		c.out.Packets = nil
	case doMove:
		c.at = path.Path{Peer: netip.AddrPortFrom(c.at.Peer.Addr(), c.at.Peer.Port()+1)}
	case doSend:
		if c.session != nil && !c.closed && len(c.out.Packets) < 50 {
			id := uint16(d.take() % 4)
			m := wire.EncryptedData{FlowID: id, Flags: wire.FlagTarget, Target: wire.AddrTarget(target), Payload: []byte("data")}
			if c.session.Send(wire.TypeEncryptedData, &m, &c.out) == nil {
				d.data++
			}
		}
	case doRekey:
		if c.session != nil && !c.closed && d.passed+doorRekey <= doorTime {
			d.passed += doorRekey
			d.advance(doorRekey)
			d.freeze()
			for _, c := range d.clients {
				d.tick(c)
			}
		}
	case doClose:
		if c.session != nil && !c.closed {
			c.session.Close(wire.CloseDone, "", &c.out)
			d.settle(c)
		}
	}
}

// begin starts a handshake of a client, in place of an older one.
func (d *door) begin(n int) {
	d.made++
	c := &caller{number: n, sessions: state.NewSessions()}
	c.at = path.Path{Peer: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + n)}), uint16(1000*d.made))}
	var err error
	c.client, err = state.NewClient(d.now(), state.ClientConfig{
		Gateway: gatewayID.Public(), Identity: testIdentity(byte(10 + n)), KEM: kem.MLKEM768,
		Suites: seal.Offer(), Rand: seeded(uint64(1000 + d.made)),
		Path: path.Path{Peer: netip.MustParseAddrPort("198.51.100.1:51264")},
	}, &c.out)
	if err != nil {
		d.t.Fatal(err)
	}
	d.clients[n] = c
}

// step passes the client's packets to the shard, and the answers back.
func (d *door) step(c *caller) {
	sent := c.out.Packets
	c.out.Packets = nil
	for _, p := range sent {
		d.arrive(transport.Packet{Data: p.Data, Path: c.at})
		d.history = append(d.history, transport.Packet{Data: p.Data, Path: c.at})
		if len(d.history) > 64 {
			d.history = d.history[1:]
		}
	}
}

// arrive passes a packet to the shard, and its answers to their clients.
func (d *door) arrive(p transport.Packet) {
	d.in[p.Path] += len(p.Data)
	d.shard.Receive(d.now(), []transport.Packet{{Data: bytes.Clone(p.Data), Path: p.Path}}, nil)
	for _, a := range d.socket.take() {
		d.out[a.Path] += len(a.Data)
		for _, c := range d.clients {
			if c != nil && c.at == a.Path {
				d.handle(c, a.Data)
			}
		}
	}
}

// handle passes a packet to a client.
func (d *door) handle(c *caller, packet []byte) {
	if c.session == nil {
		_ = c.client.Handle(d.now(), packet, &c.out) // of no use: dropped
		if c.session = c.client.Session(); c.session != nil {
			c.sessions.Add(c.session)
			d.settle(c)
		}
		return
	}
	index, ok := wire.ReceiverIdx(packet)
	g := c.sessions.Find(index)
	if !ok || g == nil {
		return
	}
	t, content, err := g.Open(d.now(), packet, path.Path{}, &c.out)
	if err == nil && t != wire.TypeEncryptedData && t != wire.TypeFlowClosed && t != wire.TypeForwardPacket {
		_ = c.session.Control(d.now(), g, t, content, path.Path{}, &c.out) // refused: dropped
	}
	d.settle(c)
}

func (d *door) settle(c *caller) {
	for _, e := range c.out.Events {
		c.sessions.Apply(e)
		c.closed = c.closed || e.Kind == state.Closed
	}
	c.out.Events = nil
	c.sessions.Touch(c.session)
}

func (d *door) tick(c *caller) {
	switch {
	case c == nil || c.closed:
	case c.session != nil:
		c.session.Tick(d.now(), &c.out)
		d.settle(c)
	default:
		c.client.Tick(d.now(), &c.out)
	}
}

// anywhere returns a source address: a client's, or an unused one.
func (d *door) anywhere() path.Path {
	n := d.take()
	if c := d.clients[int(n)%doorClients]; c != nil && n < 128 {
		return c.at
	}
	return path.Path{Peer: netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, n}), 1)}
}

// before returns an earlier packet, or nil.
func (d *door) before() *transport.Packet {
	if len(d.history) == 0 {
		return nil
	}
	return &d.history[int(d.take())%len(d.history)]
}

func (d *door) flip() {
	from := d.anywhere()
	p := d.before()
	if p == nil {
		return
	}
	bit := (int(d.take()) | int(d.take())<<8) % (8 * len(p.Data))
	data := bytes.Clone(p.Data)
	data[bit/8] ^= 1 << (bit % 8)
	d.forge(data, from)
}

// unmoved is the state that only an authentic packet may change.
type unmoved struct {
	sessions, flows, claims, rekeys, moves, opened uint64
	up                                             Traffic
	handshakes                                     state.HandshakeStats
	each                                           string
}

func (d *door) unmoved() unmoved {
	s := d.shard.Stats()
	u := unmoved{s.Sessions, s.Flows, s.Bindings, s.Rekeys, s.Migrations, s.FlowsOpened, s.Up, s.Handshakes, ""}
	d.shard.Do(func(time.Time, *shardState) {
		for _, c := range d.clients {
			if c == nil || c.session == nil {
				continue
			}
			if g := d.shard.st.sessions.Find(c.session.Current().Index()); g != nil {
				at := g.Session()
				u.each += fmt.Sprint(c.number, at.Phase(), at.Path(), at.Current().Index(), at.LastOpened().UnixNano(), "; ")
			}
		}
	})
	return u
}

// forge passes an unauthentic packet to the shard.
func (d *door) forge(data []byte, from path.Path) {
	before := d.unmoved()
	d.arrive(transport.Packet{Data: data, Path: from})
	if after := d.unmoved(); after != before {
		d.t.Fatalf("a forged packet of %d bytes changed something:\n%+v\n%+v", len(data), before, after)
	}
}

// replay passes a packet to the shard again. A copy of a hello may start a handshake, as the
// hello did; it establishes no session and delivers nothing.
func (d *door) replay(p transport.Packet) {
	before := d.shard.Stats()
	d.arrive(p)
	after := d.shard.Stats()
	if after.Sessions != before.Sessions || after.Up != before.Up || after.FlowsOpened != before.FlowsOpened || after.Rekeys != before.Rekeys {
		d.t.Fatalf("a packet that came before did something again:\n%+v\n%+v", before, after)
	}
}

// check checks the shard's invariants.
func (d *door) check() {
	now := d.shard.Stats()
	backwards(d.t, reflect.ValueOf(d.last), reflect.ValueOf(now), "Stats")
	d.last = now
	if now.Up.Packets > d.data {
		d.t.Fatalf("%d datagrams were taken from clients that have sent %d", now.Up.Packets, d.data)
	}
	for at, sent := range d.out {
		validated := false
		for _, c := range d.clients {
			validated = validated || c != nil && c.at.Peer.Addr() == at.Peer.Addr()
		}
		if !validated && sent > 3*d.in[at] {
			d.t.Fatalf("%d bytes went to %v, which has sent %d", sent, at.Peer, d.in[at])
		}
	}
	agree(d.t, d.shard)
	if n := d.shard.Stats().HandshakeQueue; n != 0 {
		d.t.Fatalf("%d packets wait", n)
	}
}

// agree fails if a shard's tables disagree.
func agree(t testing.TB, s *Shard) {
	s.Do(func(time.Time, *shardState) {
		sessions, flows := 0, 0
		s.st.sessions.All(func(session *state.Session) {
			sessions++
			flows += len(session.User.(*client).flows)
			if p := session.Phase(); p != state.Transport && p != state.SubsessionHandshaking {
				t.Errorf("a session is in the state %v", p)
			}
		})
		if sessions != s.st.sessions.Len() || flows != s.st.flows.all.Len() || s.accounts.InUse(account.Lookups) < 0 || s.st.scheduler.len() > s.st.scheduler.limit {
			t.Errorf("%d sessions and %d in the count, %d flows and %d in the count, %d lookups, %d packets wait", sessions, s.st.sessions.Len(), flows, s.st.flows.all.Len(), s.accounts.InUse(account.Lookups), s.st.scheduler.len())
		}
	})
}

// gauges are the values that may decrease.
var gauges = map[string]bool{"Stats.Sessions": true, "Stats.Records": true, "Stats.Flows": true, "Stats.Bindings": true, "Stats.HandshakeQueue": true, "Stats.HandshakeDelay": true, "Stats.MemoryUsed": true, "Stats.MemoryLimit": true, "Stats.QueuedBytes": true, "Stats.HandshakeMemory": true, "Stats.HandshakeOthers": true}

// backwards fails if a counter decreased.
func backwards(t testing.TB, before, after reflect.Value, name string) {
	switch before.Kind() {
	case reflect.Struct:
		for i := range before.NumField() {
			backwards(t, before.Field(i), after.Field(i), name+"."+before.Type().Field(i).Name)
		}
	case reflect.Array:
		for i := range before.Len() {
			backwards(t, before.Index(i), after.Index(i), fmt.Sprintf("%s[%d]", name, i))
		}
	case reflect.Uint64:
		if after.Uint() < before.Uint() && !gauges[name] {
			t.Fatalf("%s was %d and is %d", name, before.Uint(), after.Uint())
		}
	}
}

// finish checks that every session known to both ends still carries data.
func (d *door) finish() {
	for _, c := range d.clients {
		if c == nil || c.session == nil || c.closed || d.shard.st.sessions.Find(c.session.Current().Index()) == nil {
			continue
		}
		d.step(c)
		before := d.shard.Stats().Up.Packets
		m := wire.EncryptedData{FlowID: 9, Flags: wire.FlagTarget, Target: wire.AddrTarget(target), Payload: []byte("still here")}
		for range 2 { // the first may show the client that its keys are replaced (R7.24)
			if !c.closed && c.session.Send(wire.TypeEncryptedData, &m, &c.out) == nil {
				d.data++
				d.step(c)
			}
		}
		if after := d.shard.Stats().Up.Packets; !c.closed && after == before {
			d.t.Fatalf("client %d: its session carries nothing any more: %+v", c.number, d.shard.Stats())
		}
	}
}
