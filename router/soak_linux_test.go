package router

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lewes/crypto/identity"
	"lewes/crypto/kem"
	"lewes/state"
	"lewes/state/wire"
	"lewes/transport"
	library "lewes/transport/client"
	"lewes/transport/tcp"
	"lewes/transport/udp"
	"lewes/transport/uri"
)

var (
	soakFor  = flag.Duration("soak", 0, "duration of TestSoak; 0 is 8 s, 3 s with -short")
	soakSeed = flag.Uint64("seed", 0, "what TestSoak does; 0 draws a new one, which it prints")
)

const (
	soakUsers    = 6
	soakAudit    = 2 * time.Second // between two
	soakRestart  = 7 * time.Second // between two, on average
	soakSettle   = 300 * time.Millisecond
	soakPatience = 30 * time.Second // for a handshake, a start and an end
)

// soak is a gateway on real sockets, users of the library, and attackers.
type soak struct {
	*testing.T
	seed uint64
	stop context.Context

	// quiet is held by who does something, and by the auditor, alone, when he counts.
	quiet   sync.RWMutex
	gateway *Gateway
	config  Config
	last    Stats
	uri     uri.Gateway
	targets []*soakTarget

	seen                                                              [256]atomic.Pointer[[]byte] // packets of users, for who disturbs them
	nSeen                                                             atomic.Uint32
	dialled, sent, back, roamed, rekeyed, restarts, disturbed, audits atomic.Uint64
}

// soakTarget answers datagrams.
type soakTarget struct {
	conn           *net.UDPConn
	arrived, bytes atomic.Uint64
}

// TestSoak mixes all events of a gateway's life, drawn from a seed: sessions over UDP and TCP
// that start, move, rekey and close, restarts, and hostile packets. At intervals everything
// pauses, and the test checks that every packet was delivered or counted as lost.
func TestSoak(t *testing.T) {
	length := *soakFor
	if length == 0 {
		length = 8 * time.Second
		if testing.Short() {
			length = 3 * time.Second
		}
	}
	s := &soak{T: t, seed: *soakSeed}
	if s.seed == 0 {
		s.seed = uint64(time.Now().UnixNano())
	}
	t.Logf("to do the same again: go test ./router -run TestSoak -soak=%v -seed=%d", length, s.seed)
	ignore := goleak.IgnoreCurrent()
	descriptors := openFiles(t)
	s.run(length)
	t.Logf("%d sessions, %d datagrams sent, %d came back; %d moves, %d new keys, %d restarts, %d hostile packets, %d audits",
		s.dialled.Load(), s.sent.Load(), s.back.Load(), s.roamed.Load(), s.rekeyed.Load(), s.restarts.Load(), s.disturbed.Load(), s.audits.Load())
	if s.dialled.Load() == 0 || s.back.Load() == 0 || s.audits.Load() == 0 || s.disturbed.Load() == 0 {
		t.Error("the soak did not exercise the gateway")
	}
	goleak.VerifyNone(t, ignore)
	for deadline := time.Now().Add(soakPatience); openFiles(t) > descriptors; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("%d descriptors are open, %d were before", openFiles(t), descriptors)
			break
		}
	}
}

func (s *soak) random(who uint64) *rand.Rand { return rand.New(rand.NewPCG(s.seed, who)) }

func (s *soak) run(length time.Duration) {
	var targets []netip.AddrPort
	for range 3 {
		target := s.target()
		defer target.conn.Close()
		s.targets = append(s.targets, target)
		targets = append(targets, target.conn.LocalAddr().(*net.UDPAddr).AddrPort())
	}
	s.config = Config{
		Identity: gatewayID,
		KEMs:     []kem.ID{kem.MLKEM768, kem.XWing},
		Policy:   allowing(s, targets...),
		Listen:   udp.Config{Addrs: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}},
		TCP:      TCP{On: true, Listen: tcp.Config{Addrs: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}}},
		Terms:    state.Terms{IdleTTL: time.Hour, RekeyAfter: 2 * time.Second, MaxDatagram: wire.MaxUDPPacket},
		Shards:   2,
		Rate:     100, Burst: 100,
		Limits: Limits{FlowIdle: time.Second},
	}
	s.start()
	s.config.Listen.Addrs = s.gateway.Addrs() // from now on
	s.config.TCP.Listen.Addrs = s.gateway.TCPAddrs()
	s.uri = uri.Gateway{Identity: gatewayID.Public(), Host: "127.0.0.1", Port: s.gateway.Addrs()[0].Port(), TCPPort: s.gateway.TCPAddrs()[0].Port()}

	stop, cancel := context.WithTimeout(context.Background(), length)
	defer cancel()
	s.stop = stop
	var all sync.WaitGroup
	for n := range uint64(soakUsers) {
		all.Go(func() { s.user(n) })
	}
	all.Go(s.disturb)
	all.Go(s.restart)
	for s.pause(soakAudit) && !s.Failed() {
		s.hold(s.audit)
	}
	cancel()
	all.Wait()
	s.hold(func() {
		s.audit()
		s.gateway.Close()
	})
}

// start starts a gateway, and retries while the previous one still holds its ports.
func (s *soak) start() {
	for deadline := time.Now().Add(soakPatience); ; time.Sleep(10 * time.Millisecond) {
		g, err := Start(s.config)
		if err == nil && len(g.TCPAddrs()) > 0 {
			s.gateway, s.last = g, Stats{}
			return
		}
		if err == nil {
			g.Close()
		}
		if time.Now().After(deadline) {
			panic(fmt.Sprintf("no gateway: %v", err))
		}
	}
}

func (s *soak) target() *soakTarget {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		s.Fatal(err)
	}
	target := &soakTarget{conn: conn}
	go func() {
		b := make([]byte, 64<<10)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				target.arrived.Add(1)
				target.bytes.Add(uint64(n))
				_, _ = conn.WriteToUDPAddrPort(b[:n], from) // what is lost shows
			}
		}
	}()
	return target
}

// pause waits, and reports whether the soak continues.
func (s *soak) pause(d time.Duration) bool {
	select {
	case <-s.stop.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// hold runs a function while nothing is sent or in flight.
func (s *soak) hold(f func()) {
	s.quiet.Lock()
	defer s.quiet.Unlock()
	for before := (Stats{}); ; {
		time.Sleep(soakSettle)
		now := s.gateway.Stats()
		if now.Up == before.Up && now.Down == before.Down && now.HandshakeQueue == 0 {
			break
		}
		before = now
	}
	f()
}

// audit compares the counters.
func (s *soak) audit() {
	s.audits.Add(1)
	now := s.gateway.Stats()
	backwards(s, reflect.ValueOf(s.last), reflect.ValueOf(now), "Stats")
	s.last = now
	for _, shard := range s.gateway.shards {
		agree(s, shard)
	}
	_, egress := s.gateway.Traffic()
	if out := egress.Sent.Packets + now.EgressFailed; out != now.Up.Packets {
		s.Errorf("%d datagrams came from clients, %d went to targets and %d are counted as lost", now.Up.Packets, egress.Sent.Packets, now.EgressFailed)
	}
	if now.EgressFailed == 0 && egress.Sent.Bytes != now.Up.Bytes {
		s.Errorf("%d bytes came from clients, %d went to targets", now.Up.Bytes, egress.Sent.Bytes)
	}
	if in := now.Down.Packets + now.TooLarge + now.ClientFailed; egress.Received.Packets < now.Down.Packets || egress.Received.Packets > in {
		s.Errorf("%d datagrams came from targets, %d went to clients and %d are counted as lost", egress.Received.Packets, now.Down.Packets, now.TooLarge+now.ClientFailed)
	}
	if n := runtime.NumGoroutine(); n > 200+40*soakUsers {
		s.Errorf("%d goroutines", n)
	}
}

// restart restarts the gateway at intervals, after a shutdown or as if it had been killed.
func (s *soak) restart() {
	random := s.random(1 << 32)
	for s.pause(soakRestart/2+time.Duration(random.Int64N(int64(soakRestart)))) && !s.Failed() {
		s.hold(func() {
			s.audit()
			if random.IntN(2) == 0 {
				s.gateway.Shutdown(context.Background())
			} else {
				s.gateway.Close()
			}
			s.start()
			s.restarts.Add(1)
		})
	}
}

// user runs sessions, one after the other.
func (s *soak) user(n uint64) {
	random := s.random(n)
	key := identity.FromSeed(&[32]byte{100, byte(n)})
	for s.stop.Err() == nil && !s.Failed() {
		s.session(random, key)
	}
}

// session establishes a session and uses it for a while.
func (s *soak) session(random *rand.Rand, key *identity.PrivateKey) {
	r := &roamer{soak: s}
	config := library.Config{
		Gateway: s.uri, Identity: key, Keys: new(library.KeyCache), Timeout: soakPatience,
		Transport: []library.Transport{library.UDP, library.UDP, library.Auto, library.TCP}[random.IntN(4)],
		KEM:       []library.KEM{library.MLKEM768, library.XWing}[random.IntN(2)],
	}
	if config.Transport == library.UDP {
		config.Underlay = r.dial
	}
	s.quiet.RLock()
	session, err := library.Dial(s.stop, config)
	s.quiet.RUnlock()
	if err != nil {
		return // the gateway was away, or the time is over
	}
	s.dialled.Add(1)
	var readers sync.WaitGroup
	defer readers.Wait()
	defer session.Close()
	before := session.Stats().Rekeys
	defer func() { s.rekeyed.Add(session.Stats().Rekeys - before) }()
	var flows []*soakFlow
	for range 20 + random.IntN(400) {
		if s.stop.Err() != nil || s.Failed() {
			return
		}
		s.quiet.RLock()
		switch at := random.IntN(100); {
		case len(flows) == 0 || at < 3 && len(flows) < 8:
			target := s.targets[random.IntN(len(s.targets))]
			if conn, err := session.DialContext(s.stop, "udp", target.conn.LocalAddr().String()); err == nil {
				f := &soakFlow{soak: s, conn: conn, nonce: random.Uint64(), back: map[uint64]bool{}}
				flows = append(flows, f)
				readers.Go(f.read)
			}
		case at < 5:
			i := random.IntN(len(flows))
			_ = flows[i].conn.Close()
			flows = append(flows[:i], flows[i+1:]...)
		case at < 6:
			ctx, cancel := context.WithTimeout(s.stop, time.Second)
			_ = session.Rekey(ctx) // the gateway may be away
			cancel()
		case at < 8:
			r.roam()
		default:
			flows[random.IntN(len(flows))].send(random)
		}
		s.quiet.RUnlock()
		time.Sleep(time.Duration(random.IntN(4000)) * time.Microsecond)
	}
	s.pause(200 * time.Millisecond) // for what is under way
}

// soakFlow is a flow to a target.
type soakFlow struct {
	*soak
	conn  net.Conn
	nonce uint64
	next  uint64
	back  map[uint64]bool
}

// soakHeader is the start of a datagram: the flow's nonce, a number, and the seed of the rest.
const soakHeader = 24

func soakPayload(nonce, number, fill uint64, size int) []byte {
	p := make([]byte, soakHeader+size)
	binary.LittleEndian.PutUint64(p, nonce)
	binary.LittleEndian.PutUint64(p[8:], number)
	binary.LittleEndian.PutUint64(p[16:], fill)
	for i := range p[soakHeader:] {
		p[soakHeader+i] = byte(fill>>(i%8*8)) + byte(i)
	}
	return p
}

func (f *soakFlow) send(random *rand.Rand) {
	f.next++
	if _, err := f.conn.Write(soakPayload(f.nonce, f.next, random.Uint64(), random.IntN(1100))); err == nil {
		f.sent.Add(1)
	}
}

// read checks received datagrams: each was sent, and arrives once.
func (f *soakFlow) read() {
	buffer := make([]byte, 2048)
	for {
		n, err := f.conn.Read(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(time.Millisecond) // the flow was ended, and is opened again by the next datagram
			continue
		}
		p := buffer[:n]
		if n < soakHeader || !bytes.Equal(p, soakPayload(f.nonce, binary.LittleEndian.Uint64(p[8:]), binary.LittleEndian.Uint64(p[16:]), n-soakHeader)) {
			f.Errorf("%d bytes came back that nobody sent", n)
			return
		}
		number := binary.LittleEndian.Uint64(p[8:])
		if f.back[number] {
			f.Errorf("datagram %d came back twice", number)
			return
		}
		f.back[number] = true
		f.soak.back.Add(1)
	}
}

// roamer is a session's socket, which can be replaced.
type roamer struct {
	*soak
	mu   sync.Mutex
	at   netip.AddrPort
	conn *roamConn
}

type roamConn struct {
	*soak
	mu       sync.Mutex
	conn     transport.Conn
	deadline time.Time
	closed   bool
}

func (r *roamer) dial(_ context.Context, to netip.AddrPort) (transport.Conn, error) {
	conn, err := udp.Dial(to, udp.Options{Pooled: true, SendWait: 100 * time.Millisecond})
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at, r.conn = to, &roamConn{soak: r.soak, conn: conn}
	return r.conn, nil
}

// roam gives the session another local port.
func (r *roamer) roam() {
	r.mu.Lock()
	c, to := r.conn, r.at
	r.mu.Unlock()
	if c == nil {
		return
	}
	conn, err := udp.Dial(to, udp.Options{Pooled: true, SendWait: 100 * time.Millisecond})
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = conn.Close()
		return
	}
	_ = conn.SetReadDeadline(c.deadline) // which a new socket takes
	_ = c.conn.Close()
	c.conn = conn
	r.roamed.Add(1)
}

func (c *roamConn) now() (transport.Conn, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn, c.closed
}

func (c *roamConn) ReadBatch(p []transport.Packet) (int, error) {
	for {
		conn, _ := c.now()
		n, err := conn.ReadBatch(p)
		if errors.Is(err, net.ErrClosed) {
			if _, closed := c.now(); !closed {
				continue
			}
		}
		return n, err
	}
}

func (c *roamConn) WriteBatch(p []transport.Packet) (int, error) {
	for i := range p {
		if c.nSeen.Add(1)%8 == 0 {
			packet := bytes.Clone(p[i].Data)
			c.seen[c.nSeen.Load()/8%uint32(len(c.seen))].Store(&packet)
		}
	}
	conn, _ := c.now()
	n, err := conn.WriteBatch(p)
	if _, closed := c.now(); errors.Is(err, net.ErrClosed) && !closed {
		return len(p), nil // lost on the way from one network to another
	}
	return n, err
}

func (c *roamConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	return c.conn.SetReadDeadline(t)
}

func (c *roamConn) LocalAddr() net.Addr {
	conn, _ := c.now()
	return conn.LocalAddr()
}

func (c *roamConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return c.conn.Close()
}

// disturb sends hostile packets.
func (s *soak) disturb() {
	random := s.random(2 << 32)
	udpAt := net.JoinHostPort("127.0.0.1", fmt.Sprint(s.uri.Port))
	tcpAt := net.JoinHostPort("127.0.0.1", fmt.Sprint(s.uri.TCPPort))
	for s.pause(time.Duration(random.IntN(20))*time.Millisecond) && !s.Failed() {
		s.quiet.RLock()
		if conn, err := net.Dial("udp", udpAt); err == nil {
			for range 1 + random.IntN(20) {
				if p := s.hostile(random); len(p) > 0 {
					_, _ = conn.Write(p)
					s.disturbed.Add(1)
				}
			}
			_ = conn.Close()
		}
		if random.IntN(5) == 0 {
			if conn, err := net.Dial("tcp", tcpAt); err == nil {
				p := s.hostile(random)
				frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(p)+random.IntN(3))), p...)
				_, _ = conn.Write(frame[:random.IntN(len(frame)+1)])
				_ = conn.Close()
				s.disturbed.Add(1)
			}
		}
		s.quiet.RUnlock()
	}
}

// hostile returns an earlier packet, a damaged one, or noise.
func (s *soak) hostile(random *rand.Rand) []byte {
	if of := s.seen[random.IntN(len(s.seen))].Load(); of != nil && random.IntN(4) > 0 {
		p := bytes.Clone(*of)
		switch random.IntN(3) {
		case 0:
			p[random.IntN(len(p))] ^= 1 << random.IntN(8)
		case 1:
			p = p[:random.IntN(len(p))]
		}
		return p
	}
	p := make([]byte, random.IntN(1500))
	for i := range p {
		p[i] = byte(random.Uint32())
	}
	if len(p) > 18 && random.IntN(2) == 0 { // of a version and a type that there are
		copy(p[12:], []byte{2, 0, 0, 0, byte(random.IntN(0x19)), 0})
	}
	return p
}
